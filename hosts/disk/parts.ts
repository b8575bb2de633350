/**
 * An image whose data is in other files beside it (VMDK): they are opened, and the engine is told
 * which part of the disk each has. The author of an image chose their names, so that is done only
 * when the caller asked for it.
 */
import {
  FILES_MAX,
  FORMAT_RAW,
  FORMAT_VMDK,
  IMAGES_MAX,
  KIND_OPEN,
} from '../../engine/protocol.ts';
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { Runtime, SourceUse } from '../api/runtime.ts';
import { closeAll } from './close-all.ts';
import type { Engine } from './driver/engine.ts';
import { hex } from './hex.ts';
import type { UnpackChoice } from './image-source.ts';
import { contentsOf } from './image-source.ts';
import type { VmdkExtent } from './vmdk-text.ts';
import { VMDK_TEXT_BYTES_MAX, vmdkExtents } from './vmdk-text.ts';

/** Files that are opened at once. */
const OPENING_MAX = 8;
const PART_ZEROES = -1;
const HTTP = /^https?:/i;
/** What has no folders. One letter is a drive, and names in a bucket are paths. */
const SCHEME = /^(?!file:|r2:)[a-z][a-z0-9+.-]+:/i;

/** How the parts of an image are opened. */
export interface PartsHow extends UnpackChoice {
  follow: boolean;
  as?: SourceUse;
  /** Where the image is, as it was given: a path or URL; undefined where that is not known. */
  place?: string;
  /** Number of the first part's file. */
  first: number;
}

/** An image's own file, which closes the others, too. */
export interface PartedSource extends BlockSource {
  /** What identifies the other files, as far as that is told. */
  readonly parts?: string;
  /** Number of the file behind theirs. */
  readonly end: number;
  /** Their names, without those of zeros. */
  readonly files: readonly string[];
}

/**
 * Opens the files that the text of an image names; the image itself can be opened then.
 * @throws MillraceError `EUNSUPPORTED` where following was not asked for, or they cannot be
 *   followed; `ECORRUPT` for sizes that lie; what opening them throws.
 */
export async function openPartsOf(
  runtime: Runtime,
  engine: Engine,
  image: number,
  how: PartsHow,
): Promise<PartedSource> {
  const source = engine.file(image)!;
  const name = engine.name(image);
  const extents = vmdkExtents(await textOf(source, name), name);
  mustBeFollowed(extents, name, how);
  const { first } = how;
  if (first + extents.length > FILES_MAX)
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot open ${name}: its data is in ${extents.length} files; more than ${FILES_MAX - IMAGES_MAX} are not supported`,
    );
  const opened: BlockSource[] = [];
  try {
    for (let at = 0; at < extents.length; at += OPENING_MAX) {
      const some = extents.slice(at, at + OPENING_MAX);
      const outcomes = await Promise.allSettled(
        some.map((extent) => openPart(runtime, source, name, extent, how)),
      );
      for (const outcome of outcomes)
        if (outcome.status === 'fulfilled') opened.push(outcome.value);
      const failed = outcomes.find((outcome) => outcome.status === 'rejected');
      if (failed) throw failed.reason;
    }
    await attachParts(engine, image, first, extents, opened);
  } catch (error) {
    await closeAll(opened).catch(() => {});
    throw error;
  }
  return {
    size: source.size,
    name: source.name,
    identity: source.identity,
    preferred: opened.find(({ preferred }) => preferred)?.preferred ?? source.preferred,
    parts: await identityOf(opened),
    end: first + extents.length,
    files: opened.filter((part) => part !== NOWHERE).map((part) => part.name ?? ''),
    read: (offset, into, hint) => source.read(offset, into, hint),
    close: () => closeAll([source, ...opened]),
  };
}

async function textOf(source: BlockSource, name: string): Promise<Uint8Array> {
  if (source.size > VMDK_TEXT_BYTES_MAX)
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot open ${name}: the text that describes it is longer than ${VMDK_TEXT_BYTES_MAX / 1024} KiB`,
    );
  const text = new Uint8Array(source.size);
  await source.read(0, text);
  return text;
}

function mustBeFollowed(extents: readonly VmdkExtent[], name: string, how: PartsHow): void {
  const names = extents.filter(({ kind }) => kind !== 'zero').map((extent) => `'${extent.name}'`);
  const listed = names.length > 2 ? `${names[0]} and ${names.length - 1} more` : names.join(', ');
  if (!how.follow)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${name} has its data in other files (${listed || 'none'}), which are followed only when asked for (followChain, --follow-chain)`,
    );
}

async function openPart(
  runtime: Runtime,
  descriptor: BlockSource,
  image: string,
  { name, kind, length, at }: VmdkExtent,
  how: PartsHow,
): Promise<BlockSource> {
  if (kind === 'zero') return NOWHERE;
  if (descriptor.container !== undefined)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${image} has its data in another file ('${name}'), which is not looked for in archives: unpack it first`,
    );
  const place = besidePlace(runtime, image, name, how.place);
  const { sequential } = how;
  const file = await runtime.openSource(place, how.as, sequential ? { sequential } : undefined);
  const source = await contentsOf(runtime, file, { unpack: false, sequential });
  if (kind === 'sparse' || at + length <= source.size) return source;
  await source.close();
  throw new MillraceError(
    'ECORRUPT',
    `cannot open ${image}: '${name}' has ${source.size} bytes, and should have ${at + length}: it may have been cut off`,
  );
}

/** The place of a file beside the image. */
function besidePlace(
  runtime: Runtime,
  image: string,
  name: string,
  place: string | undefined,
): string {
  if (place !== undefined && HTTP.test(place))
    return new URL(`./${encodeURIComponent(name)}`, place).href;
  if (place !== undefined && !SCHEME.test(place)) return runtime.resolve(`./${name}`, place);
  throw new MillraceError(
    'EUNSUPPORTED',
    `${image} has its data in another file ('${name}') of its folder, and has none: give it by a path, or an http: or https: URL`,
  );
}

async function attachParts(
  engine: Engine,
  image: number,
  first: number,
  extents: readonly VmdkExtent[],
  sources: readonly BlockSource[],
): Promise<void> {
  let start = 0;
  for (const [index, { kind, length, at, name }] of extents.entries()) {
    const file = first + index;
    engine.attach(file, sources[index], sources[index].name ?? name);
    engine.exports.setPart(file, image, start, length, kind === 'zero' ? PART_ZEROES : at);
    if (kind !== 'zero')
      await engine.request(KIND_OPEN, file, kind === 'flat' ? FORMAT_RAW : FORMAT_VMDK);
    start += length;
  }
}

/** A digest of what tells each file from others. */
async function identityOf(sources: readonly BlockSource[]): Promise<string | undefined> {
  // A page without a secure context has no digests.
  if (crypto.subtle === undefined) return undefined;
  const told = JSON.stringify(sources.map(({ size, identity }) => [size, identity ?? null]));
  const bytes = new TextEncoder().encode(told);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return hex(digest.subarray(0, 8));
}

/** In place of the file of zeros, which are in none. */
const NOWHERE: BlockSource = { size: 0, name: 'zeros', read() {}, close() {} };
