/** The files of disks in the origin private file system, through synchronous access handles. */
import type { BlockFile } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { CacheMode } from '../api/open.ts';
import type { SyncFile } from './batch.ts';
import { GRACE_MS } from './lock.ts';
import type { OpfsFileHandle, SyncAccessHandle } from './opfs.ts';
import {
  diskExists,
  disksFolder,
  fileHandle,
  fileNameOf,
  filesWith,
  partHandle,
  removePart,
} from './opfs.ts';
import { fileError, noRoom } from './opfs-errors.ts';

/** Of what has passed of a base that comes in order only (hosts/bases/containers). */
const SCRATCH_SUFFIX = '.pass';
/** Between two looks whether a handle has been given back by a page that was just closed. */
const HANDLE_POLL_MS = 50;

/**
 * Opens a disk's file for writing, in a worker; one that is made is there only once it has been
 * published. The caller holds the disk's lock.
 * @throws `ENOENT`, `EEXIST` with `create`, `EBUSY`
 */
export async function openDiskFile(
  name: string,
  { create, cache }: { create: boolean; cache: CacheMode },
): Promise<OpfsFile> {
  if (create && (await diskExists(name)))
    throw new MillraceError('EEXIST', `there is a disk '${name}' already`);
  const handle = create ? await partHandle(name) : await fileHandle(name);
  const access = await accessTo(handle, name);
  return new OpfsFile(name, access, { cache, part: create ? handle : undefined });
}

async function accessTo(handle: OpfsFileHandle, name: string): Promise<SyncAccessHandle> {
  for (let waited = 0; ; waited += HANDLE_POLL_MS) {
    try {
      return await handle.createSyncAccessHandle();
    } catch (error) {
      // The lock is ours, so whoever still has the file is a worker that is ending, or a program
      // that knows no locks.
      if ((error as Error).name !== 'NoModificationAllowedError' || waited >= GRACE_MS)
        throw fileError(error, 'open', name);
      await new Promise((resolve) => setTimeout(resolve, HANDLE_POLL_MS));
    }
  }
}

/**
 * A file for a while, in a worker; undefined where there is no storage. What workers that have
 * ended left behind goes first: a file that is in use cannot be removed.
 */
export async function openScratch(): Promise<BlockFile | undefined> {
  const folder = await disksFolder();
  if (folder === undefined) return undefined;
  for (const left of await filesWith(SCRATCH_SUFFIX))
    await folder.removeEntry(left + SCRATCH_SUFFIX).catch(() => {});
  const fileName = crypto.randomUUID() + SCRATCH_SUFFIX;
  const handle = (await folder.getFileHandle(fileName, { create: true })) as OpfsFileHandle;
  const file = new OpfsFile('what has passed', await handle.createSyncAccessHandle(), {
    cache: 'unsafe',
  });
  return {
    get size() {
      return file.size;
    },
    name: file.name,
    read: (offset, into) => file.read(offset, into),
    write: (offset, from) => file.write(offset, from),
    flush: () => file.flush(),
    truncate: (size) => file.truncate(size),
    async close() {
      file.close();
      await folder.removeEntry(fileName).catch(() => {});
    },
  };
}

/** A disk's file. Every error names the disk, and says what it means there. */
export class OpfsFile implements SyncFile {
  readonly name: string;
  readonly #cache: CacheMode;
  #handle: SyncAccessHandle;
  /** The file of a disk that is being made. */
  #part: OpfsFileHandle | undefined;
  #size: number;
  #flushFailure: MillraceError | undefined;

  constructor(
    name: string,
    handle: SyncAccessHandle,
    { cache, part }: { cache: CacheMode; part?: OpfsFileHandle },
  ) {
    this.name = name;
    this.#handle = handle;
    this.#cache = cache;
    this.#part = part;
    this.#size = handle.getSize();
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, into: Uint8Array): void {
    const count = this.#attempt('read', () => this.#handle.read(into, { at: offset }));
    if (count < into.length) {
      throw new MillraceError(
        'EIO',
        `cannot read disk '${this.name}': its file ends at ${offset + count}, where ${this.#size} bytes should be; the storage was changed from outside`,
        { offset },
      );
    }
  }

  write(offset: number, from: Uint8Array): void {
    const count = this.#attempt('write', () => this.#handle.write(from, { at: offset }));
    // Some browsers write what there is room for, and say no more.
    if (count < from.length) throw noRoom(this.name);
    this.#size = Math.max(this.#size, offset + from.length);
  }

  /**
   * After a failure every later one fails too: what it could not write may be lost, and the next
   * would not know of it.
   */
  flush(): void {
    if (this.#cache === 'unsafe') return;
    if (this.#flushFailure) throw this.#flushFailure;
    try {
      this.#attempt('flush', () => this.#handle.flush());
    } catch (error) {
      throw (this.#flushFailure = error as MillraceError);
    }
  }

  truncate(size: number): void {
    this.#attempt('resize', () => this.#handle.truncate(size));
    this.#size = size;
  }

  /** A file that is open cannot be moved: it is opened again under its name. */
  async publish(): Promise<void> {
    if (!this.#part) return;
    this.flush();
    this.#handle.close();
    try {
      await this.#part.move(fileNameOf(this.name));
    } catch (error) {
      throw fileError(error, 'create', this.name);
    }
    this.#part = undefined;
    this.#handle = await accessTo(await fileHandle(this.name), this.name);
  }

  close(): void {
    this.#handle.close();
  }

  /** Called when it has been closed. */
  async removeUnlessPublished(): Promise<void> {
    if (!this.#part) return;
    this.#part = undefined;
    await removePart(this.name);
  }

  #attempt<T>(action: string, call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw fileError(error, action, this.name);
    }
  }
}
