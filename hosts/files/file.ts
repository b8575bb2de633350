/**
 * Local files as block files and sources, the same under every runtime that has files: a runtime
 * brings the few operations of `FileHost`. Every error names the file, and the offset where there
 * is one. A file that is open for writing is locked against other programs.
 */
import type { BlockFile, BlockSource, ReadHint } from '../api/block.ts';
import type { CacheMode } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { OptionNames } from '../api/options.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { FileKind, SystemWords } from './errors.ts';
import { lockError, placeOf, refuseKind, systemError } from './errors.ts';
import type { Paths } from './location.ts';
import type { Lock } from './lock.ts';
import type { Access, Guard, Guarded } from './qemu-locks.ts';

/** In these, stat(2) counts what a file takes, whatever the file system's own blocks are. */
export const STAT_BLOCK_BYTES = 512;
/** What a file is called while it is being made. */
const NEW_SUFFIX = '.millrace-new';
/** Beside a file: what was told to be kept with it, and of which state of the file. */
const KEPT_SUFFIX = '.millrace-kept';
/** What link(2) fails with where a file system has no hard links. */
const NO_LINKS: readonly string[] = ['EPERM', 'EACCES', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'];

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

/** What stat(2) tells, as far as it is used. */
export interface FileStat {
  kind: FileKind;
  /** Bytes; of a block device nothing that counts. */
  size: number;
  /** When it was last written, in milliseconds since 1970; undefined where that cannot be told. */
  modified?: number;
  /** Bytes that it takes; undefined where that cannot be told. */
  allocated?: number;
}

/**
 * An open file, as its runtime has it. Operations return what they give, or a promise of it, and
 * throw the runtime's own errors.
 */
export interface OpenFile {
  /** How it likes to be read as a base. */
  readonly preferred?: { chunk: number; depth: number };
  /** Bytes that were read: none only at the file's end. */
  read(offset: number, into: Uint8Array, signal?: AbortSignal): number | Promise<number>;
  /** Bytes that were written. */
  write(offset: number, from: Uint8Array): number | Promise<number>;
  truncate(size: number): void | Promise<void>;
  /** As fdatasync(2): with what is needed to read the data back, a changed size included. */
  flush(): Promise<void>;
  stat(): FileStat;
  /** Bytes of a block device. */
  deviceSize(): Promise<number>;
  /** Where a file with holes has data; undefined where nothing can tell. */
  holes(): Promise<BlockSource['nextData']>;
  /**
   * Keeps other programs from writing it until it is closed, or the guard released.
   * @throws MillraceError `EBUSY` naming who does.
   */
  guard(access: Access): Promise<Guarded>;
  close(): void | Promise<void>;
}

/** What a runtime brings. Operations throw its own errors, which `wordsOf` tells of. */
export interface FileHost {
  paths: Pick<Paths, 'basename' | 'dirname' | 'join'>;
  /** `make`: to read and write, a file that must not be there yet. */
  open(path: string, mode: 'read' | 'write' | 'make'): Promise<OpenFile>;
  /** Follows symbolic links. */
  stat(path: string): Promise<FileStat>;
  /** Whether the name is taken, be it by a symbolic link that leads nowhere. */
  isTaken(path: string): Promise<boolean>;
  realPath(path: string): Promise<string>;
  /** Gives a file a second name, which must not be taken. */
  link(path: string, name: string): Promise<void>;
  rename(path: string, to: string): Promise<void>;
  /** Nothing happens where there is no such file. */
  remove(path: string): Promise<void>;
  /** Returns when the names in a folder survive a power cut, as far as the system has a way. */
  syncFolder(path: string): Promise<void>;
  /** Whether this process may look at other files of the file's folder. */
  mayLookBeside(path: string): boolean;
  readText(path: string): Promise<string>;
  writeText(path: string, text: string): Promise<void>;
  /** Locks the image at a path without symbolic links. */
  lock(path: string): Lock;
  wordsOf(error: unknown): SystemWords;
}

/** The files of a runtime. */
export interface Files {
  /**
   * Opens a local file as an overlay. Unless `readOnly`, it is locked until `close` (or the end of
   * this process) by a folder `PATH.lock` beside it, see hosts/files/lock.ts; so its folder has to
   * be readable and writable. `size` follows what is written.
   * @throws MillraceError `EBUSY` (with the name of the program that has it), `ENOENT`, `EEXIST`,
   *   `EACCES` (also for a permission that this process was not given), `EROFS`, `EINVAL` (a
   *   folder, FIFO, socket or character device), `EUNSUPPORTED` (a block device, which cannot
   *   grow), `ENOSPC`, `EIO`.
   */
  openFile(path: string, options?: OpenFileOptions): Promise<BlockFile>;
  /**
   * Makes a file that is there under its name only once its `publish` has been called: a process
   * that is killed before leaves `PATH.millrace-new`, which the next one that makes it takes away.
   * @throws MillraceError `EEXIST`, also from `publish`; and as `openFile`.
   */
  makeFile(path: string, options?: { cache?: CacheMode }): Promise<BlockFile>;
  /**
   * Opens a local file or block device as a base. Its identity is its size and time of last change
   * in milliseconds, which every runtime can tell: cheap, and changed by everything that writes to
   * it (by `touch` and by copies that do not keep times as well). A block device has no such time.
   * What is read after another has come about is refused (`ECHANGED`). Unless `shared`, QEMU lets
   * nobody write it until it is closed, and it must not be open for writing (`EBUSY`).
   * @throws MillraceError as `openFile`.
   */
  openFileSource(path: string, options?: { shared?: boolean }): Promise<BlockSource>;
  /** Whether a path leads to a block device. */
  isBlockDevice(path: string): Promise<boolean>;
}

/** An error of a runtime's in our words; `action` completes "cannot …", `offset` is in bytes. */
export type FileError = (
  action: string,
  path: string,
  cause: unknown,
  offset?: number,
) => MillraceError;

export function fileErrorsOf(wordsOf: FileHost['wordsOf']): FileError {
  return (action, path, cause, offset) =>
    cause instanceof MillraceError
      ? cause
      : systemError(action, placeOf(path, offset), { ...wordsOf(cause), offset });
}

/** What is opened, and how it is used. */
interface Use {
  readOnly?: boolean;
  isBase?: boolean;
  /** How other programs are to be kept away; undefined for not at all. */
  access?: Access;
  fixed?: boolean;
  cache?: CacheMode;
  lock?: Lock;
  /** Where the file is, without symbolic links; undefined where nothing is kept with it. */
  place?: string;
  /** What it is called until it is published. */
  newName?: string;
}

/** The files of a runtime, over what it brings. */
export function filesOf(host: FileHost): Files {
  return new LocalFiles(host);
}

class LocalFiles implements Files {
  readonly #host: FileHost;
  readonly #fileError: FileError;

  constructor(host: FileHost) {
    this.#host = host;
    this.#fileError = fileErrorsOf(host.wordsOf);
  }

  async openFile(path: string, options: OpenFileOptions = {}): Promise<BlockFile> {
    mustKnowOptions('openFile', options, OPEN_FILE_OPTIONS);
    if (options.readOnly) return this.#openToRead(path, {});
    const { create = false, exclusive = false, cache, fixed = false } = options;
    const found = await this.#kindOf(path, create);
    if (found !== undefined) refuseKind(path, found, fixed);
    // No folder can stand beside a device.
    if (found === 'block device')
      return this.#wrap(path, await this.#open(path, 'write'), { cache, fixed, access: 'write' });
    const place = await this.#placeOf(path, found !== undefined);
    const lock = this.#lock(path, place, found !== undefined);
    try {
      const open = create
        ? await this.#openOrMake(path, exclusive, cache)
        : await this.#open(path, 'write');
      return await this.#wrap(path, open, { cache, fixed, lock, place, access: 'write' });
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  async makeFile(path: string, { cache }: { cache?: CacheMode } = {}): Promise<BlockFile> {
    const place = await this.#placeOf(path, false);
    const lock = this.#lock(path, place, false);
    try {
      if (await this.#host.isTaken(place)) throw alreadyThere(path);
      const newName = place + NEW_SUFFIX;
      const open = await this.#told('create', path, async () => {
        // Of one who was killed: the lock is ours.
        await this.#host.remove(newName);
        return this.#host.open(newName, 'make');
      });
      return await this.#wrap(path, open, { cache, lock, place, newName, access: 'write' });
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  openFileSource(
    path: string,
    { shared = false }: { shared?: boolean } = {},
  ): Promise<BlockSource> {
    return this.#openToRead(path, { isBase: true, access: shared ? undefined : 'base' });
  }

  async isBlockDevice(path: string): Promise<boolean> {
    return this.#host.stat(path).then(
      ({ kind }) => kind === 'block device',
      () => false,
    );
  }

  async #openToRead(path: string, use: Use): Promise<LocalFile> {
    refuseKind(path, (await this.#kindOf(path, false))!, true);
    const looks = !use.isBase && this.#host.mayLookBeside(path);
    const place = looks ? await this.#placeOf(path, true) : undefined;
    return this.#wrap(path, await this.#open(path, 'read'), { readOnly: true, ...use, place });
  }

  #open(path: string, mode: 'read' | 'write'): Promise<OpenFile> {
    return this.#told('open', path, () => this.#host.open(path, mode));
  }

  /** Opens the file, or makes it, and then sees to it that its name survives a power cut. */
  async #openOrMake(path: string, exclusive: boolean, cache?: CacheMode): Promise<OpenFile> {
    try {
      const open = await this.#host.open(path, 'make');
      if (cache !== 'unsafe') await this.#syncFolderOf(path, open);
      return open;
    } catch (error) {
      if (exclusive || this.#host.wordsOf(error).code !== 'EEXIST')
        throw this.#fileError('create', path, error);
    }
    return this.#open(path, 'write');
  }

  /** What could not be made to last is taken away again. */
  async #syncFolderOf(path: string, made: OpenFile): Promise<void> {
    try {
      await this.#host.syncFolder(this.#host.paths.dirname(path));
    } catch (error) {
      await made.close();
      await this.#host.remove(path).catch(() => {});
      throw error;
    }
  }

  async #wrap(path: string, open: OpenFile, use: Use): Promise<LocalFile> {
    try {
      const stat = await this.#told('open', path, async () => open.stat());
      refuseKind(path, stat.kind, use.readOnly ?? use.fixed ?? false);
      const size =
        stat.kind === 'file'
          ? stat.size
          : await this.#told('open', path, async () => open.deviceSize());
      if (!Number.isSafeInteger(size))
        throw new MillraceError('EUNSUPPORTED', `'${path}' is larger than 8 PiB`);
      const guarded = use.access && (await open.guard(use.access));
      const identity = stat.kind === 'file' ? identityOf(stat) : undefined;
      const isSparse =
        use.readOnly && stat.kind === 'file' && (stat.allocated ?? stat.size) < stat.size;
      const nextData = isSparse ? await open.holes() : undefined;
      const kept = use.place && (await this.#keptAt(use.place, identity));
      return new LocalFile(this.#host, path, open, {
        ...use,
        size,
        guarded,
        identity,
        nextData,
        kept,
      });
    } catch (error) {
      await open.close();
      if (use.newName !== undefined) await this.#host.remove(use.newName).catch(() => {});
      throw error;
    }
  }

  /** What was kept with the file, if nobody has written to it since. */
  async #keptAt(place: string, identity: string | undefined): Promise<string | undefined> {
    try {
      const kept = JSON.parse(await this.#host.readText(place + KEPT_SUFFIX)) as KeptRecord;
      return identity !== undefined && kept.file === identity ? kept.text : undefined;
    } catch {
      // Mostly there is none.
      return undefined;
    }
  }

  /** Undefined where there is nothing, which `mayBeMissing`. */
  async #kindOf(path: string, mayBeMissing: boolean): Promise<FileKind | undefined> {
    try {
      return (await this.#host.stat(path)).kind;
    } catch (error) {
      if (mayBeMissing && this.#host.wordsOf(error).code === 'ENOENT') return undefined;
      throw this.#fileError('open', path, error);
    }
  }

  /** Where the file itself is, to which a symbolic link may lead. */
  async #placeOf(path: string, exists: boolean): Promise<string> {
    if (exists) return this.#told('open', path, () => this.#host.realPath(path));
    const { basename, dirname, join } = this.#host.paths;
    const folder = dirname(path);
    const real = await this.#told(`create '${path}' in`, folder, () => this.#host.realPath(folder));
    return join(real, basename(path));
  }

  #lock(path: string, place: string, exists: boolean): Lock {
    try {
      return this.#host.lock(place);
    } catch (error) {
      throw error instanceof MillraceError
        ? error
        : lockError(path, exists, this.#host.wordsOf(error));
    }
  }

  async #told<T>(action: string, path: string, operation: () => Promise<T>): Promise<T> {
    try {
      return await operation();
    } catch (error) {
      throw this.#fileError(action, path, error);
    }
  }
}

/** What stands beside a file. */
interface KeptRecord {
  /** The identity of the file in the state that the text is about. */
  file: string;
  text: string;
}

function identityOf({ size, modified }: FileStat): string | undefined {
  return modified === undefined ? undefined : `${size}-${modified}`;
}

function alreadyThere(path: string, cause?: unknown): MillraceError {
  return systemError('create', placeOf(path), {
    code: 'EEXIST',
    reason: 'file already exists',
    cause,
  });
}

class LocalFile implements BlockFile {
  readonly name: string;
  readonly identity?: string;
  readonly nextData?: BlockSource['nextData'];
  readonly preferred?: { chunk: number; depth: number };
  readonly kept?: string;
  readonly #guarded?: Guarded;
  readonly #host: FileHost;
  readonly #fileError: FileError;
  readonly #open: OpenFile;
  readonly #use: Use;
  #size: number;
  /** Undefined once the file has its own name. */
  #newName: string | undefined;
  /**
   * What is to be kept with it, or '' for nothing any more; undefined as long as nobody has said.
   */
  #toKeep: string | undefined;
  #inFlight = 0;
  /** Called when the last operation in flight has ended, once `close` waits for it. */
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;
  #flushFailure: unknown;

  constructor(
    host: FileHost,
    path: string,
    open: OpenFile,
    use: Use & Pick<BlockFile, 'size' | 'identity' | 'nextData' | 'kept'> & { guarded?: Guarded },
  ) {
    this.name = path;
    this.identity = use.identity;
    this.#guarded = use.guarded;
    this.kept = use.kept;
    this.preferred = open.preferred;
    this.#host = host;
    this.#fileError = fileErrorsOf(host.wordsOf);
    this.#open = open;
    this.#use = use;
    this.#size = use.size;
    this.#newName = use.newName;
    // Once the descriptor is another file's, it would tell of that.
    const { nextData, size } = use;
    this.nextData =
      nextData && ((offset) => (this.#closing ? { start: offset, end: size } : nextData(offset)));
  }

  get size(): number {
    return this.#size;
  }

  get guard(): Guard | undefined {
    return this.#guarded?.guard;
  }

  /** A read that has started writes into `into` until it ends, whoever waits for it. */
  read(offset: number, into: Uint8Array, hint?: ReadHint): void | Promise<void> {
    const signal = hint?.signal;
    return this.#perform('read', offset, signal, () => {
      this.#mustBeInside(offset, into.length);
      signal?.throwIfAborted();
      return this.#readFrom(offset, into, 0, signal);
    });
  }

  #readFrom(
    offset: number,
    into: Uint8Array,
    done: number,
    signal?: AbortSignal,
  ): void | Promise<void> {
    for (let at = done; at < into.length; ) {
      const rest = at === 0 ? into : into.subarray(at);
      const count = this.#open.read(offset + at, rest, signal);
      if (typeof count !== 'number')
        return count.then((count) =>
          this.#readFrom(offset, into, at + this.#mustRead(count, offset + at), signal),
        );
      at += this.#mustRead(count, offset + at);
    }
    // Looked at while the descriptor is still this file's. It takes some microseconds.
    this.#refuseChanged(offset);
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.#perform('write', offset, undefined, () => {
      this.#refuseReadOnly();
      return this.#writeFrom(offset, from, 0);
    });
  }

  #writeFrom(offset: number, from: Uint8Array, done: number): void | Promise<void> {
    for (let at = done; at < from.length; ) {
      const count = this.#open.write(offset + at, at === 0 ? from : from.subarray(at));
      if (typeof count !== 'number')
        return count.then((count) => {
          this.#size = Math.max(this.#size, offset + at + count);
          return this.#writeFrom(offset, from, at + count);
        });
      at += count;
      this.#size = Math.max(this.#size, offset + at);
    }
  }

  /**
   * After a failure every later flush fails too: the kernel may have dropped the pages that it
   * could not write, so a second call would succeed without them.
   */
  async flush(): Promise<void> {
    if (this.#use.readOnly || this.#use.cache === 'unsafe') return;
    if (this.#flushFailure !== undefined) throw this.#flushFailure;
    try {
      await this.#perform('flush', undefined, undefined, () => this.#open.flush());
    } catch (error) {
      if ((error as MillraceError).code !== 'ECLOSED') this.#flushFailure = error;
      throw error;
    }
  }

  truncate(size: number): void | Promise<void> {
    return this.#perform('resize', undefined, undefined, () => {
      this.#refuseReadOnly();
      const cut = this.#open.truncate(size);
      const done = (): void => {
        this.#size = size;
      };
      return cut === undefined ? done() : cut.then(done);
    });
  }

  /** Only where no lock of ours keeps them out. */
  async refuseOtherWriters(): Promise<void> {
    if (this.guard === 'looked') await this.#open.guard('write');
  }

  /** As long as the descriptor is this file's. */
  unguard(): void {
    if (!this.#closing) this.#guarded?.release();
  }

  /** What is to stand there from now on is put there at the end, when nothing more is written. */
  async keep(text: string): Promise<void> {
    this.#toKeep = text;
    if (text === '' && this.kept !== undefined)
      await this.#host.remove(this.#use.place! + KEPT_SUFFIX).catch(() => {});
  }

  async publish(): Promise<void> {
    if (this.#newName === undefined) return;
    await this.flush();
    try {
      await this.#putInPlace(this.#newName, this.#use.place!);
    } catch (error) {
      throw this.#host.wordsOf(error).code === 'EEXIST'
        ? alreadyThere(this.name, error)
        : this.#fileError('create', this.name, error);
    }
  }

  /** Never over another file, which a rename alone would do. */
  async #putInPlace(from: string, place: string): Promise<void> {
    try {
      await this.#host.link(from, place);
      this.#newName = undefined;
      await this.#host.remove(from);
    } catch (error) {
      if (this.#newName === undefined || !NO_LINKS.includes(this.#host.wordsOf(error).code))
        throw error;
      // Takes the name, which must be free, by an empty file; a kill between the two leaves that.
      await (await this.#host.open(place, 'make')).close();
      await this.#host.rename(from, place);
      this.#newName = undefined;
    }
    if (this.#use.cache !== 'unsafe') await this.#host.syncFolder(this.#host.paths.dirname(place));
  }

  /** Waits for what is in flight: its file descriptor must not become another file's under it. */
  close(): Promise<void> {
    return (this.#closing ??= this.#finish());
  }

  async #finish(): Promise<void> {
    if (this.#inFlight > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    try {
      const left = this.#use.readOnly ? undefined : this.#open.stat();
      await this.#open.close();
      if (this.#newName !== undefined) await this.#host.remove(this.#newName);
      else if (left) await this.#putBeside(identityOf(left));
    } catch (error) {
      throw this.#fileError('close', this.name, error);
    } finally {
      this.#use.lock?.release();
    }
  }

  /** What is kept is of use, and not needed: where it cannot be written, it is not there. */
  async #putBeside(identity: string | undefined): Promise<void> {
    const { place } = this.#use;
    if (place === undefined || this.#toKeep === undefined) return;
    const path = place + KEPT_SUFFIX;
    const record: KeptRecord = { file: identity ?? '', text: this.#toKeep };
    await (this.#toKeep === '' || identity === undefined
      ? this.#host.remove(path)
      : this.#host.writeText(path, `${JSON.stringify(record)}\n`)
    ).catch(() => {});
  }

  #mustRead(count: number, at: number): number {
    if (count > 0) return count;
    const message = `'${this.name}' ends before offset ${at} but had ${this.#size} bytes: another program has cut it`;
    throw new MillraceError('ECHANGED', message, { offset: at });
  }

  #mustBeInside(offset: number, length: number): void {
    if (offset >= 0 && offset + length <= this.#size) return;
    const message = `cannot read ${length} bytes at offset ${offset} of '${this.name}': it has ${this.#size}`;
    throw new MillraceError('EINVAL', message, { offset });
  }

  #refuseReadOnly(): void {
    if (this.#use.readOnly)
      throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }

  /**
   * What was read since another program has written to a base is not what the overlay was made on.
   */
  #refuseChanged(offset: number): void {
    if (!this.#use.isBase || this.identity === undefined) return;
    if (identityOf(this.#open.stat()) === this.identity) return;
    throw new MillraceError(
      'ECHANGED',
      `'${this.name}' has changed since it was opened: another program has written to it`,
      { offset },
    );
  }

  /** Throws nothing at once: whatever is wrong, the promise is rejected. */
  #perform(
    action: string,
    offset: number | undefined,
    signal: AbortSignal | undefined,
    operation: () => void | Promise<void>,
  ): void | Promise<void> {
    const told = (error: unknown): unknown =>
      signal?.aborted ? error : this.#fileError(action, this.name, error, offset);
    try {
      if (this.#closing !== undefined)
        throw new MillraceError('ECLOSED', `cannot ${action} '${this.name}': it has been closed`);
      const result = operation();
      return result && this.#awaited(result, told);
    } catch (error) {
      return Promise.reject(told(error));
    }
  }

  async #awaited(result: Promise<void>, told: (error: unknown) => unknown): Promise<void> {
    this.#inFlight++;
    try {
      await result;
    } catch (error) {
      throw told(error);
    } finally {
      this.#inFlight--;
      if (this.#inFlight === 0) this.#idle?.();
    }
  }
}
