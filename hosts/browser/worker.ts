/**
 * The worker of one disk: opens it with the engine, does what the page asks by Comlink, and keeps
 * the disk's record in the catalogue. It brings what the guest has written to storage by itself
 * soon after, because pages end without a word.
 */

import * as Comlink from 'comlink';
import type { BlockSource } from '../api/block.ts';
import type { CheckOptions, CheckReport } from '../api/check.ts';
import type { DiskEvent, Extent } from '../api/disk.ts';
import { DISK_EVENTS } from '../api/disk-events.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat, ImageInfo } from '../api/image.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JobStatus } from '../api/job.ts';
import type { ProfileChoice, RecordedProfile, ReplayInfo } from '../api/profile.ts';
import { openBlob } from '../bases/blob.ts';
import type { HttpStats } from '../bases/http/http.ts';
import type { EngineDisk } from '../disk/disk.ts';
import { checkDiskWith, createDiskWith, openDiskWith } from '../disk/open.ts';
import type { RememberedJob } from './catalog.ts';
import { forgetDisk } from './catalog.ts';
import { DiskEntry } from './disk-entry.ts';
import { copyOf } from './export-copy.ts';
import { importFile } from './import-file.ts';
import { JobRecord } from './job-record.ts';
import type { Holder } from './lock.ts';
import { hold } from './lock.ts';
import { MachineState } from './machine-state.ts';
import { diskExists, storageMark } from './opfs.ts';
import { BrowserRuntime } from './runtime.ts';
import type { SentEngine } from './start.ts';
import type { DiskShape, Order, Report, SentBase, SentEvent, SentSource } from './wire.ts';
import { handOver, receiveSource, sendErrorsWhole } from './wire.ts';

/** So long after a change everything is flushed, unless somebody does it before. */
const WRITE_BACK_MS = 1000;
/** Extents that one answer holds at most. */
const EXTENTS_MAX = 4096;
export class DiskService {
  /** Given by the first call. */
  #engine!: SentEngine;
  #runtime: BrowserRuntime | undefined;
  #disk: EngineDisk | undefined;
  /** Given by `open`, as what follows. */
  #entry!: DiskEntry;
  #state!: MachineState;
  readonly #job = new JobRecord();
  #missing = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closing = false;

  /**
   * Holds a lock of this name as long as the worker lives, by which the page learns of its end.
   */
  async begin(engine: SentEngine, lock: string | undefined): Promise<void> {
    this.#engine = engine;
    if (lock !== undefined) await hold(lock, { mode: 'exclusive' });
  }

  /** Nothing but an answer. */
  answer(): void {}

  async open(order: Order): Promise<DiskShape> {
    const runtime = new BrowserRuntime(this.#engine, order.holder, order.wait);
    const mark = typeof order.overlay === 'string' ? await storageMark() : undefined;
    const bases = order.bases?.map(receiveBase) ?? null;
    const overlay =
      typeof order.overlay === 'string' ? order.overlay : receiveSource(order.overlay);
    const make = order.make && {
      ...order.make.options,
      base: order.make.base && receiveBase(order.make.base),
    };
    const place = typeof overlay === 'string' ? overlay : undefined;
    const isNew = order.create || (make && place !== undefined && !(await diskExists(place)));
    const open = order.create
      ? createDiskWith(runtime, { ...order.options, overlay, base: bases?.[0] } as Parameters<
          typeof createDiskWith
        >[1])
      : openDiskWith(runtime, {
          ...order.options,
          overlay,
          base: bases?.length === 0 ? undefined : bases,
          create: make,
        } as Parameters<typeof openDiskWith>[1]);
    const disk = await open;
    this.#runtime = runtime;
    this.#disk = disk;
    runtime.missing = () => this.#missing;
    const name = runtime.persistent ? place : undefined;
    const given = [...(bases ?? []), make?.base].find((base) => typeof base === 'object');
    const identity = given?.identity ?? runtime.identity;
    this.#entry = new DiskEntry(disk, { name, mark, identity });
    this.#state = new MachineState(disk, runtime.overlay && name);
    for (const type of DISK_EVENTS)
      disk.addEventListener(type, (event) => this.#heard(type, event.detail));
    // Of a disk of this name whose file is gone, something may still be remembered.
    if (isNew && name) await forgetDisk(name);
    await this.#state.look();
    await this.#entry.remember();
    return { size: disk.size, clusterSize: disk.clusterSize, persistent: runtime.persistent };
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#writeBackSoon();
    return handOver(await this.#open.read(offset, length));
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#entry.mustHaveFile();
    await this.#toWrite().write(offset, data);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#toWrite().writeZeroes(offset, length);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#toWrite().discard(offset, length);
  }

  /** Brings everything to storage, and looks whether the storage is still there. */
  async flush(): Promise<void> {
    const failure = await this.#open.flush().then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    await this.#entry.lookForFile();
    if (failure) throw failure.error;
  }

  /** The page is hidden, or goes: it may never come back. */
  async leave(): Promise<void> {
    await this.flush();
    await this.#entry.remember();
  }

  async resize(size: number, options?: { shrink?: boolean }): Promise<void> {
    this.#state.outdate();
    await this.#open.resize(size, options);
    await this.#entry.remember();
  }

  /**
   * `options` as in Disk.stream; the page's signal is `cancelStream` with the same number. The
   * catalogue knows of the job as long as it is not done.
   */
  async stream(options: StreamOptions & RememberedJob, number: number): Promise<StreamInfo> {
    const before = this.#job.current;
    // It may have ended without having told so yet.
    if (before && !(await this.#isActive()) && this.#job.current === before)
      await this.#job.whenOver();
    const { nonblock: _, ...remembered } = options;
    const job = this.#job.begin(number, remembered);
    const first = this.#job.current === job;
    const ended = this.#open.stream({ ...options, signal: job.cancel.signal });
    // One that is refused has no end that is told.
    ended.catch(() => this.#job.end(job));
    if (first && (await this.#isActive()) && this.#job.current === job) await this.#rememberJob();
    return ended;
  }

  cancelStream(number: number): void {
    this.#job.cancel(number);
  }

  abort(): Promise<void> {
    return this.#open.abort();
  }

  info(): Promise<StreamInfo> {
    return this.#open.info();
  }

  async pause(): Promise<void> {
    const quiet = this.#open.pause();
    // What is in flight may take its time, and the page may go meanwhile.
    await Promise.all([quiet, this.#changeJob({ paused: true })]);
  }

  async resume(): Promise<void> {
    await this.#open.resume();
    await this.#changeJob({ paused: undefined });
  }

  async setSpeed(bytesPerSecond: number): Promise<void> {
    await this.#open.setSpeed(bytesPerSecond);
    await this.#changeJob({ speed: bytesPerSecond });
  }

  remaining(offset?: number, length?: number): Promise<number> {
    return this.#open.remaining(offset, length);
  }

  /** The first extents of a range, and where the rest of it begins. */
  async map(
    offset: number,
    length: number | undefined,
    options?: { depth?: number },
  ): Promise<{ extents: Extent[]; next?: number }> {
    const extents: Extent[] = [];
    for await (const extent of this.#open.map(offset, length, options)) {
      if (extents.length === EXTENTS_MAX) return { extents, next: extent.offset };
      extents.push(extent);
    }
    return { extents };
  }

  check(options?: Pick<CheckOptions, 'repair' | 'data'>): Promise<CheckReport> {
    return this.#open.check(options);
  }

  images(): Promise<ImageInfo[]> {
    return this.#open.images();
  }

  /** As BrowserDisk has it. */
  saveState(state: Blob): Promise<void> {
    return this.#state.save(state, () => this.flush());
  }

  /** As BrowserDisk has it. */
  savedState(): Promise<Blob | undefined> {
    return this.#state.read();
  }

  profile(options: { wait?: boolean }): Promise<RecordedProfile> {
    return this.#open.profile(options);
  }

  replay(profile?: ProfileChoice): Promise<ReplayInfo> {
    return this.#open.replay(profile);
  }

  async close(): Promise<void> {
    const disk = this.#open;
    this.#closing = true;
    clearTimeout(this.#timer);
    // What remains can only be asked before; a job that closing ends is still the one to be taken
    // up again.
    await this.#entry.remember().catch(() => {});
    // Chromium never comes back from closing a file that it has thrown away; the page ends the
    // worker, and with it the file.
    await this.#entry.lookForFile();
    await disk.close();
  }

  traffic(): HttpStats {
    return this.#runtime?.traffic() ?? { requests: 0, bytes: 0, retries: 0 };
  }

  /** A copy of the overlay as if it were closed. */
  async exportQcow2(report: Report): Promise<Blob> {
    const disk = this.#open;
    await report(0);
    await disk.settle();
    const overlay = this.#runtime?.overlay;
    if (!overlay)
      throw new MillraceError(
        'EUNSUPPORTED',
        "only a writable disk in the browser's storage is exported from here: a closed one by exportDisk",
      );
    return copyOf(overlay, report);
  }

  /**
   * Takes a file in as a disk: a qcow2 image as it is, raw data into a new overlay that stands
   * alone.
   */
  async importFile(
    name: string,
    file: Blob,
    format: ImageFormat | undefined,
    holder: Holder,
    report: Report,
  ): Promise<void> {
    const runtime = new BrowserRuntime(this.#engine, holder, false);
    await importFile(runtime, { name, file, format, holder }, report);
  }

  /** Checks an image that is not open. */
  checkImage(
    image: string | SentSource,
    options: Omit<CheckOptions, 'overlay' | 'onProgress'>,
    holder: Holder,
    onProgress?: CheckOptions['onProgress'],
  ): Promise<CheckReport | undefined> {
    const overlay = typeof image === 'string' ? image : receiveSource(image);
    const runtime = new BrowserRuntime(this.#engine, holder, false);
    return checkDiskWith(runtime, { ...options, overlay, onProgress });
  }

  get #open(): EngineDisk {
    if (!this.#disk) throw new Error('no disk has been opened in this worker');
    return this.#disk;
  }

  async #isActive(): Promise<boolean> {
    return this.#open.info().then(
      ({ status }) => status === JobStatus.ACTIVE,
      () => false,
    );
  }

  async #changeJob(change: RememberedJob): Promise<void> {
    if (!this.#job.current) return;
    this.#job.change(change);
    await this.#rememberJob();
  }

  #rememberJob(): Promise<void> {
    return this.#entry.rememberJob(this.#job.current?.options);
  }

  #heard(type: DiskEvent, detail: StreamInfo): void {
    const ended = type === 'completed' || type === 'failed';
    if (ended) this.#job.end();
    this.#missing = detail.status === JobStatus.ACTIVE ? detail.remaining : 0;
    postToPage({ millraceEvent: type, detail });
    if (this.#entry.isOld && !this.#closing) void this.#entry.remember().catch(() => {});
    if (!ended || this.#closing || !this.#entry.isKept) return;
    // Ordered after the record of its start, which the catalogue was given before.
    void this.#rememberJob()
      .then(() => this.#entry.remember())
      .catch(() => {});
  }

  /** The disk, which is about to be written to. */
  #toWrite(): EngineDisk {
    this.#writeBackSoon();
    this.#state.outdate();
    return this.#open;
  }

  #writeBackSoon(): void {
    if (this.#timer !== undefined || this.#closing) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      // What fails here stays in memory, and is told by the next flush that somebody waits for.
      if (!this.#closing) this.flush().catch(() => {});
    }, WRITE_BACK_MS);
  }
}

function receiveBase(base: SentBase): string | BlockSource {
  if (typeof base === 'string') return base;
  return base instanceof Blob ? openBlob(base) : receiveSource(base);
}

function postToPage(event: SentEvent): void {
  // The page's types, which this project is checked with, have `postMessage` of windows only.
  (self as unknown as { postMessage(message: SentEvent): void }).postMessage(event);
}

sendErrorsWhole();
Comlink.expose(new DiskService());
