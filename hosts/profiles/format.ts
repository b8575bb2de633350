/**
 * The file of a boot profile: which ranges of a base a machine reads, in the order in which it
 * reads them first. It holds places and times, and no data: whatever stands in it, a replay can
 * only fetch something in vain.
 *
 * A file is `MLLPROF`, a byte for the version (1), and a zlib stream (RFC 1950, whose check sum
 * tells of damage). In that stand, with numbers as LEB128: the length of a header and the header, a
 * JSON object `{ base, diskSize, seconds, boots }`; the count of ranges; and three columns with a
 * number for each range: how far it begins from the end of the one before (signed, zigzag), its
 * length less one, both in units of 4 KiB, and the time since the one before, in units of 16 ms.
 */
import { MillraceError, messageOf } from '../api/errors.ts';

/** In what ranges are told. */
export const UNIT_BYTES = 4096;
/** In what times are told. */
export const UNIT_MS = 16;
/** Of a file. */
export const FILE_BYTES_MAX: number = 1024 * 1024;
/** A file that is recorded or merged is made no larger than this where that costs little. */
export const FILE_BYTES_GOAL: number = 20 * 1024;
export const RANGES_MAX = 65_536;
/** Of all ranges together: more is not the beginning of a boot any more. */
export const TOTAL_BYTES_MAX: number = 1024 ** 3;

const MAGIC = 'MLLPROF';
const VERSION = 1;
const HEADER_BYTES_MAX = 4096;
/** What the columns take at most, inflated. */
const BODY_BYTES_MAX: number = HEADER_BYTES_MAX + 16 + RANGES_MAX * 3 * 8;
/** The largest offset that a number holds exactly. */
const OFFSET_MAX: number = Number.MAX_SAFE_INTEGER;

/** What identifies a base, as an overlay records it. */
export interface ProfileBase {
  /** Bytes of the image file, or of what a container holds. */
  size: number;
  identity?: string;
  /** As in `gzip+tar`. */
  container?: string;
  /** Bytes of the container. */
  packed?: number;
  /** What identifies the other files of an image that lies in several. */
  parts?: string;
}

/** A run of the base's virtual disk. */
export interface ProfileRange {
  /** Bytes. */
  offset: number;
  /** Bytes, more than 0. */
  length: number;
  /** When it was read first: milliseconds since the first read. */
  ms: number;
}

export interface Profile {
  base: ProfileBase;
  /** Bytes of the base's virtual disk. */
  diskSize: number;
  /** How long was recorded. */
  seconds: number;
  /** Recordings that went into it. */
  boots: number;
  /** In the order in which they are to be fetched; none overlaps another. */
  ranges: ProfileRange[];
}

export function bytesOf(ranges: readonly { length: number }[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0);
}

/** The file of a profile. Ranges are widened to whole units. */
export async function encodeProfile(profile: Profile): Promise<Uint8Array> {
  const { base, diskSize, seconds, boots, ranges } = profile;
  const out: number[] = [];
  const header = new TextEncoder().encode(JSON.stringify({ base, diskSize, seconds, boots }));
  pushNumber(out, header.length);
  for (const byte of header) out.push(byte);
  pushNumber(out, ranges.length);
  const units = ranges.map(unitsOf);
  let end = 0;
  for (const [first, count] of units) {
    pushNumber(out, first >= end ? (first - end) * 2 : (end - first) * 2 - 1);
    end = first + count;
  }
  for (const [, count] of units) pushNumber(out, count - 1);
  let ticks = 0;
  for (const { ms } of ranges) {
    const now = Math.max(ticks, Math.round(ms / UNIT_MS));
    pushNumber(out, now - ticks);
    ticks = now;
  }
  const body = await deflated(new Uint8Array(out));
  const file = new Uint8Array(MAGIC.length + 1 + body.length);
  file.set(new TextEncoder().encode(MAGIC));
  file[MAGIC.length] = VERSION;
  file.set(body, MAGIC.length + 1);
  return file;
}

async function deflated(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function unitsOf({ offset, length }: ProfileRange): [first: number, count: number] {
  const first = Math.floor(offset / UNIT_BYTES);
  return [first, Math.ceil((offset + length) / UNIT_BYTES) - first];
}

/**
 * Reads a file, which may be damaged or made to do harm.
 * @throws MillraceError `EINVAL` for what is no profile, `EUNSUPPORTED` for another version,
 *   `ECORRUPT`.
 */
export async function decodeProfile(file: Uint8Array, name = 'the profile'): Promise<Profile> {
  const magic = new TextDecoder('latin1').decode(file.subarray(0, MAGIC.length));
  if (magic !== MAGIC) throw new MillraceError('EINVAL', `${name} is not a boot profile`);
  const version = file[MAGIC.length];
  if (version !== VERSION)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${name} is a boot profile of version ${version}: this program knows version ${VERSION}`,
    );
  if (file.length > FILE_BYTES_MAX)
    throw new MillraceError('ECORRUPT', `${name} is larger than ${FILE_BYTES_MAX} bytes`);
  try {
    return parse(await inflated(file.subarray(MAGIC.length + 1)));
  } catch (cause) {
    const why = messageOf(cause);
    throw new MillraceError('ECORRUPT', `${name} is damaged: ${why}`, { cause });
  }
}

/**
 * Of the whole stream, or an error: one that inflates to more than it may is stopped before. Not by
 * DecompressionStream, which takes a stream that is cut off for a whole one in Deno.
 */
async function inflated(bytes: Uint8Array): Promise<Uint8Array> {
  const { Inflate } = await import('./pako.ts');
  const inflate = new Inflate();
  const chunks: Uint8Array[] = [];
  let total = 0;
  inflate.onData = (chunk) => {
    total += chunk.length;
    if (total > BODY_BYTES_MAX) throw new Error('it is too long');
    chunks.push(chunk);
  };
  inflate.push(bytes, true);
  if (inflate.err || !inflate.ended) throw new Error(inflate.msg || 'it is cut off');
  const body = new Uint8Array(total);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.length;
  }
  return body;
}

function parse(body: Uint8Array): Profile {
  const reader = new Reader(body);
  const headerBytes = reader.number(HEADER_BYTES_MAX);
  const header = headerOf(new TextDecoder().decode(reader.bytes(headerBytes)));
  const count = reader.number(RANGES_MAX);
  const gaps = reader.column(count);
  const lengths = reader.column(count);
  const ticks = reader.column(count);
  if (!reader.isOver) throw new Error('something follows its end');
  const ranges: ProfileRange[] = [];
  let [end, total, ms] = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    const first = end + (gaps[i] % 2 === 0 ? gaps[i] / 2 : -(gaps[i] + 1) / 2);
    end = first + lengths[i] + 1;
    ms += ticks[i] * UNIT_MS;
    total += (lengths[i] + 1) * UNIT_BYTES;
    if (first < 0 || end * UNIT_BYTES > OFFSET_MAX) throw new Error('a range is out of bounds');
    if (total > TOTAL_BYTES_MAX) throw new Error(`it has more than ${TOTAL_BYTES_MAX} bytes`);
    const offset = first * UNIT_BYTES;
    // The last unit of a disk may reach over its end.
    const length = Math.min(end * UNIT_BYTES, header.diskSize) - offset;
    if (length <= 0) throw new Error('a range is outside of the disk');
    ranges.push({ offset, length, ms });
  }
  const sorted = ranges.toSorted((a, b) => a.offset - b.offset);
  if (sorted.some(({ offset }, i) => i > 0 && offset < sorted[i - 1].offset + sorted[i - 1].length))
    throw new Error('two ranges overlap');
  return { ...header, ranges };
}

function headerOf(text: string): Omit<Profile, 'ranges'> {
  const { base, diskSize, seconds, boots } = JSON.parse(text) as Omit<Profile, 'ranges'>;
  const isNumber = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= 0;
  const isText = (value: unknown): boolean => value === undefined || typeof value === 'string';
  const { size, identity, container, packed, parts } = base;
  const isGood =
    [size, diskSize, boots, packed ?? 0].every(isNumber) &&
    [identity, container, parts].every(isText) &&
    Number.isFinite(seconds);
  if (!isGood) throw new Error('its header is wrong');
  return { base: { size, identity, container, packed, parts }, diskSize, seconds, boots };
}

class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isOver(): boolean {
    return this.#at === this.#bytes.length;
  }

  number(most: number = OFFSET_MAX): number {
    let [value, scale] = [0, 1];
    for (;;) {
      if (this.#at === this.#bytes.length) throw new Error('it is cut off');
      const byte = this.#bytes[this.#at++];
      value += (byte & 0x7f) * scale;
      if (value > most) throw new Error('a number is too large');
      if (byte < 0x80) return value;
      scale *= 128;
    }
  }

  bytes(length: number): Uint8Array {
    if (length > this.#bytes.length - this.#at) throw new Error('it is cut off');
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  column(count: number): number[] {
    return Array.from({ length: count }, () => this.number());
  }
}

function pushNumber(out: number[], value: number): void {
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) out.push((rest % 128) + 128);
  out.push(rest);
}
