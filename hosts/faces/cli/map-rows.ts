/**
 * The rows of `millrace map`: what the extents of a disk are in the fields of `qemu-img map`, which
 * sees whole sectors.
 */
import type { Disk, Extent } from '../../api/disk.ts';
import type { ImageInfo } from '../../api/image.ts';
import { runsOf } from '../../disk/zeros.ts';

/** Blocks of the usual file systems: a hole is not smaller. */
const BLOCK_BYTES = 4096;
const PIECE_BYTES = 4 * 1024 * 1024;
const SECTOR_BYTES = 512;

/** A row of `qemu-img map --output=json`, field for field. */
export interface MapRow {
  start: number;
  length: number;
  /** The image of the chain that decides it: 0 is the one asked about. */
  depth: number;
  /** An image of the chain has it; without it, there is nothing but the zeros that come of that. */
  present: boolean;
  zero: boolean;
  data: boolean;
  /** As later versions of QEMU tell it. */
  compressed: boolean;
  /** Position in that image's file. */
  offset?: number;
  /** That file, where the image lies in several. */
  file?: string;
}

/** `untold` says of each image whether its holes are to be looked for. */
export async function* rowsOf(
  disk: Disk,
  images: ImageInfo[],
  untold: boolean[],
  { start, end: to }: { start: number; end: number },
): AsyncGenerator<MapRow> {
  for await (const extent of disk.map(start, to - start)) {
    const image = images[extent.depth];
    const end = extent.offset + extent.length;
    // The part of an extent that an image decides by ending before it.
    const edge = Math.min(end, Math.max(extent.offset, image.virtualSize));
    if (edge > extent.offset && untold[extent.depth]) yield* readRowsOf(disk, extent, edge);
    else if (edge > extent.offset) yield rowOf(extent, edge, image);
    if (edge < end) yield* rowsPastEnd(extent, edge, end, image);
  }
  const [top] = images;
  if (top.format === 'raw' && to === disk.size && disk.size % SECTOR_BYTES)
    yield lastSector(disk.size, wholeSectors(disk.size), 0);
}

function rowOf(
  { offset, state, depth, hostOffset, hostFile }: Extent,
  end: number,
  image: ImageInfo,
): MapRow {
  const data = state === 'data' || state === 'compressed';
  const row = {
    start: offset,
    length: end - offset,
    depth,
    present: state !== 'absent',
    zero: !data,
    data,
    compressed: state === 'compressed',
  };
  // A hole of a raw file stands where its zeros are read.
  const place = image.format === 'raw' ? offset : hostOffset;
  return place === undefined ? row : { ...row, offset: place, file: hostFile };
}

/** Data of a raw file, with what reads as zeros told as its holes. */
async function* readRowsOf(
  disk: Disk,
  { offset, depth, hostOffset = 0 }: Extent,
  end: number,
): AsyncGenerator<MapRow> {
  for (let at = offset, next = at; at < end; at = next) {
    next = Math.min(end, (Math.floor(at / PIECE_BYTES) + 1) * PIECE_BYTES);
    for (const run of runsOf(await disk.read(at, next - at), BLOCK_BYTES)) {
      const start = at + run.start;
      yield {
        start,
        length: run.end - run.start,
        depth,
        present: true,
        zero: run.zero,
        data: !run.zero,
        compressed: false,
        offset: hostOffset + start - offset,
      };
    }
  }
}

/**
 * QEMU sees whole sectors of a raw file; past them it is the image above that is said to have
 * nothing.
 */
function* rowsPastEnd(
  { depth }: Extent,
  start: number,
  end: number,
  image: ImageInfo,
): Generator<MapRow> {
  const sectorEnd = image.format === 'raw' ? Math.min(end, wholeSectors(image.virtualSize)) : start;
  if (sectorEnd > start) yield lastSector(start, sectorEnd, depth);
  if (sectorEnd < end)
    yield {
      start: Math.max(start, sectorEnd),
      length: end - Math.max(start, sectorEnd),
      depth: depth - 1,
      present: false,
      zero: true,
      data: false,
      compressed: false,
    };
}

function lastSector(start: number, end: number, depth: number): MapRow {
  return {
    start,
    length: end - start,
    depth,
    present: true,
    zero: true,
    data: false,
    compressed: false,
    offset: start,
  };
}

function wholeSectors(bytes: number): number {
  return Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}

/** Neighbours that are alike, and whose places follow one another, as one. */
export async function* merged(rows: AsyncIterable<MapRow>): AsyncGenerator<MapRow> {
  let held: MapRow | undefined;
  for await (const row of rows) {
    if (held && goesOn(held, row)) held.length += row.length;
    else {
      if (held) yield held;
      held = row;
    }
  }
  if (held) yield held;
}

function goesOn(before: MapRow, row: MapRow): boolean {
  if (
    before.depth !== row.depth ||
    before.present !== row.present ||
    before.zero !== row.zero ||
    before.data !== row.data ||
    before.file !== row.file
  )
    return false;
  if (before.compressed !== row.compressed) return false;
  return before.offset === undefined
    ? row.offset === undefined
    : before.offset + before.length === row.offset;
}
