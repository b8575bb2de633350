/**
 * Overlays in the origin private file system: one file a disk, under the disk's name, in one
 * folder. All of this works in pages too; what is written goes through opfs-file.ts, in workers.
 */
import { MillraceError } from '../api/errors.ts';
import { fileError } from './opfs-errors.ts';

const FOLDER = 'millrace';
const SUFFIX = '.qcow2';
/** Of a disk that is being made, or taken in: none yet. */
const PART_SUFFIX = '.part';
/** Of an empty file that tells the storage from what it will be when it has been cleared. */
const MARK_SUFFIX = '.storage';
/** What file systems take for one name, less the suffix. */
const ENCODED_NAME_MAX = 240;
/** How often a copy tells how far it is. */
const COPY_BYTES = 4 * 1024 * 1024;

/** File System standard, section 2.6; TypeScript knows it in workers only. */
export interface SyncAccessHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(from: Uint8Array, options: { at: number }): number;
  flush(): void;
  getSize(): number;
  truncate(size: number): void;
  close(): void;
}

export interface OpfsFileHandle extends FileSystemFileHandle {
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
export async function filesWith(suffix: string): Promise<string[]> {
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

export async function fileHandle(name: string): Promise<OpfsFileHandle> {
  const disks = await folderOf(name);
  try {
    return (await disks.getFileHandle(fileNameOf(name))) as OpfsFileHandle;
  } catch (error) {
    throw fileError(error, 'open', name);
  }
}

/** The file of a disk that is being made, empty; what another page has left of it goes. */
export async function partHandle(name: string): Promise<OpfsFileHandle> {
  const disks = await folderOf(name);
  const part = fileNameOf(name) + PART_SUFFIX;
  try {
    await disks.removeEntry(part).catch(() => {});
    return (await disks.getFileHandle(part, { create: true })) as OpfsFileHandle;
  } catch (error) {
    throw fileError(error, 'create', name);
  }
}
