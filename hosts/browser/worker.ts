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
import { describeState, readState, removeState, writeState } from './beside.ts';
import type { RememberedJob } from './catalog.ts';
import { forgetDisk, rememberDisk } from './catalog.ts';
import { importFile } from './import-file.ts';
import type { Holder } from './lock.ts';
import { hold } from './lock.ts';
import { diskExists, hasMark, storageMark } from './opfs.ts';
import { BrowserRuntime } from './runtime.ts';
import type { SentEngine } from './start.ts';
import type { DiskShape, Order, Report, SentBase, SentEvent, SentSource } from './wire.ts';
import { handOver, receiveSource, sendErrorsWhole } from './wire.ts';

/** So long after a change everything is flushed, unless somebody does it before. */
const WRITE_BACK_MS = 1000;
/** How often the catalogue is told how far a job is: pages end without a word. */
const REMEMBER_MS = 3000;
/** Extents that one answer holds at most. */
const EXTENTS_MAX = 4096;
const COPY_BYTES = 4 * 1024 * 1024;
const QCOW2_TYPE = 'application/x-qemu-disk';

/** A job that is under way, until its end is told. */
interface Job {
  /** The page's. */
  number: number;
  options: RememberedJob;
  cancel: AbortController;
  over: (() => void)[];
}

export class DiskService {
  /** Given by the first call. */
  #engine!: SentEngine;
  #runtime: BrowserRuntime | undefined;
  #disk: EngineDisk | undefined;
  /** Under which the catalogue has the disk, if it does. */
  #name: string | undefined;
  /** Of the storage that has the disk. */
  #mark: string | undefined;
  /** There is a state of its machine, which the first write takes away. */
  #hasState = false;
  /** Of the nearest base. */
  #identity: string | undefined;
  #job: Job | undefined;
  #missing = 0;
  #rememberedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closing = false;
  /** The disk's file has been taken away. */
  #lost: MillraceError | undefined;

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
    if (typeof order.overlay === 'string') this.#mark = await storageMark();
    const bases = order.bases?.map(receiveBase) ?? null;
    const overlay =
      typeof order.overlay === 'string' ? order.overlay : receiveSource(order.overlay);
    const make = order.make && {
      ...order.make.options,
      base: order.make.base && receiveBase(order.make.base),
    };
    const name = typeof overlay === 'string' ? overlay : undefined;
    const isNew = order.create || (make && name !== undefined && !(await diskExists(name)));
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
    if (runtime.persistent && typeof overlay === 'string') this.#name = overlay;
    for (const type of DISK_EVENTS)
      disk.addEventListener(type, (event) => this.#heard(type, event.detail));
    const given = [...(bases ?? []), make?.base].find((base) => typeof base === 'object');
    this.#identity = given?.identity ?? runtime.identity;
    // Of a disk of this name whose file is gone, something may still be remembered.
    if (isNew && this.#name) await forgetDisk(this.#name);
    this.#hasState =
      this.#name !== undefined &&
      runtime.overlay !== undefined &&
      (await describeState(this.#name)) !== undefined;
    await this.#remember();
    return { size: disk.size, clusterSize: disk.clusterSize, persistent: runtime.persistent };
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#writeBackSoon();
    return handOver(await this.#open.read(offset, length));
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#writeBackSoon();
    if (this.#lost) throw this.#lost;
    this.#outdateState();
    await this.#open.write(offset, data);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    this.#writeBackSoon();
    this.#outdateState();
    return this.#open.writeZeroes(offset, length);
  }

  discard(offset: number, length: number): Promise<void> {
    this.#writeBackSoon();
    this.#outdateState();
    return this.#open.discard(offset, length);
  }

  /** Brings everything to storage, and looks whether the storage is still there. */
  async flush(): Promise<void> {
    const failure = await this.#open.flush().then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    await this.#checkStored();
    if (failure) throw failure.error;
  }

  /** The page is hidden, or goes: it may never come back. */
  async leave(): Promise<void> {
    await this.flush();
    await this.#remember();
  }

  async resize(size: number, options?: { shrink?: boolean }): Promise<void> {
    this.#outdateState();
    await this.#open.resize(size, options);
    await this.#remember();
  }

  /**
   * `options` as in Disk.stream; the page's signal is `cancelStream` with the same number. The
   * catalogue knows of the job as long as it is not done.
   */
  async stream(options: StreamOptions & RememberedJob, number: number): Promise<StreamInfo> {
    const before = this.#job;
    // It may have ended without having told so yet.
    if (before && !(await this.#isActive()) && this.#job === before)
      await new Promise<void>((resolve) => before.over.push(resolve));
    const { nonblock: _, ...remembered } = options;
    const job: Job = { number, options: remembered, cancel: new AbortController(), over: [] };
    const first = this.#job === undefined;
    if (first) this.#job = job;
    const ended = this.#open.stream({ ...options, signal: job.cancel.signal });
    // One that is refused has no end that is told.
    ended.catch(() => this.#jobIsOver(job));
    if (first && (await this.#isActive()) && this.#job === job) await this.#rememberJob();
    return ended;
  }

  /** Does nothing when that job has ended. */
  cancelStream(number: number): void {
    if (this.#job?.number === number) this.#job.cancel.abort();
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
  async saveState(state: Blob): Promise<void> {
    const name = this.#mayHaveState();
    await this.flush();
    const content = await this.#open.contentId();
    await writeState(name, content, state);
    this.#hasState = true;
    if ((await this.#open.contentId()) === content) return;
    this.#outdateState();
    throw new MillraceError(
      'ECHANGED',
      `disk '${name}' was written to while the state of its machine was saved: stop the machine first`,
    );
  }

  /** As BrowserDisk has it. */
  async savedState(): Promise<Blob | undefined> {
    return this.#hasState
      ? readState(this.#mayHaveState(), await this.#open.contentId())
      : undefined;
  }

  #mayHaveState(): string {
    if (this.#name !== undefined && this.#runtime?.overlay) return this.#name;
    throw new MillraceError(
      'EUNSUPPORTED',
      "the state of a machine is kept beside a disk that is open for writing in the browser's storage only",
    );
  }

  /** It is of no use any more. That it fits no other content does not hang on this. */
  #outdateState(): void {
    if (!this.#hasState || this.#name === undefined) return;
    this.#hasState = false;
    void removeState(this.#name);
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
    await this.#remember().catch(() => {});
    // Chromium never comes back from closing a file that it has thrown away; the page ends the
    // worker, and with it the file.
    await this.#checkStored();
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
    return overlay.unchanged(async (file) => {
      const parts: Blob[] = [];
      for (let at = 0; at < overlay.size; at += COPY_BYTES) {
        const bytes = new Uint8Array(Math.min(COPY_BYTES, overlay.size - at));
        file.read(at, bytes);
        parts.push(new Blob([bytes]));
        // Reads of the guest get their turn meanwhile.
        await report(Math.min(1, (at + COPY_BYTES) / overlay.size));
      }
      return new Blob(parts, { type: QCOW2_TYPE });
    });
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
    options: Omit<CheckOptions, 'overlay'>,
    holder: Holder,
  ): Promise<CheckReport | undefined> {
    const overlay = typeof image === 'string' ? image : receiveSource(image);
    return checkDiskWith(new BrowserRuntime(this.#engine, holder, false), { ...options, overlay });
  }

  get #open(): EngineDisk {
    if (!this.#disk) throw new Error('no disk has been opened in this worker');
    return this.#disk;
  }

  #jobIsOver(job = this.#job): void {
    if (!job || this.#job !== job) return;
    this.#job = undefined;
    for (const goOn of job.over) goOn();
  }

  async #isActive(): Promise<boolean> {
    return this.#open.info().then(
      ({ status }) => status === JobStatus.ACTIVE,
      () => false,
    );
  }

  async #changeJob(change: RememberedJob): Promise<void> {
    if (!this.#job) return;
    this.#job.options = { ...this.#job.options, ...change };
    await this.#rememberJob();
  }

  async #rememberJob(): Promise<void> {
    if (this.#name && !this.#lost) await rememberDisk(this.#name, { job: this.#job?.options });
  }

  #heard(type: DiskEvent, detail: StreamInfo): void {
    const ended = type === 'completed' || type === 'failed';
    if (ended) this.#jobIsOver();
    this.#missing = detail.status === JobStatus.ACTIVE ? detail.remaining : 0;
    postToPage({ millraceEvent: type, detail });
    if (performance.now() - this.#rememberedAt > REMEMBER_MS && !this.#closing)
      void this.#remember().catch(() => {});
    if (!ended || this.#closing || !this.#name) return;
    // Ordered after the record of its start, which the catalogue was given before.
    void this.#rememberJob()
      .then(() => this.#remember())
      .catch(() => {});
  }

  /** Brings the disk's record up to date. */
  async #remember(): Promise<void> {
    const disk = this.#open;
    if (!this.#name) return;
    this.#rememberedAt = performance.now();
    // What is remembered by this name may be another's by now.
    await this.#checkStored();
    const [overlay, base] = await disk.images();
    // Opened without its base, it still refers to it: what is remembered of that stays.
    const unopened = base === undefined && overlay.backingFile !== undefined;
    const remaining = base || unopened ? await disk.remaining() : 0;
    await rememberDisk(this.#name, {
      size: disk.size,
      remaining,
      lastUsed: Date.now(),
      ...(unopened ? {} : { base: base && { name: base.name, identity: this.#identity } }),
    });
  }

  #writeBackSoon(): void {
    if (this.#timer !== undefined || this.#closing) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      // What fails here stays in memory, and is told by the next flush that somebody waits for.
      if (!this.#closing) this.flush().catch(() => {});
    }, WRITE_BACK_MS);
  }

  /**
   * When a site's data are cleared, Chromium lets an open file be written on, and throws it away
   * when it is closed; Firefox does so at once.
   */
  async #checkStored(): Promise<void> {
    if (!this.#name) return;
    if (
      !this.#lost &&
      (await diskExists(this.#name)) &&
      (this.#mark === undefined || (await hasMark(this.#mark, this.#name)))
    )
      return;
    const message = `disk '${this.#name}' is in storage no more: the data of this site were cleared while it was open; before you close it, export what the browser still has of it`;
    throw (this.#lost = new MillraceError('EIO', message, { reason: 'storage-cleared' }));
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
