/**
 * `millrace resize`: makes a disk larger, or smaller if that is asked for, as `qemu-img resize`
 * does.
 */
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import { openImage, withDisk } from '../../disk/look.ts';
import { openDiskWith } from '../../disk/open.ts';
import type { Ended } from './options.ts';
import { addExample, followChain, imageFormat, size } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';

const SECTOR_BYTES = 512;

export interface ResizeCommandOptions {
  format?: ImageFormat;
  shrink?: boolean;
  followChain?: boolean;
  json?: boolean;
}

/** What a disk is to have: so many bytes, or so many more or fewer than now. */
interface Wanted {
  sign: -1 | 0 | 1;
  bytes: number;
}

/** Declares `millrace resize`. */
export function declareResize(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('resize')
    .description(
      'Make a disk larger, or smaller. What is new reads as zeros; the partitions and file systems in it stay as they are.',
    )
    .argument('<image>', 'a qcow2 or raw file')
    .argument('<size>', 'the new size; +SIZE and -SIZE are from the size that it has', wanted)
    .addOption(imageFormat())
    .option('--shrink', 'make it smaller, which loses what lies behind the new end')
    .addOption(followChain())
    .option('--json', 'tell the result as JSON')
    .action(async (image, size, options) => ended(await resize(platform, image, size, options)));
  addExample(command, 'millrace resize vm.qcow2 +10G');
}

function wanted(text: string): Wanted {
  const [, sign, rest] = /^([+-]?)(.+)$/s.exec(text) ?? [];
  if (rest === undefined) throw new InvalidArgumentError('It is a size, +SIZE or -SIZE.');
  return { sign: sign === '+' ? 1 : sign === '-' ? -1 : 0, bytes: size(rest) };
}

/** Changes the size of the disk that an image shows. */
export async function resize(
  platform: Platform,
  path: string,
  { sign, bytes }: Wanted,
  { json, ...options }: ResizeCommandOptions,
): Promise<number> {
  const { format, virtualSize } = await withDisk(
    await openImage(platform.runtime, path, { base: null, format: options.format }),
    async (disk) => (await disk.images())[0],
  );
  const exact = sign === 0 ? bytes : virtualSize + sign * bytes;
  const to = Math.ceil(exact / SECTOR_BYTES) * SECTOR_BYTES;
  if (!Number.isSafeInteger(to) || to < 0)
    throw new MillraceError(
      'EINVAL',
      `invalid size ${exact} for ${path}: must be 0 to 2^53 - 1 bytes`,
    );
  if (to < virtualSize && !options.shrink)
    throw new MillraceError(
      'EINVAL',
      `${path} has ${virtualSize} bytes, and would lose what lies behind ${to}: ask for that by --shrink`,
    );
  if (format === 'raw') await resizeRaw(platform, path, to);
  else await resizeOverlay(platform, path, to, options);
  await platform.stdout.write(
    json ? `${JSON.stringify({ filename: path, 'virtual-size': to })}\n` : 'Image resized.\n',
  );
  return EXIT_OK;
}

async function resizeRaw(platform: Platform, path: string, bytes: number): Promise<void> {
  const file = await platform.runtime.openOverlay(path, {});
  try {
    await file.truncate(bytes);
    await file.flush();
  } finally {
    await file.close();
  }
}

/** The base is needed: where it is larger, what it has behind the old end must not show. */
async function resizeOverlay(
  platform: Platform,
  path: string,
  bytes: number,
  { shrink, followChain }: ResizeCommandOptions,
): Promise<void> {
  const disk = await openDiskWith(platform.runtime, {
    overlay: path,
    followChain,
    copyOnRead: false,
  });
  await withDisk(disk, (disk) => disk.resize(bytes, { shrink }));
}
