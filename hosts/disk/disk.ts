/**
 * A disk: one engine instance with the files of its images, behind the public calls. The same on every runtime; it knows neither
 * where the files are nor what format they have.
 */

import type {
  CheckReport,
  Disk,
  DiskEvent,
  Extent,
  ImageFormat,
  ImageInfo,
  StreamInfo,
  StreamOptions,
} from '../api/disk.ts';
import { JobStatus } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import { checkWith, extentsOf, imageOf } from './driver/answers.ts';
import type { Engine, Failure } from './driver/engine.ts';
import { Kind } from './driver/engine.ts';
import { ENGINE_REASONS } from './driver/reasons.ts';
import { ImageField, JobField } from './driver/reports.ts';
import { snapshotsOf } from './driver/snapshots.ts';

const ON_ERROR = { report: 0, stop: 1, ignore: 2, enospc: 3 } as const;
/** Arguments of a close request: nothing is to be written; the disk goes on afterwards. */
const CLOSE_READ_ONLY = 1;
const CLOSE_GOES_ON = 2;
/** `status` before the first job, in the engine's numbers. */
const STATUS_NONE = 3;
/** At most ten progress events a second. */
const PROGRESS_INTERVAL_MS = 100;
/** So long a disk that is being closed waits for what still needs its bases. */
const CLOSE_WAITS_MS = 2000;
/** Pieces of one large read or write in flight. */
const PIECES_IN_FLIGHT = 8;
const WRITE_ZEROES = 1;
/** Argument of a discard: the clusters become absent. */
const EMPTY = 1;
const SECTOR_BYTES = 512;
/** Pieces of zeroes or discard: bounded so that others get between. */
const ZERO_PIECE_BYTES = 1024 ** 3;

/** A job as it stands, with what only the host keeps of it. */
interface Running {
  nonblock: boolean;
  settled: Promise<StreamInfo>;
  /** Called when a paused job has no copies in flight any more. */
  quiet: (() => void)[];
}

export class EngineDisk extends EventTarget implements Disk {
  readonly #engine: Engine;
  readonly #readOnly: boolean;
  readonly #release: () => Promise<void>;
  readonly #recordBase: (image: number) => void;
  readonly #baseless: boolean;
  readonly #clusterSize: number;
  #job: Running | undefined;
  #last: StreamInfo | undefined;
  #size: number;
  #changes = 0;
  #resizing: Promise<void> | undefined;
  readonly #wides = new Set<Promise<void>>();
  #stops = 0;
  #progressAt = 0;
  #progressRemaining = -1;
  #closing: Promise<void> | undefined;

  /**
   * `release` closes the files and gives locks back; `recordBase` hands over what the header is to say of an image as the base. All
   * images of the engine are open; `baseless` says that what lies below the overlay only stands for a base that was left unopened.
   */
  constructor(
    engine: Engine,
    options: {
      readOnly: boolean;
      baseless: boolean;
      release: () => Promise<void>;
      recordBase: (image: number) => void;
    },
  ) {
    super();
    this.#engine = engine;
    this.#readOnly = options.readOnly;
    this.#baseless = options.baseless;
    this.#release = options.release;
    this.#recordBase = options.recordBase;
    this.#size = imageOf(this.#engine, 0).virtualSize;
    this.#clusterSize = imageOf(this.#engine, 0).clusterSize ?? 65536;
    engine.onstep = () => this.#watch();
  }

  get size(): number {
    return this.#size;
  }

  get clusterSize(): number {
    return this.#clusterSize;
  }

  /** Grows with every change of what the guest sees, at its begin and at its end: the same before and after a read, it saw no change. */
  get changes(): number {
    return this.#changes;
  }

  /** Large reads are several requests: each sees all or nothing of a write, the whole may not. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#mustBeOpen();
    this.#mustBeInside('read', offset, length);
    const bytes = roomFor(length);
    await this.#pieces(offset, length, (at, size) =>
      this.#engine.request(Kind.read, at, size, 0, {
        into: bytes.subarray(at - offset, at - offset + size),
      }),
    );
    return bytes;
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#mustBeWritable('write');
    if (data?.[Symbol.toStringTag] !== 'Uint8Array')
      throw new MillraceError('EINVAL', 'cannot write: data is a Uint8Array');
    this.#mustBeInside('write', offset, data.length);
    await this.#changing(
      this.#pieces(offset, data.length, (at, size) =>
        this.#engine.request(Kind.write, at, size, 0, {
          data: data.subarray(at - offset, at - offset + size),
        }),
      ),
    );
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#mustBeWritable('write zeroes');
    while (this.#resizing) await this.#resized();
    this.#mustBeInside('write zeroes', offset, length);
    return this.#changing(this.#asWide(this.#writeZeroes(offset, length)));
  }

  async #changing(work: Promise<void>): Promise<void> {
    this.#changes++;
    try {
      await work;
    } finally {
      this.#changes++;
    }
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    const [from, to] = this.#wholeClusters(offset, length);
    const zeroes = (at: number, size: number) =>
      this.#engine.request(Kind.write, at, size, WRITE_ZEROES);
    // Version 2 has no zero clusters.
    if (from >= to || imageOf(this.#engine, 0).version === 2)
      return this.#pieces(offset, length, zeroes);
    await this.#pieces(offset, from - offset, zeroes);
    await this.#wide(Kind.zero, from, to);
    await this.#pieces(to, offset + length - to, zeroes);
  }

  /** Whole clusters of the range read as zeros afterwards and take no space; what is left of parts of clusters stays as it is. */
  async discard(offset: number, length: number): Promise<void> {
    this.#mustBeWritable('discard');
    while (this.#resizing) await this.#resized();
    this.#mustBeInside('discard', offset, length);
    const [from, to] = this.#wholeClusters(offset, length);
    if (from < to) await this.#changing(this.#asWide(this.#wide(Kind.discard, from, to)));
  }

  async flush(): Promise<void> {
    this.#mustBeOpen();
    if (!this.#readOnly) await this.#engine.request(Kind.flush);
  }

  async resize(size: number, options: { shrink?: boolean } = {}): Promise<void> {
    this.#mustBeWritable('resize');
    if (!Number.isSafeInteger(size) || size < 0 || size % SECTOR_BYTES)
      throw new MillraceError(
        'EINVAL',
        `a disk of ${size} bytes cannot be: a size is a multiple of ${SECTOR_BYTES}`,
      );
    const done = this.#changing(this.#resizeAfter(this.#resizing, size, options));
    const resizing = done
      .catch(() => {})
      .then(() => {
        if (this.#resizing === resizing) this.#resizing = undefined;
      });
    this.#resizing = resizing;
    return done;
  }

  /** One at a time, in the order in which they were asked for. */
  async #resizeAfter(
    before: Promise<void> | undefined,
    size: number,
    options: { shrink?: boolean },
  ): Promise<void> {
    await before;
    await Promise.allSettled(this.#wides);
    return this.#resize(size, options);
  }

  async #resize(size: number, options: { shrink?: boolean }): Promise<void> {
    this.#mustBeOpen();
    if (size < this.#size) {
      if (!options.shrink)
        throw new MillraceError(
          'EINVAL',
          `cannot shrink the disk from ${this.#size} to ${size} bytes: ${ENGINE_REASONS[42]}`,
        );
      if (this.#job)
        throw new MillraceError(
          'EBUSY',
          'cannot shrink the disk while a job is active: abort it first',
        );
      const clusterEnd = Math.min(
        this.#size,
        Math.ceil(size / this.#clusterSize) * this.#clusterSize,
      );
      await this.#writeZeroes(size, clusterEnd - size);
    }
    try {
      await this.#engine.request(Kind.resize, 0, size);
    } finally {
      this.#size = imageOf(this.#engine, 0).virtualSize;
    }
  }

  /** `paused`: begins as one that has been paused, and touches nothing before it is resumed. */
  async stream(options: StreamOptions & { paused?: boolean } = {}): Promise<StreamInfo> {
    this.#mustBeWritable('stream');
    const { nonblock = false, signal } = options;
    // A disk that is about to be smaller is not streamed as it was.
    while (this.#resizing) await this.#resized();
    if (this.#job) throw new MillraceError('EBUSY', `cannot stream: ${ENGINE_REASONS[32]}`);
    if (signal?.aborted)
      throw new MillraceError('ABORTED', 'cannot stream: aborted before it started', {
        cause: signal.reason,
      });
    this.#begin(options);
    if (options.paused) this.#engine.exports.pause();
    const cancel = () => this.#cancel();
    signal?.addEventListener('abort', cancel);
    const settled = this.#engine.request(Kind.stream).then(
      () => this.#ended(),
      (error) => this.#broke(error),
    );
    const done = settled.finally(() => signal?.removeEventListener('abort', cancel));
    this.#job = { nonblock, settled: done, quiet: [] };
    // Storage that answers at once may have brought the job to a pause already.
    this.#watch();
    // A job nobody waits for tells its end by info and events.
    done.catch(() => {});
    if (nonblock) return this.#report();
    return done;
  }

  async abort(): Promise<void> {
    this.#mustBeOpen();
    const job = this.#job;
    if (!job?.nonblock)
      throw new MillraceError(
        'ENOENT',
        'cannot abort: there is no job that was started with nonblock',
      );
    this.#cancel();
    await job.settled.catch(() => {});
  }

  async info(): Promise<StreamInfo> {
    this.#mustBeOpen();
    if (this.#job) return this.#report();
    if (this.#last) return this.#last;
    throw new MillraceError('ENOENT', 'no job has run on this disk since it was opened');
  }

  /** Resolves when the job has no I/O in flight any more, or has ended. */
  async pause(): Promise<void> {
    const job = this.#mustHaveJob('pause');
    if (this.#report().paused) return this.#quiet(job);
    this.#engine.exports.pause();
    this.#emit('paused');
    return this.#quiet(job);
  }

  async resume(): Promise<void> {
    this.#mustHaveJob('resume');
    if (!this.#report().paused) return;
    this.#engine.exports.resume();
    this.#emit('resumed');
    this.#engine.pump();
  }

  async setSpeed(bytesPerSecond: number): Promise<void> {
    this.#mustHaveJob('set the speed');
    this.#engine.exports.setSpeed(checkedSpeed(bytesPerSecond));
    this.#engine.pump();
  }

  async remaining(
    offset: number = 0,
    length: number = Math.max(0, this.#size - offset),
  ): Promise<number> {
    this.#mustBeOpen();
    this.#mustBeInside('count what remains', offset, length);
    return this.#engine.request(Kind.remaining, offset, length);
  }

  async *map(
    offset: number = 0,
    length: number = Math.max(0, this.#size - offset),
    options: { depth?: number } = {},
  ): AsyncGenerator<Extent> {
    this.#mustBeOpen();
    this.#mustBeInside('map', offset, length);
    yield* extentsOf(
      this.#engine,
      offset,
      offset + length,
      this.#baseless ? 1 : checkedDepth(options.depth),
    );
  }

  async check(options: { repair?: 'leaks' | 'all' } = {}): Promise<CheckReport> {
    this.#mustBeOpen();
    if (options.repair) this.#mustBeWritable('repair');
    return checkWith(this.#engine, this.#size, options.repair);
  }

  async images(): Promise<ImageInfo[]> {
    this.#mustBeOpen();
    const images = [imageOf(this.#engine, 0)];
    for (let depth = 1; !this.#baseless && this.#engine.exports.imageAtDepth(depth) >= 0; depth++)
      images.push(imageOf(this.#engine, this.#engine.exports.imageAtDepth(depth)));
    const snapshots = this.#engine.imageReport(0)[ImageField.snapshots];
    if (snapshots) images[0].snapshots = await snapshotsOf(this.#engine, snapshots);
    return images;
  }

  /**
   * Brings the overlay's file into the state of a closed one, while the disk stays open: what a host does before it copies the file.
   * It stays so until something is written.
   */
  async settle(): Promise<void> {
    this.#mustBeOpen();
    if (!this.#readOnly) await this.#engine.request(Kind.close, 0, 0, CLOSE_GOES_ON);
  }

  /** Gives up all that the overlay holds, so that its base shows: the last step of a commit, when the base holds it too. */
  async empty(): Promise<void> {
    this.#mustBeWritable('empty');
    await this.#wide(Kind.discard, 0, this.#size, EMPTY);
  }

  /** What the header says that identifies the base, as `refer` takes it. */
  recordedIdentity(): string {
    const image = this.#engine.imageReport(0);
    return this.#engine
      .headerText(0, image[ImageField.identityAt], image[ImageField.identityBytes])
      .replace(/\0+$/, '');
  }

  /** Refuses what `refer` could not record, before work is put into it. */
  mustHaveRoom(name: string, format: ImageFormat | '', identity: string): void {
    this.#mustBeWritable('record another base');
    if (!this.#engine.setBacking(name, format, identity))
      throw new MillraceError(
        'EINVAL',
        `the name of the base is too long to be recorded: '${name}'`,
      );
    if (!this.#engine.exports.backingHasRoom())
      throw new MillraceError('EUNSUPPORTED', `${this.#engine.name(0)}: ${ENGINE_REASONS[36]}`);
  }

  /** Records another base, or none by an empty name. The images of this disk stay as they are: close it, and open it anew. */
  async refer(name: string, format: ImageFormat | '', identity: string): Promise<void> {
    this.mustHaveRoom(name, format, identity);
    await this.#engine.request(Kind.refer);
    this.#engine.keepTexts(0);
  }

  /** Ends a job, writes everything, and closes the files. A second call waits for the first. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    let giveUp = (): void => {};
    try {
      giveUp = this.#engine.clock.after(CLOSE_WAITS_MS, () =>
        this.#engine.leaveBases(new MillraceError('ECLOSED', 'the disk is being closed')),
      );
      if (this.#job) {
        this.#cancel();
        await this.#job.settled.catch(() => {});
      }
      await this.#engine.request(Kind.close, 0, 0, this.#readOnly ? CLOSE_READ_ONLY : 0);
    } finally {
      giveUp();
      this.#engine.close(new MillraceError('ECLOSED', 'the disk has been closed'));
      await this.#release();
    }
  }

  /** Hands the job to the engine, or says why it cannot be. */
  #begin(options: StreamOptions): void {
    const {
      offset = 0,
      speed = 0,
      onError = 'report',
      base,
      keepBase = false,
      allocate = 'sparse',
      order = 'sequential',
    } = options;
    // What no length was given for goes on to the end of the disk; a length of 0 is one, but for libvirt's way to mean all of it.
    const { length = offset === 0 ? 0 : Math.max(0, this.#size - offset) } = options;
    for (const [name, value] of [
      ['offset', offset],
      ['length', length],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < 0)
        throw new MillraceError(
          'EINVAL',
          `cannot stream: ${name} ${value} is not a number of bytes`,
        );
    }
    if (!Object.hasOwn(ON_ERROR, onError))
      throw new MillraceError(
        'EINVAL',
        `cannot stream: onError is report, stop, ignore or enospc, not '${onError}'`,
      );
    if (allocate !== 'sparse' && allocate !== 'full')
      throw new MillraceError(
        'EINVAL',
        `cannot stream: allocate is sparse or full, not '${allocate}'`,
      );
    if (order !== 'sequential')
      throw new MillraceError('EINVAL', `cannot stream: order is sequential, not '${order}'`);
    const bottom = base === undefined ? 0 : this.#newBase(base, keepBase);
    const reason = this.#engine.exports.stream(
      offset,
      length,
      checkedSpeed(speed),
      ON_ERROR[onError],
      keepBase,
      allocate === 'full',
      bottom,
    );
    if (reason)
      throw new MillraceError(
        'EINVAL',
        `cannot stream ${length} bytes at ${offset}: ${ENGINE_REASONS[reason]} (the disk has ${this.#size} bytes)`,
      );
    this.#stops = 0;
    this.#progressAt = 0;
    this.#progressRemaining = -1;
  }

  /** The depth of the image that becomes the new base; hands over what the header will say of it. */
  #newBase(base: string | number, keepBase: boolean): number {
    const names = [];
    let depth = 1;
    let index = this.#engine.exports.imageAtDepth(depth);
    while (index >= 0 && depth !== base && this.#engine.name(index) !== base) {
      names.push(`'${this.#engine.name(index)}'`);
      index = this.#engine.exports.imageAtDepth(++depth);
    }
    if (index < 0)
      throw new MillraceError(
        'EINVAL',
        `cannot stream down to '${base}': ${ENGINE_REASONS[39]}, which has ${names.join(', ') || 'none'}`,
      );
    this.#recordBase(index);
    if (!keepBase && depth > 1 && !this.#engine.exports.backingHasRoom())
      throw new MillraceError(
        'EUNSUPPORTED',
        `cannot stream down to '${base}': ${ENGINE_REASONS[36]}`,
      );
    return depth;
  }

  #cancel(): void {
    if (!this.#engine.exports.abort()) return;
    this.#engine.cancelBackground();
    this.#engine.pump();
  }

  /** The job has ended: keeps its result, closes the images that left the chain, and tells it once. */
  async #ended(): Promise<StreamInfo> {
    const info = this.#report();
    this.#last = info;
    this.#engine.keepTexts(0);
    this.#jobIsOver();
    await this.#closeDetached();
    this.#emit(info.status === JobStatus.COMPLETED ? 'completed' : 'failed', info);
    if (info.status === JobStatus.COMPLETED) return info;
    const aborted = info.reason === 'aborted';
    throw new MillraceError(
      aborted ? 'ABORTED' : (info.error?.code ?? 'EIO'),
      aborted ? 'the stream was aborted' : (info.error?.message ?? 'the stream failed'),
      {
        cause: this.#failure(),
        offset: info.error?.offset,
      },
    );
  }

  /** The engine broke under the job. */
  #broke(error: MillraceError): never {
    this.#last = {
      ...this.#report(),
      status: JobStatus.FAILED,
      reason: 'error',
      error: { code: error.code, message: error.message },
    };
    this.#jobIsOver();
    this.#emit('failed', this.#last);
    throw error;
  }

  #jobIsOver(): void {
    for (const resolve of this.#job?.quiet ?? []) resolve();
    this.#job = undefined;
  }

  async #closeDetached(): Promise<void> {
    const kept = new Set<number>();
    for (let depth = 0; this.#engine.exports.imageAtDepth(depth) >= 0; depth++)
      kept.add(this.#engine.exports.imageAtDepth(depth));
    for (let image = 1; this.#engine.isAttached(image); image++) {
      // The base is not needed any more: that it cannot be closed properly harms nothing.
      if (!kept.has(image))
        await Promise.resolve(this.#engine.detach(image)?.close()).catch(() => {});
    }
  }

  /** Looks at the job after the engine has gone on. */
  #watch(): void {
    if (!this.#job) return;
    const job = this.#engine.jobReport();
    if (job[JobField.stops] !== this.#stops) {
      this.#stops = job[JobField.stops];
      this.#emit('paused');
    }
    if (!job[JobField.paused] || !job[JobField.copies])
      for (const resolve of this.#job?.quiet.splice(0) ?? []) resolve();
    const now = this.#engine.clock.now();
    const remaining = job[JobField.remaining];
    if (now - this.#progressAt < PROGRESS_INTERVAL_MS || remaining === this.#progressRemaining)
      return;
    this.#progressAt = now;
    this.#progressRemaining = remaining;
    this.#emit('progress');
  }

  #emit(type: DiskEvent, detail: StreamInfo = this.#report()): void {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #report(): StreamInfo {
    const job = this.#engine.jobReport();
    const status = job[JobField.status];
    const info: StreamInfo = {
      status: (status === STATUS_NONE ? JobStatus.FAILED : status) as StreamInfo['status'],
      remaining: job[JobField.remaining],
      offset: job[JobField.from],
      length: job[JobField.to] - job[JobField.from],
      speed: job[JobField.speed],
      // The engine keeps the word of a job that was aborted while it was paused.
      paused: status === JobStatus.ACTIVE && job[JobField.paused] !== 0,
    };
    if (info.status === JobStatus.FAILED) info.reason = job[JobField.aborted] ? 'aborted' : 'error';
    const error = this.#failure();
    if (error)
      info.error = { code: error.code, message: error.message, offset: job[JobField.errorOffset] };
    return info;
  }

  /** The first error of the job, if there was one. */
  #failure(): MillraceError | undefined {
    const job = this.#engine.jobReport();
    if (!job[JobField.error]) return undefined;
    const failure: Failure = {
      code: job[JobField.error],
      reason: job[JobField.reason],
      image: job[JobField.errorImage],
      offset: job[JobField.errorOffset],
      detail: job[JobField.detail],
    };
    return this.#engine.errorOf(failure, 'stream');
  }

  /** Splits a range into requests, at cluster boundaries where it can, and keeps a few in flight. */
  async #pieces(
    offset: number,
    length: number,
    request: (at: number, size: number) => Promise<unknown>,
  ): Promise<void> {
    const most = this.#engine.exports.requestBytesMax();
    const end = offset + length;
    if (length > 0 && length <= most) return void (await request(offset, length));
    let at = offset;
    const lane = async (): Promise<void> => {
      while (at < end) {
        const from = at;
        const boundary = Math.floor((from + most) / this.#clusterSize) * this.#clusterSize;
        at = Math.min(end, boundary > from ? boundary : from + most);
        await request(from, at - from);
      }
    };
    // After a failure no further piece begins, and the caller hears of it when those under way have ended: none of a write's pieces may
    // come after what the caller does next.
    const stopping = (): Promise<void> =>
      lane().catch((error) => {
        at = end;
        throw error;
      });
    for (const result of await Promise.allSettled(
      Array.from({ length: PIECES_IN_FLIGHT }, stopping),
    )) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  /**
   * Waits while the disk is being resized: what means the disk's end by whole clusters must know where that is. Whoever has waited looks
   * again: others go on at that moment, too.
   */
  async #resized(): Promise<void> {
    await this.#resizing;
    this.#mustBeOpen();
  }

  /** A resize waits for what means the disk's end by whole clusters. */
  async #asWide(request: Promise<void>): Promise<void> {
    this.#wides.add(request);
    try {
      await request;
    } finally {
      this.#wides.delete(request);
    }
  }

  async #wide(kind: number, from: number, to: number, argument = 0): Promise<void> {
    for (let at = from; at < to; at += ZERO_PIECE_BYTES)
      await this.#engine.request(kind, at, Math.min(ZERO_PIECE_BYTES, to - at), argument);
  }

  /** The whole clusters within a range; the last cluster of the disk counts as whole where the disk ends in it. */
  #wholeClusters(offset: number, length: number): [number, number] {
    const cluster = this.#clusterSize;
    const end = offset + length;
    return [
      Math.ceil(offset / cluster) * cluster,
      end === this.#size ? end : Math.floor(end / cluster) * cluster,
    ];
  }

  #mustBeOpen(): void {
    if (this.#closing) throw new MillraceError('ECLOSED', 'the disk has been closed');
  }

  #mustBeWritable(action: string): void {
    this.#mustBeOpen();
    if (this.#readOnly)
      throw new MillraceError(
        'EROFS',
        `cannot ${action}: ${this.#engine.name(0)} was opened read-only`,
      );
  }

  #mustHaveJob(action: string): Running {
    this.#mustBeOpen();
    if (!this.#job)
      throw new MillraceError('ENOENT', `cannot ${action}: no job is active on this disk`);
    return this.#job;
  }

  /** Waits until the paused job's copies have ended; #watch tells when. */
  #quiet(job: Running): Promise<void> {
    return new Promise((resolve) => {
      job.quiet.push(resolve);
      this.#watch();
    });
  }

  #mustBeInside(action: string, offset: number, length: number): void {
    const inside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      length <= this.#size - offset;
    if (!inside)
      throw new MillraceError(
        'EINVAL',
        `cannot ${action} ${length} bytes at ${offset}: the disk has ${this.#size} bytes`,
        { offset },
      );
  }
}

function roomFor(length: number): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new MillraceError(
      'EINVAL',
      `cannot read ${length} bytes at once: that is more than there is memory for; read them in pieces`,
      { cause },
    );
  }
}

function checkedSpeed(speed: number): number {
  if (!Number.isFinite(speed) || speed < 0)
    throw new MillraceError('EINVAL', `a speed of ${speed} bytes a second cannot be`);
  return Math.min(Math.ceil(speed), Number.MAX_SAFE_INTEGER);
}

/** Chains are far shorter than what a depth may be; the engine takes 32 bits, where 0 means all of the chain. */
function checkedDepth(depth: number = 0): number {
  if (!Number.isSafeInteger(depth) || depth < 0)
    throw new MillraceError(
      'EINVAL',
      `cannot map to a depth of ${depth}: it is a number of images, or 0 for all`,
    );
  return Math.min(depth, 0xffffffff);
}
