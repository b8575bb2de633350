/**
 * `millrace convert`: a flat copy of what a disk shows, as a file of its own. It writes over what
 * is there only where that was asked for (`-n`, a block device), and never over an image that it
 * reads; a new file is there only once it is whole.
 */

import type { Command } from 'commander';
import { Option } from 'commander';
import type { BlockFile } from '../../api/block.ts';
import type { Compression } from '../../api/codec.ts';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import type { StreamInfo } from '../../api/job.ts';
import type { CacheMode } from '../../api/open.ts';
import type { Runtime } from '../../api/runtime.ts';
import type { CopySource } from '../../disk/copy.ts';
import { compressedCopyWith, copyWith } from '../../disk/copy.ts';
import { inLanes, piecesOf, split } from '../../disk/copy-pieces.ts';
import { runsOf } from '../../disk/zeros.ts';
import { creationOptions } from './creation.ts';
import { besideWriters, changedMeanwhile, openImage, withDisk } from './image.ts';
import { writeOntoQcow2 } from './onto-qcow2.ts';
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

/** Zeros of so many bytes are left out of a raw copy. */
const HOLE_BYTES = 65536;
const SECTOR_BYTES = 512;

export interface ConvertCommandOptions {
  /** The source's. */
  format?: ImageFormat;
  outputFormat: ImageFormat;
  clusterSize?: number;
  refcountBits?: number;
  extendedL2?: boolean;
  compress?: boolean;
  compressionType?: Compression;
  /** Bytes; 0 leaves nothing out. */
  sparseSize?: number;
  /** Tell how far it is where there is no terminal for a bar. */
  progress?: boolean;
  /** As commander has `-n`. */
  create?: boolean;
  followChain?: boolean;
  cacheMode?: CacheMode;
  json?: boolean;
}

/** How far a copy has come. */
type OnProgress = (done: number) => void;

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

function mustBeSectors(sparseSize = 0): void {
  if (sparseSize % SECTOR_BYTES)
    throw new MillraceError(
      'EINVAL',
      `invalid sparse size ${sparseSize}: must be a multiple of ${SECTOR_BYTES}`,
    );
}

function mustSuitFormat({ outputFormat, clusterSize, compress }: ConvertCommandOptions): void {
  if (outputFormat !== 'raw') return;
  if (clusterSize !== undefined)
    throw new MillraceError(
      'EINVAL',
      'a raw image has no clusters: --cluster-size is for -O qcow2',
    );
  if (compress)
    throw new MillraceError('EINVAL', 'a raw image is not compressed: -c is for -O qcow2');
}

/** What `-o` says, among the options. */
function withCreation({
  o,
  ...options
}: ConvertCommandOptions & { o: string[] }): ConvertCommandOptions {
  const { clusterSize, refcountBits, extendedL2, compressionType, ...others } = creationOptions(o);
  const [other] = Object.keys(others);
  if (other !== undefined)
    throw new MillraceError(
      'EINVAL',
      `a copy stands alone, and is as large as its source: no ${other} in -o`,
    );
  if (o.length > 0 && options.outputFormat === 'raw')
    throw new MillraceError('EINVAL', '-o is for a qcow2 target (-O qcow2)');
  return { clusterSize, refcountBits, extendedL2, compressionType, ...options };
}

/** What may be said of an image that is written over as it is. */
function mustFit(path: string, options: ConvertCommandOptions): void {
  const { create, outputFormat, clusterSize, refcountBits, extendedL2, compressionType } = options;
  if (outputFormat === 'raw') return;
  if (create !== false)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${path} is a block device, which takes raw copies only (-O raw)`,
    );
  if (options.compress)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${path} would be written over uncompressed: -c makes a new image, without -n`,
    );
  if ([clusterSize, refcountBits, extendedL2, compressionType].some((one) => one !== undefined))
    throw new MillraceError(
      'EINVAL',
      `${path} keeps the clusters that it has: --cluster-size and -o do not go with -n`,
    );
}

export async function convert(
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
  let bar: ProgressBar | undefined;
  const begin = (total: number): OnProgress => {
    bar =
      platform.stderr.isTTY && !stop.signal.aborted ? new ProgressBar(platform.stderr) : undefined;
    bar?.start(asInfo(0, total));
    if (options.progress && !platform.stderr.isTTY) return percentsOn(platform.stderr, total);
    return (done) => {
      if (!stop.signal.aborted) bar?.update(asInfo(done, total));
    };
  };
  try {
    const copying = besideWriters(platform, source, async (changed) => {
      target.beforeEnd = async () => {
        if (await changed()) throw changedMeanwhile(source);
      };
      return copy(platform, source, target, options, stop.signal, begin);
    });
    const size = await unlessStopped(copying, stop.signal);
    bar?.stop();
    if (options.progress && !platform.stderr.isTTY) await platform.stderr.write(ALL_PERCENTS);
    const seconds = (performance.now() - before) / 1000;
    await platform.stdout.write(
      options.json
        ? `${JSON.stringify({ filename: path, format: options.outputFormat, 'virtual-size': size, seconds: Number(seconds.toFixed(3)) })}\n`
        : `${path}: ${formatSize(size)} as ${options.outputFormat} in ${formatElapsed(seconds)}\n`,
    );
    return EXIT_OK;
  } catch (error) {
    bar?.stop();
    const removed = await target.remove();
    if (!stop.signal.aborted) throw error;
    await tell(
      platform,
      target.existing
        ? `stopped: ${path} was not finished`
        : removed
          ? `stopped: ${path} was not finished and is removed`
          : 'stopped: nothing was written',
    );
    return EXIT_INTERRUPTED;
  } finally {
    release();
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

/**
 * The file that is made. One that was there before is touched only where that was asked for, and
 * never removed.
 */
class Target {
  readonly path: string;
  readonly existing: boolean;
  readonly #platform: Platform;
  readonly #signal: AbortSignal;
  #file: Promise<BlockFile> | undefined;
  /** Throws where what was made must not be kept. */
  beforeEnd: () => Promise<void> = async () => {};

  constructor(platform: Platform, path: string, existing: boolean, signal: AbortSignal) {
    this.#platform = platform;
    this.path = path;
    this.existing = existing;
    this.#signal = signal;
  }

  async make(cache: CacheMode | undefined): Promise<BlockFile> {
    this.#signal.throwIfAborted();
    const mode = this.existing ? { fixed: true, cache } : { create: true, cache };
    this.#file = this.#platform.runtime.openOverlay(this.path, mode);
    const file = await this.#file;
    const publish = file.publish?.bind(file);
    file.publish = async () => {
      await this.beforeEnd();
      await publish?.();
    };
    return file;
  }

  /** Removes what was made, if it was not finished, and says whether that was anything. */
  async remove(): Promise<boolean> {
    const file = await this.#file?.catch(() => undefined);
    if (this.existing || file === undefined) return false;
    await file.close();
    return true;
  }
}

/** What is read must not be written over. */
async function mustBeAnother(runtime: Runtime, disk: Disk, target: string): Promise<void> {
  const realName = async (name: string): Promise<string> =>
    (await runtime.realName?.(name).catch(() => undefined)) ?? name;
  const own = await realName(target);
  for (const { name } of await disk.images())
    if ((await realName(name)) === own)
      throw new MillraceError('EINVAL', `${target} is an image that is to be copied from`);
}

/** Makes the copy and gives its size; `begin` is told the size first. */
async function copy(
  platform: Platform,
  source: string,
  target: Target,
  options: ConvertCommandOptions,
  signal: AbortSignal,
  begin: (total: number) => OnProgress,
): Promise<number> {
  const { format, outputFormat, followChain, cacheMode: cache } = options;
  const disk = await openImage(platform, source, { followChain, format });
  if (outputFormat === 'raw')
    return withDisk(disk, async () => {
      if (target.existing) await mustBeAnother(platform.runtime, disk, target.path);
      return copyToRaw(disk, target, options, signal, begin(disk.size));
    });
  if (target.existing)
    return withDisk(disk, async () => {
      await mustBeAnother(platform.runtime, disk, target.path);
      const how = { followChain, cache, signal, progress: begin(disk.size) };
      await writeOntoQcow2(platform.runtime, disk, target.path, how);
      await target.beforeEnd();
      return disk.size;
    });
  if (options.compress)
    return withDisk(disk, () =>
      compressedCopyWith(runtimeOf(platform, target), disk, shapeOf(target, options), {
        signal,
        allocate: options.sparseSize === 0 ? 'full' : 'sparse',
        progress: begin(disk.size),
      }),
    );
  // What could be opened here is the chain that may be followed below, as the base of the copy.
  await disk.close();
  return copyToQcow2(platform, source, target, options, signal, begin);
}

async function copyToQcow2(
  platform: Platform,
  source: string,
  target: Target,
  options: ConvertCommandOptions,
  signal: AbortSignal,
  begin: (total: number) => OnProgress,
): Promise<number> {
  return copyWith(
    runtimeOf(platform, target),
    {
      ...shapeOf(target, options),
      base: source,
      baseFormat: options.format,
      followChain: true,
    },
    {
      signal,
      allocate: options.sparseSize === 0 ? 'full' : 'sparse',
      begin: (size) => {
        const progress = begin(size);
        return ({ length, remaining }) => progress(length - remaining);
      },
    },
  );
}

/** The runtime that makes the target where an overlay is asked for. */
function runtimeOf(platform: Platform, target: Target): Runtime {
  return { ...platform.runtime, openOverlay: (_, mode) => target.make(mode.cache) };
}

function shapeOf(target: Target, options: ConvertCommandOptions): CopySource {
  const { clusterSize, refcountBits, extendedL2, compressionType, cacheMode: cache } = options;
  return {
    overlay: target.path,
    clusterSize,
    refcountBits,
    extendedL2,
    compressionType,
    cache,
  };
}

async function copyToRaw(
  disk: Disk,
  target: Target,
  { cacheMode: cache, sparseSize = HOLE_BYTES }: ConvertCommandOptions,
  signal: AbortSignal,
  progress: OnProgress,
): Promise<number> {
  const file = await target.make(cache);
  try {
    if (target.existing) mustHaveRoom(target.path, file, disk.size);
    else await file.truncate(disk.size);
    // What was there before shows no zeros by itself.
    const isWhole = target.existing || sparseSize === 0;
    const pieces = isWhole ? split(0, disk.size) : piecesOf(disk.map(), disk.size);
    const write = isWhole ? writeAll : writeData;
    await inLanes(pieces, signal, async ({ offset, length }) => {
      await write(file, offset, await disk.read(offset, length), sparseSize);
      progress(offset + length);
    });
    await file.flush();
    await file.publish?.();
  } catch (error) {
    await Promise.resolve(file.close()).catch(() => {});
    throw error;
  }
  await file.close();
  return disk.size;
}

function mustHaveRoom(path: string, file: BlockFile, bytes: number): void {
  if (file.size < bytes)
    throw new MillraceError(
      'ENOSPC',
      `${path} has ${file.size} bytes, and the disk ${bytes}: it would not hold the copy`,
    );
}

async function writeAll(file: BlockFile, offset: number, bytes: Uint8Array): Promise<void> {
  await file.write(offset, bytes);
}

/** Writes what is not zero, but for zeros of less than `holeBytes`. */
async function writeData(
  file: BlockFile,
  offset: number,
  bytes: Uint8Array,
  holeBytes: number,
): Promise<void> {
  for (const { start, end, zero } of runsOf(bytes, holeBytes)) {
    if (!zero) await file.write(offset + start, bytes.subarray(start, end));
  }
}

function asInfo(done: number, total: number): StreamInfo {
  return { status: 1, offset: 0, length: total, remaining: total - done, speed: 0, paused: false };
}
