/**
 * The handler inside a Durable Object: its disks are opened when they are first asked for, and a
 * job started with nonblock outlives the request, and the object itself: what was asked is kept in
 * the storage, and alarms take it up again until it has ended. One that has paused itself waits for
 * `resume` as long as the object lives, and is started again after that.
 */

import type { Disk } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JobStatus } from '../api/job.ts';
import type { CreateOptions, OpenOptions } from '../api/open.ts';
import type { OptionNames } from '../api/options.ts';
import { CREATE_OPTIONS, mustKnowOptions } from '../api/options.ts';
import type { Runtime } from '../api/runtime.ts';
import { jobWithin } from '../disk/job/range.ts';
import { createDiskWith, openDiskWith } from '../disk/open.ts';
import type { HandlerOptions } from '../faces/http/handler.ts';
import { createHandler, HANDLER_OPTIONS, placeOf } from '../faces/http/handler.ts';
import { untilJobRests } from './job-rest.ts';
import type { Bucket, ObjectStorage } from './platform.ts';
import { edgeRuntime, inLittleMemory } from './runtime.ts';

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
/** Jobs that go on, and what became of the last ones. */
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS millrace_jobs (
    device TEXT PRIMARY KEY, options TEXT NOT NULL, tries INTEGER NOT NULL
  );
  CREATE TABLE IF NOT EXISTS millrace_ends (device TEXT PRIMARY KEY, info TEXT NOT NULL);
`;

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

/** A job as it is kept, without its options. */
interface KeptJob {
  device: string;
  /** How often it could not be taken up again, one time after another. */
  tries: number;
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
  readonly #open = new Map<string, Promise<Disk>>();
  /** Before these times alarms, which come for other jobs too, leave a job alone. */
  readonly #pausedUntil = new Map<string, number>();

  constructor(storage: ObjectStorage, options: ServeDisksOptions) {
    this.#storage = storage;
    this.#options = options;
    storage.sql.exec(SCHEMA);
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
    const disk = await this.#openOrCreate(runtime, options);
    // What is wrong with the job is no reason to refuse the disk; alarms try it again.
    await this.#takeUp(device, disk).catch(() => {});
    return disk;
  }

  /** A disk that knows of no job has lost it with the object: this is a new one. */
  async #takeUp(device: string, disk: Disk): Promise<void> {
    const [job] = this.#storage.sql
      .exec('SELECT options FROM millrace_jobs WHERE device = ?', device)
      .toArray() as { options: string }[];
    if (!job || (await infoOf(disk)) !== undefined) return;
    const options = jobWithin(JSON.parse(job.options || '{}') as StreamOptions, disk.size);
    if (!options) return;
    await disk.stream({ ...options, nonblock: true });
    await this.lookAfter(device);
  }

  async #openOrCreate(
    runtime: Runtime,
    options: CreateOptions & { overlay: string },
  ): Promise<Disk> {
    try {
      return await openAgain(runtime, options);
    } catch (error) {
      if (!isMissing(error) || (await exists(runtime, options.overlay))) throw error;
      return createDiskWith(runtime, inLittleMemory(options));
    }
  }

  async keep(device: string, options: string): Promise<void> {
    this.#storage.sql.exec('DELETE FROM millrace_ends WHERE device = ?', device);
    this.#storage.sql.exec(
      'INSERT OR REPLACE INTO millrace_jobs (device, options, tries) VALUES (?, ?, 0)',
      device,
      options,
    );
    await this.lookAfter(device);
  }

  /** Keeps how the job was told to go on: an object that is lost takes it up like that. */
  async noteJob(device: string): Promise<void> {
    const disk = await this.#open.get(device);
    const info = disk && (await infoOf(disk));
    const [job] = this.#storage.sql
      .exec('SELECT options FROM millrace_jobs WHERE device = ?', device)
      .toArray() as { options: string }[];
    if (!info || !job) return;
    // Paused by an error, it is tried again when it is taken up.
    const paused = info.paused && info.error === undefined;
    const options = { ...JSON.parse(job.options || '{}'), speed: info.speed, paused };
    this.#storage.sql.exec(
      'UPDATE millrace_jobs SET options = ? WHERE device = ?',
      JSON.stringify(options),
      device,
    );
    await this.lookAfter(device);
  }

  /** Has an alarm stay with the disk's job, which runs. */
  async lookAfter(device: string): Promise<void> {
    this.#pausedUntil.delete(device);
    await this.#storage.setAlarm(Date.now() + PAUSE_MS);
  }

  async forget(device: string): Promise<void> {
    this.#pausedUntil.delete(device);
    this.#storage.sql.exec('DELETE FROM millrace_jobs WHERE device = ?', device);
    await this.noteEnd(device);
  }

  /** Keeps what became of the disk's last job: the object may be lost before anybody has asked. */
  async noteEnd(device: string): Promise<void> {
    const disk = await this.#open.get(device)?.catch(() => undefined);
    const info = disk && (await infoOf(disk));
    if (!info || info.status === JobStatus.ACTIVE) return;
    this.#storage.sql.exec(
      'INSERT OR REPLACE INTO millrace_ends (device, info) VALUES (?, ?)',
      device,
      JSON.stringify(info),
    );
  }

  /** As JSON. */
  lastEnd(device: string): string | undefined {
    const [end] = this.#storage.sql
      .exec('SELECT info FROM millrace_ends WHERE device = ?', device)
      .toArray() as { info: string }[];
    return end?.info;
  }

  /**
   * Stays with the jobs for a while, starts again those that were lost with the object, and comes
   * back for what is left, or has come meanwhile.
   */
  async goOn(): Promise<void> {
    const due = this.#kept().filter(
      ({ device }) => (this.#pausedUntil.get(device) ?? 0) <= Date.now(),
    );
    await Promise.all(due.map((job) => this.#stayWith(job)));
    const times = this.#kept().map(
      ({ device }) => this.#pausedUntil.get(device) ?? Date.now() + PAUSE_MS,
    );
    if (times.length > 0) await this.#storage.setAlarm(Math.min(...times));
  }

  #kept(): KeptJob[] {
    return this.#storage.sql
      .exec('SELECT device, tries FROM millrace_jobs')
      .toArray() as unknown as KeptJob[];
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
      this.#storage.sql.exec(
        'UPDATE millrace_jobs SET tries = ? WHERE device = ?',
        tries + 1,
        device,
      );
      this.#pausedUntil.set(device, Date.now() + PAUSE_MS * 2 ** tries);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Gives how long the job can do without an alarm; undefined when it has ended. */
  async #seeThrough(device: string, enough: AbortSignal): Promise<number | undefined> {
    const disk = await this.get(device);
    if (enough.aborted) return PAUSE_MS;
    this.#storage.sql.exec('UPDATE millrace_jobs SET tries = 0 WHERE device = ?', device);
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

/**
 * Opens a disk whose overlay is there. As long as that records a base, the base comes from where
 * the options say, as it did at first: what is recorded of a URL has no user, password or query,
 * which may be what opens it.
 */
async function openAgain(
  runtime: Runtime,
  options: CreateOptions & { overlay: string },
): Promise<Disk> {
  const { overlay, base, baseFormat, followChain, copyOnRead, profile, record, memory } = options;
  const kept = { overlay, followChain, copyOnRead, profile, record, memory };
  const asRecorded = inLittleMemory(kept);
  if (base === undefined || !(await recordsBase(runtime, asRecorded)))
    return openDiskWith(runtime, asRecorded);
  try {
    return await openDiskWith(runtime, { ...asRecorded, base, baseFormat });
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'ECHANGED') throw error;
    // A job may have made an image further down the chain the base: then only what is recorded
    // leads there.
    return openDiskWith(runtime, asRecorded).catch(() => {
      throw error;
    });
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof MillraceError && error.code === 'ENOENT';
}

/**
 * The overlay may be there, and its base not. One that cannot be looked at is taken to be there.
 */
async function exists(runtime: Runtime, overlay: string): Promise<boolean> {
  try {
    await (await runtime.openOverlay(overlay, { readOnly: true })).close();
    return true;
  } catch (error) {
    return !isMissing(error);
  }
}

async function recordsBase(runtime: Runtime, { overlay, memory }: OpenOptions): Promise<boolean> {
  const disk = await openDiskWith(runtime, { overlay, memory, base: null, readOnly: true });
  try {
    return (await disk.images())[0].backingFile !== undefined;
  } finally {
    await disk.close();
  }
}

function infoOf(disk: Disk): Promise<StreamInfo | undefined> {
  return disk.info().catch(() => undefined);
}
