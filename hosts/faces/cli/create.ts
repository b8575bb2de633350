/** `millrace create`: a new overlay over a base. */
import type { CreateOptions } from '../../api/disk.ts';
import { createDiskWith } from '../../disk/open.ts';
import { isUrl, withDisk } from './image.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, tell } from './platform.ts';
import { formatSize } from './sizes.ts';

export interface CreateCommandOptions
  extends Omit<CreateOptions, 'overlay' | 'base' | 'recordBase'> {
  base?: string;
  recordBase?: string;
  json?: boolean;
}

const SECTOR_BYTES = 512;

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
    ...rest,
  });
  const [image] = await withDisk(disk, () => disk.images());
  if (base !== undefined && recordBase === undefined && holdsSecrets(base)) {
    await tell(
      platform,
      `the user, password or query of the base's URL is not recorded in ${overlay}: give the URL again with --from when streaming, or record it with --record-base`,
    );
  }
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
      backingFile === undefined ? 'without a base' : `over ${backingFile} (${backingFormat})`;
    await platform.stdout.write(`${overlay}: a disk of ${formatSize(virtualSize)}, ${over}\n`);
  }
  return EXIT_OK;
}

/** What createDisk leaves out of a URL that it records. */
function holdsSecrets(base: string): boolean {
  if (!isUrl(base) || !URL.canParse(base)) return false;
  const { username, password, search } = new URL(base);
  return username !== '' || password !== '' || search !== '';
}
