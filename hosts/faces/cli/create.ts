/** `millrace create`: a new overlay over a base. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import type { CreateOptions } from '../../api/open.ts';
import { withDisk } from '../../disk/look.ts';
import { createDiskWith } from '../../disk/open.ts';
import { creationOptions, mustBeOneBase } from './creation.ts';
import type { Ended } from './options.ts';
import {
  addExample,
  baseFormat,
  count,
  creation,
  followChain,
  recordBase,
  refusing,
  size,
} from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { tellOfSecrets } from './secrets.ts';
import { formatSize } from './sizes.ts';

export interface CreateCommandOptions
  extends Omit<CreateOptions, 'overlay' | 'base' | 'recordBase'> {
  base?: string;
  recordBase?: string;
  json?: boolean;
}

const SECTOR_BYTES = 512;
/**
 * The least that a disk has, which is plenty here: with 32 MiB, V8 looks for what it could collect,
 * and a tenth of the time goes there.
 */
const MEMORY_BYTES = 8 * 1024 * 1024;

/** Declares `millrace create`. */
export function declareCreate(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('create')
    .description(
      'Make a new overlay over a base. It takes hardly any space, and shows what the base holds.',
    )
    .argument('<overlay>', 'the qcow2 file to make; it must not be there yet')
    .argument('[size]', 'as --size', size)
    .option(
      '-b, --base <url|path>',
      'the base: an http: or https: URL, an NBD URI (nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH), or a path; without one the disk is empty',
    )
    .addOption(baseFormat())
    .option('--size <size>', "size of the disk (default: the base's)", size)
    .option('--cluster-size <size>', 'from 512 to 2M (default: 64K)', size)
    .option('--refcount-bits <n>', 'width of a refcount, from 1 to 64 (default: 16)', count)
    .option('--extended-l2', '32 subclusters a cluster')
    .addOption(creation())
    .addOption(new Option('-f, --format <format>', 'the only one').choices(['qcow2']))
    .addOption(followChain())
    .addOption(recordBase())
    .option('--json', 'tell the result as JSON')
    .action(async (overlay, size, { format: _, ...options }) =>
      ended(await create(platform, overlay, withCreation(size, options))),
    );
  refusing(command, '-u', 'a base is opened, so that it is known when it has changed');
  addExample(
    command,
    'millrace create vm.qcow2 --base https://images.example/debian.qcow2 --size 20G',
  );
}

/** What `-o` and the argument say, among the options; an option of its own goes before `-o`. */
function withCreation(
  sizeArgument: number | undefined,
  { o, ...options }: CreateCommandOptions & { o: string[] },
): CreateCommandOptions {
  const { base, baseFormat, size = sizeArgument, ...shape } = creationOptions(o);
  if (options.size !== undefined && size !== undefined && options.size !== size)
    throw new MillraceError('EINVAL', `there are two sizes, ${options.size} and ${size}: give one`);
  mustBeOneBase(base, options.base);
  return {
    base,
    baseFormat: baseFormat as ImageFormat | undefined,
    ...shape,
    ...options,
    size: options.size ?? size,
  };
}

export async function create(
  platform: Platform,
  overlay: string,
  options: CreateCommandOptions,
): Promise<number> {
  const { base, recordBase, json, size, ...rest } = options;
  // A disk is a number of sectors: `qemu-img create` rounds up as well.
  const bytes = size === undefined ? undefined : Math.ceil(size / SECTOR_BYTES) * SECTOR_BYTES;
  const disk = await createDiskWith(platform.runtime, {
    overlay,
    base,
    recordBase,
    size: bytes,
    memory: MEMORY_BYTES,
    ...rest,
  });
  const [image] = await withDisk(disk, () => disk.images());
  await tellOfSecrets(platform, overlay, options);
  const { virtualSize, clusterSize, backingFile, backingFormat } = image;
  if (json) {
    const result = {
      filename: overlay,
      'virtual-size': virtualSize,
      'cluster-size': clusterSize,
      'backing-filename': backingFile,
      'backing-filename-format': backingFormat,
    };
    await platform.stdout.write(`${JSON.stringify(result)}\n`);
  } else {
    const over =
      backingFile === undefined
        ? 'without a base'
        : `over ${backingFile}${backingFormat === undefined ? '' : ` (${backingFormat})`}`;
    await platform.stdout.write(`${overlay}: a disk of ${formatSize(virtualSize)}, ${over}\n`);
  }
  return EXIT_OK;
}
