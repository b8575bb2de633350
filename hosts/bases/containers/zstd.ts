/**
 * zstd (RFC 8878): a file with a seek table (the "seekable format", a skippable frame at the end)
 * is read frame by frame; any other from its start to its end.
 */
import type { BlockSource } from '../../api/block.ts';
import type { BlockTable } from './blocks.ts';
import { sourceOfBlocks } from './blocks.ts';
import { bytesAt, corrupt, u64, unsupported, viewOf } from './bytes.ts';
import type { Decompress } from './decompress.ts';
import { asDamage } from './decompress.ts';
import { alone, Reader, whole } from './stream.ts';
import type { BlockRoom } from './xz.ts';

const MAGIC = 0xfd2fb528;
/** The lowest four bits are free. */
const SKIPPABLE_MAGIC = 0x184d2a50;
const TABLE_MAGIC = 0x184d2a5e;
const TABLE_FOOTER_MAGIC = 0x8f92eab1;
const TABLE_FOOTER_BYTES = 9;
const TABLE_BYTES_MAX = 16 * 1024 * 1024;
/** The table of some 4000 frames is had with its footer. */
const TAIL_BYTES = 32 * 1024;
const SKIPPABLE_HEADER_BYTES = 8;
const BLOCK_HEADER_BYTES = 3;
const BLOCK_RLE = 1;
const BLOCK_RESERVED = 3;
const CHECKSUM_BYTES = 4;
/** By the two bits of their flags. */
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
/** Magic, descriptor, window, dictionary and content size. */
const FRAME_HEADER_BYTES_MAX = 4 + 1 + 1 + 4 + 8;
/** What `zstd --ultra -22` and `--long` use; decoders keep that much. */
export const ZSTD_WINDOW_BYTES_MAX: number = 128 * 1024 * 1024;

interface FrameHeader {
  length: number;
  hasChecksum: boolean;
  contentSize?: number;
}

/** Whether a file begins with a frame of zstd, or one that is skipped. */
export function startsZstd(start: Uint8Array): boolean {
  if (start.length < 4) return false;
  const magic = viewOf(start).getUint32(0, true);
  if (magic === MAGIC) return true;
  if (!isSkippable(magic) || start.length < SKIPPABLE_HEADER_BYTES + 4) return false;
  // Only where a frame follows: the magic alone is four bytes of a raw disk, too.
  const next = SKIPPABLE_HEADER_BYTES + viewOf(start).getUint32(4, true);
  return next + 4 <= start.length && startsZstd(start.subarray(next));
}

/** What the first frame says that it holds. */
export function contentSizeOf(start: Uint8Array, name: string | undefined): number | undefined {
  if (start.length < FRAME_HEADER_BYTES_MAX || viewOf(start).getUint32(0, true) !== MAGIC)
    return undefined;
  return frameHeader(start, name).contentSize;
}

function isSkippable(magic: number): boolean {
  return (magic & ~0xf) >>> 0 === SKIPPABLE_MAGIC;
}

function frameHeader(bytes: Uint8Array, name: string | undefined): FrameHeader {
  const view = viewOf(bytes);
  const descriptor = bytes[4];
  const isSingleSegment = (descriptor & 0x20) !== 0;
  if ((descriptor & 0x08) !== 0) throw corrupt(name, 'zstd', 'a reserved bit is set');
  let at = 5;
  let window = 0;
  if (!isSingleSegment) {
    const base = 2 ** (10 + (bytes[at] >> 3));
    window = base + (base / 8) * (bytes[at++] & 7);
  }
  const dictionary = DICTIONARY_ID_BYTES[descriptor & 3];
  if (bytes.subarray(at, at + dictionary).some((byte) => byte !== 0))
    throw unsupported(name, 'zstd', 'with a dictionary is not supported');
  at += dictionary;
  const flag = descriptor >> 6;
  const sizeBytes = flag === 0 && isSingleSegment ? 1 : CONTENT_SIZE_BYTES[flag];
  const contentSize = contentSizeAt(view, at, sizeBytes, name);
  if (isSingleSegment) window = contentSize ?? 0;
  if (window > ZSTD_WINDOW_BYTES_MAX)
    throw unsupported(
      name,
      'zstd',
      `with a window of ${window} bytes is not supported: 128 MiB at most`,
    );
  return { length: at + sizeBytes, hasChecksum: (descriptor & 4) !== 0, contentSize };
}

function contentSizeAt(
  view: DataView,
  at: number,
  bytes: number,
  name: string | undefined,
): number | undefined {
  if (bytes === 0) return undefined;
  if (bytes === 1) return view.getUint8(at);
  if (bytes === 2) return view.getUint16(at, true) + 256;
  if (bytes === 4) return view.getUint32(at, true);
  try {
    return u64(view, at);
  } catch (error) {
    throw corrupt(name, 'zstd', 'it claims more than 2^53 bytes', error);
  }
}

/** All frames of a file, one after another; `decompress` takes one. @throws MillraceError */
export async function* decodeZstd(
  decompress: Decompress,
  input: AsyncIterable<Uint8Array>,
  name: string | undefined,
): AsyncGenerator<Uint8Array> {
  const reader = new Reader(input, 'zstd', name);
  try {
    while (await reader.hasMore()) {
      const start = await reader.take(4);
      const magic = viewOf(start).getUint32(0, true);
      if (isSkippable(magic)) {
        const length = viewOf(await reader.take(4)).getUint32(0, true);
        for await (const _ of reader.run(length));
      } else if (magic === MAGIC) yield* decompress(frame(reader, start, name));
      else throw corrupt(name, 'zstd', 'something follows it that is no frame');
    }
  } finally {
    await reader.close();
  }
}

/** The bytes of one frame, of which `magic` has been read. */
async function* frame(
  reader: Reader,
  magic: Uint8Array,
  name: string | undefined,
): AsyncGenerator<Uint8Array> {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES_MAX);
  bytes.set(magic);
  // How long the header is stands in its first byte.
  bytes.set(await reader.take(1), 4);
  const { length } = frameHeader(bytes, undefined);
  bytes.set(await reader.take(length - 5), 5);
  const { hasChecksum } = frameHeader(bytes, name);
  yield bytes.subarray(0, length);
  for (let isLast = false; !isLast; ) {
    const head = await reader.take(BLOCK_HEADER_BYTES);
    const type = (head[0] >> 1) & 3;
    if (type === BLOCK_RESERVED) throw corrupt(name, 'zstd', 'a block has a reserved type');
    yield head;
    isLast = (head[0] & 1) !== 0;
    const size = (head[0] | (head[1] << 8) | (head[2] << 16)) >> 3;
    yield* reader.run(type === BLOCK_RLE ? 1 : size);
  }
  if (hasChecksum) yield await reader.take(CHECKSUM_BYTES);
}

/** A file with a seek table, of frames that fit; undefined for any other. @throws MillraceError */
export async function openZstd(
  source: BlockSource,
  decompress: Decompress,
  room: BlockRoom,
): Promise<BlockSource | undefined> {
  const table = await readSeekTable(source);
  if (table === undefined || table.largest > room.block) return undefined;
  if (table.largestPacked > 2 * room.block) return undefined;
  const blocks: BlockTable = {
    count: table.starts.length - 1,
    size: table.starts[table.starts.length - 1],
    start: (index) => table.starts[index],
    packed: (index) => ({ at: table.at[index], length: table.at[index + 1] - table.at[index] }),
    async decode(index, packed, signal) {
      const size = table.starts[index + 1] - table.starts[index];
      const { name } = source;
      try {
        return await whole(decodeZstd(decompress, alone(packed), name), size, signal);
      } catch (error) {
        throw asDamage(error, 'zstd', name, `frame ${index} (at ${table.at[index]})`);
      }
    },
  };
  return sourceOfBlocks(source, blocks, room.all);
}

interface SeekTable {
  /** Unpacked and packed: where each frame begins, and where the last one ends. */
  starts: Float64Array;
  at: Float64Array;
  /** Bytes of the largest frame. */
  largest: number;
  largestPacked: number;
}

async function readSeekTable(source: BlockSource): Promise<SeekTable | undefined> {
  if (source.size < SKIPPABLE_HEADER_BYTES + TABLE_FOOTER_BYTES) return undefined;
  const tail = await bytesAt(source, Math.max(0, source.size - TAIL_BYTES), TAIL_BYTES);
  const footer = viewOf(tail.subarray(-TABLE_FOOTER_BYTES));
  if (footer.getUint32(5, true) !== TABLE_FOOTER_MAGIC) return undefined;
  const bad = (what: string) => corrupt(source.name, 'zstd', `its seek table ${what}`);
  const count = footer.getUint32(0, true);
  const descriptor = footer.getUint8(4);
  if (descriptor & 0x7c) throw bad('has reserved bits set');
  const entryBytes = descriptor & 0x80 ? 12 : 8;
  const bytes = SKIPPABLE_HEADER_BYTES + count * entryBytes + TABLE_FOOTER_BYTES;
  if (bytes > TABLE_BYTES_MAX) return undefined;
  const at = source.size - bytes;
  if (at < 0) throw bad('would begin before the file');
  const table = viewOf(
    bytes <= tail.length ? tail.subarray(-bytes) : await bytesAt(source, at, bytes),
  );
  if (
    table.getUint32(0, true) !== TABLE_MAGIC ||
    table.getUint32(4, true) !== bytes - SKIPPABLE_HEADER_BYTES
  )
    throw bad('is not where its end says');
  const result = {
    starts: new Float64Array(count + 1),
    at: new Float64Array(count + 1),
    largest: 0,
    largestPacked: 0,
  };
  for (let index = 0, entry = SKIPPABLE_HEADER_BYTES; index < count; index++, entry += entryBytes) {
    const size = table.getUint32(entry + 4, true);
    const packed = table.getUint32(entry, true);
    result.at[index + 1] = result.at[index] + packed;
    result.largestPacked = Math.max(result.largestPacked, packed);
    result.starts[index + 1] = result.starts[index] + size;
    result.largest = Math.max(result.largest, size);
  }
  if (result.at[count] !== at) throw bad('does not lead to its own place');
  return result;
}
