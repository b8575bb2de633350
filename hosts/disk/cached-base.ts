/** A base that is read through its image in the cache of bases (base-cache.ts). */
import type { BlockSource, ReadHint } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { EngineDisk } from './disk.ts';

/**
 * The base on its server, below its image: counts what is fetched, and tells whose reads they are.
 * It does not say how it likes to be read: the disks above read ahead, the image below them would
 * do it once more.
 */
export class RemoteBase implements BlockSource {
  readonly size: number;
  readonly name?: string;
  readonly identity?: string;
  readonly mirrors?: BlockSource['mirrors'];
  readonly beside?: BlockSource['beside'];
  fetched = 0;
  readonly #source: BlockSource;
  /** Ranges that somebody waits for, or that are fetched ahead. */
  readonly #wanted = new Set<{ start: number; end: number; ahead: boolean }>();

  constructor(source: BlockSource) {
    this.#source = source;
    this.size = source.size;
    this.name = source.name;
    this.identity = source.identity;
    this.mirrors = source.mirrors;
    this.beside = source.beside && ((ending) => source.beside!(ending));
  }

  /** What the image asks for, a job's reads too, it asks for as for a guest. */
  read(offset: number, into: Uint8Array, hint: ReadHint = {}): void | Promise<void> {
    this.fetched += into.length;
    const end = offset + into.length;
    const wanted = [...this.#wanted].filter((range) => range.start < end && range.end > offset);
    const isUrgent = wanted.some(({ ahead }) => !ahead);
    const ahead = wanted.length > 0 && !isUrgent;
    return this.#source.read(offset, into, { ...hint, background: !isUrgent, ahead });
  }

  /** Straight from the server. */
  readBeside(offset: number, into: Uint8Array, hint?: ReadHint): void | Promise<void> {
    return this.#source.read(offset, into, hint);
  }

  /** While `work` goes on, what is read of the range goes ahead of the background's. */
  async wanting<T>(
    range: { start: number; end: number; ahead: boolean },
    work: () => Promise<T>,
  ): Promise<T> {
    this.#wanted.add(range);
    try {
      return await work();
    } finally {
      this.#wanted.delete(range);
    }
  }

  /** The image's disk closes what it has; the server's end comes after it. */
  close(): void {}

  /** How the server likes to be read, for the disks above. */
  get preferredAbove(): BlockSource['preferred'] {
    return this.#source.preferred;
  }

  closeSource(): void | Promise<void> {
    return this.#source.close();
  }
}

/** A base that is read through its image. */
export class CachedBase {
  readonly #disk: EngineDisk;
  readonly #remote: RemoteBase;
  readonly #makeRoom: () => Promise<boolean>;
  readonly #lookBytes: number;
  #hasRoom: boolean;
  #lookAt: number;
  #looking: Promise<void> | undefined;

  constructor(
    disk: EngineDisk,
    remote: RemoteBase,
    room: { hasRoom: boolean; lookBytes: number; makeRoom: () => Promise<boolean> },
  ) {
    this.#disk = disk;
    this.#remote = remote;
    this.#hasRoom = room.hasRoom;
    this.#lookBytes = room.lookBytes;
    this.#lookAt = room.lookBytes;
    this.#makeRoom = room.makeRoom;
  }

  /** The base for one user of it. */
  seat(leave: () => Promise<void>): BlockSource {
    let left: Promise<void> | undefined;
    const { size, name, identity, mirrors, preferredAbove: preferred, beside } = this.#remote;
    return {
      size,
      name,
      identity,
      mirrors,
      preferred,
      beside,
      read: (offset, into, hint) => this.#read(offset, into, hint),
      close: () => (left ??= leave()),
    };
  }

  async close(): Promise<void> {
    try {
      await this.#disk.close();
    } finally {
      await this.#remote.closeSource();
      await this.#makeRoom().catch(() => false);
    }
  }

  async #read(offset: number, into: Uint8Array, hint: ReadHint = {}): Promise<void> {
    hint.signal?.throwIfAborted();
    if (this.#remote.fetched >= this.#lookAt) await (this.#looking ??= this.#look());
    if (!this.#hasRoom && (await this.#disk.remaining(offset, into.length)) > 0)
      return this.#remote.readBeside(offset, into, hint);
    // What comes when nobody waits any more must not go to the reader's memory.
    const read = (): Promise<Uint8Array> => this.#disk.read(offset, into.length);
    const end = offset + into.length;
    const ahead = hint.ahead ?? false;
    const bytes =
      hint.background && !ahead
        ? read()
        : this.#remote.wanting({ start: offset, end, ahead }, read);
    const come = await orAborted(bytes, hint.signal).catch(async (error) => {
      hint.signal?.throwIfAborted();
      // Whatever is wrong with the folder, a full disk say, the base is there.
      if (isStorageFailure(error)) this.#hasRoom = false;
      else throw error;
      return undefined;
    });
    if (come === undefined) return this.#remote.readBeside(offset, into, hint);
    into.set(come);
  }

  async #look(): Promise<void> {
    this.#lookAt = this.#remote.fetched + this.#lookBytes;
    this.#hasRoom = await this.#makeRoom().catch(() => false);
    this.#looking = undefined;
  }
}

/** Whether it is the image that failed, and not the base below it. */
function isStorageFailure(error: unknown): boolean {
  return error instanceof MillraceError && ['ENOSPC', 'EROFS', 'ECORRUPT'].includes(error.code);
}

function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    signal.addEventListener('abort', abort);
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
