/**
 * `millrace map`: where each part of a disk is, in the words and fields of `qemu-img map`. Where
 * the runtime does not tell the holes of a raw file, they are found by reading it, if it takes less
 * space than it is long; those in a qcow2 file are told of one that was preallocated
 * (preallocated.ts).
 */
import type { Command } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat, ImageInfo } from '../../api/image.ts';
import { closeAll } from '../../disk/close-all.ts';
import { besideWriters, openImage, withDisk } from '../../disk/look.ts';
import { isRemote } from '../../files/location.ts';
import type { MapRow } from './map-rows.ts';
import { merged, rowsOf } from './map-rows.ts';
import type { Ended } from './options.ts';
import { addExample, followChain, imageFormat, outputFormat, size, wantsJson } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, printable } from './platform.ts';
import { holesOfPreallocated, rowsWithHoles } from './preallocated.ts';

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
  await besideWriters(platform.runtime, location, async () =>
    withDisk(
      await openImage(platform.runtime, location, {
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
