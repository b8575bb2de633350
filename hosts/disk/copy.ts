/**
 * A copy of all that a disk shows, as an image that stands alone. It is there under its name only
 * once it is whole.
 */
import type { Disk } from '../api/disk.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import type { CreateOptions } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import { inLanes, piecesOf, split } from './copy-pieces.ts';
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

/** As copyWith, of what `disk` shows. */
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
    const pieces = full ? split(0, disk.size) : piecesOf(disk.map(), disk.size, image.clusterSize);
    await inLanes(pieces, signal, async ({ offset, length }) => {
      const data = await disk.read(offset, length, { signal });
      const isLast = offset + length === disk.size;
      await write(image, offset, isLast ? padded(data, size - offset) : data, full);
      progress?.(offset + length);
    });
  });
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
  if (full) return image.write(offset, data);
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
