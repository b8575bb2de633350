/**
 * Local files under Deno: short operations by synchronous calls, which are three to five times
 * quicker than asynchronous ones. Flushes, which wait for the device, are asynchronous, and large
 * reads of a base, which other threads do while this one writes.
 */
import { basename, dirname, isAbsolute, join } from 'node:path';
import type { BlockFile, BlockSource } from '../api/block.ts';
import type { FileKind, SystemWords } from '../files/errors.ts';
import type { Files, OpenFileOptions } from '../files/file.ts';
import { filesOf } from '../files/file.ts';
import type { FileError, FileHost, FileStat, OpenFile } from '../files/host.ts';
import { fileErrorsOf, STAT_BLOCK_BYTES } from '../files/host.ts';
import type { Access, Guarded } from '../files/qemu-locks.ts';
import type { Holes } from './holes.ts';
import { holesOf } from './holes.ts';
import { lockImage } from './lock.ts';
import { guardOpenImage } from './qemu-locks.ts';

/** From this size on, a read of a file that is only read is done by another thread. */
const LARGE_BYTES = 256 * 1024;
/** So many of them at once, each through a handle of its own. */
const LANES = 2;

const MODES = {
  read: { read: true },
  write: { read: true, write: true },
  make: { read: true, write: true, createNew: true },
} as const;

class DenoFile implements OpenFile {
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #lanes: readonly Deno.FsFile[];
  /** Those of the lanes that nobody reads through, and who waits for one. */
  readonly #free: Deno.FsFile[];
  readonly #waiting: ((lane: Deno.FsFile) => void)[] = [];
  #holes?: Holes;
  #guarded?: Guarded;

  constructor(path: string, file: Deno.FsFile, lanes: Deno.FsFile[]) {
    this.#path = path;
    this.#file = file;
    this.#lanes = lanes;
    this.#free = [...lanes];
  }

  read(offset: number, into: Uint8Array, signal?: AbortSignal): number | Promise<number> {
    if (into.length >= LARGE_BYTES && this.#lanes.length > 0)
      return this.#readBeside(offset, into, signal);
    this.#file.seekSync(offset, Deno.SeekMode.Start);
    return this.#file.readSync(into) ?? 0;
  }

  async #readBeside(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<number> {
    const lane =
      this.#free.pop() ??
      (await new Promise<Deno.FsFile>((resolve) => this.#waiting.push(resolve)));
    try {
      signal?.throwIfAborted();
      lane.seekSync(offset, Deno.SeekMode.Start);
      return (await lane.read(into)) ?? 0;
    } finally {
      const next = this.#waiting.shift();
      if (next) next(lane);
      else this.#free.push(lane);
    }
  }

  write(offset: number, from: Uint8Array): number {
    this.#file.seekSync(offset, Deno.SeekMode.Start);
    return this.#file.writeSync(from);
  }

  truncate(size: number): void {
    this.#file.truncateSync(size);
  }

  flush(): Promise<void> {
    return this.#file.syncData();
  }

  stat(): FileStat {
    return told(this.#file.statSync());
  }

  deviceSize(): Promise<number> {
    return this.#file.seek(0, Deno.SeekMode.End);
  }

  async holes(): Promise<BlockSource['nextData']> {
    this.#holes = await holesOf(this.#path, this.#file);
    return this.#holes?.nextData;
  }

  async guard(access: Access): Promise<Guarded> {
    const guarded = await guardOpenImage(this.#path, this.#file, access);
    this.#guarded?.release();
    this.#guarded = guarded;
    return guarded;
  }

  close(): void {
    for (const handle of [this.#file, ...this.#lanes]) handle.close();
    this.#holes?.close();
    this.#guarded?.release();
  }
}

/**
 * More handles to an open file; none where another file has come to its place since, or where that
 * cannot be told.
 */
async function openLanes(path: string, file: Deno.FsFile): Promise<Deno.FsFile[]> {
  const lanes: Deno.FsFile[] = [];
  try {
    const { dev, ino } = await file.stat();
    while (lanes.length < LANES) {
      lanes.push(await Deno.open(path, MODES.read));
      const same = await lanes.at(-1)!.stat();
      if (ino === null || same.dev !== dev || same.ino !== ino) throw new Error('another file');
    }
    return lanes;
  } catch {
    for (const lane of lanes) lane.close();
    return [];
  }
}

function told(info: Deno.FileInfo): FileStat {
  return {
    kind: kindOf(info),
    size: info.size,
    modified: info.mtime?.getTime(),
    allocated: info.blocks === null ? undefined : info.blocks * STAT_BLOCK_BYTES,
  };
}

function kindOf(info: Deno.FileInfo): FileKind {
  if (info.isFile) return 'file';
  if (info.isBlockDevice) return 'block device';
  if (info.isDirectory) return 'folder';
  if (info.isFifo) return 'FIFO';
  return info.isSocket ? 'socket' : 'character device';
}

/** Undefined where there is no such file. */
async function unlessMissing<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

const host: FileHost = {
  paths: { basename, dirname, isAbsolute, join },
  async open(path, mode) {
    const file = await Deno.open(path, MODES[mode]);
    return new DenoFile(path, file, mode === 'read' ? await openLanes(path, file) : []);
  },
  stat: async (path) => told(await Deno.stat(path)),
  isTaken: async (path) => (await unlessMissing(Deno.lstat(path))) !== undefined,
  readLink: async (path) =>
    (await unlessMissing(Deno.lstat(path)))?.isSymlink ? Deno.readLink(path) : undefined,
  realPath: (path) => Deno.realPath(path),
  link: (path, name) => Deno.link(path, name),
  rename: (path, to) => Deno.rename(path, to),
  remove: (path) => unlessMissing(Deno.remove(path)),
  // Where folders cannot be opened or synced, there is no better way.
  syncFolder: (path) =>
    Deno.open(path)
      .then((folder) => folder.sync().finally(() => folder.close()))
      .catch(() => {}),
  // A permission that is missing would be asked for.
  mayLookBeside: (path) =>
    [dirname(path), ...(isAbsolute(path) ? [] : ['.'])].every(
      (folder) => Deno.permissions.querySync({ name: 'read', path: folder }).state === 'granted',
    ),
  readText: (path) => Deno.readTextFile(path),
  writeText: (path, text) => Deno.writeTextFile(path, text),
  lock: lockImage,
  wordsOf,
};

function wordsOf(cause: unknown): SystemWords {
  const { name, code = 'EIO', message } = cause as Error & { code?: string };
  return { code: name === 'NotCapable' ? name : code, reason: message, cause };
}

/** An error of Deno in our words; `action` completes "cannot …", `offset` is in bytes. */
export const fileError: FileError = fileErrorsOf(wordsOf);

/** The local files of Deno. */
export const denoFiles: Files = filesOf(host);

/** Opens a local file as an overlay: see Files.openFile in hosts/files/file.ts. */
export function openFile(path: string, options?: OpenFileOptions): Promise<BlockFile> {
  return denoFiles.openFile(path, options);
}

/** Opens a local file or block device as a base: see Files.openFileSource. */
export function openFileSource(path: string, options?: { shared?: boolean }): Promise<BlockSource> {
  return denoFiles.openFileSource(path, options);
}
