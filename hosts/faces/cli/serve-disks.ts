/**
 * The disks of `millrace serve`: their names, what options say of each, and how they are opened.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { sharingBases } from '../../bases/shared.ts';
import { openDiskWith } from '../../disk/open.ts';
import { baseAt } from './from.ts';
import type { Platform } from './platform.ts';
import { lookingWith } from './reach.ts';
import type { ServeOptions } from './serve.ts';
import { tellOfReplay } from './serve-profiles.ts';

/** A disk that is served. */
export interface ServedImage {
  disk: Disk;
  image: string;
}

/** Images, and the names under which they are served. */
type Named = readonly [device: string, image: string];

/** `NAME=IMAGE`, else vda, vdb, … */
export function named(images: readonly string[]): [device: string, image: string][] {
  const pairs = images.map((text, index): [string, string] => {
    const [, device, image] = /^([a-z][a-z0-9_-]{0,31})=(.+)$/.exec(text) ?? [];
    return device === undefined
      ? [`vd${String.fromCharCode('a'.charCodeAt(0) + index)}`, text]
      : [device, image];
  });
  const twice = pairs.find(
    ([device], index) => pairs.findIndex(([other]) => other === device) < index,
  );
  if (twice) throw new MillraceError('EEXIST', `there are two disks '${twice[0]}'`);
  if (pairs.length > 26)
    throw new MillraceError(
      'EINVAL',
      `${pairs.length} disks are too many for one server: 26 at most`,
    );
  return pairs;
}

/** What an option says of each disk, of those of which it says something. */
export function placesOf(
  option: 'from' | 'record' | 'profile',
  given: readonly string[],
  devices: readonly Named[],
): Map<string, string> {
  const places = new Map<string, string>();
  for (const text of given) {
    const [, device = devices[0][0], place = text] =
      /^([a-z][a-z0-9_-]{0,31})=(.+)$/.exec(text) ?? [];
    if (place === text && devices.length > 1)
      throw new MillraceError(
        'EINVAL',
        `there are several disks: say of which by --${option} NAME=${option === 'from' ? 'URL' : 'FILE'}`,
      );
    if (!devices.some(([name]) => name === device))
      throw new MillraceError('EINVAL', `--${option} ${device}=…: there is no disk '${device}'`);
    places.set(device, place);
  }
  return places;
}

/**
 * Opens the disks, which share their bases; what has been opened is in `served` even when one
 * fails.
 */
export async function openAll(
  platform: Platform,
  images: readonly Named[],
  options: ServeOptions,
  served: Map<string, ServedImage>,
): Promise<void> {
  const places = placesOf('from', options.from ?? [], images);
  const profiles = profilesOf(options, images);
  const recorded = placesOf('record', options.record ?? [], images);
  const shared = sharingBases(platform.runtime);
  const lookAt = lookingWith(platform);
  for (const [device, image] of images) {
    const from = places.get(device);
    const runtime = from === undefined ? shared : baseAt(shared, from, { lookAt });
    const profile = profiles.get(device);
    const record = recorded.has(device) && { seconds: options.recordFor };
    const { readOnly, followChain, format, baseFormat, base, create } = options;
    const disk = await openDiskWith(runtime, {
      overlay: image,
      readOnly,
      followChain,
      format,
      baseFormat,
      base,
      create: create ? { base, followChain, baseFormat } : undefined,
      profile,
      record,
    });
    served.set(device, { disk, image });
    // What it finds is told while the disk is served; one closed before has nothing to tell.
    if (profile !== undefined) void tellOfReplay(platform, device, disk).catch(() => {});
  }
}

/** Which profile each disk replays. Nothing that is fetched stays where nothing is changed. */
function profilesOf(
  { profile = ['auto'], readOnly }: ServeOptions,
  images: readonly Named[],
): Map<string, string> {
  const [only] = profile;
  if (profile.length === 1 && (only === 'auto' || only === 'none'))
    return new Map(readOnly ? [] : images.map(([device]) => [device, only]));
  return placesOf('profile', profile, images);
}
