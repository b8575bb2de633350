/** The progress of a job on a terminal: a bar, bytes, rate and time left, on one line. */
import cliProgress from 'cli-progress';
import type { StreamInfo } from '../../api/job.ts';
import type { Output } from './platform.ts';
import { drawOn } from './platform.ts';
import { formatDuration, formatSize } from './sizes.ts';

const FRAMES_PER_SECOND = 10;
/** The rate is told over the last few seconds: a job's pace changes with what the base holds. */
const RATE_WINDOW_MS = 5000;
const BAR_COLUMNS_MIN = 8;
const BAR_COLUMNS_MAX = 40;
const COLUMNS_DEFAULT = 80;

/** How fast bytes come in. */
export class Rate {
  readonly #samples: { atMs: number; bytes: number }[] = [];

  /** Takes note of how many bytes there are now. */
  add(bytes: number): void {
    const atMs = performance.now();
    this.#samples.push({ atMs, bytes });
    while (this.#samples.length > 2 && this.#samples[1].atMs < atMs - RATE_WINDOW_MS)
      this.#samples.shift();
  }

  /** Bytes a second; 0 as long as nothing can be said. */
  get bytesPerSecond(): number {
    const first = this.#samples[0];
    const last = this.#samples[this.#samples.length - 1];
    const ms = this.#samples.length < 2 ? 0 : last.atMs - first.atMs;
    return ms > 0 ? Math.max(0, ((last.bytes - first.bytes) / ms) * 1000) : 0;
  }
}

/** Bytes in all, and those that are not done. */
type Progress = Pick<StreamInfo, 'length' | 'remaining'>;

/** What is told at the end by whoever tells percents. */
const ALL_PERCENTS = '    (100.00/100%)\n';

/**
 * Tells each whole percent once, as `qemu-img convert -p` does: no bar, which only a terminal can
 * draw over.
 */
function percentsOn(output: Output, total: number): (done: number) => void {
  let told = -1;
  return (done) => {
    const percent = total > 0 ? Math.floor((done / total) * 100) : 100;
    if (percent <= told) return;
    told = percent;
    void output.write(`    (${percent.toFixed(2)}/100%)\r`);
  };
}

/**
 * Shows on a terminal how far an act is, from when it first tells it on; where `output` is none,
 * percents if it is to be told `anywhere`.
 */
export async function withBar<T>(
  output: Output,
  act: (onProgress: (done: number, total: number) => void) => Promise<T>,
  { anywhere = false }: { anywhere?: boolean } = {},
): Promise<T> {
  const percents = anywhere && !output.isTTY;
  let bar: ProgressBar | undefined;
  let percent: ((done: number) => void) | undefined;
  try {
    const result = await act((done, total) => {
      if (percents) (percent ??= percentsOn(output, total))(done);
      if (!output.isTTY) return;
      const info = { length: total, remaining: total - done };
      if (bar) return bar.update(info);
      bar = new ProgressBar(output);
      bar.start(info);
    });
    if (percents) await output.write(ALL_PERCENTS);
    return result;
  } finally {
    bar?.stop();
  }
}

/** The bar. Between `start` and `stop` the terminal's current line is its own. */
export class ProgressBar {
  readonly #output: Output;
  readonly #rate = new Rate();
  readonly #bar: cliProgress.SingleBar;
  #columns = BAR_COLUMNS_MAX;
  #total = 0;
  #value = 0;

  constructor(output: Output) {
    this.#output = output;
    this.#bar = new cliProgress.SingleBar({
      // It uses no more of a stream than an Output has.
      stream: output as unknown as NodeJS.WritableStream,
      fps: FRAMES_PER_SECOND,
      hideCursor: true,
      clearOnComplete: true,
      emptyOnZero: true,
      // The command itself decides what Ctrl-C does.
      gracefulExit: false,
      format: (options, { value, total }) => this.#line(value, total, options),
    });
  }

  start(info: Progress): void {
    this.#take(info);
    this.#bar.start(this.#total, this.#value);
    drawOn(this.#output, this);
  }

  update(info: Progress): void {
    this.#take(info);
    this.#bar.update(this.#value);
  }

  /** Writes a line of its own above the bar. */
  note(text: string): void {
    // The bar goes back to where it began, which the new line may scroll away: it begins again
    // below.
    this.#bar.stop();
    void this.#output.write(`${text}\n`);
    this.#bar.start(this.#total, this.#value);
  }

  /** Takes the bar off the terminal. */
  stop(): void {
    drawOn(this.#output, undefined);
    this.#bar.stop();
  }

  #take({ length, remaining }: Progress): void {
    this.#total = length;
    this.#value = length - remaining;
    this.#rate.add(this.#value);
  }

  #line(value: number, total: number, options: cliProgress.Options): string {
    const share = total ? value / total : 1;
    const rate = this.#rate.bytesPerSecond;
    const pace =
      rate > 0 ? `, ${formatSize(rate)}/s, ${formatDuration((total - value) / rate)} left` : '';
    const text = ` ${String(Math.floor(share * 100)).padStart(3)}%  ${formatSize(value)} of ${formatSize(total)}${pace}`;
    // One column stays free: some terminals wrap as soon as the last one is written.
    const room = (this.#output.columns ?? COLUMNS_DEFAULT) - text.length - 3;
    if (room < BAR_COLUMNS_MIN) return text.trimStart().slice(0, this.#output.columns);
    // A bar that gets shorter stays so: one that changes its length with the numbers beside it is
    // hard to read.
    const barsize = (this.#columns = Math.min(room, this.#columns));
    const bars = {
      barCompleteString: '#'.repeat(barsize),
      barIncompleteString: '-'.repeat(barsize),
    };
    return `[${cliProgress.Format.BarFormat(share, { ...options, ...bars, barsize })}]${text}`;
  }
}
