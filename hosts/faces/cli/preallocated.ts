/**
 * Holes in qcow2 files, as `qemu-img map` tells them: clusters that have a place in the file, of
 * which the file system has nothing, read as zeros and are still data. QEMU looks for them in
 * images whose metadata was preallocated, which it takes those for that have many more clusters in
 * use than the file system has blocks (qcow2_detect_metadata_preallocation of its
 * block/qcow2-refcount.c).
 */
import type { BlockSource } from '../../api/block.ts';
import type { ImageInfo } from '../../api/image.ts';
import { openImage, withDisk } from '../../disk/look.ts';
import { isRemote } from '../../files/location.ts';
import type { MapRow } from './map-rows.ts';
import type { Platform } from './platform.ts';

/** For each image whose holes are to be told, its file; the caller closes them. */
export function holesOfPreallocated(
  platform: Platform,
  images: readonly ImageInfo[],
): Promise<(BlockSource | undefined)[]> {
  return Promise.all(images.map((image) => holesOf(platform, image)));
}

async function holesOf(platform: Platform, image: ImageInfo): Promise<BlockSource | undefined> {
  const { name, format, container } = image;
  if (format !== 'qcow2' || container !== undefined || isRemote(name)) return undefined;
  if (!(await isPreallocated(platform, image))) return undefined;
  const source = await platform.runtime.openSource(name);
  if (source.nextData !== undefined) return source;
  await source.close();
  return undefined;
}

/** Clusters of tables are few, and left out of what is counted. */
async function isPreallocated(
  platform: Platform,
  { name, fileSize, clusterSize = 1 }: ImageInfo,
): Promise<boolean> {
  const allocated = await platform.allocatedBytes(name);
  if (allocated === undefined) return false;
  const real = Math.floor(allocated / clusterSize);
  const threshold = Math.max(Math.floor((real * 10) / 9), real + 2);
  if (Math.ceil(fileSize / clusterSize) < threshold) return false;
  const options = { base: null, format: 'qcow2' } as const;
  return withDisk(await openImage(platform.runtime, name, options), async (disk) => {
    let clusters = 0;
    for await (const { depth, length, hostOffset } of disk.map()) {
      if (depth === 0 && hostOffset !== undefined) clusters += Math.ceil(length / clusterSize);
      if (clusters >= threshold) return true;
    }
    return false;
  });
}

/** The rows of data with the holes of their files told apart. */
export async function* rowsWithHoles(
  rows: AsyncIterable<MapRow>,
  holes: readonly (BlockSource | undefined)[],
): AsyncGenerator<MapRow> {
  for await (const row of rows) {
    const source = holes[row.depth];
    if (source === undefined || !row.data || row.offset === undefined) yield row;
    else yield* partsOf(row, row.offset, source);
  }
}

async function* partsOf(row: MapRow, offset: number, source: BlockSource): AsyncGenerator<MapRow> {
  const part = (from: number, to: number, zero: boolean): MapRow => ({
    ...row,
    start: row.start + from,
    length: to - from,
    zero,
    offset: offset + from,
  });
  for (let at = 0; at < row.length; ) {
    const data = await source.nextData!(offset + at);
    const start = data === undefined ? row.length : Math.min(row.length, data.start - offset);
    if (start > at) yield part(at, start, true);
    at = Math.max(at, start);
    if (data === undefined || at >= row.length) return;
    const end = Math.min(row.length, data.end - offset);
    if (end > at) yield part(at, end, false);
    at = Math.max(end, at + 1);
  }
}
