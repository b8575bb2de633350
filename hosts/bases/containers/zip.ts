/**
 * zip (APPNOTE.TXT 6.3): the directory at the end tells where the members are. One that is stored
 * is read where it stands, one that is deflated from its start to its end. Every field is checked
 * before what it says is followed.
 */
import type { BlockSource, Flow } from '../../api/block.ts';
import { bytesAt, corrupt, u64, unsupported, viewOf } from './bytes.ts';
import type { Decompress } from './decompress.ts';
import { decompressed } from './decompress.ts';
import { chosen } from './members.ts';
import { sourceOfPieces } from './pieces.ts';
import { ByteStream, inOrder } from './stream.ts';

const Signature = {
  local: 0x04034b50,
  directory: 0x02014b50,
  end: 0x06054b50,
  end64: 0x06064b50,
  locator64: 0x07064b50,
} as const;
const END_BYTES = 22;
const COMMENT_BYTES_MAX = 65535;
const LOCATOR64_BYTES = 20;
const END64_BYTES = 56;
const ENTRY_BYTES = 46;
const LOCAL_BYTES = 30;
const DIRECTORY_BYTES_MAX = 16 * 1024 * 1024;
const ZIP64_FIELD = 1;
const STORED = 0;
const DEFLATED = 8;
const FLAG_ENCRYPTED = 1;
const METHODS: Readonly<Record<number, string>> = {
  1: 'Shrink',
  6: 'Implode',
  9: 'Deflate64',
  12: 'bzip2',
  14: 'LZMA',
  93: 'zstd',
  95: 'xz',
  98: 'PPMd',
  99: 'AES',
};
const GZIP_HEADER = Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255);

interface Entry {
  name: string;
  method: number;
  flags: number;
  crc: number;
  packed: number;
  size: number;
  at: number;
}

/** A stored member is a source, a deflated one a stream. */
export interface ZipMember {
  name: string;
  source: BlockSource | ByteStream;
}

/** @throws MillraceError `ECORRUPT`, `EUNSUPPORTED`, `ENOENT` */
export async function openZip(
  source: BlockSource,
  wanted: string | undefined,
  gunzip: () => Promise<Decompress>,
  flow: Flow,
): Promise<ZipMember> {
  const directory = await directoryOf(source);
  const files = directory.entries.filter(({ name }) => !name.endsWith('/'));
  const entry = chosen(files, wanted, 'zip', source.name);
  const { name, method, flags, size, packed } = entry;
  if (flags & FLAG_ENCRYPTED)
    throw unsupported(source.name, 'zip', `with encryption is not supported ('${name}')`);
  if (method !== STORED && method !== DEFLATED)
    throw unsupported(
      source.name,
      'zip',
      `with the method ${METHODS[method] ?? method} is not supported ('${name}'): stored or deflated`,
    );
  const at = await dataOf(source, entry);
  mustStandAlone(source, entry, at + packed, directory);
  if (method === STORED) {
    if (size !== packed)
      throw corrupt(source.name, 'zip', `'${name}' is stored, and has two sizes`);
    return {
      name,
      source: sourceOfPieces(source, size, size > 0 ? [{ offset: 0, length: size, at }] : []),
    };
  }
  const bytes = decompressed(await gunzip(), asGzip(source, entry, at, flow), 'zip', source.name);
  return { name, source: new ByteStream(source, size, bytes) };
}

/** With the header and end of gzip, so that its decoder compares check sum and size. */
async function* asGzip(
  source: BlockSource,
  { packed, crc, size }: Entry,
  at: number,
  flow: Flow,
): AsyncGenerator<Uint8Array> {
  yield GZIP_HEADER;
  yield* inOrder(source, flow, at, at + packed);
  const end = new Uint8Array(8);
  viewOf(end).setUint32(0, crc, true);
  viewOf(end).setUint32(4, size % 2 ** 32, true);
  yield end;
}

interface Directory {
  at: number;
  entries: Entry[];
}

/** What stands for several files at once is made to unpack to more than there is. */
function mustStandAlone(
  source: BlockSource,
  entry: Entry,
  end: number,
  directory: Directory,
): void {
  const isOver = (at: number): boolean => at > entry.at && at < end;
  const isShared = directory.entries.some(
    (other) => isOver(other.at) || (other !== entry && other.at === entry.at),
  );
  if (isShared || isOver(directory.at))
    throw corrupt(source.name, 'zip', `'${entry.name}' overlaps what else is in it`);
}

async function directoryOf(source: BlockSource): Promise<Directory> {
  const tail = await bytesAt(
    source,
    Math.max(0, source.size - END_BYTES - COMMENT_BYTES_MAX - LOCATOR64_BYTES - END64_BYTES),
    source.size,
  );
  const tailAt = source.size - tail.length;
  const { at, length, count } = await endOf(source, tail, tailAt);
  if (length > DIRECTORY_BYTES_MAX)
    throw unsupported(source.name, 'zip', `with a directory of ${length} bytes is not supported`);
  if (!(at >= 0) || at + length > source.size)
    throw corrupt(source.name, 'zip', 'its directory is not inside it');
  const bytes =
    at >= tailAt
      ? tail.subarray(at - tailAt, at - tailAt + length)
      : await bytesAt(source, at, length);
  const entries: Entry[] = [];
  try {
    for (let from = 0; entries.length < count; ) {
      const { entry, end } = entryAt(bytes, from);
      entries.push(entry);
      from = end;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw corrupt(source.name, 'zip', 'its directory cannot be read', error);
  }
  return { at, entries };
}

/**
 * Where the directory is, by the record at the end: that of zip64, where the usual one has no room.
 */
async function endOf(
  source: BlockSource,
  tail: Uint8Array,
  tailAt: number,
): Promise<{ at: number; length: number; count: number }> {
  const view = viewOf(tail);
  for (let at = tail.length - END_BYTES; at >= 0; at--) {
    if (view.getUint32(at, true) !== Signature.end) continue;
    if (at + END_BYTES + view.getUint16(at + 20, true) > tail.length) continue;
    const end = {
      count: view.getUint16(at + 10, true),
      length: view.getUint32(at + 12, true),
      at: view.getUint32(at + 16, true),
    };
    const isTooSmall = end.count === 0xffff || end.length === 0xffffffff || end.at === 0xffffffff;
    const locator = at - LOCATOR64_BYTES;
    if (isTooSmall && locator >= 0 && view.getUint32(locator, true) === Signature.locator64)
      return end64(source, u64(view, locator + 8));
    if (view.getUint16(at + 4, true) !== 0)
      throw unsupported(source.name, 'zip', 'in several parts is not supported');
    return end;
  }
  throw corrupt(
    source.name,
    'zip',
    `it has no directory at its end (${tailAt + tail.length}): it is cut off`,
  );
}

async function end64(
  source: BlockSource,
  at: number,
): Promise<{ at: number; length: number; count: number }> {
  const record = viewOf(await bytesAt(source, at, END64_BYTES));
  if (record.byteLength < END64_BYTES || record.getUint32(0, true) !== Signature.end64)
    throw corrupt(source.name, 'zip', 'its zip64 directory is not where its end says');
  return { count: u64(record, 32), length: u64(record, 40), at: u64(record, 48) };
}

function entryAt(bytes: Uint8Array, from: number): { entry: Entry; end: number } {
  const view = viewOf(bytes);
  if (view.getUint32(from, true) !== Signature.directory) throw new RangeError('no entry');
  const nameBytes = view.getUint16(from + 28, true);
  const extraBytes = view.getUint16(from + 30, true);
  const extraAt = from + ENTRY_BYTES + nameBytes;
  const end = extraAt + extraBytes + view.getUint16(from + 32, true);
  if (end > bytes.length) throw new RangeError('an entry is cut off');
  const entry: Entry = {
    name: new TextDecoder().decode(bytes.subarray(from + ENTRY_BYTES, extraAt)),
    flags: view.getUint16(from + 8, true),
    method: view.getUint16(from + 10, true),
    crc: view.getUint32(from + 16, true),
    packed: view.getUint32(from + 20, true),
    size: view.getUint32(from + 24, true),
    at: view.getUint32(from + 42, true),
  };
  takeZip64(entry, viewOf(bytes.subarray(extraAt, extraAt + extraBytes)));
  return { entry, end };
}

/** The extra field of zip64 has those numbers that have no room in the entry, in this order. */
function takeZip64(entry: Entry, extra: DataView): void {
  for (let at = 0; at + 4 <= extra.byteLength; at += 4 + extra.getUint16(at + 2, true)) {
    if (extra.getUint16(at, true) !== ZIP64_FIELD) continue;
    let next = at + 4;
    for (const field of ['size', 'packed', 'at'] as const) {
      if (entry[field] !== 0xffffffff) continue;
      entry[field] = u64(extra, next);
      next += 8;
    }
    return;
  }
}

/** Where the member's data begins: behind a header of its own, whose length stands only there. */
async function dataOf(source: BlockSource, { name, at, packed }: Entry): Promise<number> {
  const header = viewOf(await bytesAt(source, at, LOCAL_BYTES));
  if (header.byteLength < LOCAL_BYTES || header.getUint32(0, true) !== Signature.local)
    throw corrupt(source.name, 'zip', `'${name}' is not where the directory says`);
  const start = at + LOCAL_BYTES + header.getUint16(26, true) + header.getUint16(28, true);
  if (start + packed > source.size) throw corrupt(source.name, 'zip', `it is cut off in '${name}'`);
  return start;
}
