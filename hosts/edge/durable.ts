/**
 * Overlays in the storage of a Durable Object: each is a row that tells its size, and blobs of 64
 * KiB, as many as have ever been written to. The platform runs one instance of an object at a time,
 * so a lock inside it keeps two writers apart.
 */
import type { BlockFile } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { ObjectStorage } from './platform.ts';
import { enterWriter } from './writers.ts';

/**
 * The size of a cluster, which is what the engine writes: a blob is then written whole, without
 * being read before.
 */
const BLOB_BYTES = 64 * 1024;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS millrace_files (name TEXT PRIMARY KEY, size INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS millrace_new (file TEXT PRIMARY KEY);
  CREATE TABLE IF NOT EXISTS millrace_kept (file TEXT PRIMARY KEY, text TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS millrace_blobs (
    file TEXT NOT NULL, number INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (file, number)
  ) WITHOUT ROWID;
`;

/**
 * Opens an overlay by its name, or makes it: it is there only once it has been published. What an
 * object that was lost in the midst of that has left, the next one that makes it takes away.
 * @throws MillraceError `EBUSY` when it is open for writing in this object already, `ENOENT`,
 *   `EEXIST`.
 */
export function openDurable(
  storage: ObjectStorage,
  name: string,
  { readOnly = false, create = false }: { readOnly?: boolean; create?: boolean } = {},
): BlockFile {
  storage.sql.exec(SCHEMA);
  const size = sizeOf(storage, name);
  if (create && size !== undefined)
    throw new MillraceError('EEXIST', `cannot create '${name}': it is there already`);
  if (!create && size === undefined)
    throw new MillraceError(
      'ENOENT',
      `cannot open '${name}': there is no such overlay in this object's storage`,
    );
  const release = readOnly ? () => {} : enterWriter(storage, name);
  if (create) makeNew(storage, name);
  return new DurableFile(storage, name, size ?? 0, { readOnly, isNew: create, release });
}

/** Bytes of an overlay that has been published. */
function sizeOf(storage: ObjectStorage, name: string): number | undefined {
  const [found] = storage.sql
    .exec(
      'SELECT size FROM millrace_files WHERE name = ? AND name NOT IN (SELECT file FROM millrace_new)',
      name,
    )
    .toArray();
  return found && Number(found.size);
}

/** Names of files that are nobody's overlay. */
const SCRATCH = '.pass/';
/** Those of this object that are open. */
const scratches = new WeakMap<ObjectStorage, Set<string>>();

/**
 * A file for a while: never published, it goes when it is closed. What an object that has ended has
 * left behind goes first.
 */
export function openScratch(storage: ObjectStorage): BlockFile {
  storage.sql.exec(SCHEMA);
  const open = scratches.get(storage) ?? new Set<string>();
  scratches.set(storage, open);
  const left = storage.sql
    .exec('SELECT name FROM millrace_files WHERE substr(name, 1, ?) = ?', SCRATCH.length, SCRATCH)
    .toArray() as { name: string }[];
  for (const { name } of left)
    if (!open.has(name)) storage.transactionSync(() => removeAll(storage, name));
  const name = SCRATCH + crypto.randomUUID();
  open.add(name);
  return openDurable(storage, name, { create: true });
}

function makeNew(storage: ObjectStorage, name: string): void {
  storage.transactionSync(() => {
    removeAll(storage, name);
    storage.sql.exec('INSERT INTO millrace_new (file) VALUES (?)', name);
    storage.sql.exec('INSERT INTO millrace_files (name, size) VALUES (?, 0)', name);
  });
}

function removeAll(storage: ObjectStorage, name: string): void {
  storage.sql.exec('DELETE FROM millrace_blobs WHERE file = ?', name);
  storage.sql.exec('DELETE FROM millrace_kept WHERE file = ?', name);
  storage.sql.exec('DELETE FROM millrace_files WHERE name = ?', name);
  storage.sql.exec('DELETE FROM millrace_new WHERE file = ?', name);
}

class DurableFile implements BlockFile {
  readonly name: string;
  readonly flushIsDear = true;
  readonly kept?: string;
  readonly #storage: ObjectStorage;
  readonly #readOnly: boolean;
  readonly #release: () => void;
  #size: number;
  #isNew: boolean;
  /** Whether what is kept with it may stay when it is written to. */
  #mayKeep = false;
  #closed = false;

  constructor(
    storage: ObjectStorage,
    name: string,
    size: number,
    how: { readOnly: boolean; isNew: boolean; release: () => void },
  ) {
    this.name = name;
    this.#storage = storage;
    const [kept] = storage.sql
      .exec('SELECT text FROM millrace_kept WHERE file = ?', name)
      .toArray();
    this.kept = kept?.text as string | undefined;
    this.#size = size;
    this.#readOnly = how.readOnly;
    this.#isNew = how.isNew;
    this.#release = how.release;
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, into: Uint8Array): void {
    this.#perform('read', offset, () => {
      for (const { number, from, length, at } of blobsOf(offset, into.length)) {
        const bytes = this.#blob(number);
        const part = into.subarray(at, at + length);
        const present = bytes?.subarray(from, from + length) ?? new Uint8Array(0);
        part.set(present);
        // What was never written, or lies behind the end of a short blob, is zeros.
        part.fill(0, present.length);
      }
    });
  }

  keep(text: string): void {
    this.#mustBeWritable();
    this.#mayKeep = true;
    this.#perform('keep a text with', undefined, () => {
      this.#storage.sql.exec('DELETE FROM millrace_kept WHERE file = ?', this.name);
      if (text)
        this.#storage.sql.exec(
          'INSERT INTO millrace_kept (file, text) VALUES (?, ?)',
          this.name,
          text,
        );
    });
  }

  async publish(): Promise<void> {
    this.#perform('create', undefined, () =>
      this.#storage.sql.exec('DELETE FROM millrace_new WHERE file = ?', this.name),
    );
    this.#isNew = false;
    await this.flush();
  }

  write(offset: number, from: Uint8Array): void {
    this.#willWrite();
    this.#perform('write', offset, () =>
      this.#storage.transactionSync(() => {
        for (const { number, from: begin, length, at } of blobsOf(offset, from.length)) {
          const part = from.subarray(at, at + length);
          this.#store(number, length === BLOB_BYTES ? part : this.#patched(number, begin, part));
        }
        if (offset + from.length > this.#size) this.#setSize(offset + from.length);
      }),
    );
  }

  async flush(): Promise<void> {
    this.#mustBeOpen();
    if (this.#readOnly) return;
    try {
      await this.#storage.sync();
    } catch (cause) {
      throw new MillraceError('EIO', `cannot flush '${this.name}': ${(cause as Error).message}`, {
        cause,
      });
    }
  }

  truncate(size: number): void {
    this.#willWrite();
    this.#perform('resize', undefined, () =>
      this.#storage.transactionSync(() => {
        if (size < this.#size) {
          const last = Math.floor(size / BLOB_BYTES);
          const kept = this.#blob(last)?.subarray(0, size % BLOB_BYTES);
          this.#storage.sql.exec(
            'DELETE FROM millrace_blobs WHERE file = ? AND number >= ?',
            this.name,
            last,
          );
          if (kept?.length) this.#store(last, kept);
        }
        this.#setSize(size);
      }),
    );
  }

  /** Blobs that lie in the range as a whole are given back. */
  discard(offset: number, length: number): void {
    this.#willWrite();
    const [first, end] = [
      Math.ceil(offset / BLOB_BYTES),
      Math.floor((offset + length) / BLOB_BYTES),
    ];
    this.#perform(
      'discard',
      offset,
      () =>
        void this.#storage.sql.exec(
          'DELETE FROM millrace_blobs WHERE file = ? AND number >= ? AND number < ?',
          this.name,
          first,
          end,
        ),
    );
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      if (this.#isNew) this.#storage.transactionSync(() => removeAll(this.#storage, this.name));
    } finally {
      this.#release();
    }
  }

  #blob(number: number): Uint8Array | undefined {
    const [row] = this.#storage.sql
      .exec('SELECT bytes FROM millrace_blobs WHERE file = ? AND number = ?', this.name, number)
      .toArray();
    return row && new Uint8Array(row.bytes as ArrayBuffer);
  }

  #patched(number: number, begin: number, part: Uint8Array): Uint8Array {
    const before = this.#blob(number) ?? new Uint8Array(0);
    const bytes = new Uint8Array(Math.max(before.length, begin + part.length));
    bytes.set(before);
    bytes.set(part, begin);
    return bytes;
  }

  /** A copy: the bytes may belong to the engine's memory, all of which would be meant otherwise. */
  #store(number: number, bytes: Uint8Array): void {
    this.#storage.sql.exec(
      'INSERT OR REPLACE INTO millrace_blobs (file, number, bytes) VALUES (?, ?, ?)',
      this.name,
      number,
      bytes.slice().buffer as ArrayBuffer,
    );
  }

  #setSize(size: number): void {
    this.#storage.sql.exec('UPDATE millrace_files SET size = ? WHERE name = ?', size, this.name);
    this.#size = size;
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new MillraceError('ECLOSED', `'${this.name}' has been closed`);
  }

  #willWrite(): void {
    this.#mustBeWritable();
    if (!this.#mayKeep) this.keep('');
  }

  #mustBeWritable(): void {
    if (this.#readOnly)
      throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }

  #perform(action: string, offset: number | undefined, operation: () => void): void {
    this.#mustBeOpen();
    try {
      operation();
    } catch (cause) {
      const { message } = cause as Error;
      const code = /SQLITE_FULL|storage limit/i.test(message) ? 'ENOSPC' : 'EIO';
      const at = offset === undefined ? '' : ` at offset ${offset}`;
      throw new MillraceError(code, `cannot ${action} '${this.name}'${at}: ${message}`, {
        cause,
        offset,
      });
    }
  }
}

/**
 * The parts of a range by blob: `length` bytes from `from` on in the blob, which are at `at` in the
 * range.
 */
function* blobsOf(
  offset: number,
  length: number,
): Generator<{ number: number; from: number; length: number; at: number }> {
  for (let at = 0; at < length; ) {
    const from = (offset + at) % BLOB_BYTES;
    const part = Math.min(BLOB_BYTES - from, length - at);
    yield { number: (offset + at - from) / BLOB_BYTES, from, length: part, at };
    at += part;
  }
}
