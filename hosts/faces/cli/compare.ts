/**
 * `millrace compare`: whether two images show the same, with the words and exit codes of
 * `qemu-img compare`.
 */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { Disk, Extent } from '../../api/disk.ts';
import { messageOf } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import { FORMAT_NAMES } from '../../disk/driver/formats.ts';
import { openImage, whileUnchanged, withDisk } from '../../disk/look.ts';
import type { Ended } from './options.ts';
import { addExample, followChain, imageFormat, refusing } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, tell } from './platform.ts';

/** As `qemu-img compare` has them. */
const EXIT_DIFFERENT = 1;
const EXIT_NOT_COMPARED = 2;
const PIECE_BYTES = 4 * 1024 * 1024;
/** What differs is told by its sector. */
const SECTOR_BYTES = 512;

export interface CompareCommandOptions {
  format?: ImageFormat;
  secondFormat?: ImageFormat;

  followChain?: boolean;
}

/** Declares `millrace compare`. */
export function declareCompare(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('compare')
    .description(
      'Tell whether two images show the same. Exit code: 0 the same, 1 different, 2 they could not be compared.',
    )
    .argument('<first>', 'a path or URL')
    .argument('<second>', 'a path or URL')
    .addOption(imageFormat())
    .addOption(
      new Option('-F, --second-format <format>', 'as -f, of the second image').choices(
        FORMAT_NAMES,
      ),
    )
    .addOption(followChain())
    .action(async (first, second, options) =>
      ended(await compare(platform, first, second, options)),
    );
  refusing(command, '-s', "compare what is allocated by 'millrace map --output json' of each");
  addExample(command, 'millrace compare vm.qcow2 backup.qcow2');
}

/** Behind the end of the smaller one, zeros are the same as nothing. */
export async function compare(
  platform: Platform,
  first: string,
  second: string,
  { format, secondFormat, followChain }: CompareCommandOptions,
): Promise<number> {
  const look = (): Promise<number | undefined> =>
    openBoth(platform, [first, second], [format, secondFormat], followChain, async (one, other) => {
      if (one.size !== other.size) await platform.stdout.write('Warning: Image size mismatch!\n');
      return firstDifference(one, other);
    });
  let at: number | undefined;
  try {
    at = await whileUnchanged(platform.runtime, first, () =>
      whileUnchanged(platform.runtime, second, look),
    );
  } catch (error) {
    await tell(platform, messageOf(error));
    return EXIT_NOT_COMPARED;
  }
  await platform.stdout.write(
    at === undefined ? 'Images are identical.\n' : `Content mismatch at offset ${at}!\n`,
  );
  return at === undefined ? EXIT_OK : EXIT_DIFFERENT;
}

async function openBoth<T>(
  platform: Platform,
  [first, second]: [string, string],
  formats: (ImageFormat | undefined)[],
  followChain: boolean | undefined,
  use: (one: Disk, other: Disk) => Promise<T>,
): Promise<T> {
  const open = (location: string, format: ImageFormat | undefined): Promise<Disk> =>
    openImage(platform.runtime, location, { followChain, format });
  return withDisk(await open(first, formats[0]), async (one) =>
    withDisk(await open(second, formats[1]), (other) => use(one, other)),
  );
}

/** Where the first sector is that the two disks show differently. */
async function firstDifference(one: Disk, other: Disk): Promise<number | undefined> {
  const size = Math.max(one.size, other.size);
  const [ones, others] = [new Zeros(one), new Zeros(other)];
  for (let at = 0, end = 0; at < size; at = end) {
    end = Math.min(size, at + PIECE_BYTES);
    // What is zero in both need not be read.
    const [a, b] = [await ones.cover(at, end), await others.cover(at, end)];
    if (a && b) continue;
    const bytes = await Promise.all([one, other].map((disk) => readPadded(disk, at, end - at)));
    const difference = differenceOf(bytes[0], bytes[1]);
    if (difference !== undefined) return at + difference;
  }
  return undefined;
}

/** Where a disk is zero by its tables, asked for from its start to its end. */
class Zeros {
  readonly #size: number;
  readonly #extents: AsyncIterator<Extent>;
  #extent: Extent | undefined;

  constructor(disk: Disk) {
    this.#size = disk.size;
    this.#extents = disk.map()[Symbol.asyncIterator]();
  }

  /** Whether all from `start` to `end` is zero; what lies behind the disk's end is. */
  async cover(start: number, end: number): Promise<boolean> {
    let isZero = true;
    for (let at = start; at < Math.min(end, this.#size); ) {
      const extent = this.#extent;
      if (extent === undefined || extent.offset + extent.length <= at) {
        const next = await this.#extents.next();
        if (next.done) break;
        this.#extent = next.value;
        continue;
      }
      if (extent.state !== 'zero' && extent.state !== 'absent') isZero = false;
      at = extent.offset + extent.length;
    }
    return isZero;
  }
}

async function readPadded(disk: Disk, offset: number, length: number): Promise<Uint8Array> {
  const present = Math.max(0, Math.min(length, disk.size - offset));
  const bytes = new Uint8Array(length);
  if (present > 0) bytes.set(await disk.read(offset, present));
  return bytes;
}

/** The first sector of two pieces that differs. */
function differenceOf(one: Uint8Array, other: Uint8Array): number | undefined {
  for (let at = 0; at < one.length; at++)
    if (one[at] !== other[at]) return Math.floor(at / SECTOR_BYTES) * SECTOR_BYTES;
  return undefined;
}
