/**
 * Where the blocks of an .xz file are (The .xz File Format, version 1.2.1): each stream ends with
 * an index of its blocks, and there may be several streams with padding between them. Every field
 * is checked before what it says is believed.
 */
import type { BlockSource } from '../../api/block.ts';
import { bytesAt, corrupt, hasAt, viewOf } from './bytes.ts';
import { crc32 } from './crc32.ts';

export const HEADER_BYTES = 12;
export const FOOTER_BYTES = 12;
export const XZ_MAGIC = '\xfd7zXZ\0';
const FOOTER_MAGIC = 'YZ';
/** Read at the end at once: the index of 8,000 blocks or so, and the footer. */
const TAIL_BYTES = 64 * 1024;
/** An index that is larger has millions of blocks: it is not held in memory. */
const INDEX_BYTES_MAX = 16 * 1024 * 1024;
const STREAMS_MAX = 64;
/** Of all streams: a terabyte in blocks of 1 MiB. */
const BLOCKS_MAX = 1024 * 1024;
/** A number is seven bits a byte, and 63 in all. */
const VARINT_BYTES_MAX = 9;
/** Bytes of a check, by the number of its kind. */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64] as const;

/** Kinds of check that are known (section 2.1.1.2). */
export const Check = { none: 0, crc32: 1, crc64: 4, sha256: 10 } as const;

/** Blocks of all streams, in order: columns, as there may be a million of them. */
export interface XzBlocks {
  readonly count: number;
  /** Unpacked: where each begins, and where the last one ends. */
  readonly starts: Float64Array;
  /** Where each stands in the file. */
  readonly at: Float64Array;
  /** Its "unpadded size". */
  readonly unpadded: Float64Array;
  /** The kind of its check. */
  readonly check: Uint8Array;
}

interface Stream {
  check: number;
  /** Where its first block stands in the file. */
  at: number;
  records: { unpadded: number; size: number }[];
}

/**
 * The blocks of a file; undefined where it has so many streams or blocks that they are better taken
 * in order.
 * @throws MillraceError `ECORRUPT`
 */
export async function readXzIndex(source: BlockSource): Promise<XzBlocks | undefined> {
  const streams: Stream[] = [];
  const tail = new Tail(source);
  for (let end = source.size; end > 0; ) {
    end = await tail.withoutPadding(end);
    if (end === 0) break;
    if (streams.length === STREAMS_MAX) return undefined;
    const known = streams.reduce((sum, { records }) => sum + records.length, 0);
    const stream = await readStream(source, tail, end, BLOCKS_MAX - known);
    if (stream === undefined) return undefined;
    streams.unshift(stream);
    end = stream.at - HEADER_BYTES;
  }
  return columnsOf(streams);
}

/** The end of the file, and what is read before it. */
class Tail {
  readonly #source: BlockSource;
  #at = 0;
  #bytes: Uint8Array = new Uint8Array(0);

  constructor(source: BlockSource) {
    this.#source = source;
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    if (at < this.#at || at + length > this.#at + this.#bytes.length) {
      this.#at = Math.max(0, Math.min(at, at + length - TAIL_BYTES));
      this.#bytes = await bytesAt(this.#source, this.#at, at + length - this.#at);
    }
    return this.#bytes.subarray(at - this.#at, at - this.#at + length);
  }

  /** Streams are padded by zeros, four bytes at a time (section 2.2). */
  async withoutPadding(end: number): Promise<number> {
    const { name } = this.#source;
    if (end % 4) throw corrupt(name, 'xz', `it is cut off, or something follows it (at ${end})`);
    let at = end;
    for (; at > 0; at -= 4) {
      // A long padding is no image: each step of a page would be a request.
      if (end - at > INDEX_BYTES_MAX)
        throw corrupt(name, 'xz', 'it has more than 16 MiB of padding');
      if ((await this.read(at - 4, 4)).some((byte) => byte !== 0)) break;
    }
    return at;
  }
}

async function readStream(
  source: BlockSource,
  tail: Tail,
  end: number,
  blocksMax: number,
): Promise<Stream | undefined> {
  const bad = (what: string) => corrupt(source.name, 'xz', `${what} (at ${end})`);
  if (end < HEADER_BYTES + FOOTER_BYTES) throw bad('it is cut off');
  const footer = await tail.read(end - FOOTER_BYTES, FOOTER_BYTES);
  if (!hasAt(footer, 10, FOOTER_MAGIC)) throw bad('it is cut off, or something follows it');
  if (viewOf(footer).getUint32(0, true) !== crc32(footer.subarray(4, 10)))
    throw bad('the check sum of its footer is wrong');
  const check = checkOf(footer.subarray(8, 10));
  if (check === undefined) throw bad('it has unknown flags');
  const indexBytes = (viewOf(footer).getUint32(4, true) + 1) * 4;
  const indexAt = end - FOOTER_BYTES - indexBytes;
  if (indexAt < HEADER_BYTES) throw bad('its index would begin before it');
  if (indexBytes > INDEX_BYTES_MAX) return undefined;
  const records = recordsOf((await tail.read(indexAt, indexBytes)).slice(), bad, blocksMax);
  if (records === undefined) return undefined;
  const packed = records.reduce((sum, { unpadded }) => sum + padded(unpadded), 0);
  const at = indexAt - packed;
  if (at < HEADER_BYTES) throw bad('its blocks would begin before it');
  const header = await bytesAt(source, at - HEADER_BYTES, HEADER_BYTES);
  if (!isHeader(header) || checkOf(header.subarray(6, 8)) !== check)
    throw bad('its header is not where its index says');
  return { check, at, records };
}

function isHeader(header: Uint8Array): boolean {
  return (
    hasAt(header, 0, XZ_MAGIC) && viewOf(header).getUint32(8, true) === crc32(header.subarray(6, 8))
  );
}

/** Of stream flags; undefined where reserved bits are set. */
function checkOf(flags: Uint8Array): number | undefined {
  return flags[0] === 0 && flags[1] < CHECK_BYTES.length ? flags[1] : undefined;
}

/** Undefined where they are more than `most`. */
function recordsOf(
  index: Uint8Array,
  bad: (what: string) => Error,
  most: number,
): { unpadded: number; size: number }[] | undefined {
  const end = index.length - 4;
  if (viewOf(index).getUint32(end, true) !== crc32(index.subarray(0, end)))
    throw bad('the check sum of its index is wrong');
  let at = 1;
  const next = (): number => {
    let value = 0;
    for (let byte = 0; byte < VARINT_BYTES_MAX && at < end; byte++) {
      const bits = index[at++];
      value += (bits & 0x7f) * 2 ** (7 * byte);
      if (bits < 0x80 && value <= Number.MAX_SAFE_INTEGER) return value;
    }
    throw bad('its index holds an invalid number');
  };
  const count = next();
  // Each takes two bytes at least.
  if (index[0] !== 0 || count > index.length / 2) throw bad('its index cannot be read');
  if (count > most) return undefined;
  const records = Array.from({ length: count }, () => ({ unpadded: next(), size: next() }));
  if (end - at > 3 || index.subarray(at, end).some((byte) => byte !== 0))
    throw bad('its index does not end where it should');
  if (records.some(({ unpadded }) => unpadded < 5)) throw bad('its index has a block of no bytes');
  return records;
}

function columnsOf(streams: readonly Stream[]): XzBlocks {
  const count = streams.reduce((sum, { records }) => sum + records.length, 0);
  const blocks = {
    count,
    starts: new Float64Array(count + 1),
    at: new Float64Array(count),
    unpadded: new Float64Array(count),
    check: new Uint8Array(count),
  };
  let index = 0;
  for (const stream of streams) {
    let at = stream.at;
    for (const { unpadded, size } of stream.records) {
      blocks.at[index] = at;
      blocks.unpadded[index] = unpadded;
      blocks.check[index] = stream.check;
      blocks.starts[index + 1] = blocks.starts[index] + size;
      at += padded(unpadded);
      index++;
    }
  }
  return blocks;
}

/** Blocks take whole words of four bytes. */
export function padded(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}

/**
 * A block with a stream header, an index and a footer of its own: a file that any decoder takes.
 * `block` is padded, its check with it.
 */
export function wrapBlock(
  block: Uint8Array,
  { unpadded, size, check }: { unpadded: number; size: number; check: number },
): Uint8Array {
  const flags = Uint8Array.of(0, check);
  const numbers = [0, 1, ...varint(unpadded), ...varint(size)];
  const index = new Uint8Array(padded(numbers.length) + 4);
  index.set(numbers);
  viewOf(index).setUint32(index.length - 4, crc32(index.subarray(0, -4)), true);
  const file = new Uint8Array(HEADER_BYTES + block.length + index.length + FOOTER_BYTES);
  file.set(Uint8Array.from(XZ_MAGIC, (character) => character.charCodeAt(0)));
  file.set(flags, 6);
  viewOf(file).setUint32(8, crc32(flags), true);
  file.set(block, HEADER_BYTES);
  file.set(index, HEADER_BYTES + block.length);
  const footer = file.subarray(-FOOTER_BYTES);
  viewOf(footer).setUint32(4, index.length / 4 - 1, true);
  footer.set(flags, 8);
  footer.set(
    [...FOOTER_MAGIC].map((character) => character.charCodeAt(0)),
    10,
  );
  viewOf(footer).setUint32(0, crc32(footer.subarray(4, 10)), true);
  return file;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 0x80);
  }
}
