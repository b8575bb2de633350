/**
 * `millrace convert`: a flat copy of what a disk shows, as a file of its own. It writes over what
 * is there only where that was asked for (`-n`, a block device), and never over an image that it
 * reads; a new file is there only once it is whole.
 */

import type { Command } from 'commander';
import { Option } from 'commander';
import type { StreamInfo } from '../../api/job.ts';
import type { OnProgress } from './convert-copy.ts';
import { copy } from './convert-copy.ts';
import type { ConvertCommandOptions } from './convert-options.ts';
import { mustBeSectors, mustFit, mustSuitFormat, withCreation } from './convert-options.ts';
import { Target } from './convert-target.ts';
import { besideWriters, changedMeanwhile } from './image.ts';
import type { Ended } from './options.ts';
import {
  addExample,
  cacheMode,
  creation,
  followChain,
  imageFormat,
  progressAnywhere,
  refusing,
  size,
} from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import { ALL_PERCENTS, ProgressBar, percentsOn } from './progress.ts';
import { formatElapsed, formatSize } from './sizes.ts';

/** Declares `millrace convert`. */
export function declareConvert(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('convert')
    .description(
      'Copy all that a disk shows, its base included, into a new file that stands alone.',
    )
    .argument('<source>', 'a path or URL')
    .argument('<target>', 'the file to make, which must not be there yet; or a block device')
    .addOption(imageFormat())
    .addOption(new Option('-O, --output-format <format>').choices(['raw', 'qcow2']).default('raw'))
    .option(
      '-n, --no-create',
      'write over an image that is there, which keeps its size and its backing file',
    )
    .addOption(progressAnywhere())
    .option(
      '-c, --compress',
      'compress the clusters of a qcow2 target, where that makes them smaller',
    )
    .option('--cluster-size <size>', 'of a qcow2 target, from 512 to 2M (default: 64K)', size)
    .addOption(creation())
    .option(
      '-S, --sparse-size <size>',
      'zeros of so many bytes are left out of a raw target (default: 64K), and whole clusters of a qcow2 one; 0: zeros take space, too',
      size,
    )
    .addOption(new Option('-W', 'writes may go out of order, which they always may').hideHelp())
    .addOption(new Option('-m <n>', 'copies in flight, which are chosen by themselves').hideHelp())
    .addOption(cacheMode())
    .addOption(followChain())
    .option('--json', 'tell the result as JSON')
    .action(async (source, target, { W: _, m: __, ...options }) =>
      ended(await convert(platform, source, target, withCreation(options))),
    );
  refusing(command, '-B <base>', "make an overlay over the base: 'millrace create --base'");
  refusing(command, '-l <snapshot>', "snapshots cannot be read; use 'qemu-img convert -l'");
  addExample(
    command,
    'millrace convert vm.qcow2 vm.raw -O raw',
    'millrace convert vm.qcow2 small.qcow2 -O qcow2 -c -o compression_type=zstd',
  );
}

async function convert(
  platform: Platform,
  source: string,
  path: string,
  options: ConvertCommandOptions,
): Promise<number> {
  mustSuitFormat(options);
  mustBeSectors(options.sparseSize);
  const existing =
    options.create === false || ((await platform.runtime.isBlockDevice?.(path)) ?? false);
  if (existing) mustFit(path, options);
  const stop = new AbortController();
  const target = new Target(platform, path, existing, stop.signal);
  const release = platform.onInterrupt(() => {
    if (!stop.signal.aborted) stop.abort();
    else void target.remove().finally(() => platform.exit(EXIT_INTERRUPTED));
  });
  const before = performance.now();
  const display = new Display(platform, options.progress ?? false, stop.signal);
  try {
    const copying = besideWriters(platform, source, async (changed) => {
      target.beforeEnd = async () => {
        if (await changed()) throw changedMeanwhile(source);
      };
      const begin = (total: number): OnProgress => display.begin(total);
      return copy(platform, source, target, options, stop.signal, begin);
    });
    const size = await unlessStopped(copying, stop.signal);
    await display.end();
    const seconds = (performance.now() - before) / 1000;
    await platform.stdout.write(
      options.json
        ? `${JSON.stringify({ filename: path, format: options.outputFormat, 'virtual-size': size, seconds: Number(seconds.toFixed(3)) })}\n`
        : `${path}: ${formatSize(size)} as ${options.outputFormat} in ${formatElapsed(seconds)}\n`,
    );
    return EXIT_OK;
  } catch (error) {
    display.stop();
    const removed = await target.remove();
    if (!stop.signal.aborted) throw error;
    await tell(platform, stoppedText(target, removed));
    return EXIT_INTERRUPTED;
  } finally {
    release();
  }
}

function stoppedText({ path, existing }: Target, removed: boolean): string {
  if (existing) return `stopped: ${path} was not finished`;
  return removed
    ? `stopped: ${path} was not finished and is removed`
    : 'stopped: nothing was written';
}

/** How far the copy is: a bar on a terminal; elsewhere, where it was asked for, per cent. */
class Display {
  readonly #platform: Platform;
  readonly #percents: boolean;
  readonly #signal: AbortSignal;
  #bar: ProgressBar | undefined;

  constructor(platform: Platform, progress: boolean, signal: AbortSignal) {
    this.#platform = platform;
    this.#percents = progress && !platform.stderr.isTTY;
    this.#signal = signal;
  }

  begin(total: number): OnProgress {
    const { stderr } = this.#platform;
    if (this.#percents) return percentsOn(stderr, total);
    if (stderr.isTTY && !this.#signal.aborted) this.#bar = new ProgressBar(stderr);
    this.#bar?.start(asInfo(0, total));
    return (done) => {
      if (!this.#signal.aborted) this.#bar?.update(asInfo(done, total));
    };
  }

  stop(): void {
    this.#bar?.stop();
  }

  async end(): Promise<void> {
    this.stop();
    if (this.#percents) await this.#platform.stderr.write(ALL_PERCENTS);
  }
}

/**
 * Does not wait for the end of work that is stopped: it may be one of a server that does not
 * answer, and the process ends anyway.
 */
function unlessStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const stopped = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason));
  });
  return Promise.race([stopped, work]);
}

function asInfo(done: number, total: number): StreamInfo {
  return { status: 1, offset: 0, length: total, remaining: total - done, speed: 0, paused: false };
}
