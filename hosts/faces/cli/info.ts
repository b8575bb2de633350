/**
 * `millrace info`: what an image is, in the words and fields of `qemu-img info`, and how much of it
 * is still missing. The base is opened only where the chain is asked for: it may be out of reach.
 */
import type { Command } from 'commander';
import { IMAGES_MAX } from '../../../engine/protocol.ts';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat, ImageInfo, SnapshotInfo } from '../../api/image.ts';
import type { Runtime } from '../../api/runtime.ts';
import { ofRecorded } from '../../disk/backing.ts';
import { formatOfWord } from '../../disk/driver/formats.ts';
import { lookBesideWriters } from '../../disk/look.ts';
import { describeImageWith } from '../../disk/open.ts';
import { isRemote } from '../../files/location.ts';
import type { InfoReport } from './info-report.ts';
import { reportOf } from './info-report.ts';
import { humanInfo } from './info-text.ts';
import type { Ended } from './options.ts';
import { addExample, imageFormat, outputFormat, wantsJson } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';

/** Declares `millrace info`. */
export function declareInfo(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('info')
    .description(
      'Tell what an image is, and how much of it is still missing. The base is not opened: it may be out of reach.',
    )
    .argument('<image>', 'a path or URL')
    .addOption(imageFormat())
    .option('--follow-chain', 'open the other files of an image that lies in several')
    .option('--backing-chain', 'tell of the backing files, too, down to the last')
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .action(async (image, { format, backingChain, followChain, ...options }) =>
      ended(
        await info(platform, image, {
          json: wantsJson(options),
          format,
          backingChain,
          followChain,
        }),
      ),
    );
  addExample(command, 'millrace info vm.qcow2 --output json');
}

/** What is looked at, and how it is told. */
export interface InfoCommandOptions {
  json: boolean;
  format?: ImageFormat;
  backingChain?: boolean;
  followChain?: boolean;
}

/** An image of the chain. */
interface Described {
  report: InfoReport;
  snapshots?: SnapshotInfo[];
}

export async function info(
  platform: Platform,
  location: string,
  options: InfoCommandOptions,
): Promise<number> {
  const chain = await chainOf(platform, location, options);
  const reports = chain.map(({ report }) => report);
  await platform.stdout.write(
    options.json
      ? `${JSON.stringify(options.backingChain ? reports : reports[0], undefined, 4)}\n`
      : chain.map(({ report, snapshots }) => humanInfo(report, snapshots)).join('\n'),
  );
  return EXIT_OK;
}

/** The image, and where they are asked for those below it, each as the one above records it. */
async function chainOf(
  platform: Platform,
  location: string,
  { format, backingChain, followChain }: InfoCommandOptions,
): Promise<Described[]> {
  const chain = [await describe(platform, location, { format, followChain })];
  while (backingChain) {
    const above = chain[chain.length - 1].report;
    const place = above['full-backing-filename'];
    if (place === undefined) break;
    if (chain.length === IMAGES_MAX)
      throw new MillraceError(
        'EUNSUPPORTED',
        `${location}: the chain has more than ${IMAGES_MAX} images, or goes round in a circle`,
      );
    const recorded = formatOfWord(above['backing-filename-format'] ?? '');
    const now = await platform.runtime.moved?.placeNow(place, chain.length === 1);
    const below = describe(platform, now ?? place, { format: recorded, followChain });
    chain.push(await below.catch((error) => Promise.reject(ofRecorded(error))));
  }
  return chain;
}

async function describe(
  platform: Platform,
  location: string,
  how: { format?: ImageFormat; followChain?: boolean },
): Promise<Described> {
  const runtime = notMeasuring(platform.runtime);
  const look = async (): ReturnType<typeof describeImageWith> => {
    const place = isRemote(location) ? await runtime.openSource(location) : location;
    return describeImageWith(runtime, place, how);
  };
  const { image, remaining } = await lookBesideWriters(platform.runtime, location, look);
  const allocated = isRemote(location)
    ? undefined
    : await allocatedBytes(platform, location, image);
  const report = reportOf(isRemote(location) ? image.name : location, image, allocated, remaining);
  return { report, snapshots: image.snapshots };
}

/** Of all the files that it lies in. */
async function allocatedBytes(
  platform: Platform,
  location: string,
  { files = [] }: ImageInfo,
): Promise<number | undefined> {
  let sum = 0;
  for (const file of [location, ...files]) {
    const bytes = await platform.allocatedBytes(file);
    if (bytes === undefined) return undefined;
    sum += bytes;
  }
  return sum;
}

/** What comes in order is not gone through only to learn its size. */
function notMeasuring(runtime: Runtime): Runtime {
  if (runtime.unpack === undefined) return runtime;
  const unpack: Runtime['unpack'] = (source, how) =>
    runtime.unpack!(source, { ...how, unmeasured: true });
  return { ...runtime, unpack };
}

/** QEMU sees whole sectors, whatever the length of a raw file is. */
