/** Where an image is, and what is in there: the file itself, or what a container holds. */
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { Runtime, SourceUse } from '../api/runtime.ts';
import type { RecordedIdentity } from './recorded.ts';

/** A place that was opened. */
export interface OpenedPlace {
  source: BlockSource;
  /** The location without `suffix`. */
  place: string;
  /** `#` and the member of an archive, as it was given; or nothing. */
  suffix: string;
  member?: string;
}

/** How a caller wants containers to be taken. */
export interface UnpackChoice {
  /** False: the bytes as they are. */
  unpack?: boolean;
  /** Take also what a server sends from start to end only. */
  sequential?: boolean;
}

/** What is known of a source before it is looked into. */
export interface Expected extends UnpackChoice {
  member?: string;
  /** What the image above records of it. */
  recorded?: RecordedIdentity;
  /** Another program recorded it, with a format: to that, a container is nothing but its bytes. */
  isForeign?: boolean;
  /** Where a disk over it ends, if that is told. */
  size?: number;
  /** The overlay. */
  beside?: string;
}

/**
 * Opens `location#member`: of a URL, the fragment; of a path, what follows its last `#`, unless
 * there is a file of the whole name.
 */
export async function openPlace(
  runtime: Runtime,
  location: string | URL,
  as?: SourceUse,
  how?: { sequential?: boolean },
): Promise<OpenedPlace> {
  const text = String(location);
  const at = text.lastIndexOf('#');
  const open = async (place: string, suffix: string): Promise<OpenedPlace> => ({
    source: await runtime.openSource(place, as, how?.sequential ? { sequential: true } : undefined),
    place,
    suffix,
    member: suffix === '' ? undefined : memberOf(place, suffix),
  });
  if (at <= 0) return open(text, '');
  if (/^https?:/i.test(text)) {
    const hash = text.indexOf('#');
    return open(text.slice(0, hash), text.slice(hash));
  }
  try {
    return await open(text, '');
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'ENOENT') throw error;
    return open(text.slice(0, at), text.slice(at)).catch((other) => {
      throw other instanceof MillraceError && other.code === 'ENOENT' ? error : other;
    });
  }
}

function memberOf(place: string, suffix: string): string | undefined {
  const name = suffix.slice(1);
  if (!/^https?:/i.test(place)) return name || undefined;
  try {
    return decodeURIComponent(name) || undefined;
  } catch {
    return name;
  }
}

/** What a source holds. It is closed where that fails. @throws MillraceError as `Runtime.unpack` */
export async function contentsOf(
  runtime: Runtime,
  source: BlockSource,
  { member, recorded, isForeign, size, beside, unpack, sequential }: Expected,
): Promise<BlockSource> {
  if (runtime.unpack === undefined || source.container !== undefined) return source;
  const isRecordedSo =
    recorded === undefined
      ? (isForeign ?? false)
      : recorded.container === undefined && recorded.size === source.size;
  const asIs = unpack === false || (isRecordedSo && member === undefined);
  return runtime.unpack(source, {
    member,
    asIs,
    sequential,
    beside,
    sizeMax: recorded?.container === undefined ? size : recorded.size,
  });
}
