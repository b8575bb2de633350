/**
 * Local files as block files and sources, over the callback functions of node:fs: with 1 MiB a call they are as quick as a
 * FileHandle, with 4 KiB a fifth to a third quicker. Every error names the file, and the offset where there is one. A file that is
 * open for writing is locked against other programs.
 */

import type { BigIntStats } from 'node:fs';
import * as fs from 'node:fs';
import { readFile, realpath, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { getSystemErrorMap, promisify } from 'node:util';
import type { BlockFile, BlockSource, ReadHint } from '../api/block.ts';
import type { CacheMode } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { OptionNames } from '../api/options.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { FileKind } from '../files/errors.ts';
import { lockError, placeOf, refuseKind, systemError } from '../files/errors.ts';
import type { Lock } from '../files/lock.ts';

import type { Access, FileId, Guard, Guarded } from '../files/qemu-locks.ts';
import type { ReadCached } from './cached.ts';
import { cachedReadsOf } from './cached.ts';

import { holesOf } from './holes.ts';
import { lockImage } from './lock.ts';
import { guardOpenImage } from './qemu-locks.ts';

const open = promisify(fs.open);
const close = promisify(fs.close);
const fstat = promisify(fs.fstat);
const fsync = promisify(fs.fsync);
const { constants } = fs;

/** Enough in flight for the four threads that node:fs has by default, with as many waiting behind them. */
const PREFERRED = { chunk: 1024 * 1024, depth: 8 } as const;
/** node:fs takes at most 2^31 - 1 bytes a call. */
const TRANSFER_BYTES_MAX = 1024 * 1024 * 1024;
/** In these, stat(2) counts what a file takes, and /sys a block device, whatever the size of its own sectors. */
const STAT_BLOCK_BYTES = 512;

/** How a local file is opened. */
export interface OpenFileOptions {
  /** No lock; writing fails with `EROFS`. */
  readOnly?: boolean;
  /** Make the file when it does not exist. */
  create?: boolean;
  /** With `create`: fail with `EEXIST` when it exists. */
  exclusive?: boolean;
  /** A block device will do: it is written over, and keeps its size. */
  fixed?: boolean;
  /** `unsafe`: the device is never waited for. Default `writeback`. */
  cache?: CacheMode;
}

const OPEN_FILE_OPTIONS: OptionNames<OpenFileOptions> = {
  readOnly: true,
  create: true,
  exclusive: true,
  fixed: true,
  cache: true,
};

/**
 * Opens a local file as an overlay. Unless `readOnly`, it is locked until `close` (or the end of this process) by a folder
 * `PATH.lock` beside it: see hosts/files/lock.ts. `size` follows what is written.
 * @throws MillraceError `EBUSY` (with the name of the program that has it), `ENOENT`, `EEXIST`, `EACCES`, `EROFS`, `EINVAL` (a
 *   folder, FIFO, socket or character device), `EUNSUPPORTED` (a block device, which cannot grow), `ENOSPC`, `EIO`.
 */
export async function openFile(path: string, options: OpenFileOptions = {}): Promise<BlockFile> {
  mustKnowOptions('openFile', options, OPEN_FILE_OPTIONS);
  if (options.readOnly) return openForReading(path);
  const { create = false, cache, fixed } = options;
  const exists = await checkKind(path, { readOnly: fixed ?? false, mayBeMissing: create });
  // No folder can stand beside a device.
  const lock = fixed && (await isBlockDevice(path)) ? undefined : await lockFor(path, exists);
  try {
    const fd = await openForWriting(path, options);
    return await wrap(path, fd, { lock, cache, fixed, access: 'write' });
  } catch (error) {
    lock?.release();
    throw error;
  }
}

/**
 * Opens a local file or block device as a base. Its identity is its size and time of last change in milliseconds, which every runtime
 * can tell: cheap, and changed by everything that writes to it (by `touch` and by copies that do not keep times as well). A block
 * device has no such time. What is read after another has come about is refused (`ECHANGED`).
 * Unless `shared`, QEMU lets nobody write it until it is closed, and it must not be open for writing (`EBUSY`).
 * @throws MillraceError as `openFile`.
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
  await checkKind(path, { readOnly: true, mayBeMissing: false });
  // Without O_NONBLOCK, a FIFO that has come to this place since would hold a thread until somebody writes to it.
  const fd = await orFileError(
    'open',
    path,
    open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0)),
  );
  return wrap(path, fd, { readOnly: true, ...how });
}

/** Opens the file, or makes it, and then sees to it that its name survives a power cut. */
async function openForWriting(
  path: string,
  { create, exclusive, cache }: OpenFileOptions,
): Promise<number> {
  if (create) {
    try {
      return await createFile(path, cache);
    } catch (error) {
      if (exclusive || (error as NodeJS.ErrnoException).code !== 'EEXIST')
        throw fileError('create', path, error);
    }
  }
  return orFileError('open', path, open(path, constants.O_RDWR | (constants.O_NONBLOCK ?? 0)));
}

/** What could not be made to last is taken away again. */
async function createFile(path: string, cache?: CacheMode): Promise<number> {
  const fd = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL);
  try {
    if (cache !== 'unsafe') await syncFolder(dirname(path));
    return fd;
  } catch (error) {
    await close(fd);
    await unlink(path).catch(() => {});
    throw error;
  }
}

async function syncFolder(path: string): Promise<void> {
  try {
    const fd = await open(path, constants.O_RDONLY);
    await fsync(fd).finally(() => close(fd));
  } catch (error) {
    // A folder that may be written but not read, or a system or file system that does not sync folders, has no better way.
    if (
      !['EACCES', 'EPERM', 'EISDIR', 'EINVAL'].includes((error as NodeJS.ErrnoException).code ?? '')
    )
      throw error;
  }
}

async function wrap(
  path: string,
  fd: number,
  how: {
    readOnly?: boolean;
    isBase?: boolean;
    fixed?: boolean;
    cache?: CacheMode;
    lock?: Lock;
    access?: Access;
  },
): Promise<LocalFile> {
  try {
    const stats = await orFileError('open', path, fstat(fd, { bigint: true }));
    refuseKind(path, kindOf(stats), how.readOnly ?? how.fixed ?? false);
    const size = stats.isBlockDevice() ? await deviceSize(path, stats.rdev) : Number(stats.size);
    if (!Number.isSafeInteger(size))
      throw new MillraceError('EUNSUPPORTED', `'${path}' is larger than 8 PiB`);
    const guarded = how.access && (await guardOpenImage(path, fd, stats, how.access));
    const isSource = stats.isFile() && how.readOnly;
    const identity = isSource ? identityOf(stats) : undefined;
    const nextData =
      isSource && Number(stats.blocks) * STAT_BLOCK_BYTES < size ? await holesOf(fd) : undefined;
    const readCached = stats.isFile() ? await cachedReadsOf(fd) : undefined;
    const found = { identity, nextData, guarded, readCached, id: stats };
    return new LocalFile(path, fd, size, { ...how, ...found });
  } catch (error) {
    await close(fd);
    throw error;
  }
}

function identityOf({ size, mtimeMs }: BigIntStats): string {
  return `${size}-${mtimeMs}`;
}

/** Whether it exists. */
async function checkKind(
  path: string,
  how: { readOnly: boolean; mayBeMissing: boolean },
): Promise<boolean> {
  let stats: BigIntStats;
  try {
    stats = await stat(path, { bigint: true });
  } catch (error) {
    if (how.mayBeMissing && (error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw fileError('open', path, error);
  }
  refuseKind(path, kindOf(stats), how.readOnly);
  return true;
}

function kindOf(stats: BigIntStats): FileKind {
  if (stats.isFile()) return 'file';
  if (stats.isBlockDevice()) return 'block device';
  return stats.isDirectory()
    ? 'folder'
    : stats.isFIFO()
      ? 'FIFO'
      : stats.isSocket()
        ? 'socket'
        : 'character device';
}

/** A block device's own size is 0 to fstat(2), and node:fs cannot seek. */
async function deviceSize(path: string, rdev: bigint): Promise<number> {
  // As gnu_dev_major(3) and gnu_dev_minor(3) take a device number apart.
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  try {
    return (
      Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * STAT_BLOCK_BYTES
    );
  } catch (cause) {
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot open '${path}': the size of this block device cannot be learnt`,
      { cause },
    );
  }
}

/** Whether a path leads to a block device. */
export async function isBlockDevice(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isBlockDevice(),
    () => false,
  );
}

/** The lock stands beside the file itself, not beside a symbolic link to it. */
async function lockFor(path: string, exists: boolean): Promise<Lock> {
  const place = exists
    ? await orFileError('open', path, realpath(path))
    : join(
        await orFileError(`create '${path}' in`, dirname(path), realpath(dirname(path))),
        basename(path),
      );
  try {
    return lockImage(place);
  } catch (error) {
    throw error instanceof MillraceError ? error : lockError(path, exists, wordsOf(error));
  }
}

/** What node:fs calls back with. */
type Settle = (error: NodeJS.ErrnoException | null, count?: number) => void;

interface LocalFileOptions {
  readOnly?: boolean;
  isBase?: boolean;
  cache?: CacheMode;
  lock?: Lock;
  identity?: string;
  nextData?: BlockSource['nextData'];
  readCached?: ReadCached;
  guarded?: Guarded;
  id?: FileId;
}

class LocalFile implements BlockFile {
  readonly name: string;
  readonly identity?: string;
  readonly nextData?: BlockSource['nextData'];
  readonly preferred: { chunk: number; depth: number } = PREFERRED;
  private readonly fd: number;
  private readonly readOnly: boolean;
  private readonly isBase: boolean;
  private readonly cache: CacheMode;
  private readonly lock?: Lock;
  private readonly readCached?: ReadCached;
  private readonly guarded?: Guarded;
  private readonly id?: FileId;
  private length: number;
  private inFlight = 0;
  /** Called when the last operation in flight has ended, once `close` waits for it. */
  private idle?: () => void;
  private closing?: Promise<void>;
  private flushFailure?: MillraceError;

  constructor(path: string, fd: number, length: number, how: LocalFileOptions) {
    this.name = path;
    this.fd = fd;
    this.length = length;
    this.readOnly = how.readOnly ?? false;
    this.isBase = how.isBase ?? false;
    this.cache = how.cache ?? 'writeback';
    this.lock = how.lock;
    this.readCached = how.readCached;
    this.guarded = how.guarded;
    this.id = how.id;
    this.identity = how.identity;
    // Once the descriptor is another file's, it would tell of that.
    const { nextData } = how;
    this.nextData =
      nextData && ((offset) => (this.closing ? { start: offset, end: length } : nextData(offset)));
  }

  get size(): number {
    return this.length;
  }

  /** What the page cache holds is read at once. */
  read(offset: number, into: Uint8Array, hint?: ReadHint): void | Promise<void> {
    try {
      if (this.readAtOnce(offset, into, hint)) return;
    } catch (error) {
      return Promise.reject(error);
    }
    return this.readWaiting(offset, into);
  }

  private readAtOnce(offset: number, into: Uint8Array, hint?: ReadHint): boolean {
    if (!(offset >= 0 && offset + into.length <= this.length)) {
      const message = `cannot read ${into.length} bytes at offset ${offset} of '${this.name}': it has ${this.length}`;
      throw new MillraceError('EINVAL', message, { offset });
    }
    // Not looked at again: a read that has started writes into `into` until it ends, whoever waits for it.
    hint?.signal?.throwIfAborted();
    this.refuseClosed('read');
    if (!this.readCached?.(offset, into)) return false;
    this.refuseChanged(offset);
    return true;
  }

  private async readWaiting(offset: number, into: Uint8Array): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const length = Math.min(into.length - done, TRANSFER_BYTES_MAX);
      const at = offset + done;
      const count = await this.perform(
        'read',
        at,
        (settle) => fs.read(this.fd, into, done, length, at, settle),
        (count) => {
          if (done + count === into.length) this.refuseChanged(offset);
        },
      );
      if (count === 0) {
        const message = `'${this.name}' ends before offset ${at} but had ${this.length} bytes: another program has cut it`;
        throw new MillraceError('ECHANGED', message, { offset: at });
      }
      done += count;
    }
  }

  get guard(): Guard | undefined {
    return this.guarded?.guard;
  }

  /** Only where no lock of ours keeps them out. */
  async refuseOtherWriters(): Promise<void> {
    if (this.guard === 'looked' && this.id !== undefined)
      await guardOpenImage(this.name, this.fd, this.id, 'write');
  }

  /** As long as the descriptor is this file's. */
  unguard(): void {
    if (!this.closing) this.guarded?.release();
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.refuseReadOnly();
    for (let done = 0; done < from.length; ) {
      const length = Math.min(from.length - done, TRANSFER_BYTES_MAX);
      const at = offset + done;
      done += await this.perform('write', at, (settle) =>
        fs.write(this.fd, from, done, length, at, settle),
      );
      this.length = Math.max(this.length, offset + done);
    }
  }

  /**
   * fdatasync(2) suffices: it writes what is needed to read the data back, a changed size included. After a failure every later flush
   * fails too: the kernel may have dropped the pages that it could not write, so a second call would succeed without them.
   */
  async flush(): Promise<void> {
    if (this.readOnly || this.cache === 'unsafe') return;
    if (this.flushFailure !== undefined) throw this.flushFailure;
    try {
      await this.perform('flush', undefined, (settle) => fs.fdatasync(this.fd, settle));
    } catch (error) {
      if ((error as MillraceError).code !== 'ECLOSED') this.flushFailure = error as MillraceError;
      throw error;
    }
  }

  async truncate(size: number): Promise<void> {
    this.refuseReadOnly();
    await this.perform('resize', undefined, (settle) => fs.ftruncate(this.fd, size, settle));
    this.length = size;
  }

  /** Waits for what is in flight: its file descriptor must not become another file's under it. */
  close(): Promise<void> {
    this.closing ??= this.finish();
    return this.closing;
  }

  private async finish(): Promise<void> {
    if (this.inFlight > 0)
      await new Promise<void>((resolve) => {
        this.idle = resolve;
      });
    try {
      await orFileError('close', this.name, close(this.fd));
    } finally {
      this.lock?.release();
    }
  }

  private refuseReadOnly(): void {
    if (this.readOnly)
      throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }

  /** What was read since another program has written to a base is not what the overlay was made on. It takes some microseconds. */
  private refuseChanged(offset: number): void {
    if (
      !this.isBase ||
      this.identity === undefined ||
      identityOf(fs.fstatSync(this.fd, { bigint: true })) === this.identity
    )
      return;
    throw new MillraceError(
      'ECHANGED',
      `'${this.name}' has changed since it was opened: another program has written to it`,
      { offset },
    );
  }

  private refuseClosed(action: string): void {
    if (this.closing !== undefined)
      throw new MillraceError('ECLOSED', `cannot ${action} '${this.name}': it has been closed`);
  }

  /** `check` looks at what came of it while the descriptor is still this file's. */
  private async perform(
    action: string,
    offset: number | undefined,
    start: (settle: Settle) => void,
    check?: (count: number) => void,
  ): Promise<number> {
    this.refuseClosed(action);
    this.inFlight++;
    try {
      const count = await new Promise<number>((resolve, reject) => {
        start((error, count = 0) =>
          error ? reject(fileError(action, this.name, error, offset)) : resolve(count),
        );
      });
      check?.(count);
      return count;
    } finally {
      this.inFlight--;
      if (this.inFlight === 0) this.idle?.();
    }
  }
}

/** An error of node:fs in our words; `action` completes "cannot …", `offset` is in bytes. */
export function fileError(
  action: string,
  path: string,
  cause: unknown,
  offset?: number,
): MillraceError {
  return systemError(action, placeOf(path, offset), { ...wordsOf(cause), offset });
}

function wordsOf(cause: unknown): { code: string; reason: string; cause: unknown } {
  const { code = 'EIO', errno = 0, message } = cause as NodeJS.ErrnoException;
  return { code, reason: getSystemErrorMap().get(errno)?.[1] ?? message, cause };
}

async function orFileError<T>(action: string, path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw fileError(action, path, error);
  }
}
