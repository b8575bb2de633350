/**
 * A copy of all that a disk shows, as an image that stands alone. It is there under its name only
 * once it is whole.
 */
import type { Disk } from '../api/disk.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import type { CreateOptions } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import { runsOver } from './copy-over.ts';
import type { Run } from './copy-pieces.ts';
import { dataRuns, inLanes, piecesOf } from './copy-pieces.ts';
import type { EngineDisk } from './disk.ts';
import { createDiskWith } from './open.ts';
import { SECTOR_BYTES } from './options.ts';
import { runsOf } from './zeros.ts';

/** What is copied, as the base of an overlay. */
export interface CopySource extends CreateOptions {
  /** A path or name. */
  overlay: string;
}

/** How a copy is made. */
export interface CopyOptions {
  /** Gives the copy up. */
  signal?: AbortSignal;
  /** `full`: zeros take space too. */
  allocate?: StreamOptions['allocate'];
}

/**
 * Makes the copy, as an overlay over what is copied that is streamed whole, and gives its size in
 * bytes. What does not get finished leaves nothing. `begin` is told the size first; what it returns
 * then hears of the job.
 */
export async function copyWith(
  runtime: Runtime,
  source: CopySource,
  options: CopyOptions & { begin?: (size: number) => (info: StreamInfo) => void },
): Promise<number> {
  const { signal, allocate, begin } = options;
  return made(runtime, source, async (disk) => {
    const progress = begin?.(disk.size);
    if (progress) disk.addEventListener('progress', (event) => progress(event.detail));
    await disk.stream({ signal, allocate });
  });
}

/** How what an open disk shows is copied. */
export interface DiskCopyOptions extends CopyOptions {
  /** Compress clusters, where that makes them smaller. */
  compress?: boolean;
  /** Told how far it is. */
  progress?: (done: number) => void;
}

/**
 * As copyWith, of what `disk` shows. Where the copy is to have a base, what the first image of the
 * disk does not hold is left to that: see runsOver.
 */
export async function diskCopyWith(
  runtime: Runtime,
  disk: Disk,
  shape: CopySource,
  options: DiskCopyOptions,
): Promise<number> {
  const { signal, allocate, compress, progress } = options;
  const full = allocate === 'full';
  const size = Math.ceil(disk.size / SECTOR_BYTES) * SECTOR_BYTES;
  const write = compress ? writeCompressed : writePlain;
  return made(runtime, { ...shape, size, copyOnRead: false }, async (image) => {
    const runs = await runsFor(disk, image, full);
    const pieces = piecesOf(runs, disk.size, image.clusterSize);
    await inLanes(pieces, signal, async ({ offset, length, zero }) => {
      const bytes = offset + length === disk.size ? size - offset : length;
      if (zero && !full) await image.writeZeroes(offset, bytes);
      else {
        const data = await disk.read(offset, length, { signal });
        await write(image, offset, padded(data, bytes), full);
      }
      progress?.(offset + length);
    });
  });
}

/** What of the disk goes into the image, which is new; with `full`, its zeros, too. */
async function runsFor(disk: Disk, image: Disk, full: boolean): Promise<AsyncIterable<Run>> {
  const [, base] = await image.images();
  if (base !== undefined) return runsOver(disk, base.virtualSize);
  return full ? wholly(disk.size) : dataRuns(disk.map());
}

async function* wholly(end: number): AsyncGenerator<Run> {
  yield { end, fate: 'data' };
}

async function writeCompressed(
  image: EngineDisk,
  offset: number,
  data: Uint8Array,
  full: boolean,
): Promise<void> {
  await image.writeCompressed(offset, data, { full });
}

/** Writes whole clusters; those of zeros take no space, unless it is to be `full`. */
async function writePlain(
  image: EngineDisk,
  offset: number,
  data: Uint8Array,
  full: boolean,
): Promise<void> {
  if (full) return image.write(offset, data, { full });
  for (const { start, end, zero } of runsOf(data, image.clusterSize)) {
    if (zero) await image.writeZeroes(offset + start, end - start);
    else await image.write(offset + start, data.subarray(start, end));
  }
}

/** The last sector of a raw image may be cut. */
function padded(data: Uint8Array, bytes: number): Uint8Array {
  if (data.length === bytes) return data;
  const whole = new Uint8Array(bytes);
  whole.set(data);
  return whole;
}

/** An image that is made, filled and published, or leaves nothing. */
async function made(
  runtime: Runtime,
  { overlay, cache, ...options }: CopySource,
  fill: (disk: EngineDisk) => Promise<void>,
): Promise<number> {
  const file = await runtime.openOverlay(overlay, { create: true, cache });
  const disk = await createDiskWith(runtime, { ...options, overlay: file }).catch(async (error) => {
    await Promise.resolve(file.close()).catch(() => {});
    throw error;
  });
  const { size } = disk;
  try {
    await fill(disk);
    await disk.settle();
    await file.publish?.();
  } catch (error) {
    await disk.close().catch(() => {});
    throw error;
  }
  await disk.close();
  return size;
}
