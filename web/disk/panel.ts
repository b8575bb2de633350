/**
 * Everything a page shows of a disk at work: its map, its figures, its job and the job's buttons.
 * The console has one, whatever disk is at work; the page of a server has one for each of its
 * disks.
 */
import type { Disk, DiskEvent, Extent } from '../../hosts/api/disk.ts';
import { DISK_EVENTS } from '../../hosts/api/disk-events.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { StreamInfo } from '../../hosts/api/job.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import { announce } from '../page/dom.ts';
import { bytes, duration, percent } from '../page/format.ts';
import type { Remedy } from '../page/notice.ts';
import type { StreamingDisk } from './job.ts';
import { JobControls } from './job.ts';
import { DiskMap } from './map.ts';
import type { Figure, PanelParts } from './markup.ts';
import { makePanel } from './markup.ts';

/** What a panel needs of a disk; `traffic` where that is known. */
export type ShownDisk = StreamingDisk &
  Pick<Disk, 'size' | 'clusterSize' | 'info' | 'remaining' | 'map'> &
  EventTarget & { traffic?(): Promise<{ requests: number; bytes: number }> };

export interface PanelOptions {
  title: string;
  figures: readonly Figure[];
  /** More buttons, behind those of the job. */
  tools?: readonly HTMLElement[];
  /** Called for what goes wrong, with what can be done about it. */
  problem(error: unknown, remedies?: readonly Remedy[]): void;
  /** Called when the disk can be looked at again. */
  recovered?(): void;
}

const TICK_MS = 500;
/** The rate is that of the last so many milliseconds. */
const RATE_MS = 5000;
/** Looking through a disk's tables takes at most this part of the time, however large it is. */
const LOOK_SHARE = 0.2;

/** A panel, with a disk or without. */
export class DiskPanel {
  readonly #root: HTMLElement;
  readonly #options: PanelOptions;
  readonly #parts: PanelParts;

  constructor(root: HTMLElement, options: PanelOptions) {
    this.#root = root;
    this.#options = options;
    this.#parts = makePanel(root, options.title, options.figures, options.tools ?? []);
  }

  /** Shows a disk until that is ended; `written` is what the watch's `written` gave before. */
  watch(disk: ShownDisk, written?: string): DiskWatch {
    return new DiskWatch(this.#root, this.#parts, this.#options, disk, written);
  }
}

/** A disk that is shown in a panel. */
export class DiskWatch {
  readonly #root: HTMLElement;
  readonly #parts: PanelParts;
  readonly #options: PanelOptions;
  readonly #disk: ShownDisk;
  readonly #map: DiskMap;
  readonly #controls: JobControls;
  readonly #end = new AbortController();
  readonly #timer: ReturnType<typeof setInterval>;
  /** What remained, and when. */
  #history: [number, number][] = [];
  #job: StreamInfo | undefined;
  #remaining = 0;
  #read = 0;
  #wrote = 0;
  /** Not before then is the map looked at again, or what remains. */
  #mapAt = 0;
  #remainingAt = 0;
  #looking = false;
  #failed = false;

  /** Use `watch` of the panel. */
  constructor(
    root: HTMLElement,
    parts: PanelParts,
    options: PanelOptions,
    disk: ShownDisk,
    written: string | undefined,
  ) {
    this.#root = root;
    this.#parts = parts;
    this.#options = options;
    this.#disk = disk;
    this.#map = new DiskMap(parts.map, disk.size, disk.clusterSize, written);
    const { signal } = this.#end;
    for (const type of DISK_EVENTS)
      disk.addEventListener(
        type,
        (event) => this.#heard(type, (event as CustomEvent<StreamInfo>).detail),
        { signal },
      );
    this.#controls = new JobControls(root, parts, disk, signal, (action) => {
      action.then(() => this.#look()).catch((error) => options.problem(error));
    });
    this.#timer = setInterval(() => void this.#look(), TICK_MS);
    void this.#look();
  }

  /** Which places the guest has written, to be kept. */
  get written(): string {
    return this.#map.written;
  }

  /** Bytes that the guest has read. */
  get read(): number {
    return this.#read;
  }

  /** Starts to copy the whole disk, at the speed that is chosen. */
  start(): Promise<unknown> {
    return this.#controls.start();
  }

  /**
   * The guest's requests succeed again: what is left is the trouble of the job, which does not go
   * on by itself.
   */
  recovered(): void {
    if (this.#job?.paused) this.#tellError(this.#job);
  }

  guestRead(offset: number, length: number): void {
    this.#read += length;
    this.#map.guestRead(offset, length);
  }

  guestWrote(offset: number, length: number): void {
    this.#wrote += length;
    this.#map.guestWrote(offset, length);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#end.abort();
    this.#map.end();
    delete this.#root.dataset.state;
    this.#parts.controls.hidden = true;
    this.#parts.bar.value = 0;
    this.#parts.info.textContent = '';
    for (const name of Object.keys(this.#parts.figures)) this.#figure(name as Figure, '–');
  }

  #heard(type: DiskEvent, info: StreamInfo): void {
    this.#job = info;
    if (type === 'progress') return;
    this.#mapAt = this.#remainingAt = 0;
    if (type === 'completed') announce('The disk is complete: the image is not needed any more.');
    if (type === 'resumed') announce('Copying goes on.');
    if (type === 'paused') announce('Copying is paused.');
    if (type === 'failed')
      announce(
        info.reason === 'aborted'
          ? 'Copying was stopped; what was copied stays.'
          : 'Copying has failed.',
      );
    this.#tellError(info);
    void this.#look();
  }

  #tellError({ error, reason }: StreamInfo): void {
    if (error && reason !== 'aborted')
      this.#options.problem(new MillraceError(error.code, error.message), [
        { label: 'Try again', act: () => void this.#again() },
      ]);
  }

  #again(): Promise<unknown> {
    return (this.#job?.paused ? this.#disk.resume() : this.start()).catch((error) =>
      this.#options.problem(error),
    );
  }

  /** Asks the disk how it stands, and shows it. One look at a time. */
  async #look(): Promise<void> {
    if (this.#looking || this.#end.signal.aborted || document.hidden) return;
    this.#looking = true;
    try {
      const [info, traffic] = await Promise.all([this.#info(), this.#disk.traffic?.()]);
      if (performance.now() >= this.#remainingAt)
        this.#remainingAt = await nextLook(
          async () => (this.#remaining = await this.#disk.remaining()),
        );
      if (this.#end.signal.aborted) return;
      this.#job = info;
      this.#showFigures(traffic);
      this.#controls.show(info, this.#remaining);
      if (performance.now() >= this.#mapAt) this.#mapAt = await nextLook(() => this.#showMap());
      if (this.#failed) this.#options.recovered?.();
      this.#failed = false;
    } catch (error) {
      if (this.#end.signal.aborted) return;
      // A worker that has ended tells nobody else as long as the guest wants nothing of its disk.
      if (!this.#failed) this.#options.problem(error);
      this.#failed = true;
    } finally {
      this.#looking = false;
    }
  }

  /** Undefined before any job. */
  #info(): Promise<StreamInfo | undefined> {
    return this.#disk.info().catch((error: unknown) => {
      if (error instanceof MillraceError && error.code === 'ENOENT') return undefined;
      throw error;
    });
  }

  async #showMap(): Promise<void> {
    const extents: Extent[] = [];
    for await (const extent of this.#disk.map(0, this.#disk.size, { depth: 1 }))
      extents.push(extent);
    if (!this.#end.signal.aborted) this.#map.show(extents);
  }

  #showFigures(traffic: { requests: number; bytes: number } | undefined): void {
    const { size } = this.#disk;
    const copied = size === 0 ? 1 : 1 - this.#remaining / size;
    const rate = this.#rate();
    const active = this.#job?.status === JobStatus.ACTIVE && !this.#job.paused;
    this.#parts.bar.value = copied;
    this.#figure('copied', `${bytes(size - this.#remaining)} · ${percent(copied)}`);
    this.#figure('requests', traffic?.requests.toLocaleString('en') ?? '–');
    this.#figure('downloaded', traffic ? bytes(traffic.bytes) : '–');
    this.#figure('read', bytes(this.#read));
    this.#figure('wrote', bytes(this.#wrote));
    this.#figure('rate', active && rate > 0 ? `${bytes(rate)}/s` : '–');
    this.#figure('left', this.#timeLeft(active, rate));
    this.#root.dataset.state = this.#remaining === 0 ? 'complete' : active ? 'active' : 'idle';
  }

  #timeLeft(active: boolean, rate: number): string {
    if (this.#remaining === 0) return 'complete';
    if (this.#job?.paused) return 'paused';
    return active && rate > 0 ? duration(this.#remaining / rate) : '–';
  }

  /** Bytes a second. */
  #rate(): number {
    const now = performance.now();
    this.#history = [
      ...this.#history.filter(([, at]) => now - at < RATE_MS),
      [this.#remaining, now],
    ];
    const [remaining, at] = this.#history[0];
    return now > at ? Math.max(0, ((remaining - this.#remaining) / (now - at)) * 1000) : 0;
  }

  #figure(name: Figure, text: string): void {
    const element = this.#parts.figures[name];
    if (element && element.textContent !== text) element.textContent = text;
  }
}

/** Looks, and tells when to look again. */
async function nextLook(look: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await look();
  const now = performance.now();
  return now + (now - from) / LOOK_SHARE;
}
