/**
 * What a host brings: runs of bytes that the engine reads and writes. Everything Millrace touches
 * outside its own memory, a file, a remote object, a blob, is one of the two interfaces here;
 * wrappers (tracers, fault injectors) implement them too.
 *
 * A source knows no image format, and never returns bytes that were not in the object it was opened
 * on.
 */

/** What the caller knows about one read. */
export interface ReadHint {
  /**
   * Aborted when nobody waits for the bytes any more; the read then rejects with the signal's
   * reason, and should stop its traffic.
   */
  signal?: AbortSignal;
  /** True for the background copy: a read without it goes ahead of those with it. */
  background?: boolean;
  /**
   * True, beside `background`, for what is fetched ahead of a guest: it goes before the rest of the
   * background, and in the order in which it is asked for.
   */
  ahead?: boolean;
}

/**
 * A run of bytes that can be read at any offset: a file, a blob, a remote object. Offsets and
 * lengths are bytes.
 */
export interface BlockSource {
  /** Length in bytes, 0 to 2^53 - 1. */
  readonly size: number;
  /** What messages call it: a path, or a URL without its credentials. */
  readonly name?: string;
  /**
   * Fills the whole of `into` from `offset` on; the range lies inside `size`. Synchronous hosts
   * return nothing, asynchronous ones a promise. Reads may be issued concurrently and finish in any
   * order.
   * @throws MillraceError (`EIO`, `ECHANGED`, …) when the bytes cannot be had; `into` is then
   *   undefined.
   */
  read(offset: number, into: Uint8Array, hint?: ReadHint): void | Promise<void>;
  /**
   * Where the first data at or behind `offset` starts and ends, as SEEK_DATA and SEEK_HOLE of
   * lseek(2) have it; undefined if there is none up to the source's end. All that is not in such a
   * run reads as zeros, and is left out without being read. It must be quick, and not fail: what
   * cannot be told is data.
   */
  nextData?(
    offset: number,
  ):
    | { start: number; end: number }
    | undefined
    | Promise<{ start: number; end: number } | undefined>;
  /** How this source likes to be read: bytes a request, requests in flight. */
  readonly preferred?: { chunk: number; depth: number };
  /**
   * What identifies the content (an ETag, say): a base that changed under its overlay is refused.
   * Where the overlay records an identity of another kind, since it was made on another host (see
   * open.ts), the size alone decides.
   */
  readonly identity?: string;
  /**
   * Set where several servers may have the object by one address, and each tells an `identity` of
   * its own.
   */
  readonly mirrors?: MirroredContent;
  /**
   * Lets other programs write it from now on, where they were kept from it: before a base is
   * committed into.
   */
  unguard?(): void;
  /** What the bytes are unpacked from, where they are not those of the object itself. */
  readonly container?: ContainerInfo;
  /**
   * Set where the bytes come in order only, once, as from a server without byte ranges: they are
   * had by this, and `read` fails. `flow` is told of failures; `size` is 2^53 - 1 where the end is
   * not known beforehand.
   */
  readonly inOrder?: (flow: Flow) => AsyncIterable<Uint8Array>;
  /**
   * Set while it is not known where the source ends: goes through all of it, and gives its size in
   * bytes, which `size` is from then on.
   */
  readonly measure?: () => Promise<number>;
  /**
   * Set where bytes are told to be right only by a check sum at the end: resolves when all that
   * came before has passed it.
   */
  readonly verify?: (signal?: AbortSignal) => Promise<void>;
  /**
   * Opens what stands beside it, under its own name and an ending, asked for in the same way. It is
   * asked for once: one can do without.
   * @throws MillraceError `ENOENT` where nothing is there, and the like.
   */
  readonly beside?: (ending: string) => Promise<BlockSource>;
  /** Gives back what the source holds; it is read no more. */
  close(): void | Promise<void>;
}

/** What tells an object that several servers have from another one. */
export interface MirroredContent {
  /**
   * A text that stands for a sample of the bytes, and for the server that has them; undefined where
   * `identity` and size tell the object wherever it is.
   */
  sample(): Promise<string | undefined>;
  /**
   * Whether this is the object of which another server, or another node of this one, has told that
   * identity and sample. The sizes are equal. False where that cannot be told.
   */
  isRecorded(identity: string, sample?: string): Promise<boolean>;
}

/** What a source was unpacked from. */
export interface ContainerInfo {
  /** From the outside in: `['gzip', 'tar']` of a tar.gz. */
  readonly formats: readonly string[];
  /** The file in an archive that was taken. */
  readonly member?: string;
  /** Bytes of the outermost container; undefined where a server does not tell. */
  readonly packedSize?: number;
  /**
   * Whether any part can be had at once (`random`), or only when all before it has passed
   * (`sequential`).
   */
  readonly access: 'random' | 'sequential';
  /** Of a sequential source: bytes that have passed so far. */
  readonly passed?: number;
}

/** What one that takes bytes in order shares with where they come from. */
export interface Flow {
  /** Aborted when no more is wanted. */
  readonly signal: AbortSignal;
  /** Whether somebody waits in the foreground at present. */
  isUrgent(): boolean;
  /**
   * Some bytes could not be had. Resolves when they are to be tried once more, and rejects with the
   * error where they are not.
   */
  failed(error: unknown): Promise<void>;
}

/** A BlockSource that can be written: where an overlay lives. */
export interface BlockFile extends BlockSource {
  /**
   * How other programs are kept from writing the file meanwhile: by a lock that QEMU sees
   * (`locked`), by a look at the opening and before a job (`looked`), or not at all (`blind`).
   * Undefined where no other program can.
   */
  readonly guard?: 'locked' | 'looked' | 'blind';
  /** Asked before a job. @throws MillraceError `EBUSY` naming who writes the file. */
  refuseOtherWriters?(): Promise<void>;
  /** Writes all of `from` at `offset`; past the end the file grows, and a gap reads as zeros. */
  write(offset: number, from: Uint8Array): void | Promise<void>;
  /**
   * Returns when everything written before the call survives a power cut. Once it has failed, it
   * must go on failing until the file is opened again: what could not be written may be lost, and
   * no later flush would tell of it.
   */
  flush(): void | Promise<void>;
  /**
   * A flush holds up all else, or costs money: what was fetched is then brought to the storage a
   * few times a second, rather than as soon as it is there. A crash makes a job fetch again what
   * was not.
   */
  readonly flushIsDear?: boolean;
  /** Sets the length in bytes; growth reads as zeros. */
  truncate(size: number): void | Promise<void>;
  /**
   * Puts a new file under its name, where there is none yet: what a runtime makes is there only
   * when it is whole. One that is closed before leaves nothing. @throws MillraceError `EEXIST`.
   */
  publish?(): Promise<void>;
  /** What was given to `keep` last, if nobody has written to the file since but who kept it. */
  readonly kept?: string;
  /**
   * Has a text stand by the file for those who open it later; an empty one takes it away. Who
   * writes to the file from here on answers for it: it goes with the file until it is closed.
   */
  keep?(text: string): void | Promise<void>;
  /** Gives the range's space back to the storage; it reads as zeros (or as before) afterwards. */
  discard?(offset: number, length: number): void | Promise<void>;
}
