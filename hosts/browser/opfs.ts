/**
 * Overlays in the origin private file system: one file a disk, under the disk's name, in one
 * folder. Files are written through synchronous access handles, which exist in dedicated workers
 * only; everything else here works in pages too.
 */
import type { BlockFile } from '../api/block.ts';
import type { CacheMode } from '../api/disk.ts';
import type { ErrorCode, ErrorReason } from '../api/errors.ts';
import { MillraceError } from '../api/errors.ts';
import type { SyncFile } from './batch.ts';
import { GRACE_MS } from './lock.ts';

const FOLDER = 'millrace';
const SUFFIX = '.qcow2';
/** Of a disk that is being made, or taken in: none yet. */
const PART_SUFFIX = '.part';
/** Of an empty file that tells the storage from what it will be when it has been cleared. */
const MARK_SUFFIX = '.storage';
/** Of what has passed of a base that comes in order only (hosts/bases/containers). */
const SCRATCH_SUFFIX = '.pass';
/** What file systems take for one name, less the suffix. */
const ENCODED_NAME_MAX = 240;
/** How often a copy tells how far it is. */
const COPY_BYTES = 4 * 1024 * 1024;
/** Between two looks whether a handle has been given back by a page that was just closed. */
const HANDLE_POLL_MS = 50;

/** File System standard, section 2.6; TypeScript knows it in workers only. */
interface SyncAccessHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(from: Uint8Array, options: { at: number }): number;
  flush(): void;
  getSize(): number;
  truncate(size: number): void;
  close(): void;
}

interface OpfsFileHandle extends FileSystemFileHandle {
  createSyncAccessHandle(): Promise<SyncAccessHandle>;
  move(name: string): Promise<void>;
}

/**
 * The folder of the disks, looked up each time because it may be cleared; undefined where the
 * browser gives this page no storage.
 */
export async function disksFolder(): Promise<FileSystemDirectoryHandle | undefined> {
  // Pages without a secure context have no `storage`; private windows of some browsers refuse the
  // folder.
  if (typeof navigator.storage?.getDirectory !== 'function') return undefined;
  try {
    return await (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, {
      create: true,
    });
  } catch (error) {
    if ((error as Error).name === 'SecurityError' || (error as Error).name === 'NotAllowedError')
      return undefined;
    throw new MillraceError(
      'EIO',
      `cannot open the storage of this site: ${(error as Error).message}`,
      { cause: error, reason: 'storage-failed' },
    );
  }
}

/** The file of a disk. @throws MillraceError `EINVAL` for a name that cannot be one. */
export function fileNameOf(name: string): string {
  const encoded = encodeName(name);
  if (encoded === '' || encoded.length > ENCODED_NAME_MAX) {
    throw new MillraceError(
      'EINVAL',
      `'${name}' cannot be the name of a disk: it is text of 1 to ${ENCODED_NAME_MAX} bytes (characters other than letters and digits count threefold or more)`,
    );
  }
  return encoded + SUFFIX;
}

function encodeName(name: string): string {
  try {
    return encodeURIComponent(name);
  } catch {
    // Half of a surrogate pair is no text.
    return '';
  }
}

/** The names of all disks in this browser, in order. */
export async function diskNames(): Promise<string[]> {
  return (await filesWith(SUFFIX)).map(decodeURIComponent).sort();
}

/** The names of disks that are being made or taken in, or were when their page was left. */
export async function partNames(): Promise<string[]> {
  return (await filesWith(SUFFIX + PART_SUFFIX)).map(decodeURIComponent);
}

/** The files whose names end so, by what stands before. */
async function filesWith(suffix: string): Promise<string[]> {
  const names: string[] = [];
  const disks = await disksFolder();
  if (!disks) return names;
  for await (const file of disks.keys())
    if (file.endsWith(suffix)) names.push(file.slice(0, -suffix.length));
  return names;
}

/**
 * The mark of this site's storage as it is now, made if need be; undefined where it cannot be. It
 * goes when the storage is cleared: then what was opened before is not what is there by the same
 * name afterwards.
 */
export async function storageMark(): Promise<string | undefined> {
  try {
    const [mark = crypto.randomUUID()] = await filesWith(MARK_SUFFIX);
    await (await disksFolder())?.getFileHandle(mark + MARK_SUFFIX, { create: true });
    return mark;
  } catch {
    return undefined;
  }
}

/** Whether the storage that a disk is in still has this mark. */
export async function hasMark(mark: string, name: string): Promise<boolean> {
  try {
    await (await folderOf(name)).getFileHandle(mark + MARK_SUFFIX);
    return true;
  } catch (error) {
    if ((error as Error).name === 'NotFoundError') return false;
    throw fileError(error, 'look for', name);
  }
}

/**
 * Removes what there is of a disk that was being made or taken in. The caller holds the disk's
 * lock.
 */
export async function removePart(name: string): Promise<void> {
  await (await folderOf(name))
    .removeEntry(fileNameOf(name) + PART_SUFFIX)
    .catch((error) => Promise.reject(fileError(error, 'delete', name)));
}

/**
 * The file of a disk as it is now. Once the disk is written to, the `File` fails to be read, or in
 * Firefox has what was written.
 * @throws `ENOENT`
 */
export async function diskFile(name: string): Promise<File> {
  return (await fileHandle(name))
    .getFile()
    .catch((error) => Promise.reject(fileError(error, 'read', name)));
}

export async function diskExists(name: string): Promise<boolean> {
  return diskFile(name).then(
    () => true,
    (error) => {
      if ((error as MillraceError).code === 'ENOENT') return false;
      throw error;
    },
  );
}

export async function removeDisk(name: string): Promise<void> {
  const disks = await folderOf(name);
  await disks
    .removeEntry(fileNameOf(name))
    .catch((error) => Promise.reject(fileError(error, 'delete', name)));
}

/** Gives a disk another name, which no disk has. */
export async function moveDisk(name: string, to: string): Promise<void> {
  const handle = await fileHandle(name);
  await handle
    .move(fileNameOf(to))
    .catch((error) => Promise.reject(fileError(error, 'rename', name)));
}

/**
 * Makes a disk of the whole of `blob`, at once: of a page that is left halfway no disk is left.
 * `copied` is called now and then with the bytes so far, and ends the copy when it rejects. The
 * caller holds the disk's lock, and there is no disk of that name.
 */
export async function writeDisk(
  name: string,
  blob: Blob,
  copied: (bytes: number) => Promise<void>,
): Promise<void> {
  const disks = await folderOf(name);
  const file = fileNameOf(name);
  const part = file + PART_SUFFIX;
  try {
    const handle = (await disks.getFileHandle(part, { create: true })) as OpfsFileHandle;
    await blob
      .stream()
      .pipeThrough(counting(copied))
      .pipeTo(await handle.createWritable());
    await handle.move(file);
  } catch (error) {
    await removePart(name).catch(() => {});
    throw fileError(error, 'import', name);
  }
}

function counting(
  copied: (bytes: number) => Promise<void>,
): TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>> {
  let [bytes, told] = [0, 0];
  return new TransformStream({
    async transform(chunk, controller) {
      bytes += chunk.length;
      if (bytes - told >= COPY_BYTES) await copied((told = bytes));
      controller.enqueue(chunk);
    },
  });
}

/** Where a disk is, if there is one of that name. */
async function folderOf(name: string): Promise<FileSystemDirectoryHandle> {
  const disks = await disksFolder();
  if (!disks)
    throw new MillraceError(
      'ENOENT',
      `there is no disk '${name}': the browser gives this page no storage`,
      { reason: 'no-such-disk' },
    );
  return disks;
}

async function fileHandle(name: string): Promise<OpfsFileHandle> {
  const disks = await folderOf(name);
  try {
    return (await disks.getFileHandle(fileNameOf(name))) as OpfsFileHandle;
  } catch (error) {
    throw fileError(error, 'open', name);
  }
}

/** The file of a disk that is being made, empty; what another page has left of it goes. */
async function partHandle(name: string): Promise<OpfsFileHandle> {
  const disks = await folderOf(name);
  const part = fileNameOf(name) + PART_SUFFIX;
  try {
    await disks.removeEntry(part).catch(() => {});
    return (await disks.getFileHandle(part, { create: true })) as OpfsFileHandle;
  } catch (error) {
    throw fileError(error, 'create', name);
  }
}

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

function noRoom(name: string, cause?: unknown): MillraceError {
  return new MillraceError('ENOSPC', `no room for disk '${name}' in the browser's storage`, {
    cause,
  });
}

const CODES: Record<string, [ErrorCode, string, ErrorReason?]> = {
  NotFoundError: [
    'ENOENT',
    'there is no such disk in this browser (its storage may have been cleared)',
    'no-such-disk',
  ],
  NoModificationAllowedError: ['EBUSY', 'its file is in use by another program of this site'],
  InvalidStateError: [
    'EIO',
    'the browser has taken its file away: the storage of this site was cleared, or has gone',
    'storage-cleared',
  ],
  NotAllowedError: ['EACCES', 'the browser does not allow it'],
  SecurityError: ['EACCES', 'the browser does not allow it'],
};

/** What the file system throws, by the names in its standard. */
export function fileError(error: unknown, action: string, name: string): MillraceError {
  if (error instanceof MillraceError) return error;
  const { name: kind, message } = error as Error;
  if (kind === 'QuotaExceededError') return noRoom(name, error);
  const [code, what, reason] = CODES[kind] ?? ['EIO', message, 'storage-failed'];
  return new MillraceError(code, `cannot ${action} disk '${name}': ${what}`, {
    cause: error,
    reason,
  });
}
