/**
 * A local file that is open: reads and writes at any offset, what is kept beside it, its
 * publishing, and its end. Every error names the file, and the offset where there is one.
 */
import type { BlockFile, BlockSource, ReadHint } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { CacheMode } from '../api/open.ts';
import { placeOf, systemError } from './errors.ts';
import type { FileError, FileHost, FileStat, OpenFile } from './host.ts';
import { fileErrorsOf } from './host.ts';
import type { Lock } from './lock.ts';
import type { Access, Guard, Guarded } from './qemu-locks.ts';

/** Beside a file: what was told to be kept with it, and of which state of the file. */
export const KEPT_SUFFIX = '.millrace-kept';

/** What link(2) fails with where a file system has no hard links. */
const NO_LINKS: readonly string[] = ['EPERM', 'EACCES', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'];

/** What is opened, and how it is used. */
export interface Use {
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

/** What stands beside a file. */
export interface KeptRecord {
  /** The identity of the file in the state that the text is about. */
  file: string;
  text: string;
}

export function identityOf({ size, modified }: FileStat): string | undefined {
  return modified === undefined ? undefined : `${size}-${modified}`;
}

export function alreadyThere(path: string, cause?: unknown): MillraceError {
  return systemError('create', placeOf(path), {
    code: 'EEXIST',
    reason: 'file already exists',
    cause,
  });
}

export class LocalFile implements BlockFile {
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
