/**
 * Local files as block files and sources, over Deno's own file functions. An FsFile has one position, so a transfer sets it and moves
 * the bytes without giving way in between, which for small ones is three to five times quicker than asynchronous calls. Flushes, which
 * wait for the device, are asynchronous, and large reads of a base, which other threads do while this one writes. A file open for
 * writing is locked.
 */
import { basename, dirname, join } from 'node:path';
import type { BlockFile, BlockSource, ReadHint } from '../api/block.ts';
import type { CacheMode } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { OptionNames } from '../api/options.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { FileKind } from '../files/errors.ts';
import { lockError, placeOf, refuseKind, systemError } from '../files/errors.ts';
import type { Lock } from '../files/lock.ts';
import type { Access, Guard, Guarded } from '../files/qemu-locks.ts';
import type { Holes } from './holes.ts';
import { holesOf } from './holes.ts';
import { lockImage } from './lock.ts';
import { guardOpenImage } from './qemu-locks.ts';

/** From this size on, a read of a base is done by another thread. */
const LARGE_BYTES = 256 * 1024;
/** So many of them at once, each through a handle of its own. */
const LANES = 2;
/** In these, stat(2) counts what a file takes. */
const STAT_BLOCK_BYTES = 512;

/** How a local file is opened. */
export interface OpenFileOptions {
  /** No lock; writing fails with `EROFS`. */
  readOnly?: boolean;
  /** Make the file, which must not exist yet. */
  create?: boolean;
  /** A block device will do: it is written over, and keeps its size. */
  fixed?: boolean;
  /** `unsafe`: the device is never waited for. Default `writeback`. */
  cache?: CacheMode;
}

const OPEN_FILE_OPTIONS: OptionNames<OpenFileOptions> = {
  readOnly: true,
  create: true,
  fixed: true,
  cache: true,
};

/**
 * Opens a local file as an overlay. Unless `readOnly`, it is locked until `close` (or the end of this process) by a folder
 * `PATH.lock` beside it, see hosts/files/lock.ts; so the folder has to be readable and writable. `size` follows what is written.
 * @throws MillraceError `EBUSY` (with the name of the program that has it), `ENOENT`, `EEXIST`, `EACCES` (also for a permission that
 *   this process was not given), `EROFS`, `EINVAL` (a folder, FIFO, socket or character device), `EUNSUPPORTED` (a block device,
 *   which cannot grow), `ENOSPC`, `EIO`.
 */
export async function openFile(path: string, options: OpenFileOptions = {}): Promise<BlockFile> {
  mustKnowOptions('openFile', options, OPEN_FILE_OPTIONS);
  if (options.readOnly) return openForReading(path);
  const { create = false, cache, fixed } = options;
  // No folder can stand beside a device.
  const lock = fixed && (await isBlockDevice(path)) ? undefined : await lockFor(path, create);
  try {
    const file = await openForWriting(path, options);
    return await wrap(path, file, { lock, cache, fixed, access: 'write' });
  } catch (error) {
    lock?.release();
    throw error;
  }
}

/**
 * Opens a local file or block device as a base. Its identity is its size and time of last change, and it must not change, as under
 * Node. Unless `shared`, QEMU lets nobody write it until it is closed, and it must not be open for writing (`EBUSY`).
 */
export function openFileSource(
  path: string,
  { shared = false }: { shared?: boolean } = {},
): Promise<BlockSource> {
  return openForReading(path, { isBase: true, access: shared ? undefined : 'base' });
}

async function openForReading(
  path: string,
  how: { isBase?: boolean; access?: Access } = {},
): Promise<LocalFile> {
  refuseKind(path, kindOf(await orFileError('open', path, () => Deno.stat(path))), true);
  const file = await orFileError('open', path, () => Deno.open(path, { read: true }));
  return wrap(path, file, { readOnly: true, ...how, lanes: await openLanes(path, file) });
}

/** More handles to an open file; none where another file has come to its place since, or where that cannot be told. */
async function openLanes(path: string, file: Deno.FsFile): Promise<Deno.FsFile[]> {
  const lanes: Deno.FsFile[] = [];
  try {
    const { dev, ino } = await file.stat();
    while (lanes.length < LANES) {
      lanes.push(await Deno.open(path, { read: true }));
      const same = await lanes.at(-1)!.stat();
      if (ino === null || same.dev !== dev || same.ino !== ino) throw new Error('another file');
    }
    return lanes;
  } catch {
    for (const lane of lanes) lane.close();
    return [];
  }
}

async function openForWriting(
  path: string,
  { create, cache }: OpenFileOptions,
): Promise<Deno.FsFile> {
  if (!create) return orFileError('open', path, () => Deno.open(path, { read: true, write: true }));
  const file = await orFileError('create', path, () =>
    Deno.open(path, { read: true, write: true, createNew: true }),
  );
  // Its name has to survive a power cut. Where folders cannot be opened or synced, there is no better way.
  if (cache !== 'unsafe')
    await Deno.open(dirname(path))
      .then((folder) => folder.sync().finally(() => folder.close()))
      .catch(() => {});
  return file;
}

async function wrap(
  path: string,
  file: Deno.FsFile,
  how: {
    readOnly?: boolean;
    isBase?: boolean;
    fixed?: boolean;
    cache?: CacheMode;
    lock?: Lock;
    lanes?: Deno.FsFile[];
    access?: Access;
  },
): Promise<LocalFile> {
  try {
    const info = await orFileError('open', path, () => file.stat());
    refuseKind(path, kindOf(info), how.readOnly ?? how.fixed ?? false);
    // The size of a block device is where its end is.
    const size = info.isFile
      ? info.size
      : await orFileError('open', path, () => file.seek(0, Deno.SeekMode.End));
    if (!Number.isSafeInteger(size))
      throw new MillraceError('EUNSUPPORTED', `'${path}' is larger than 8 PiB`);
    const guarded = how.access && (await guardOpenImage(path, file, how.access));
    const isSource = info.isFile && how.readOnly;
    const identity = isSource ? identityOf(info) : undefined;
    const isSparse = isSource && info.blocks !== null && info.blocks * STAT_BLOCK_BYTES < size;
    return new LocalFile(path, file, size, {
      ...how,
      identity,
      guarded,
      holes: isSparse ? await holesOf(path, file) : undefined,
    });
  } catch (error) {
    for (const handle of [file, ...(how.lanes ?? [])]) handle.close();
    throw error;
  }
}

function identityOf({ size, mtime }: Deno.FileInfo): string | undefined {
  return mtime ? `${size}-${mtime.getTime()}` : undefined;
}

function kindOf(info: Deno.FileInfo): FileKind {
  if (info.isFile) return 'file';
  if (info.isBlockDevice) return 'block device';
  return info.isDirectory
    ? 'folder'
    : info.isFifo
      ? 'FIFO'
      : info.isSocket
        ? 'socket'
        : 'character device';
}

/** Whether a path leads to a block device. */
export async function isBlockDevice(path: string): Promise<boolean> {
  return Deno.stat(path).then(
    (info) => info.isBlockDevice === true,
    () => false,
  );
}

/** The lock stands beside the file itself, not beside a symbolic link to it. */
async function lockFor(path: string, create: boolean): Promise<Lock> {
  const exists = await orFileError('open', path, () =>
    Deno.stat(path).catch((error) => {
      if (create && error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }),
  );
  if (exists !== undefined) refuseKind(path, kindOf(exists), false);
  const place = exists
    ? await orFileError('open', path, () => Deno.realPath(path))
    : join(
        await orFileError(`create '${path}' in`, dirname(path), () => Deno.realPath(dirname(path))),
        basename(path),
      );
  try {
    return lockImage(place);
  } catch (error) {
    if (error instanceof MillraceError) throw error;
    throw error instanceof Deno.errors.NotCapable
      ? fileError('make the lock', `${path}.lock`, error)
      : lockError(path, exists !== undefined, wordsOf(error));
  }
}

interface LocalFileOptions {
  readOnly?: boolean;
  isBase?: boolean;
  cache?: CacheMode;
  lock?: Lock;
  identity?: string;
  guarded?: Guarded;
  lanes?: Deno.FsFile[];
  holes?: Holes;
}

class LocalFile implements BlockFile {
  readonly name: string;
  readonly identity?: string;
  readonly nextData?: BlockSource['nextData'];
  readonly #holes?: Holes;
  readonly #file: Deno.FsFile;
  readonly #readOnly: boolean;
  readonly #isBase: boolean;
  readonly #cache: CacheMode;
  readonly #lock?: Lock;
  readonly #guarded?: Guarded;
  readonly #lanes: readonly Deno.FsFile[];
  /** Those of the lanes that nobody reads through, and who waits for one. */
  readonly #free: Deno.FsFile[];
  readonly #waiting: ((lane: Deno.FsFile) => void)[] = [];
  readonly #inFlight = new Set<Promise<void>>();
  #size: number;
  #flushFailure?: MillraceError;
  #closing?: Promise<void>;

  constructor(path: string, file: Deno.FsFile, size: number, how: LocalFileOptions) {
    this.name = path;
    this.#file = file;
    this.#size = size;
    this.#readOnly = how.readOnly ?? false;
    this.#isBase = how.isBase ?? false;
    this.#cache = how.cache ?? 'writeback';
    this.#lock = how.lock;
    this.#guarded = how.guarded;
    this.#lanes = how.lanes ?? [];
    this.#free = [...this.#lanes];
    this.identity = how.identity;
    this.#holes = how.holes;
    const nextData = how.holes?.nextData;
    this.nextData =
      nextData && ((offset) => (this.#closing ? { start: offset, end: size } : nextData(offset)));
  }

  get size(): number {
    return this.#size;
  }

  get guard(): Guard | undefined {
    return this.#guarded?.guard;
  }

  /** Only where no lock of ours keeps them out. */
  async refuseOtherWriters(): Promise<void> {
    if (this.guard === 'looked') (await guardOpenImage(this.name, this.#file, 'write')).release();
  }

  /** What is released once more when it is closed. */
  unguard(): void {
    this.#guarded?.release();
  }

  read(offset: number, into: Uint8Array, hint?: ReadHint): void | Promise<void> {
    if (!(offset >= 0 && offset + into.length <= this.#size)) {
      const message = `cannot read ${into.length} bytes at offset ${offset} of '${this.name}': it has ${this.#size}`;
      throw new MillraceError('EINVAL', message, { offset });
    }
    if (into.length >= LARGE_BYTES && this.#lanes.length > 0) {
      this.#refuseClosed('read');
      return this.#awaited(this.#readBeside(offset, into, hint?.signal));
    }
    this.#perform('read', offset, () => {
      this.#file.seekSync(offset, Deno.SeekMode.Start);
      for (let done = 0; done < into.length; )
        done += this.#mustRead(this.#file.readSync(into.subarray(done)), offset + done);
      this.#refuseChanged(offset);
    });
  }

  /** A read that has started goes on to its end, whoever waits for it. */
  async #readBeside(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    const lane =
      this.#free.pop() ??
      (await new Promise<Deno.FsFile>((resolve) => this.#waiting.push(resolve)));
    try {
      signal?.throwIfAborted();
      lane.seekSync(offset, Deno.SeekMode.Start);
      for (let done = 0; done < into.length; )
        done += this.#mustRead(await lane.read(into.subarray(done)), offset + done);
      this.#refuseChanged(offset);
    } catch (error) {
      throw error instanceof MillraceError || signal?.aborted
        ? error
        : fileError('read', this.name, error, offset);
    } finally {
      const next = this.#waiting.shift();
      if (next) next(lane);
      else this.#free.push(lane);
    }
  }

  #mustRead(count: number | null, at: number): number {
    if (count !== null) return count;
    const message = `'${this.name}' ends before offset ${at} but had ${this.#size} bytes: another program has cut it`;
    throw new MillraceError('ECHANGED', message, { offset: at });
  }

  /** What was read since another program has written to a base is not what the overlay was made on. */
  #refuseChanged(offset: number): void {
    if (
      !this.#isBase ||
      this.identity === undefined ||
      identityOf(this.#file.statSync()) === this.identity
    )
      return;
    throw new MillraceError(
      'ECHANGED',
      `'${this.name}' has changed since it was opened: another program has written to it`,
      { offset },
    );
  }

  /** What `close` waits for. */
  #awaited(operation: Promise<void>): Promise<void> {
    this.#inFlight.add(operation);
    const ended = (): void => void this.#inFlight.delete(operation);
    operation.then(ended, ended);
    return operation;
  }

  write(offset: number, from: Uint8Array): void {
    this.#refuseReadOnly();
    this.#perform('write', offset, () => {
      this.#file.seekSync(offset, Deno.SeekMode.Start);
      for (let done = 0; done < from.length; ) {
        done += this.#file.writeSync(from.subarray(done));
        this.#size = Math.max(this.#size, offset + done);
      }
    });
  }

  /**
   * fdatasync(2). After a failure every later flush fails too: the kernel may have dropped the pages that it could not write, so a
   * second call would succeed without them.
   */
  flush(): Promise<void> {
    this.#refuseClosed('flush');
    return this.#readOnly || this.#cache === 'unsafe'
      ? Promise.resolve()
      : this.#awaited(this.#flush());
  }

  async #flush(): Promise<void> {
    if (this.#flushFailure !== undefined) throw this.#flushFailure;
    try {
      await this.#file.syncData();
    } catch (error) {
      throw (this.#flushFailure = fileError('flush', this.name, error));
    }
  }

  truncate(size: number): void {
    this.#refuseReadOnly();
    this.#perform('resize', undefined, () => this.#file.truncateSync(size));
    this.#size = size;
  }

  /** Waits for what is in flight. */
  close(): Promise<void> {
    return (this.#closing ??= Promise.allSettled(this.#inFlight).then(() => {
      for (const handle of [this.#file, ...this.#lanes]) handle.close();
      this.#holes?.close();
      this.#guarded?.release();
      this.#lock?.release();
    }));
  }

  #refuseReadOnly(): void {
    if (this.#readOnly)
      throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }

  #refuseClosed(action: string): void {
    if (this.#closing !== undefined)
      throw new MillraceError('ECLOSED', `cannot ${action} '${this.name}': it has been closed`);
  }

  #perform(action: string, offset: number | undefined, operation: () => void): void {
    this.#refuseClosed(action);
    try {
      operation();
    } catch (error) {
      throw error instanceof MillraceError ? error : fileError(action, this.name, error, offset);
    }
  }
}

/** An error of Deno in our words; `action` completes "cannot …", `offset` is in bytes. */
export function fileError(
  action: string,
  path: string,
  cause: unknown,
  offset?: number,
): MillraceError {
  const place = placeOf(path, offset);
  if (cause instanceof Deno.errors.NotCapable) {
    const advice = 'a disk needs --allow-read and --allow-write of its folder';
    return new MillraceError('EACCES', `cannot ${action} ${place}: ${cause.message}; ${advice}`, {
      cause,
      offset,
    });
  }
  return systemError(action, place, { ...wordsOf(cause), offset });
}

function wordsOf(cause: unknown): { code: string; reason: string; cause: unknown } {
  const { code = 'EIO', message } = cause as Error & { code?: string };
  return { code, reason: message, cause };
}

async function orFileError<T>(
  action: string,
  path: string,
  operation: () => Promise<T>,
): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw error instanceof MillraceError ? error : fileError(action, path, error);
  }
}
