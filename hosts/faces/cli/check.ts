/**
 * `millrace check`: looks for errors and leaks in an image's metadata, and repairs them if asked
 * to. It needs no base.
 */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { CheckReport } from '../../api/check.ts';
import type { ImageFormat } from '../../api/image.ts';
import { whileUnchanged } from '../../disk/look.ts';
import { checkDiskWith } from '../../disk/open.ts';
import type { Ended } from './options.ts';
import { addExample, imageFormat, outputFormat, wantsJson } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, tell } from './platform.ts';
import { withBar } from './progress.ts';

/** As `qemu-img check` has them. */
const EXIT_CORRUPT = 2;
const EXIT_LEAKS = 3;
const EXIT_NOT_CHECKABLE = 63;

export interface CheckCommandOptions {
  format?: ImageFormat;
  repair?: 'leaks' | 'all';
  data?: boolean;
  json: boolean;
}

/** Declares `millrace check`. */
export function declareCheck(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('check')
    .description(
      'Look for errors in an image. Exit code: 0 sound, 1 could not be checked, 2 corrupt, 3 only leaks, 63 no qcow2 image.',
    )
    .argument('<image>', 'a qcow2 file')
    .addOption(imageFormat())
    .addOption(
      new Option('-r, --repair <what>', 'repair leaks, or all that can be repaired').choices([
        'leaks',
        'all',
      ]),
    )
    .option('--data', 'also read all data, and inflate what is compressed, to find damage there')
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .action(async (image, options) =>
      ended(
        await check(platform, image, {
          format: options.format,
          repair: options.repair,
          data: options.data,
          json: wantsJson(options),
        }),
      ),
    );
  addExample(command, 'millrace check vm.qcow2 --repair leaks');
}

export async function check(
  platform: Platform,
  path: string,
  { format, repair, data = false, json }: CheckCommandOptions,
): Promise<number> {
  const look = (): Promise<CheckReport | undefined> =>
    withBar(platform.stderr, (onProgress) =>
      checkDiskWith(platform.runtime, { overlay: path, format, repair, data, onProgress }),
    );
  // A repair locks the image, and is what changes it.
  const found = repair ? await look() : await whileUnchanged(platform.runtime, path, look);
  if (found === undefined) {
    await tell(platform, `${path} is no qcow2 image: there is nothing to check`);
    return EXIT_NOT_CHECKABLE;
  }
  await platform.stdout.write(
    json ? `${JSON.stringify(jsonReport(path, found), undefined, 4)}\n` : humanReport(found, data),
  );
  if (found.corruptions || found.damagedBytes) return EXIT_CORRUPT;
  return found.leaks ? EXIT_LEAKS : EXIT_OK;
}

/** As `qemu-img check --output=json`, which leaves out counts that are 0. */
function jsonReport(filename: string, found: CheckReport): Record<string, unknown> {
  return {
    'image-end-offset': found.imageEndOffset,
    'total-clusters': found.totalClusters || undefined,
    'check-errors': 0,
    'allocated-clusters': found.allocatedClusters || undefined,
    'fragmented-clusters': found.fragmentedClusters || undefined,
    'compressed-clusters': found.compressedClusters || undefined,
    filename,
    format: 'qcow2',
    corruptions: found.corruptions || undefined,
    leaks: found.leaks || undefined,
    'corruptions-fixed': found.corruptionsFixed || undefined,
    'leaks-fixed': found.leaksFixed || undefined,
    'damaged-bytes': found.damagedBytes,
    damages: found.damages,
  };
}

function humanReport(found: CheckReport, data: boolean): string {
  const lines: string[] = [];
  if (found.corruptionsFixed || found.leaksFixed)
    lines.push(`Repaired: ${counted(found.corruptionsFixed, found.leaksFixed)}.`);
  lines.push(
    found.corruptions || found.leaks
      ? `Found: ${counted(found.corruptions, found.leaks)}.${found.corruptions ? ' Data may be corrupt.' : ' No data is lost by leaks: they only take space.'}`
      : 'No errors were found on the image.',
  );
  if (data) lines.push(...damageLines(found));
  const share = (part: number, whole: number): string =>
    `${(whole ? (part / whole) * 100 : 0).toFixed(2)}%`;
  lines.push(
    [
      `${found.allocatedClusters}/${found.totalClusters} = ${share(found.allocatedClusters, found.totalClusters)} allocated`,
      `${share(found.fragmentedClusters, found.allocatedClusters)} fragmented`,
      `${share(found.compressedClusters, found.allocatedClusters)} compressed clusters`,
    ].join(', '),
  );
  lines.push(`Image end offset: ${found.imageEndOffset}`);
  return `${lines.join('\n')}\n`;
}

/** What reading all data has found. */
function damageLines({ damagedBytes, damages = [] }: CheckReport): string[] {
  if (damagedBytes === undefined) return ['Its data was not read, for the metadata is corrupt.'];
  if (!damagedBytes) return ['All data was read, and is whole.'];
  return [
    `Damaged data: ${damagedBytes} bytes of the disk cannot be read, the first of them`,
    ...damages.map(({ offset, message }) => `  at ${offset}: ${message}`),
  ];
}

function counted(corruptions: number, leaks: number): string {
  const parts = [];
  if (corruptions) parts.push(`${corruptions} error${corruptions === 1 ? '' : 's'}`);
  if (leaks) parts.push(`${leaks} leaked cluster${leaks === 1 ? '' : 's'}`);
  return parts.join(' and ');
}
