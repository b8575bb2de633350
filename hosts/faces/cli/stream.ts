/**
 * `millrace stream`: runs a job to its end, shows how it stands, and stops it cleanly when the user
 * asks for it.
 */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import type { StreamInfo, StreamOptions } from '../../api/job.ts';
import { JobStatus } from '../../api/job.ts';
import type { CacheMode } from '../../api/open.ts';
import { findImage } from '../../disk/find-image.ts';
import { openImage, withDisk } from '../../disk/look.ts';
import { openDiskWith } from '../../disk/open.ts';
import type { Ended } from './options.ts';
import { addExample, baseFormat, cacheMode, followChain, size } from './options.ts';
import { warnOfOverlays } from './overlays.ts';
import type { Platform } from './platform.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import { ProgressBar, Rate } from './progress.ts';
import { formatElapsed, formatExactly, formatSize } from './sizes.ts';

/** How long a job that paused itself over an error waits before it tries again. */
const RETRY_MS = 5000;
const JSON_INTERVAL_MS = 1000;

export interface StreamCommandOptions
  extends Omit<StreamOptions, 'nonblock' | 'signal' | 'compressed'> {
  /** Where the base is now, if not where the overlay says. */
  baseFormat?: ImageFormat;
  followChain?: boolean;
  cacheMode?: CacheMode;
  keepCompressed?: boolean;
  json?: boolean;
}

/** What has become of a job, and what it has done. */
interface Outcome {
  info: StreamInfo;
  copied: number;
  seconds: number;
  error?: MillraceError;
}

/** Declares `millrace stream`. */
export function declareStream(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('stream')
    .description(
      'Copy what is missing from the base into the overlay. When nothing is missing any more, the overlay stands alone.\nCtrl-C stops it; run again, it goes on where it stopped. Overlays that are made over this one need rebase -u afterwards.',
    )
    .argument('<overlay>')
    .option('--offset <size>', 'where the range begins (default: 0)', size)
    .option('--length <size>', 'how long the range is (default: to the end of the disk)', size)
    .option('--speed <size>', 'bytes a second at most (default: unlimited)', size)
    .addOption(
      new Option(
        '--on-error <policy>',
        'what an error does: end the job, pause it (it tries again by itself), be passed over, or pause it only if the disk is full',
      ).choices(['report', 'stop', 'ignore', 'enospc']),
    )
    .option(
      '--base <image>',
      'stream only down to this image of the chain (a path, a URL, or its depth: 1 is the base), which becomes the new base',
    )
    .option('--keep-base', 'keep the reference to the base when nothing is missing any more')
    .addOption(
      new Option('--allocate <how>', 'full: zeros take space too').choices(['sparse', 'full']),
    )
    .option(
      '--keep-compressed',
      "take compressed clusters of the base's into the overlay as they are, where cluster size and method are the same (their data is not looked at: check --data does)",
    )
    .option(
      '--order <profile>',
      'copy first what a boot profile tells (a path or URL), then the rest; or sequential (default)',
    )
    .addOption(cacheMode())
    .addOption(baseFormat())
    .addOption(followChain())
    .option('--json', 'tell how it stands once a second, and at the end, as a line of JSON')
    .action(async (overlay, options) => ended(await stream(platform, overlay, options)));
  addExample(command, 'millrace stream vm.qcow2 --speed 20M');
}

export async function stream(
  platform: Platform,
  overlay: string,
  options: StreamCommandOptions,
): Promise<number> {
  const {
    baseFormat,
    followChain,
    cacheMode: cache,
    keepCompressed,
    json = false,
    ...rest
  } = options;
  const job: StreamOptions = { ...rest, compressed: keepCompressed ? 'keep' : undefined };
  const stop = new AbortController();
  let running = false;
  const release = platform.onInterrupt(() => {
    if (!running || stop.signal.aborted) platform.exit(EXIT_INTERRUPTED);
    stop.abort();
  });
  try {
    const disk = await openDiskWith(platform.runtime, {
      overlay,
      baseFormat,
      followChain,
      cache,
    });
    let outcome: Outcome | undefined;
    try {
      await withDisk(disk, async () => {
        const missing = await missingFrom(platform, disk, job);
        running = true;
        outcome = await runJob(platform, disk, missing, { ...job, signal: stop.signal }, json);
      });
    } catch (error) {
      if (outcome?.info.reason !== 'error') throw error;
      // What the job failed of has kept the disk from being closed as well: only the file tells now
      // how much it has.
      outcome.info.remaining = await missingOnDisk(platform, overlay, outcome.info);
    }
    const code = await report(platform, overlay, outcome!, json);
    if (outcome!.copied > 0) await warnOfOverlays(platform, overlay);
    return code;
  } finally {
    release();
  }
}

/** `missing` is what the job will find missing. */
async function runJob(
  platform: Platform,
  disk: Disk,
  missing: number,
  options: StreamOptions,
  json: boolean,
): Promise<Outcome> {
  const before = performance.now();
  const started = { ...(await disk.stream({ ...options, nonblock: true })), remaining: missing };
  const watcher = json
    ? new JsonWatcher(platform, disk, started)
    : new TerminalWatcher(platform, disk, started, options.signal);
  const ended = new Promise<void>((resolve) => {
    disk.addEventListener('completed', () => resolve(), { once: true });
    disk.addEventListener('failed', () => resolve(), { once: true });
  });
  const retries = retryPauses(disk, watcher);
  try {
    // It may have ended before anyone listened.
    if ((await disk.info()).status === JobStatus.ACTIVE) await ended;
  } finally {
    retries.stop();
    watcher.stop();
  }
  const info = await disk.info();
  const error =
    info.status === JobStatus.FAILED
      ? new MillraceError(
          info.error?.code ?? 'ABORTED',
          info.error?.message ?? 'the stream was aborted',
        )
      : undefined;
  return {
    info,
    copied: Math.max(0, missing - info.remaining),
    seconds: (performance.now() - before) / 1000,
    error,
  };
}

/** What the job will find missing; a range or an image that cannot be is the job's to refuse. */
async function missingFrom(
  platform: Platform,
  disk: Disk,
  { offset = 0, length = disk.size - offset, base }: StreamOptions,
): Promise<number> {
  const bytes = length === 0 && offset === 0 ? disk.size : Math.max(0, length);
  if (offset + bytes > disk.size) return 0;
  if (base === undefined) return disk.remaining(offset, bytes);
  // What the images between the overlay and its new base have; what shows of those below is not
  // copied.
  const bottom = (await findImage(platform.runtime, await disk.images(), base)) ?? 0;
  let missing = 0;
  for await (const extent of disk.map(offset, bytes)) {
    if (extent.state !== 'absent' && extent.depth > 0 && extent.depth < bottom)
      missing += extent.length;
  }
  return missing;
}

/** What the overlay's file, opened anew, lacks in the range of a job. */
async function missingOnDisk(
  platform: Platform,
  overlay: string,
  { offset, length }: StreamInfo,
): Promise<number> {
  return withDisk(await openImage(platform.runtime, overlay, { base: null }), (disk) =>
    disk.remaining(offset, length),
  );
}

/**
 * A job paused by an error goes on by itself, should its cause have passed; the user hears of each
 * pause.
 */
function retryPauses(disk: Disk, watcher: Watcher): { stop(): void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const retry = ({ error }: StreamInfo): void => {
    watcher.note(
      `millrace: paused: ${error?.message ?? 'an operation failed'}; trying again in ${RETRY_MS / 1000} s (Ctrl-C stops)`,
    );
    // It may have ended meanwhile.
    timer = setTimeout(() => disk.resume().catch(() => {}), RETRY_MS);
  };
  const onPause = (event: CustomEvent<StreamInfo>): void => retry(event.detail);
  disk.addEventListener('paused', onPause);
  // It may have paused before anyone listened.
  void disk.info().then((info) => {
    if (info.paused) retry(info);
  });
  return {
    stop() {
      clearTimeout(timer);
      disk.removeEventListener('paused', onPause);
    },
  };
}

interface Watcher {
  /** Tells the user something while the job goes on. */
  note(text: string): void;
  stop(): void;
}

/**
 * A bar, if there is a terminal to draw it on, until the user stops the job: the process may end at
 * any moment then.
 */
class TerminalWatcher implements Watcher {
  readonly #platform: Platform;
  readonly #disk: Disk;
  #bar: ProgressBar | undefined;
  readonly #onProgress = (event: CustomEvent<StreamInfo>): void => this.#bar?.update(event.detail);

  constructor(platform: Platform, disk: Disk, started: StreamInfo, signal?: AbortSignal) {
    this.#platform = platform;
    this.#disk = disk;
    if (!platform.stderr.isTTY || signal?.aborted) return;
    this.#bar = new ProgressBar(platform.stderr);
    this.#bar.start(started);
    disk.addEventListener('progress', this.#onProgress);
    signal?.addEventListener('abort', () => this.stop());
  }

  note(text: string): void {
    if (this.#bar) this.#bar.note(text);
    else void this.#platform.stderr.write(`${text}\n`);
  }

  stop(): void {
    this.#disk.removeEventListener('progress', this.#onProgress);
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

/** A line of JSON a second: the job's info, and its rate in bytes a second. */
class JsonWatcher implements Watcher {
  readonly #platform: Platform;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(platform: Platform, disk: Disk, started: StreamInfo) {
    this.#platform = platform;
    const rate = new Rate();
    rate.add(started.length - started.remaining);
    const tick = async (): Promise<void> => {
      const info = await disk.info();
      if (info.status !== JobStatus.ACTIVE) return;
      rate.add(info.length - info.remaining);
      await platform.stdout.write(
        `${JSON.stringify({ ...info, rate: Math.round(rate.bytesPerSecond) })}\n`,
      );
    };
    // A disk that is closed between two ticks has nothing more to tell.
    this.#timer = setInterval(() => void tick().catch(() => {}), JSON_INTERVAL_MS);
  }

  note(text: string): void {
    void this.#platform.stderr.write(`${text}\n`);
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

/** Tells the end of the job, once the overlay is closed and all of it is safe. */
async function report(
  platform: Platform,
  overlay: string,
  outcome: Outcome,
  json: boolean,
): Promise<number> {
  const { info, copied, seconds, error } = outcome;
  const rate = Math.round(seconds > 0 ? copied / seconds : 0);
  if (json) await platform.stdout.write(`${JSON.stringify({ ...info, rate })}\n`);
  if (info.reason === 'aborted') {
    await tell(
      platform,
      `stopped: ${formatExactly(info.remaining)} of ${formatSize(info.length)} left; run it again to go on`,
    );
    return EXIT_INTERRUPTED;
  }
  if (error) {
    const how = error.code === 'ECHANGED' ? 'give it the base that it was made on' : 'run it again';
    await tell(
      platform,
      `${error.message}; ${formatExactly(info.remaining)} of ${formatSize(info.length)} left, ${how} to go on`,
    );
    return EXIT_FAILED;
  }
  if (!json)
    await platform.stdout.write(
      `${overlay}: ${formatSize(info.length)} complete, ${copied === 0 ? 'nothing was missing' : `${formatSize(copied)} of it in ${formatElapsed(seconds)} (${formatSize(rate)}/s)`}${info.kept === undefined ? '' : `, ${keptOf(info.kept)}`}\n`,
    );
  return EXIT_OK;
}

function keptOf(kept: number): string {
  return kept > 0
    ? `${formatSize(kept)} kept compressed`
    : 'nothing kept compressed: no cluster had the size and method of the overlay';
}
