/**
 * The stream job of a disk: starts it, hands the caller's wishes to the engine while it runs, and
 * tells what becomes of it. The engine does the work, and keeps all that is counted; only who
 * waits, and which event was told last, is kept here.
 */
import {
  JOB_COPIES,
  JOB_PAUSED,
  JOB_REMAINING,
  JOB_STOPS,
  KIND_REMAINING,
  KIND_STREAM,
  R_JOB_ACTIVE,
} from '../../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../../api/block.ts';
import type { DiskEvent } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { StreamInfo } from '../../api/job.ts';
import { JobStatus } from '../../api/job.ts';
import type { Engine } from '../driver/engine.ts';
import { reasonText } from '../driver/reasons.ts';
import { closeDetached, newBase, unprovenBases } from './bases.ts';
import type { JobStart } from './options.ts';
import { checkedJob, checkedSpeed } from './options.ts';
import { JobOrder } from './order.ts';
import { brokenBy, errorAtEnd, failureOf, reportOf } from './report.ts';

/** At most ten progress events a second. */
const PROGRESS_INTERVAL_MS = 100;

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
  #order: JobOrder;

  constructor(engine: Engine, owner: JobOwner) {
    this.#engine = engine;
    this.#owner = owner;
    this.#order = new JobOrder(engine);
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

  /** Looks at the job after the engine has gone on. */
  watch(): void {
    if (!this.#job) return;
    this.#order.feed();
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
   * Hands the job to the engine, or says why it cannot be. Gives the bases that have to be proven
   * before they go.
   */
  #begin(options: JobStart, isProven = false): BlockSource[] {
    const { base, keepBase = false } = options;
    const size = this.#owner.size();
    const job = checkedJob(options, size);
    const bottom =
      base === undefined
        ? 0
        : newBase(this.#engine, base, keepBase, (image) => this.#owner.recordBase(image));
    const unproven = isProven ? [] : unprovenBases(this.#engine, options);
    const order = new JobOrder(this.#engine, isProven ? [] : options.ranges);
    const reason = this.#engine.exports.stream(
      job.offset,
      job.length,
      job.speed,
      job.onError,
      keepBase || unproven.length > 0,
      job.takesAllSpace,
      bottom,
      job.keepsCompressed,
      order.isGiven,
    );
    if (reason)
      throw new MillraceError(
        'EINVAL',
        `cannot stream ${job.length} bytes at ${job.offset}: ${reasonText(reason)} (the disk has ${size} bytes)`,
      );
    this.#keeps = job.keepsCompressed;
    this.#stops = 0;
    this.#progressAt = 0;
    this.#progressRemaining = -1;
    this.#order = order;
    order.feed();
    return unproven;
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
    await closeDetached(this.#engine);
    this.#emit(info.status === JobStatus.COMPLETED ? 'completed' : 'failed', info);
    if (info.status === JobStatus.COMPLETED) return info;
    throw errorAtEnd(info, failureOf(this.#engine));
  }

  /** The engine broke under the job, or its base turned out to be damaged. */
  #broke(cause: unknown): never {
    const { info, error } = brokenBy(cause, this.#report());
    this.#last = info;
    this.#jobIsOver();
    this.#emit('failed', info);
    throw error;
  }

  #jobIsOver(): void {
    for (const resolve of this.#job?.quiet ?? []) resolve();
    this.#job = undefined;
  }

  #emit(type: DiskEvent, detail: StreamInfo = this.#report()): void {
    this.#owner.tell(type, detail);
  }

  #report(): StreamInfo {
    return reportOf(this.#engine, { keeps: this.#keeps, isProving: this.#proof !== undefined });
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
