/**
 * The copies that `millrace convert` makes: raw, qcow2, compressed, or onto an image that is there.
 */
import type { BlockFile } from '../../api/block.ts';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Runtime } from '../../api/runtime.ts';
import type { CopySource } from '../../disk/copy.ts';
import { compressedCopyWith, copyWith } from '../../disk/copy.ts';
import { inLanes, piecesOf, split } from '../../disk/copy-pieces.ts';
import { runsOf } from '../../disk/zeros.ts';
import type { ConvertCommandOptions } from './convert-options.ts';
import type { Target } from './convert-target.ts';
import { mustBeAnother } from './convert-target.ts';
import { openImage, withDisk } from './image.ts';
import { writeOntoQcow2 } from './onto-qcow2.ts';
import type { Platform } from './platform.ts';

/** Zeros of so many bytes are left out of a raw copy. */
const HOLE_BYTES = 65536;

/** How far a copy has come. */
export type OnProgress = (done: number) => void;

/** Makes the copy and gives its size; `begin` is told the size first. */
export async function copy(
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
