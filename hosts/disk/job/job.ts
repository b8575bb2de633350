/**
 * The stream job of a disk: starts it, hands the caller's wishes to the engine while it runs, and
 * tells what becomes of it. The engine does the work, and keeps all that is counted; only who
 * waits, and which event was told last, is kept here.
 */
import {
  JOB_ABORTED,
  JOB_COPIES,
  JOB_DETAIL,
  JOB_ERROR,
  JOB_ERROR_IMAGE,
  JOB_ERROR_OFFSET,
  JOB_FROM,
  JOB_KEPT,
  JOB_PAUSED,
  JOB_REASON,
  JOB_REMAINING,
  JOB_SPEED,
  JOB_STATUS,
  JOB_STOPS,
  JOB_TO,
  KIND_REMAINING,
  KIND_STREAM,
  ON_ERROR_ENOSPC,
  ON_ERROR_IGNORE,
  ON_ERROR_REPORT,
  ON_ERROR_STOP,
  R_HEADER_FULL,
  R_JOB_ACTIVE,
  R_NOT_A_BASE,
  STATUS_NONE,
} from '../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../api/block.ts';
import type { DiskEvent } from '../api/disk.ts';
import { codeOf, MillraceError, messageOf } from '../api/errors.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JobStatus } from '../api/job.ts';
import type { Engine } from './driver/engine.ts';
import type { Failure } from './driver/error-ledger.ts';
import { reasonText } from './driver/reasons.ts';

const ON_ERROR = {
  report: ON_ERROR_REPORT,
  stop: ON_ERROR_STOP,
  ignore: ON_ERROR_IGNORE,
  enospc: ON_ERROR_ENOSPC,
} as const;
/** At most ten progress events a second. */
const PROGRESS_INTERVAL_MS = 100;

/** A job as the disk hands it over. */
export interface JobStart extends StreamOptions {
  /** It begins as one that has been paused, and touches nothing before it is resumed. */
  paused?: boolean;
  /** What is copied first, in this order: bytes of the disk. */
  ranges?: readonly { offset: number; length: number }[];
}

/** A job as it stands, with what only the host keeps of it. */
interface Running {
  nonblock: boolean;
  settled: Promise<StreamInfo>;
  /** Called when a paused job has no copies in flight any more. */
  quiet: (() => void)[];
}

/** What a job needs of its disk. */
export interface JobOwner {
  /** Bytes of the disk. */
  size(): number;
  /** Hands over what the header is to say of an image as the base. */
  recordBase(image: number): void;
  /** Tells whoever listens. */
  tell(event: DiskEvent, info: StreamInfo): void;
}

/**
 * The job that a disk has, or had last; its calls are the disk's, which has checked that it is
 * open.
 */
export class DiskJob {
  readonly #engine: Engine;
  readonly #owner: JobOwner;
  #job: Running | undefined;
  #last: StreamInfo | undefined;
  /** While a base is gone through to its end. */
  #proof: AbortController | undefined;
  #keeps = false;
  #stops = 0;
  #progressAt = 0;
  #progressRemaining = -1;
  /** The order of the job, and what of it the engine has not been told yet. */
  #ranges: JobStart['ranges'] = [];
  #nextRange = 0;

  constructor(engine: Engine, owner: JobOwner) {
    this.#engine = engine;
    this.#owner = owner;
  }

  /** Whether a job is under way. */
  get isActive(): boolean {
    return this.#job !== undefined;
  }

  async start(options: JobStart): Promise<StreamInfo> {
    const { nonblock = false, signal } = options;
    const overlay: Partial<BlockFile> | undefined = this.#engine.file(0);
    if (overlay?.guard === 'looked') await overlay.refuseOtherWriters?.();
    if (this.#job) throw new MillraceError('EBUSY', `cannot stream: ${reasonText(R_JOB_ACTIVE)}`);
    if (signal?.aborted)
      throw new MillraceError('ABORTED', 'cannot stream: aborted before it started', {
        cause: signal.reason,
      });
    const unproven = this.#begin(options);
    if (options.paused) this.#engine.exports.pause();
    const cancel = (): void => this.#cancel();
    signal?.addEventListener('abort', cancel);
    const settled = this.#engine
      .request(KIND_STREAM)
      .then(() => this.#letGo(options, unproven))
      .then(
        () => this.#ended(),
        (error) => this.#broke(error),
      );
    const done = settled.finally(() => signal?.removeEventListener('abort', cancel));
    this.#job = { nonblock, settled: done, quiet: [] };
    // Storage that answers at once may have brought the job to a pause already.
    this.watch();
    // A job nobody waits for tells its end by info and events.
    done.catch(() => {});
    if (nonblock) return this.#report();
    return done;
  }

  async abort(): Promise<void> {
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

  /** Aborts whatever job there is, and waits for its end: the disk is being closed. */
  async end(): Promise<void> {
    const job = this.#job;
    if (!job) return;
    this.#cancel();
    await job.settled.catch(() => {});
  }

  /** Hands over as much of the order as the engine takes; it goes on with that. */
  #feed(): void {
    const { exports } = this.#engine;
    const ranges = this.#ranges!;
    const before = this.#nextRange;
    if (before > ranges.length || ranges.length === 0) return;
    while (this.#nextRange < ranges.length) {
      const { offset, length } = ranges[this.#nextRange];
      if (!exports.streamNext(offset, length)) break;
      this.#nextRange++;
    }
    // A range of no bytes ends the order.
    if (this.#nextRange === ranges.length && exports.streamNext(0, 0)) this.#nextRange++;
    if (this.#nextRange > before) this.#engine.pumpSoon();
  }

  /** Looks at the job after the engine has gone on. */
  watch(): void {
    if (!this.#job) return;
    this.#feed();
    const job = this.#engine.jobReport();
    if (job[JOB_STOPS] !== this.#stops) {
      this.#stops = job[JOB_STOPS];
      this.#emit('paused');
    }
    if (!job[JOB_PAUSED] || !job[JOB_COPIES])
      for (const resolve of this.#job?.quiet.splice(0) ?? []) resolve();
    const now = this.#engine.clock.now();
    const remaining = job[JOB_REMAINING];
    if (now - this.#progressAt < PROGRESS_INTERVAL_MS || remaining === this.#progressRemaining)
      return;
    this.#progressAt = now;
    this.#progressRemaining = remaining;
    this.#emit('progress');
  }

  /**
   * Bases whose bytes are known to be right only by a check sum at their end stay until that has
   * been compared: the engine keeps them, and is asked once more to let them go, when nothing is
   * missing.
   */
  async #letGo(options: JobStart, unproven: readonly BlockSource[]): Promise<void> {
    if (unproven.length === 0 || this.#report().status !== JobStatus.COMPLETED) return;
    if ((await this.#engine.request(KIND_REMAINING, 0, this.#owner.size())) > 0) return;
    const proof = new AbortController();
    this.#proof = proof;
    try {
      for (const source of unproven) await source.verify!(proof.signal);
    } finally {
      this.#proof = undefined;
    }
    this.#begin(options, true);
    await this.#engine.request(KIND_STREAM);
  }

  /**
   * The images that leave the chain when the job is done, as far as they have to be proven first.
   */
  #unproven({ base, keepBase = false }: StreamOptions): BlockSource[] {
    const leaving: BlockSource[] = [];
    const { exports } = this.#engine;
    for (let depth = 1; !keepBase && exports.imageAtDepth(depth) >= 0; depth++) {
      const image = exports.imageAtDepth(depth);
      if (depth === base || this.#engine.name(image) === base) break;
      const source = this.#engine.file(image);
      if (source?.verify !== undefined) leaving.push(source);
    }
    return leaving;
  }

  /**
   * Hands the job to the engine, or says why it cannot be. Gives the bases that have to be proven
   * before they go.
   */
  #begin(options: JobStart, isProven = false): BlockSource[] {
    const { offset = 0, speed = 0, base, keepBase = false } = options;
    const { onError = 'report', allocate = 'sparse' } = options;
    const { compressed = 'inflate' } = options;
    const size = this.#owner.size();
    // What no length was given for goes on to the end of the disk; a length of 0 is one, but for
    // libvirt's way to mean all of it.
    const { length = offset === 0 ? 0 : Math.max(0, size - offset) } = options;
    checkStream({ offset, length, onError, allocate, compressed });
    const bottom = base === undefined ? 0 : this.#newBase(base, keepBase);
    const unproven = isProven ? [] : this.#unproven(options);
    const ranges = isProven ? [] : (options.ranges ?? []);
    const reason = this.#engine.exports.stream(
      offset,
      length,
      checkedSpeed(speed),
      ON_ERROR[onError],
      keepBase || unproven.length > 0,
      allocate === 'full',
      bottom,
      compressed === 'keep',
      ranges.length > 0,
    );
    if (reason)
      throw new MillraceError(
        'EINVAL',
        `cannot stream ${length} bytes at ${offset}: ${reasonText(reason)} (the disk has ${size} bytes)`,
      );
    this.#keeps = compressed === 'keep';
    this.#stops = 0;
    this.#progressAt = 0;
    this.#progressRemaining = -1;
    this.#ranges = ranges;
    this.#nextRange = 0;
    this.#feed();
    return unproven;
  }

  /**
   * The depth of the image that becomes the new base; hands over what the header will say of it.
   */
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
        `cannot stream down to '${base}': ${reasonText(R_NOT_A_BASE)}, which has ${names.join(', ') || 'none'}`,
      );
    this.#owner.recordBase(index);
    if (!keepBase && depth > 1 && !this.#engine.exports.backingHasRoom())
      throw new MillraceError(
        'EUNSUPPORTED',
        `cannot stream down to '${base}': ${reasonText(R_HEADER_FULL)}`,
      );
    return depth;
  }

  #cancel(): void {
    this.#proof?.abort(new MillraceError('ABORTED', 'the stream was aborted'));
    if (!this.#engine.exports.abort()) return;
    this.#engine.bases.cancelJobs();
    this.#engine.pump();
  }

  /**
   * The job has ended: keeps its result, closes the images that left the chain, and tells it once.
   */
  async #ended(): Promise<StreamInfo> {
    const info = this.#report();
    this.#last = info;
    this.#engine.texts.keep(0);
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
        reason: info.error?.reason,
      },
    );
  }

  /** The engine broke under the job, or its base turned out to be damaged. */
  #broke(cause: unknown): never {
    const error =
      cause instanceof MillraceError
        ? cause
        : new MillraceError(codeOf(cause), `cannot stream: ${messageOf(cause)}`, { cause });
    const isAborted = error.code === 'ABORTED';
    this.#last = {
      ...this.#report(),
      status: JobStatus.FAILED,
      reason: isAborted ? 'aborted' : 'error',
      error: isAborted
        ? undefined
        : {
            code: error.code,
            ...(error.reason && { reason: error.reason }),
            message: error.message,
          },
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

  #emit(type: DiskEvent, detail: StreamInfo = this.#report()): void {
    this.#owner.tell(type, detail);
  }

  #report(): StreamInfo {
    const job = this.#engine.jobReport();
    const status = this.#proof === undefined ? job[JOB_STATUS] : JobStatus.ACTIVE;
    const info: StreamInfo = {
      status: (status === STATUS_NONE ? JobStatus.FAILED : status) as StreamInfo['status'],
      remaining: job[JOB_REMAINING],
      offset: job[JOB_FROM],
      length: job[JOB_TO] - job[JOB_FROM],
      speed: job[JOB_SPEED],
      // The engine keeps the word of a job that was aborted while it was paused.
      paused: status === JobStatus.ACTIVE && job[JOB_PAUSED] !== 0,
    };
    if (this.#keeps) info.kept = job[JOB_KEPT];
    if (info.status === JobStatus.FAILED) info.reason = job[JOB_ABORTED] ? 'aborted' : 'error';
    const error = this.#failure();
    if (error)
      info.error = {
        code: error.code,
        ...(error.reason && { reason: error.reason }),
        message: error.message,
        offset: job[JOB_ERROR_OFFSET],
      };
    return info;
  }

  /** The first error of the job, if there was one. */
  #failure(): MillraceError | undefined {
    const job = this.#engine.jobReport();
    if (!job[JOB_ERROR]) return undefined;
    const failure: Failure = {
      code: job[JOB_ERROR],
      reason: job[JOB_REASON],
      image: job[JOB_ERROR_IMAGE],
      offset: job[JOB_ERROR_OFFSET],
      detail: job[JOB_DETAIL],
    };
    return this.#engine.errorOf(failure, 'stream');
  }

  #mustHaveJob(action: string): Running {
    if (!this.#job)
      throw new MillraceError('ENOENT', `cannot ${action}: no job is active on this disk`);
    return this.#job;
  }

  /** Waits until the paused job's copies have ended; watch tells when. */
  #quiet(job: Running): Promise<void> {
    return new Promise((resolve) => {
      job.quiet.push(resolve);
      this.watch();
    });
  }
}

function checkStream({
  offset,
  length,
  onError,
  allocate,
  compressed,
}: Required<
  Pick<StreamOptions, 'offset' | 'length' | 'onError' | 'allocate' | 'compressed'>
>): void {
  for (const [name, value] of [
    ['offset', offset],
    ['length', length],
  ] as const) {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new MillraceError('EINVAL', `cannot stream: ${name} ${value} is not a number of bytes`);
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
  if (compressed !== 'inflate' && compressed !== 'keep')
    throw new MillraceError(
      'EINVAL',
      `cannot stream: compressed is inflate or keep, not '${compressed}'`,
    );
  if (compressed === 'keep' && allocate === 'full')
    throw new MillraceError(
      'EINVAL',
      `cannot stream: compressed 'keep' saves the space that allocate 'full' is to take`,
    );
}

function checkedSpeed(speed: number): number {
  if (!Number.isFinite(speed) || speed < 0)
    throw new MillraceError('EINVAL', `a speed of ${speed} bytes a second cannot be`);
  return Math.min(Math.ceil(speed), Number.MAX_SAFE_INTEGER);
}
