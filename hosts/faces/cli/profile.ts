/** `millrace profile`: what a boot profile says, and one of several boots. */
import type { Command } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import { readProfile } from '../../disk/profile-file.ts';
import { isSameBase } from '../../disk/recorded.ts';
import type { Profile } from '../../profiles/format.ts';
import { bytesOf } from '../../profiles/format.ts';
import { mergeProfiles, smallFileOf } from '../../profiles/merge.ts';
import { pictureOf } from '../../profiles/picture.ts';
import type { Ended } from './options.ts';
import { addExample } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { formatElapsed, formatExactly, formatSize } from './sizes.ts';

/** Of the places that are listed. */
const RANGES_SHOWN = 20;

interface ShowOptions {
  json?: boolean;
}

interface MergeOptions extends ShowOptions {
  output: string;
}

/** Declares `millrace profile show` and `millrace profile merge`. */
export function declareProfile(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('profile')
    .description(
      'Boot profiles: which parts of a base a machine reads first, as millrace serve --record notes them.\nOne that stands beside an image on its server, as IMAGE.profile, is fetched ahead by whoever boots from that.',
    );
  const show = command
    .command('show')
    .description('Tell what a profile has: its places, its bytes, and where on the disk they are.')
    .argument('<profile>', 'a path or URL')
    .option('--json', 'as JSON, with all of its places')
    .action(async (place, options) => ended(await showProfile(platform, place, options)));
  addExample(show, 'millrace profile show debian.qcow2.profile');
  const merge = command
    .command('merge')
    .description(
      'Make one profile of several boots: what all of them read first, then what at least half of them did.',
    )
    .argument('<profile...>', 'paths or URLs, of boots from the same base')
    .requiredOption('-o, --output <path>', 'where the profile goes; nothing may be there yet')
    .option('--json', 'tell what it has as JSON')
    .action(async (places, options) => ended(await merged(platform, places, options)));
  addExample(merge, 'millrace profile merge one.profile two.profile -o debian.qcow2.profile');
}

/** Writes a new file. @throws MillraceError `EEXIST` */
export async function writeFile(
  { runtime }: Platform,
  path: string,
  bytes: Uint8Array,
): Promise<void> {
  const file = await runtime.openOverlay(path, { create: true });
  try {
    await file.write(0, bytes);
    await file.flush();
    await file.publish?.();
  } finally {
    await file.close();
  }
}

async function read({ runtime }: Platform, place: string): Promise<Profile> {
  return (await readProfile(place, (location) => runtime.openSource(location))).profile;
}

async function showProfile(
  platform: Platform,
  place: string,
  { json = false }: ShowOptions,
): Promise<number> {
  const profile = await read(platform, place);
  if (json) await platform.stdout.write(`${JSON.stringify(profile)}\n`);
  else await platform.stdout.write(`${linesOf(profile).join('\n')}\n`);
  return EXIT_OK;
}

function linesOf({ base, diskSize, seconds, boots, ranges }: Profile): string[] {
  const bytes = bytesOf(ranges);
  const share = ((bytes / diskSize) * 100).toPrecision(2);
  const lines = [
    `base: ${formatExactly(base.size)}${base.identity ? `, ${base.identity}` : ''}`,
    `disk: ${formatExactly(diskSize)}`,
    `recorded: ${boots === 1 ? 'one boot' : `${boots} boots`}, ${formatElapsed(seconds)}`,
    `read: ${formatSize(bytes)} (${share} % of the disk) in ${ranges.length} places`,
    '',
    ...pictureOf(ranges, diskSize).map((row) => `  |${row}|`),
    '',
    '    time        offset        length',
  ];
  for (const { offset, length, ms } of ranges.slice(0, RANGES_SHOWN))
    lines.push(
      `${(ms / 1000).toFixed(2).padStart(6)} s  ${String(offset).padStart(12)}  ${String(length).padStart(12)}`,
    );
  if (ranges.length > RANGES_SHOWN)
    lines.push(`  … ${ranges.length - RANGES_SHOWN} more (--json tells all)`);
  return lines;
}

async function merged(
  platform: Platform,
  places: readonly string[],
  { output, json = false }: MergeOptions,
): Promise<number> {
  const profiles: Profile[] = [];
  for (const place of places) profiles.push(await read(platform, place));
  const other = profiles.findIndex(({ base }) => !isSameBase(profiles[0].base, base));
  if (other >= 0)
    throw new MillraceError(
      'EINVAL',
      `${places[0]} and ${places[other]} are of different bases: profiles are merged of boots from one`,
    );
  const { file, profile } = await smallFileOf(mergeProfiles(profiles));
  await writeFile(platform, output, file);
  const told = {
    ranges: profile.ranges.length,
    bytes: bytesOf(profile.ranges),
    fileBytes: file.length,
  };
  const text = json
    ? JSON.stringify(told)
    : `${output}: ${formatSize(told.fileBytes)}, ${formatSize(told.bytes)} in ${told.ranges} places`;
  await platform.stdout.write(`${text}\n`);
  return EXIT_OK;
}
