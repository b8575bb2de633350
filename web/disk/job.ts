/** The job that copies a disk's base: its buttons, and its fields in full. */
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { StreamInfo } from '../../hosts/api/job.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import type { PanelParts } from './markup.ts';

/** What the buttons need of a disk. */
export type StreamingDisk = Pick<Disk, 'stream' | 'pause' | 'resume' | 'abort' | 'setSpeed'>;

const STATUS = ['COMPLETED', 'ACTIVE', 'FAILED'];
const NO_JOB = 'nothing has been copied since the disk was opened';

export class JobControls {
  readonly #parts: PanelParts;
  readonly #disk: StreamingDisk;
  /** Where the keyboard goes when no button is left. */
  readonly #root: HTMLElement;

  /** `acted` is called with what a button's action comes to. */
  constructor(
    root: HTMLElement,
    parts: PanelParts,
    disk: StreamingDisk,
    signal: AbortSignal,
    acted: (action: Promise<unknown>) => void,
  ) {
    this.#root = root;
    this.#parts = parts;
    this.#disk = disk;
    const on = (button: HTMLElement, act: () => Promise<unknown>): void =>
      button.addEventListener('click', () => acted(act()), { signal });
    on(parts.start, () => this.start());
    on(parts.pause, () => disk.pause());
    on(parts.resume, () => disk.resume());
    on(parts.abort, () => disk.abort());
    parts.speed.addEventListener('change', () => acted(this.#setSpeed()), { signal });
  }

  /** Starts to copy the whole disk, at the speed that is chosen. */
  start(): Promise<StreamInfo> {
    return this.#disk.stream({ nonblock: true, onError: 'stop', speed: this.#speed });
  }

  show(job: StreamInfo | undefined, remaining: number): void {
    const { controls, start, pause, resume, abort, speed, speedField, info } = this.#parts;
    controls.hidden = false;
    const active = job?.status === JobStatus.ACTIVE;
    // Looked at only afterwards, it would be gone with the button.
    const focused = document.activeElement;
    start.hidden = active || remaining === 0;
    pause.hidden = !active || job.paused;
    resume.hidden = !active || !job.paused;
    abort.hidden = !active;
    speedField.hidden = !active && remaining === 0;
    this.#keepFocus(focused);
    if (
      active &&
      document.activeElement !== speed &&
      [...speed.options].some(({ value }) => value === String(job.speed))
    )
      speed.value = String(job.speed);
    const text = job ? lines(job) : NO_JOB;
    if (info.textContent !== text) info.textContent = text;
  }

  get #speed(): number {
    return Number(this.#parts.speed.value);
  }

  /** Without a job it is the speed of the next one. */
  async #setSpeed(): Promise<void> {
    try {
      await this.#disk.setSpeed(this.#speed);
    } catch (error) {
      if (!(error instanceof MillraceError) || error.code !== 'ENOENT') throw error;
    }
  }

  /** Who used a button that has gone by that goes on with the one in its place. */
  #keepFocus(focused: Element | null): void {
    const { pause, resume, start, abort } = this.#parts;
    const buttons = [pause, resume, start, abort];
    const button = buttons.find((button) => button === focused);
    if (button?.hidden) (buttons.find(({ hidden }) => !hidden) ?? this.#root).focus();
  }
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
