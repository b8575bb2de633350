/**
 * The handler inside a Durable Object: its disks are opened when they are first asked for, and a
 * job started with nonblock outlives the request, and the object itself: what was asked is kept in
 * the storage, and alarms take it up again until it has ended. One that has paused itself waits for
 * `resume` as long as the object lives, and is started again after that.
 */

import type { Disk } from '../api/disk.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JobStatus } from '../api/job.ts';
import type { CreateOptions } from '../api/open.ts';
import type { OptionNames } from '../api/options.ts';
import { CREATE_OPTIONS, mustKnowOptions } from '../api/options.ts';
import { jobWithin } from '../disk/job/range.ts';
import type { HandlerOptions } from '../faces/http/handler.ts';
import { createHandler, HANDLER_OPTIONS, placeOf } from '../faces/http/handler.ts';
import { untilJobRests } from './job-rest.ts';
import type { KeptJob } from './kept-jobs.ts';
import { KeptJobs } from './kept-jobs.ts';
import { openOrCreate } from './open-or-create.ts';
import type { Bucket, ObjectStorage } from './platform.ts';
import { edgeRuntime } from './runtime.ts';

/** How long an alarm stays with its jobs: the platform ends it after 15 minutes. */
const ALARM_MS = 60_000;
/** From a job's start, or the end of an alarm, to the next one. */
const PAUSE_MS = 1000;
/**
 * To the next look at a job that has paused itself, which waits for `resume`: one that was lost
 * with the object is then started again.
 */
const PAUSED_LOOK_MS = 3_600_000;
/**
 * A job whose disk cannot be opened (its base is out of reach, say) is tried again after a pause
 * that doubles each time: most of a day in all.
 */
const TRIES_MAX = 17;

/** The part of a Durable Object's state that is used. */
export interface ObjectState {
  /** The object's own name. */
  readonly id: { toString(): string };
  /** Where overlays are kept. */
  readonly storage: ObjectStorage;
}

/** Which disks are served, and to whom. */
export interface ServeDisksOptions extends Omit<HandlerOptions, 'disks' | 'identity'> {
  /**
   * By device: what each disk is made of when its overlay is not there yet, and opened with when it
   * is.
   */
  disks: Readonly<Record<string, CreateOptions & { overlay: string }>>;
  /** An R2 bucket to keep overlays in, instead of the storage. */
  bucket?: Bucket;
}

const { identity: _, ...HANDLED } = HANDLER_OPTIONS;
const SERVE_OPTIONS: OptionNames<ServeDisksOptions> = { ...HANDLED, bucket: true };

/** What a Durable Object hands its requests and alarms to. */
export interface ServedDisks {
  /** The object's own `fetch`. */
  fetch(request: Request): Promise<Response>;
  /** The object's own `alarm`. */
  alarm(): Promise<void>;
}

/** Serves disks from a Durable Object; jobs go on by its alarms. */
export function serveDisks(state: ObjectState, options: ServeDisksOptions): ServedDisks {
  mustKnowOptions('serveDisks', options, SERVE_OPTIONS);
  for (const [device, made] of Object.entries(options.disks))
    mustKnowOptions(`the disk '${device}' of serveDisks`, made, CREATE_OPTIONS);
  const { bucket: _, ...handled } = options;
  const disks = new DiskTable(state.storage, options);
  // Whoever is let in has a disk looked for. A status does not tell: it may be that of a base that
  // lets nobody in.
  const entered = new WeakMap<Request, string>();
  const find = (device: string, request: Request): Promise<Disk> | undefined => {
    entered.set(request, device);
    return disks.get(device);
  };
  const handler = createHandler({ ...handled, disks: find });
  return {
    async fetch(request) {
      const { call } = placeOf(new URL(request.url));
      const asked = call === 'stream' && request.method === 'POST' ? request.clone() : undefined;
      const response = await handler(request);
      const device = entered.get(request);
      if (device === undefined) return response;
      // 202 is told of a job that goes on; it was checked by now.
      if (asked && response.status === 202) await disks.keep(device, await asked.text());
      else if (asked) await disks.noteEnd(device);
      // Of a disk that cannot be opened, too: its job waits for that.
      if (call === 'abort') await disks.forget(device);
      if (response.ok && (call === 'pause' || call === 'resume' || call === 'speed'))
        await disks.noteJob(device);
      const end = call === 'info' && response.status === 404 ? disks.lastEnd(device) : undefined;
      return end === undefined ? response : new Response(end, { headers: response.headers });
    },
    alarm: () => disks.goOn(),
  };
}

class DiskTable {
  readonly #storage: ObjectStorage;
  readonly #options: ServeDisksOptions;
  readonly #jobs: KeptJobs;
  readonly #open = new Map<string, Promise<Disk>>();
  /** Before these times alarms, which come for other jobs too, leave a job alone. */
  readonly #pausedUntil = new Map<string, number>();

  constructor(storage: ObjectStorage, options: ServeDisksOptions) {
    this.#storage = storage;
    this.#options = options;
    this.#jobs = new KeptJobs(storage);
  }

  get(device: string): Promise<Disk> | undefined {
    if (!Object.hasOwn(this.#options.disks, device)) return undefined;
    const known = this.#open.get(device);
    if (known) return known;
    const opening = this.#opened(device);
    this.#open.set(device, opening);
    opening.catch(() => this.#open.delete(device));
    return opening;
  }

  /**
   * With the job that it had when the object was lost: `info` tells of it again, and `abort` ends
   * it.
   */
  async #opened(device: string): Promise<Disk> {
    const options = this.#options.disks[device];
    const runtime = edgeRuntime({ storage: this.#storage, bucket: this.#options.bucket });
    const disk = await openOrCreate(runtime, options);
    // What is wrong with the job is no reason to refuse the disk; alarms try it again.
    await this.#takeUp(device, disk).catch(() => {});
    return disk;
  }

  /** A disk that knows of no job has lost it with the object: this is a new one. */
  async #takeUp(device: string, disk: Disk): Promise<void> {
    const asked = this.#jobs.optionsOf(device);
    if (asked === undefined || (await infoOf(disk)) !== undefined) return;
    const options = jobWithin(JSON.parse(asked) as StreamOptions, disk.size);
    if (!options) return;
    await disk.stream({ ...options, nonblock: true });
    await this.lookAfter(device);
  }

  async keep(device: string, options: string): Promise<void> {
    this.#jobs.begin(device, options);
    await this.lookAfter(device);
  }

  /** Keeps how the job was told to go on: an object that is lost takes it up like that. */
  async noteJob(device: string): Promise<void> {
    const disk = await this.#open.get(device);
    const info = disk && (await infoOf(disk));
    const asked = this.#jobs.optionsOf(device);
    if (!info || asked === undefined) return;
    // Paused by an error, it is tried again when it is taken up.
    const paused = info.paused && info.error === undefined;
    const options = { ...JSON.parse(asked), speed: info.speed, paused };
    this.#jobs.setOptions(device, JSON.stringify(options));
    await this.lookAfter(device);
  }

  /** Has an alarm stay with the disk's job, which runs. */
  async lookAfter(device: string): Promise<void> {
    this.#pausedUntil.delete(device);
    await this.#storage.setAlarm(Date.now() + PAUSE_MS);
  }

  async forget(device: string): Promise<void> {
    this.#pausedUntil.delete(device);
    this.#jobs.remove(device);
    await this.noteEnd(device);
  }

  /** Keeps what became of the disk's last job: the object may be lost before anybody has asked. */
  async noteEnd(device: string): Promise<void> {
    const disk = await this.#open.get(device)?.catch(() => undefined);
    const info = disk && (await infoOf(disk));
    if (!info || info.status === JobStatus.ACTIVE) return;
    this.#jobs.keepEnd(device, info);
  }

  /** As JSON. */
  lastEnd(device: string): string | undefined {
    return this.#jobs.endOf(device);
  }

  /**
   * Stays with the jobs for a while, starts again those that were lost with the object, and comes
   * back for what is left, or has come meanwhile.
   */
  async goOn(): Promise<void> {
    const due = this.#jobs
      .all()
      .filter(({ device }) => (this.#pausedUntil.get(device) ?? 0) <= Date.now());
    await Promise.all(due.map((job) => this.#stayWith(job)));
    const times = this.#jobs
      .all()
      .map(({ device }) => this.#pausedUntil.get(device) ?? Date.now() + PAUSE_MS);
    if (times.length > 0) await this.#storage.setAlarm(Math.min(...times));
  }

  /**
   * Forgets the job when it has ended, however it did: `info` tells. Otherwise notes when to look
   * after it again.
   */
  async #stayWith({ device, tries }: KeptJob): Promise<void> {
    const enough = new AbortController();
    const timer = setTimeout(() => enough.abort(), ALARM_MS);
    // Opening the disk may take longer, too.
    const late = new Promise<number>((resolve) =>
      enough.signal.addEventListener('abort', () => resolve(PAUSE_MS)),
    );
    try {
      const pauseMs = await Promise.race([this.#seeThrough(device, enough.signal), late]);
      if (pauseMs !== undefined) this.#pausedUntil.set(device, Date.now() + pauseMs);
    } catch {
      // Requests for the disk are told why it cannot be opened.
      if (tries + 1 === TRIES_MAX) return this.forget(device);
      this.#jobs.setTries(device, tries + 1);
      this.#pausedUntil.set(device, Date.now() + PAUSE_MS * 2 ** tries);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Gives how long the job can do without an alarm; undefined when it has ended. */
  async #seeThrough(device: string, enough: AbortSignal): Promise<number | undefined> {
    const disk = await this.get(device);
    if (enough.aborted) return PAUSE_MS;
    this.#jobs.setTries(device, 0);
    if (disk) {
      await this.#takeUp(device, disk);
      await untilJobRests(disk, enough);
      const info = await infoOf(disk);
      if (info?.status === JobStatus.ACTIVE) return info.paused ? PAUSED_LOOK_MS : PAUSE_MS;
    }
    await this.forget(device);
    return undefined;
  }
}

function infoOf(disk: Disk): Promise<StreamInfo | undefined> {
  return disk.info().catch(() => undefined);
}
