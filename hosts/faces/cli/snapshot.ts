/**
 * `millrace snapshot`: lists the internal snapshots of an image, as `qemu-img snapshot -l` does.
 */
import type { Command } from 'commander';
import type { ImageFormat } from '../../api/image.ts';
import { lookBesideWriters, openImage, withDisk } from '../../disk/look.ts';
import type { Ended } from './options.ts';
import { addExample, imageFormat, refusing } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, printable } from './platform.ts';
import { snapshotList } from './snapshot-list.ts';

/** Declares `millrace snapshot`. */
export function declareSnapshot(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('snapshot')
    .description('List the internal snapshots of an image.')
    .argument('<image>', 'a path or URL')
    .option('-l, --list', 'list them, which is all that can be done')
    .addOption(imageFormat())
    .action(async (image, { format }) => ended(await snapshot(platform, image, format)));
  for (const [flags, what] of [
    ['-c <name>', 'make'],
    ['-a <name>', 'apply'],
    ['-d <name>', 'delete'],
  ])
    refusing(command, flags, `snapshots are only listed; use 'qemu-img snapshot' to ${what} one`);
  addExample(command, 'millrace snapshot -l vm.qcow2');
}

/** Tells nothing of an image without snapshots. */
export async function snapshot(
  platform: Platform,
  location: string,
  format?: ImageFormat,
): Promise<number> {
  const snapshots = await lookBesideWriters(platform.runtime, location, async () =>
    withDisk(
      await openImage(platform.runtime, location, { base: null, format }),
      async (disk) => (await disk.images())[0].snapshots ?? [],
    ),
  );
  for (const line of snapshotList(snapshots)) await platform.stdout.write(`${printable(line)}\n`);
  return EXIT_OK;
}
