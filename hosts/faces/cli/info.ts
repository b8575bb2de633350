/**
 * `millrace info`: what an image is, in the words and fields of `qemu-img info`, and how much of it
 * is still missing. The base is opened only where the chain is asked for: it may be out of reach.
 */
import type { Command } from 'commander';
import { IMAGES_MAX } from '../../../engine/protocol.ts';
import { MillraceError } from '../../api/errors.ts';
import type { AesInfo, ImageFormat, ImageInfo, LuksInfo, SnapshotInfo } from '../../api/image.ts';
import type { Runtime } from '../../api/runtime.ts';
import { SIZE_UNMEASURED } from '../../bases/containers/pass.ts';
import { ofRecorded } from '../../disk/backing.ts';
import { formatOfWord } from '../../disk/driver/formats.ts';
import { describeImageWith } from '../../disk/open.ts';
import { isRemote } from '../../files/location.ts';
import { lookBesideWriters } from './image.ts';
import type { Ended } from './options.ts';
import { addExample, imageFormat, outputFormat, wantsJson } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, printable } from './platform.ts';
import { formatExactly, formatSize } from './sizes.ts';

const SECTOR_BYTES = 512;

/** What is told of a format, in the names of `qemu-img info`. */
type Detail = string | number | boolean | Detail[] | { [name: string]: Detail | undefined };

/** `qemu-img info --output=json`, field for field, and `remaining`. */
interface InfoReport {
  snapshots?: Record<string, string | number | undefined>[];
  /** Left out where it is not known before all of the image has been read. */
  'virtual-size'?: number;
  filename: string;
  /** What the image was unpacked from. */
  container?: {
    formats: readonly string[];
    member?: string;
    size?: number;
    access: 'random' | 'sequential';
  };
  'cluster-size'?: number;
  format: string;
  'actual-size'?: number;
  'format-specific'?: {
    type: 'qcow2';
    data: Record<string, Detail | undefined>;
  };
  'backing-filename'?: string;
  'full-backing-filename'?: string;
  'backing-filename-format'?: string;
  'dirty-flag': boolean;
  encrypted?: true;
  /**
   * Bytes that are not populated: neither written nor streamed; not told where they are in a file
   * of their own.
   */
  remaining?: number;
}

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
  const { image, remaining } = await lookBesideWriters(platform, location, look);
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
function virtualSizeOf({ virtualSize }: ImageInfo): number | undefined {
  const bytes = Math.ceil(virtualSize / SECTOR_BYTES) * SECTOR_BYTES;
  return bytes === SIZE_UNMEASURED ? undefined : bytes;
}

function containerOf({ container }: ImageInfo): InfoReport['container'] {
  if (container === undefined) return undefined;
  const { formats, member, packedSize: size, access } = container;
  return { formats, member, size, access };
}

function reportOf(
  filename: string,
  image: ImageInfo,
  allocated: number | undefined,
  remaining: number | undefined,
): InfoReport {
  return {
    snapshots: image.snapshots?.map(jsonSnapshot),
    'virtual-size': virtualSizeOf(image),
    filename,
    container: containerOf(image),
    'cluster-size': image.clusterSize,
    format: image.format,
    'actual-size': allocated,
    'format-specific':
      image.format === 'qcow2' ? { type: 'qcow2', data: qcow2Data(image) } : undefined,
    'backing-filename': image.backingFile,
    'full-backing-filename':
      image.backingFile === undefined ? undefined : besides(filename, image.backingFile),
    'backing-filename-format': image.backingFormat,
    encrypted: image.encryption && true,
    'dirty-flag': image.dirty ?? false,
    remaining,
  };
}

/** Version 2 has no feature bits to tell of. */
function qcow2Data(image: ImageInfo): Record<string, Detail | undefined> {
  const { compressionType, refcountBits, lazyRefcounts, corrupt, extendedL2, dataFile } = image;
  const encrypt = image.encryption && encryptionDetail(image.encryption);
  const common = { 'compression-type': compressionType, 'refcount-bits': refcountBits, encrypt };
  if (image.version === 2) return { compat: '0.10', ...common };
  return {
    compat: '1.1',
    'compression-type': compressionType,
    'lazy-refcounts': lazyRefcounts,
    bitmaps: image.bitmaps?.map(({ flags, name, granularity }) => ({ flags, name, granularity })),
    'refcount-bits': refcountBits,
    encrypt,
    'data-file': dataFile?.name,
    'data-file-raw': dataFile?.raw,
    corrupt,
    'extended-l2': extendedL2,
  };
}

function encryptionDetail(encryption: AesInfo | LuksInfo): Detail {
  if (encryption.format === 'aes') return { format: 'aes' };
  return {
    'ivgen-alg': encryption.ivgen,
    'hash-alg': encryption.hash,
    'cipher-alg': encryption.cipher,
    uuid: encryption.uuid,
    'ivgen-hash-alg': encryption.ivgenHash,
    format: encryption.format,
    'cipher-mode': encryption.mode,
    slots: encryption.slots.map(({ keyOffset, iterations, stripes }) => ({
      active: iterations !== undefined,
      iters: iterations,
      'key-offset': keyOffset,
      stripes,
    })),
    'payload-offset': encryption.payloadOffset,
    'master-key-iters': encryption.masterKeyIterations,
  };
}

/**
 * A relative backing file lies beside its image; the path is told as QEMU tells it, which does not
 * shorten it.
 */
function besides(image: string, backing: string): string {
  if (backing.startsWith('/') || /^[^/]*:/.test(backing)) return backing;
  return image.slice(0, image.lastIndexOf('/') + 1) + backing;
}

function humanInfo(report: InfoReport, snapshots: SnapshotInfo[] = []): string {
  const backing = report['backing-filename'];
  const full = report['full-backing-filename'];
  const actual = report['actual-size'];
  const lines = [
    `image: ${report.filename}`,
    `file format: ${report.format}`,
    `virtual size: ${report['virtual-size'] === undefined ? 'not known before all of it has been read' : formatExactly(report['virtual-size'])}`,
    `disk size: ${actual === undefined ? 'unavailable' : formatSize(actual)}`,
  ];
  if (report.container !== undefined) lines.push(...humanContainer(report.container));
  if (report.encrypted) lines.push('encrypted: yes');
  if (report['cluster-size'] !== undefined) lines.push(`cluster_size: ${report['cluster-size']}`);
  if (report['dirty-flag']) lines.push('cleanly shut down: no');
  if (backing !== undefined)
    lines.push(`backing file: ${backing}${full === backing ? '' : ` (actual path: ${full})`}`);
  if (report['backing-filename-format'] !== undefined)
    lines.push(`backing file format: ${report['backing-filename-format']}`);
  if (backing !== undefined && report.remaining !== undefined)
    lines.push(`still in the backing file: ${formatExactly(report.remaining)}`);
  lines.push(...snapshotList(snapshots));
  if (report['format-specific'] !== undefined) {
    lines.push('Format specific information:');
    lines.push(...humanDetails(report['format-specific'].data, '    '));
  }
  return `${lines.map(printable).join('\n')}\n`;
}

function humanContainer({
  formats,
  member,
  size,
  access,
}: NonNullable<InfoReport['container']>): string[] {
  const bytes = size === undefined ? '' : `, ${formatExactly(size)}`;
  return [
    `container: ${formats.join(', in it ') || 'none'}${bytes}`,
    ...(member === undefined ? [] : [`member: ${member}`]),
    `access: ${access === 'random' ? 'random' : 'sequential (a read waits until all before it has come)'}`,
  ];
}

/** Each on a line of its own, what it is made of below it. */
function humanDetails(details: Record<string, Detail | undefined>, indent: string): string[] {
  return Object.entries(details).flatMap(([key, value]) => {
    if (value === undefined) return [];
    const name = `${indent}${key.replaceAll('-', ' ')}:`;
    if (typeof value !== 'object') return [`${name} ${value}`];
    const parts = Array.isArray(value)
      ? Object.fromEntries(value.map((part, index) => [`[${index}]`, part]))
      : value;
    return [name, ...humanDetails(parts, `${indent}    `)];
  });
}

/** The table of `qemu-img info` and `qemu-img snapshot -l`; nothing where there are none. */
export function snapshotList(snapshots: readonly SnapshotInfo[]): string[] {
  if (snapshots.length === 0) return [];
  return [
    'Snapshot list:',
    snapshotRow('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'),
    ...snapshots.map(humanSnapshot),
  ];
}

function jsonSnapshot(snapshot: SnapshotInfo): Record<string, string | number | undefined> {
  return {
    icount: snapshot.icount,
    'vm-clock-nsec': snapshot.clockNanoseconds,
    name: snapshot.name,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': snapshot.clockSeconds,
    id: snapshot.id,
    'vm-state-size': snapshot.stateSize,
  };
}

function humanSnapshot({
  id,
  name,
  stateSize,
  dateSeconds,
  clockSeconds,
  clockNanoseconds,
  icount,
}: SnapshotInfo): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const made = new Date(dateSeconds * 1000);
  const date = `${made.getFullYear()}-${two(made.getMonth() + 1)}-${two(made.getDate())} ${two(made.getHours())}:${two(made.getMinutes())}:${two(made.getSeconds())}`;
  const clock = `${two(Math.floor(clockSeconds / 3600))}:${two(Math.floor(clockSeconds / 60) % 60)}:${two(clockSeconds % 60)}.${String(Math.floor(clockNanoseconds / 1e6)).padStart(3, '0')}`;
  return snapshotRow(
    id,
    name,
    formatSize(stateSize),
    date,
    clock,
    icount === undefined ? '' : String(icount),
  );
}

/** The columns of `qemu-img info`. */
function snapshotRow(
  id: string,
  name: string,
  size: string,
  date: string,
  clock: string,
  icount: string,
): string {
  const right = [size.padStart(8), date.padStart(20), clock.padStart(13), icount.padStart(11)];
  return [id.padEnd(10), name.padEnd(17), ...right].join('').trimEnd();
}
