/**
 * `millrace map`: where each part of a disk is, in the words and fields of `qemu-img map`. Where
 * the runtime does not tell the holes of a raw file, they are found by reading it, if it takes less
 * space than it is long; those in a qcow2 file are told of one that was preallocated
 * (preallocated.ts).
 */
import type { Command } from 'commander';
import type { Disk, Extent } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat, ImageInfo } from '../../api/image.ts';
import { closeAll } from '../../disk/close-all.ts';
import { runsOf } from '../../disk/zeros.ts';
import { isRemote } from '../../files/location.ts';
import { besideWriters, openImage, withDisk } from './image.ts';
import type { Ended } from './options.ts';
import { addExample, followChain, imageFormat, outputFormat, size, wantsJson } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, printable } from './platform.ts';
import { holesOfPreallocated, rowsWithHoles } from './preallocated.ts';

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

/** Declares `millrace map`. */
export function declareMap(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('map')
    .description(
      'Tell where each part of a disk is: in which image of the chain, and at which place of its file.',
    )
    .argument('<image>', 'a path or URL')
    .addOption(imageFormat())
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .option('-s, --start-offset <size>', 'where the range begins (default: 0)', size)
    .option('-l, --max-length <size>', 'how long it is at most', size)
    .addOption(followChain())
    .action(async (image, options) =>
      ended(
        await map(platform, image, {
          json: wantsJson(options),
          format: options.format,
          start: options.startOffset,
          length: options.maxLength,
          followChain: options.followChain,
        }),
      ),
    );
  addExample(command, 'millrace map vm.qcow2 --output json');
}

export async function map(
  platform: Platform,
  location: string,
  options: {
    json: boolean;
    format?: ImageFormat;
    followChain?: boolean;
    /** Bytes. */
    start?: number;
    /** Bytes at most. */
    length?: number;
  },
): Promise<number> {
  await besideWriters(platform, location, async () =>
    withDisk(
      await openImage(platform, location, {
        followChain: options.followChain,
        format: options.format,
      }),
      async (disk) => {
        const images = await disk.images();
        const untold = await Promise.all(images.map((image) => hasUntoldHoles(platform, image)));
        const holes = await holesOfPreallocated(platform, images);
        try {
          const found = rowsOf(disk, images, untold, rangeOf(disk.size, options));
          const rows = merged(rowsWithHoles(found, holes));
          if (options.json) await writeJson(platform, rows);
          else await writeTable(platform, rows, images);
        } finally {
          await closeAll(holes);
        }
      },
    ),
  );
  return EXIT_OK;
}

async function writeJson(platform: Platform, rows: AsyncIterable<MapRow>): Promise<void> {
  let separator = '[';
  for await (const { start, length, depth, present, zero, data, compressed, offset } of rows) {
    const place = offset === undefined ? '' : `, "offset": ${offset}`;
    await platform.stdout.write(
      `${separator}{ "start": ${start}, "length": ${length}, "depth": ${depth}, "present": ${present}, "zero": ${zero}, "data": ${data}, "compressed": ${compressed}${place}}`,
    );
    separator = ',\n';
  }
  // A disk of no bytes is one row of them to QEMU.
  if (separator === '[')
    await platform.stdout.write(
      '[{ "start": 0, "length": 0, "depth": 0, "present": false, "zero": false, "data": false, "compressed": false}',
    );
  await platform.stdout.write(']\n');
}

/**
 * Only what takes data from a file, as `qemu-img map` does it; compressed parts have no place that
 * could be told.
 */
async function writeTable(
  platform: Platform,
  rows: AsyncIterable<MapRow>,
  images: ImageInfo[],
): Promise<void> {
  const line = (...cells: string[]): string =>
    `${cells
      .slice(0, -1)
      .map((cell) => cell.padEnd(16))
      .join('')}${cells.at(-1)}\n`;
  const hex = (value: number): string => (value ? `0x${value.toString(16)}` : '0');
  await platform.stdout.write(line('Offset', 'Length', 'Mapped to', 'File'));
  for await (const { start, length, depth, data, zero, offset, file } of rows) {
    if (!data || zero) continue;
    await platform.stdout.write(
      line(
        hex(start),
        hex(length),
        offset === undefined ? 'compressed' : hex(offset),
        printable(file ?? images[depth].name),
      ),
    );
  }
}

/** A raw file with holes that are not in the map of the disk. */
async function hasUntoldHoles(
  { runtime, allocatedBytes }: Platform,
  { format, name, fileSize, container }: ImageInfo,
): Promise<boolean> {
  if (
    format !== 'raw' ||
    container !== undefined ||
    isRemote(name) ||
    ((await allocatedBytes(name)) ?? fileSize) >= fileSize
  )
    return false;
  const source = await runtime.openSource(name);
  await source.close();
  return source.nextData === undefined;
}

/** What is asked for, as far as the disk goes. */
function rangeOf(
  size: number,
  { start = 0, length = size }: { start?: number; length?: number },
): { start: number; end: number } {
  if (start > size)
    throw new MillraceError('EINVAL', `invalid start ${start}: the disk has ${size} bytes`);
  return { start, end: Math.min(size, start + length) };
}

/** `untold` says of each image whether its holes are to be looked for. */
async function* rowsOf(
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
async function* merged(rows: AsyncIterable<MapRow>): AsyncGenerator<MapRow> {
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
