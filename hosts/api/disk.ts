/// <reference lib="esnext.disposable" preserve="true" />
/**
 * A disk: the calls that it has on every runtime. Offsets and lengths are bytes, logical positions
 * in the disk unless said otherwise.
 */
import type { CheckOptions, CheckReport } from './check.ts';
import type { JobTarget } from './disk-events.ts';
import type { ImageInfo } from './image.ts';
import type { StreamInfo, StreamOptions } from './job.ts';
import type { ProfileChoice, RecordedProfile, ReplayInfo } from './profile.ts';

/** A run of the disk in one state. */
export interface Extent {
  /** Start of the run. */
  offset: number;
  /** Length of the run. */
  length: number;
  /** `absent`: no image of the chain has it, so it reads as zeros. */
  state: 'data' | 'zero' | 'compressed' | 'absent';
  /** The image of the chain that decides it: 0 is the overlay. */
  depth: number;
  /**
   * Position in that image's file: of data, and of zero or absent parts whose cluster has a place
   * kept for them.
   */
  hostOffset?: number;
  /** That file, where the image lies in several. */
  hostFile?: string;
}

/** What `read` may be asked for besides. */
export interface ReadOptions {
  /**
   * Gives up the waiting: the read rejects with `ABORTED`. What was fetched stays in the overlay.
   */
  signal?: AbortSignal;
  /**
   * An array of the caller's that is filled, of `length` bytes; it is not to be used before the
   * read has ended.
   */
  into?: Uint8Array;
}

/** A range of a disk, to its end where there is no `length`. */
export interface RangeOptions {
  /** Start of the range; default 0. */
  offset?: number;
  /** Length of the range. */
  length?: number;
  /** Ends what was begun, with `ABORTED`. */
  signal?: AbortSignal;
}

/** A run of the disk's bytes that is not only zeros. */
export interface Block {
  /** Start of the run. */
  offset: number;
  /** Its bytes. */
  data: Uint8Array;
}

export type { DiskEvent, JobTarget, Listener, ListenerOptions } from './disk-events.ts';

/** A disk: the same calls on every runtime. In a browser it stands for one in a worker. */
export interface Disk extends JobTarget<StreamInfo> {
  /** Bytes the guest sees. */
  readonly size: number;
  /** Of the overlay, in bytes; 65536 for an image of another format than qcow2. */
  readonly clusterSize: number;
  /**
   * At any byte. A large read is made of pieces: each sees all or nothing of a write, the whole may
   * not.
   */
  read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array>;
  /**
   * At any byte; `data` must not change until it resolves. It is there for every read that begins
   * afterwards, and safe after a `flush`.
   */
  write(offset: number, data: Uint8Array): Promise<void>;
  /** As a write of zeros, at any byte; whole clusters take no space. */
  writeZeroes(offset: number, length: number): Promise<void>;
  /**
   * Whole clusters of the range read as zeros afterwards, and their space is given back; parts of
   * clusters stay as they are. An overlay of version 2 cannot tell that: it stays as it is.
   */
  discard(offset: number, length: number): Promise<void>;
  /** Returns when everything written before survives a power cut. */
  flush(): Promise<void>;
  /**
   * Bytes, a multiple of 512. Growing works while a job runs; shrinking loses data, must be asked
   * for by `shrink`, and is `EBUSY` while a job runs.
   */
  resize(size: number, options?: { shrink?: boolean }): Promise<void>;
  /**
   * Populates a range of the overlay from its base. Resolves when the job has completed, or with
   * `nonblock` when it has started; rejects when it fails, or is aborted (`ABORTED`). One job a
   * disk at a time (`EBUSY`).
   */
  stream(options?: StreamOptions): Promise<StreamInfo>;
  /**
   * Ends a job that was started with `nonblock`, and waits for that; what was copied stays.
   * `ENOENT` when there is none, or none any more.
   */
  abort(): Promise<void>;
  /** How the job stands, or how the last one ended; `ENOENT` before the first. */
  info(): Promise<StreamInfo>;
  /**
   * Resolves when nothing of the job is in flight any more. As `resume` and `setSpeed`, `ENOENT`
   * when no job is active.
   */
  pause(): Promise<void>;
  /** Goes on with a paused job. */
  resume(): Promise<void>;
  /** Bytes a second from now on, 0 for unlimited. */
  setSpeed(bytesPerSecond: number): Promise<void>;
  /** Bytes of the range that are not populated, told by the overlay alone. */
  remaining(offset?: number, length?: number): Promise<number>;
  /**
   * The extents of a range, through the whole chain; with `depth` 1 only what the overlay itself
   * says, without asking the base.
   */
  map(offset?: number, length?: number, options?: { depth?: number }): AsyncIterable<Extent>;
  /** Looks for errors in the overlay's tables, and mends them if asked to: see CheckOptions. */
  check(options?: Pick<CheckOptions, 'repair' | 'data'>): Promise<CheckReport>;
  /** The images of the chain, the overlay first. */
  images(): Promise<ImageInfo[]>;
  /**
   * Ends the recording that the disk was opened with, and gives the boot profile; with `wait`, only
   * when it has ended by itself. Asked again, it gives the same.
   * @throws MillraceError `ENOENT` where nothing is recorded, or nothing was read.
   */
  profile(options?: { wait?: boolean }): Promise<RecordedProfile>;
  /**
   * Fetches what a boot profile tells into the overlay, in its order: behind the guest's reads, and
   * before a job. Resolves when that has ended. A disk has one replay: asked again with `auto` or
   * nothing, it tells of that.
   * @throws MillraceError `EBUSY` for another profile beside it; for one that was given, what
   *   opening it throws, `EINVAL`, `ECORRUPT` and `EUNSUPPORTED`.
   */
  replay(profile?: ProfileChoice): Promise<ReplayInfo>;
  /**
   * Ends a job, waits for the requests under way (for those that need a base, two seconds at most:
   * they fail with `ECLOSED` then), and brings all that was written to the storage.
   */
  close(): Promise<void>;
  /** As `close`, at the end of an `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
  /** The disk's bytes from start to end, read as they are pulled, a MiB at a time. */
  readable(options?: RangeOptions): ReadableStream<Uint8Array>;
  /**
   * Writes what it is given from `offset` on, and flushes when it is closed. More than the range
   * has is `EINVAL`.
   */
  writable(options?: RangeOptions): WritableStream<Uint8Array>;
  /** A copy of the range as a Blob, in memory or where the browser keeps its blobs. */
  blob(options?: RangeOptions): Promise<Blob>;
  /** What is not only zeros, in order, in blocks of up to a MiB that begin at whole clusters. */
  blocks(options?: RangeOptions): AsyncIterable<Block>;
}
