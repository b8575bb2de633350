/**
 * Everything the page shows of a disk at work: its map, its figures, its job and the job's buttons.
 */
import type { BrowserDisk, Extent, StreamInfo } from '../hosts/browser/index.ts';
import { JobStatus, MillraceError } from '../hosts/browser/index.ts';
import type { GuestAccess, V86Disk } from '../hosts/faces/v86/index.ts';
import { announce, part } from './dom.ts';
import { bytes, duration, percent } from './format.ts';
import { DiskMap } from './map.ts';
import { note, notesOf } from './memory.ts';
import { showProblem } from './problems.ts';

const TICK_MS = 500;
/** The rate is that of the last so many milliseconds. */
const RATE_MS = 5000;
/** Looking through a disk's tables takes at most this part of the time, however large it is. */
const LOOK_SHARE = 0.2;
const STATUS = ['COMPLETED', 'ACTIVE', 'FAILED'];
const NO_JOB = 'no job has run since the disk was opened';
const FIGURES = ['here', 'rate', 'left', 'requests', 'wire', 'guest-read', 'guest-wrote'];
const JOB_BUTTONS = ['job-pause', 'job-resume', 'job-start', 'job-abort'];
const EVENTS = ['progress', 'completed', 'failed', 'paused', 'resumed'] as const;

export class Gauge {
  readonly #disk: BrowserDisk;
  readonly #map: DiskMap;
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

  constructor(name: string, disk: BrowserDisk, hda: V86Disk) {
    this.#disk = disk;
    this.#map = new DiskMap(
      part<HTMLCanvasElement>('map'),
      disk.size,
      disk.clusterSize,
      notesOf(name).written,
    );
    const { signal } = this.#end;
    hda.addEventListener(
      'read',
      (event) => this.#guestRead((event as CustomEvent<GuestAccess>).detail),
      { signal },
    );
    hda.addEventListener(
      'write',
      (event) => this.#guestWrote((event as CustomEvent<GuestAccess>).detail),
      { signal },
    );
    hda.addEventListener('flushed', () => note(name, { written: this.#map.written }), { signal });
    for (const type of EVENTS)
      disk.addEventListener(
        type,
        (event) => this.#heard(type, (event as CustomEvent<StreamInfo>).detail),
        { signal },
      );
    this.#wireButtons(signal);
    this.#timer = setInterval(() => void this.#look(), TICK_MS);
    void this.#look();
  }

  /** Starts to stream the whole disk, at the speed that is chosen. */
  start(): Promise<unknown> {
    return this.#disk.stream({ nonblock: true, onError: 'stop', speed: this.#speed });
  }

  /**
   * The guest's requests succeed again: what is left is the trouble of the job, which does not go
   * on by itself.
   */
  recovered(): void {
    if (this.#job?.paused) this.#tellError(this.#job);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#end.abort();
    this.#map.end();
    part('controls').hidden = true;
    part<HTMLProgressElement>('bar').value = 0;
    for (const id of FIGURES) this.#text(id, '–');
    this.#text('info', NO_JOB);
  }

  #guestRead({ offset, length }: GuestAccess): void {
    this.#read += length;
    this.#map.guestRead(offset, length);
  }

  #guestWrote({ offset, length }: GuestAccess): void {
    this.#wrote += length;
    this.#map.guestWrote(offset, length);
  }

  #heard(type: (typeof EVENTS)[number], info: StreamInfo): void {
    this.#job = info;
    if (type === 'progress') return;
    this.#mapAt = this.#remainingAt = 0;
    if (type === 'completed') announce('The disk is complete: the base is not needed any more.');
    if (type === 'resumed') announce('Streaming goes on.');
    if (type === 'paused') announce('Streaming is paused.');
    if (type === 'failed')
      announce(
        info.reason === 'aborted'
          ? 'Streaming was aborted; what was copied stays.'
          : 'Streaming has failed.',
      );
    this.#tellError(info);
    void this.#look();
  }

  #tellError({ error, reason }: StreamInfo): void {
    if (error && reason !== 'aborted')
      showProblem(new MillraceError(error.code, error.message), [
        { label: 'Try again', act: () => void this.#again() },
      ]);
  }

  #wireButtons(signal: AbortSignal): void {
    const on = (id: string, act: () => Promise<unknown>): void => {
      part(id).addEventListener(
        'click',
        () =>
          act()
            .then(() => this.#look())
            .catch(showProblem),
        { signal },
      );
    };
    on('job-start', () => this.start());
    on('job-pause', () => this.#disk.pause());
    on('job-resume', () => this.#disk.resume());
    on('job-abort', () => this.#disk.abort());
    part('job-speed').addEventListener(
      'change',
      () => {
        // Without a job it is the speed of the next one.
        this.#disk
          .setSpeed(this.#speed)
          .catch((error: MillraceError) => error.code === 'ENOENT' || showProblem(error));
      },
      { signal },
    );
  }

  get #speed(): number {
    return Number(part<HTMLSelectElement>('job-speed').value);
  }

  #again(): Promise<unknown> {
    return (this.#job?.paused ? this.#disk.resume() : this.start()).catch(showProblem);
  }

  /** Asks the disk how it stands, and shows it. One look at a time. */
  async #look(): Promise<void> {
    if (this.#looking || this.#end.signal.aborted || document.hidden) return;
    this.#looking = true;
    try {
      const [info, traffic] = await Promise.all([
        this.#disk.info().catch(() => undefined),
        this.#disk.traffic(),
      ]);
      if (performance.now() >= this.#remainingAt)
        this.#remainingAt = await nextLook(
          async () => (this.#remaining = await this.#disk.remaining()),
        );
      if (this.#end.signal.aborted) return;
      this.#job = info;
      this.#showFigures(traffic);
      this.#showJob();
      if (performance.now() >= this.#mapAt) this.#mapAt = await nextLook(() => this.#showMap());
    } catch (error) {
      if (this.#end.signal.aborted) return;
      // A worker that has ended tells nobody else as long as the guest wants nothing of its disk.
      if (!this.#failed) showProblem(error);
      this.#failed = true;
    } finally {
      this.#looking = false;
    }
  }

  async #showMap(): Promise<void> {
    const extents: Extent[] = [];
    for await (const extent of this.#disk.map(0, this.#disk.size, { depth: 1 }))
      extents.push(extent);
    this.#map.show(extents);
  }

  #showFigures(traffic: { requests: number; bytes: number }): void {
    const here = 1 - this.#remaining / this.#disk.size;
    part<HTMLProgressElement>('bar').value = here;
    this.#text('here', `${bytes(this.#disk.size - this.#remaining)} · ${percent(here)}`);
    this.#text('requests', traffic.requests.toLocaleString('en'));
    this.#text('wire', bytes(traffic.bytes));
    this.#text('guest-read', bytes(this.#read));
    this.#text('guest-wrote', bytes(this.#wrote));
    const rate = this.#rate();
    const active = this.#job?.status === JobStatus.ACTIVE && !this.#job.paused;
    this.#text('rate', active && rate > 0 ? `${bytes(rate)}/s` : '–');
    this.#text(
      'left',
      this.#remaining === 0
        ? 'complete'
        : this.#job?.paused
          ? 'paused'
          : active && rate > 0
            ? duration(this.#remaining / rate)
            : '–',
    );
    part('disk-pane').dataset.state =
      this.#remaining === 0 ? 'complete' : active ? 'active' : 'idle';
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

  #showJob(): void {
    const job = this.#job;
    part('controls').hidden = false;
    const active = job?.status === JobStatus.ACTIVE;
    // Looked at only afterwards, it would be gone with the button.
    const focused = document.activeElement?.id;
    part('job-start').hidden = active || this.#remaining === 0;
    part('job-pause').hidden = !active || job.paused;
    part('job-resume').hidden = !active || !job.paused;
    part('job-abort').hidden = !active;
    part('job-speed-field').hidden = !active && this.#remaining === 0;
    keepFocus(focused);
    const speed = part<HTMLSelectElement>('job-speed');
    if (
      active &&
      document.activeElement !== speed &&
      [...speed.options].some(({ value }) => value === String(job.speed))
    )
      speed.value = String(job.speed);
    this.#text('info', job ? lines(job) : NO_JOB);
  }

  #text(id: string, text: string): void {
    const element = part(id);
    if (element.textContent !== text) element.textContent = text;
  }
}

/** Looks, and tells when to look again. */
async function nextLook(look: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await look();
  const now = performance.now();
  return now + (now - from) / LOOK_SHARE;
}

/** Who used a button that has gone by that goes on with the one in its place. */
function keepFocus(focused: string | undefined): void {
  if (!focused || !JOB_BUTTONS.includes(focused) || !part(focused).hidden) return;
  (JOB_BUTTONS.map(part).find(({ hidden }) => !hidden) ?? part('disk-pane')).focus();
}

/** The info as it is, a field a line. */
function lines(info: StreamInfo): string {
  const fields = Object.entries(info).filter(([, value]) => value !== undefined);
  return fields
    .map(
      ([name, value]) =>
        `${name}: ${name === 'status' ? `${value} (${STATUS[info.status]})` : JSON.stringify(value)}`,
    )
    .join('\n');
}
