/**
 * Local files as block files and sources, the same under every runtime that has files: a runtime
 * brings the few operations of `FileHost`. A file that is open for writing is locked against other
 * programs.
 */
import type { BlockFile, BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { CacheMode } from '../api/open.ts';
import type { OptionNames } from '../api/options.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { FileKind } from './errors.ts';
import { lockError, placeOf, refuseKind, systemError } from './errors.ts';
import type { FileError, FileHost, OpenFile } from './host.ts';
import { fileErrorsOf } from './host.ts';
import type { KeptRecord, Use } from './local-file.ts';
import { alreadyThere, identityOf, KEPT_SUFFIX, LocalFile } from './local-file.ts';
import type { Lock } from './lock.ts';

/** What a file is called while it is being made. */
const NEW_SUFFIX = '.millrace-new';

/** As Linux follows them. */
const LINKS_MAX = 40;

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
        ? await this.#openOrMake(path, place, exclusive, cache)
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

  async openFileSource(path: string, options: { shared?: boolean } = {}): Promise<BlockSource> {
    mustKnowOptions('openFileSource', options, { shared: true });
    const { shared = false } = options;
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
  async #openOrMake(
    path: string,
    place: string,
    exclusive: boolean,
    cache?: CacheMode,
  ): Promise<OpenFile> {
    try {
      const open = await this.#host.open(place, 'make');
      if (cache !== 'unsafe') await this.#syncFolderOf(place, open);
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

  /**
   * Where the file itself is, to which a symbolic link may lead; or is to be, where one leads to
   * nothing yet.
   */
  async #placeOf(path: string, exists: boolean): Promise<string> {
    if (exists) return this.#told('open', path, () => this.#host.realPath(path));
    const { basename, dirname, isAbsolute, join } = this.#host.paths;
    let at = path;
    for (let links = 0; links <= LINKS_MAX; links++) {
      const folder = dirname(at);
      const real = await this.#told(`create '${at}' in`, folder, () => this.#host.realPath(folder));
      const place = join(real, basename(at));
      const link = await this.#told('create', path, () => this.#host.readLink(place));
      if (link === undefined) return place;
      // Joining would take `..` by the letters.
      at = isAbsolute(link) ? link : `${real}/${link}`;
    }
    const reason = 'too many symbolic links';
    throw systemError('create', placeOf(path), { code: 'ELOOP', reason, cause: undefined });
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
