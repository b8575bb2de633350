/**
 * convert: a copy of what a disk shows, as a file of its own, flat or over a base. It writes over
 * what is there only where that was asked for, or onto a block device, and never over an image that
 * it reads; a new file is there only once it is whole.
 */
import type { ConvertOptions, ConvertReport } from '../../api/convert.ts';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { StreamInfo } from '../../api/job.ts';
import { CONVERT_OPTIONS, mustKnowOptions } from '../../api/options.ts';
import type { Runtime } from '../../api/runtime.ts';
import type { CopyOptions, CopySource } from '../copy.ts';
import { copyWith, diskCopyWith } from '../copy.ts';
import { besideWriters, changedMeanwhile, openImage, withDisk } from '../look.ts';
import { writeOntoQcow2 } from './onto-qcow2.ts';
import { mustSuitExisting, mustSuitFormat } from './options.ts';
import { copyToRaw } from './raw.ts';
import { mustBeAnother, Target } from './target.ts';

/**
 * @throws MillraceError `EEXIST` when the target is there and is not to be written over, `ENOSPC`
 *   when what is there is smaller than the disk, `EINVAL` when it is an image of the chain,
 *   `ECHANGED` when another program has written the source meanwhile, `ABORTED`; and as openDisk
 *   does.
 */
export async function convertWith(
  runtime: Runtime,
  options: ConvertOptions,
): Promise<ConvertReport> {
  mustKnowOptions('convertDisk', options, CONVERT_OPTIONS);
  mustSuitFormat(options);
  const { target: path, signal } = options;
  const existing = options.existing || ((await runtime.isBlockDevice?.(path)) ?? false);
  if (existing) mustSuitExisting(options);
  const target = new Target(runtime, path, { existing, signal });
  try {
    return { size: await unlessAborted(() => copy(runtime, target, options), signal) };
  } catch (error) {
    const removed = await target.remove();
    if (!signal?.aborted) throw error;
    throw new MillraceError('ABORTED', stoppedText(target, removed), { cause: signal.reason });
  }
}

/**
 * Does not wait for the end of work that is given up: it may be one of a server that does not
 * answer.
 */
function unlessAborted<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work();
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(signal.reason);
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop);
    work()
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', stop));
  });
}

function stoppedText({ path, existing }: Target, removed: boolean): string {
  if (existing) return `stopped: ${path} was not finished`;
  return removed
    ? `stopped: ${path} was not finished and is removed`
    : 'stopped: nothing was written';
}

/** Makes the copy and gives the size of its disk. */
function copy(runtime: Runtime, target: Target, options: ConvertOptions): Promise<number> {
  const source = String(options.source);
  return besideWriters(runtime, source, async (changed) => {
    target.beforeEnd = async () => {
      if (await changed()) throw changedMeanwhile(source);
    };
    return copyFrom(runtime, source, target, options);
  });
}

async function copyFrom(
  runtime: Runtime,
  source: string,
  target: Target,
  options: ConvertOptions,
): Promise<number> {
  const { sourceFormat: format, followChain, forceShare, memory, unpack, sequential } = options;
  const { base, compress, snapshot } = options;
  const how = { followChain, format, forceShare, memory, unpack, sequential, snapshot };
  const disk = await openImage(runtime, source, how);
  const isPlain = base === undefined && snapshot === undefined && !compress;
  if (options.format === 'qcow2' && isPlain && !target.existing) {
    // What could be opened here is the chain that may be followed below, as the base of the copy.
    await disk.close();
    return copyToQcow2(runtime, source, target, options);
  }
  return withDisk(disk, async () => {
    if (target.existing) await mustBeAnother(runtime, disk, target.path);
    await copyDisk(runtime, disk, target, options);
    return disk.size;
  });
}

async function copyDisk(
  runtime: Runtime,
  disk: Disk,
  target: Target,
  options: ConvertOptions,
): Promise<void> {
  const progress = progressOf(options, disk.size);
  if (options.format !== 'qcow2') {
    await copyToRaw(disk, target, { ...options, progress });
  } else if (target.existing) {
    const { followChain, cache, memory, signal } = options;
    const how = { followChain, cache, memory, signal, progress };
    await writeOntoQcow2(runtime, disk, target.path, how);
    await target.beforeEnd();
  } else {
    const how = { ...howToCopy(options), compress: options.compress, progress };
    await diskCopyWith(
      making(runtime, target),
      disk,
      { ...shapeOf(options), ...baseOf(options) },
      how,
    );
  }
  // Pieces end in any order, and zeros at the end are none.
  progress(disk.size);
}

async function copyToQcow2(
  runtime: Runtime,
  source: string,
  target: Target,
  options: ConvertOptions,
): Promise<number> {
  const { sourceFormat: baseFormat, forceShare, unpack, sequential } = options;
  const base = { base: source, baseFormat, followChain: true, forceShare, unpack, sequential };
  let progress: ReturnType<typeof progressOf> | undefined;
  const begin = (size: number): ((info: StreamInfo) => void) => {
    const tell = (progress = progressOf(options, size));
    return ({ length, remaining }) => tell(length - remaining);
  };
  const how = { ...howToCopy(options), begin };
  const size = await copyWith(making(runtime, target), { ...shapeOf(options), ...base }, how);
  progress?.(size);
  return size;
}

/** The runtime that makes the target where an overlay is asked for. */
function making(runtime: Runtime, target: Target): Runtime {
  return { ...runtime, openOverlay: (_, mode) => target.make(mode.cache) };
}

function shapeOf(options: ConvertOptions): CopySource {
  const { target, clusterSize, refcountBits, extendedL2, compressionType, lazyRefcounts } = options;
  const { cache, memory } = options;
  return {
    overlay: target,
    clusterSize,
    refcountBits,
    extendedL2,
    compressionType,
    lazyRefcounts,
    cache,
    memory,
  };
}

/** Where the copy has a base: how it is opened and recorded. */
function baseOf(options: ConvertOptions): Omit<CopySource, 'overlay'> {
  const { base, baseFormat, recordBase, followChain, forceShare, unpack, sequential } = options;
  return { base, baseFormat, recordBase, followChain, forceShare, unpack, sequential };
}

function howToCopy({ signal, sparseSize }: ConvertOptions): CopyOptions {
  return { signal, allocate: sparseSize === 0 ? 'full' : 'sparse' };
}

/**
 * Tells at once that nothing is done yet of `size` bytes, never that less is done than before, and
 * nothing once the copy is given up.
 */
function progressOf({ signal, onProgress }: ConvertOptions, size: number): (done: number) => void {
  let most = -1;
  const progress = (done: number): void => {
    if (done <= most || signal?.aborted) return;
    most = done;
    onProgress?.(done, size);
  };
  progress(0);
  return progress;
}
