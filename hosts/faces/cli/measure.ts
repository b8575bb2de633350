/**
 * `millrace measure`: how large a file a copy of a disk would be, as `qemu-img measure` tells it:
 * with nothing left out, and with what the disk really has.
 */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat, ImageInfo } from '../../api/image.ts';
import { openImage, whileUnchanged, withDisk } from '../../disk/look.ts';
import { creationOptions } from './creation.ts';
import type { Ended } from './options.ts';
import {
  addExample,
  creation,
  followChain,
  imageFormat,
  outputFormat,
  size,
  wantsJson,
} from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';

const SECTOR_BYTES = 512;
/** Of entries of the refcount table, and of L1 tables. */
const ENTRY_BYTES = 8;
/** Of a bitmap in their directory, without its name. */
const BITMAP_ENTRY_BYTES = 24;

export interface MeasureCommandOptions {
  json: boolean;
  outputFormat: ImageFormat;
  size?: number;
  format?: ImageFormat;
  followChain?: boolean;
  o: string[];
}

/** Bytes of the file. */
interface Measured {
  /** Of its persistent bitmaps; undefined where the image can have none. */
  bitmaps?: number;
  required: number;
  'fully-allocated': number;
}

/** How a qcow2 image is laid out. */
interface Shape {
  clusterSize: number;
  refcountBits: number;
  extendedL2: boolean;
}

/** Declares `millrace measure`. */
export function declareMeasure(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('measure')
    .description('Tell how many bytes of storage a copy of a disk needs.')
    .argument('[image]', 'a path or URL; or give --size')
    .addOption(new Option('-O, --output-format <format>').choices(['raw', 'qcow2']).default('raw'))
    .addOption(creation())
    .option('--size <size>', 'of an empty disk of that size, in place of an image', size)
    .addOption(imageFormat())
    .addOption(followChain())
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .action(async (image, options) =>
      ended(await measure(platform, image, { ...options, json: wantsJson(options) })),
    );
  addExample(command, 'millrace measure -O qcow2 vm.qcow2');
}

/** Tells what a copy of the image, or an empty disk of `options.size`, needs. */
export async function measure(
  platform: Platform,
  image: string | undefined,
  options: MeasureCommandOptions,
): Promise<number> {
  if ((image === undefined) === (options.size === undefined))
    throw new MillraceError('EINVAL', 'give an image, or the --size of an empty disk');
  const { clusterSize = 65536, refcountBits = 16, extendedL2 = false } = creationOptions(options.o);
  const shape = { clusterSize, refcountBits, extendedL2 };
  const { format, followChain } = options;
  const { bytes, data, bitmaps } =
    image === undefined
      ? { bytes: options.size!, data: 0 }
      : await whileUnchanged(platform.runtime, image, async () =>
          withDisk(
            await openImage(platform.runtime, image, { followChain, format }),
            async (disk) => ({
              bytes: disk.size,
              data: options.outputFormat === 'raw' ? 0 : await dataOf(disk, clusterSize),
              bitmaps: bitmapBytes((await disk.images())[0], clusterSize),
            }),
          ),
        );
  const sectors = roundUp(bytes, SECTOR_BYTES);
  const measured: Measured =
    options.outputFormat === 'raw'
      ? { required: sectors, 'fully-allocated': sectors }
      : { bitmaps, ...measureQcow2(sectors, data, shape) };
  const bitmapLine = measured.bitmaps === undefined ? '' : `bitmaps size: ${measured.bitmaps}\n`;
  await platform.stdout.write(
    options.json
      ? `${JSON.stringify(measured, undefined, 4)}\n`
      : `required size: ${measured.required}\nfully allocated size: ${measured['fully-allocated']}\n${bitmapLine}`,
  );
  return EXIT_OK;
}

/** Bytes of the clusters that hold data. */
async function dataOf(disk: Disk, clusterSize: number): Promise<number> {
  let bytes = 0;
  let counted = 0;
  for await (const { offset, length, state } of disk.map()) {
    if (state === 'zero' || state === 'absent') continue;
    const start = Math.max(counted, Math.floor(offset / clusterSize) * clusterSize);
    const end = roundUp(offset + length, clusterSize);
    bytes += Math.max(0, end - start);
    counted = Math.max(counted, end);
  }
  return bytes;
}

/** What the bitmaps that still hold take in a copy, by the layout of docs/interop/qcow2.txt. */
function bitmapBytes(
  { version, virtualSize, bitmaps = [] }: ImageInfo,
  clusterSize: number,
): number | undefined {
  if (version !== 3) return undefined;
  let directory = 0;
  let bytes = 0;
  for (const { name, granularity, flags } of bitmaps) {
    if (flags.includes('in-use')) continue;
    const clusters = Math.ceil(Math.ceil(virtualSize / granularity) / 8 / clusterSize);
    bytes += clusters * clusterSize + roundUp(clusters * ENTRY_BYTES, clusterSize);
    directory += roundUp(BITMAP_ENTRY_BYTES + new TextEncoder().encode(name).length, ENTRY_BYTES);
  }
  return bytes + roundUp(directory, clusterSize);
}

/** As QEMU has it: the metadata of a full image is counted, whatever the image holds. */
function measureQcow2(size: number, data: number, shape: Shape): Measured {
  const { clusterSize, extendedL2 } = shape;
  const virtual = roundUp(size, clusterSize);
  const l2EntryBytes = extendedL2 ? 2 * ENTRY_BYTES : ENTRY_BYTES;
  const l2Entries = roundUp(virtual / clusterSize, clusterSize / l2EntryBytes);
  const l2Bytes = l2Entries * l2EntryBytes;
  const l1Entries = roundUp(l2Bytes / clusterSize, clusterSize / ENTRY_BYTES);
  const tables = clusterSize + l2Bytes + l1Entries * ENTRY_BYTES;
  const full = tables + virtual;
  const all = full + refcountBytes(full / clusterSize, shape);
  return { required: all - virtual + data, 'fully-allocated': all };
}

/** Of the blocks and the table that count so many clusters, and themselves. */
function refcountBytes(clusters: number, { clusterSize, refcountBits }: Shape): number {
  const perBlock = (clusterSize * 8) / refcountBits;
  const perTable = clusterSize / ENTRY_BYTES;
  let blocks = 0;
  let table = 0;
  for (let total = 0, last = -1; total !== last; ) {
    last = total;
    blocks = Math.ceil((clusters + table + blocks) / perBlock);
    table = Math.ceil(blocks / perTable);
    total = clusters + blocks + table;
  }
  return (blocks + table) * clusterSize;
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
