// What formats have in common whose disk is cut into blocks of one size, with a table that has an
// entry for each: VHD, VHDX, VDI, QED, Parallels, VMDK. A file of each reads its header and knows
// its entries. They are read, never written, and have nothing below them: images that have (what
// VirtualBox and Hyper-V call differencing, VMware a child) are refused when they are opened.

import { compressedExtent, dataExtent, Extent, extentOf } from '../core/extent';
import { IMAGE_BYTES, Image } from '../core/image';
import { pageGet } from '../core/pages';
import { fail, Task } from '../core/task';
import { L1_BYTES_MAX, OFFSET_MAX, PAGE_BYTES, PAGE_MASK, SECTOR_BYTES } from '../limits';
import {
  ABSENT,
  ECORRUPT,
  EUNSUPPORTED,
  OK,
  R_BLOCK_OUTSIDE,
  R_BLOCK_SIZE,
  R_BLOCK_TABLE,
  R_DIFFERENCING,
  R_FORMAT_HEADER,
  R_FORMAT_VERSION,
  R_LOG,
  R_SIZE,
  ZEROES,
} from '../protocol';
import { refuse } from './format';

@unmanaged
export class Blocks extends Image {
  /** Bytes of the disk that a block has. */
  blockBytes: u64;
  /** Where in the file the first block can be. */
  blocksFrom: u64;
  /** Where the table is, or the upper one of two levels. */
  tableAt: u64;
  /** Its entries, where there is one level. */
  tableEntries: u64;
  tableEntryBytes: u32;
  /** Entries of a table of the lower level; of VHDX, those before one that is no block's. */
  tableGroup: u64;
  /** Bytes of the unit in which entries count. */
  unit: u64;
  /** An entry may say that its block reads as zeros. */
  zeroEntries: bool;
  /** Blocks are deflated, each behind so many bytes that are not of its stream; 0: they are not. */
  streamHeadBytes: u32;
}

/** The record of an image that is, or is to be, of such a format. */
export function blocksOf(image: Image): Blocks {
  assert(offsetof<Blocks>() <= IMAGE_BYTES);
  return changetype<Blocks>(image);
}

/** The disk is cut as others are where no format says how: what is compressed says so itself. */
const CLUSTER_BITS: u32 = 16;

/** What a format's entry says where it has no block: none stands there, for there the header is. */
export const NO_BLOCK: u64 = 0;
export const ZERO_BLOCK: u64 = 1;
/** What cannot be: it lies over the header, as NO_BLOCK would. */
export const BAD_BLOCK: u64 = 2;

/** Entries that one lookup follows: who wants to know more asks again. */
const RUN_ENTRIES_MAX: u32 = 512;
const BLOCK_BYTES_MAX: u64 = 256 << 20;

/**
 * Where in the file the block is of which the entry at address `at` tells; NO_BLOCK or ZERO_BLOCK
 * where there is none.
 */
type BlockAt = (image: Blocks, at: usize) => u64;

/** Reads the header at an address into the record: OK, or the reason why it cannot be. */
type Parse = (at: usize, image: Blocks) => i32;

/** Opens an image whose first page says all. False: the task waits or has failed. */
export function openBlocks(
  t: Task,
  base: Image,
  probe: (header: usize, image: Image) => bool,
  parse: Parse,
): bool {
  const header = pageGet(t, base.file, 0);
  if (!header) return false;
  const image = blocksBegun(base);
  if (!probe(header, image)) return refuseBlocks(t, image, R_FORMAT_HEADER);
  const reason = parse(header, image);
  return reason == OK || refuseBlocks(t, image, reason);
}

/** The record, with what not every format sets. */
export function blocksBegun(base: Image): Blocks {
  const image = blocksOf(base);
  image.clusterBits = CLUSTER_BITS;
  image.streamHeadBytes = 0;
  image.zeroEntries = false;
  image.unitBytes = 0;
  image.cutsLastCluster = false;
  image.partCount = 0;
  return image;
}

/** Fails a task that opens an image. */
export function refuseBlocks(t: Task, image: Blocks, reason: i32): bool {
  const unsupported =
    reason == R_DIFFERENCING || reason == R_FORMAT_VERSION || reason == R_LOG || reason == R_SIZE;
  return refuse(t, unsupported ? EUNSUPPORTED : ECORRUPT, reason, image);
}

/** As `lookupBlocks`, in an image with one table that has nothing but entries. */
export function lookupTable(
  t: Task | null,
  image: Blocks,
  offset: u64,
  length: u64,
  blockAt: BlockAt,
): Extent | null {
  const index = offset / image.blockBytes;
  const entryAt = image.tableAt + index * image.tableEntryBytes;
  return lookupBlocks(
    t,
    image,
    entryAt,
    image.tableEntries - index,
    offset % image.blockBytes,
    length,
    blockAt,
  );
}

/**
 * What the table says of a position `within` the block of the entry that stands at `entryAt` of the
 * file, and how far (up to `length`) those behind it, of `entries` in all, go on alike. Null: the
 * task waits or has failed.
 */
export function lookupBlocks(
  t: Task | null,
  image: Blocks,
  entryAt: u64,
  entries: u64,
  within: u64,
  length: u64,
  blockAt: BlockAt,
): Extent | null {
  const first = pageGet(t, image.file, entryAt);
  if (!first) return null;
  const inPage = (PAGE_BYTES - <u32>(entryAt & PAGE_MASK)) / image.tableEntryBytes;
  const count = <u32>min<u64>(min<u64>(inPage, entries), RUN_ENTRIES_MAX);
  const block = blockAt(image, first);
  const step = block > ZERO_BLOCK ? image.blockBytes : 0;
  let run = image.blockBytes - within;
  for (let i: u32 = 1; i < count && run < length; i++) {
    if (blockAt(image, first + i * image.tableEntryBytes) != block + i * step) break;
    run += image.blockBytes;
  }
  run = min(run, length);
  if (block == NO_BLOCK) return extentOf(ABSENT, run);
  if (block == ZERO_BLOCK) return extentOf(ZEROES, run);
  if (!isBlockPlaced(t, image, block, entryAt)) return null;
  if (image.streamHeadBytes)
    return deflated(
      t,
      image,
      first,
      count,
      block,
      entryAt,
      min(length, image.blockBytes - within),
      blockAt,
    );
  // What it was made of may have ended within a block, and so may the file: zeros are missing.
  const host = block + within;
  if (host >= image.fileSize) return extentOf(ZEROES, min(run, image.blockBytes - within));
  return dataExtent(min(run, image.fileSize - host), image.file, host);
}

/**
 * As `lookupTable`, in an image with two levels of tables: those of entries, each of
 * `image.tableGroup`, and one that tells, by `tableAt`, where they are.
 */
export function lookupTables(
  t: Task | null,
  image: Blocks,
  offset: u64,
  length: u64,
  tableAt: BlockAt,
  blockAt: BlockAt,
): Extent | null {
  const span = image.blockBytes * image.tableGroup;
  const upperAt = image.tableAt + (offset / span) * image.tableEntryBytes;
  const upper = pageGet(t, image.file, upperAt);
  if (!upper) return null;
  length = min(length, span - (offset % span));
  const table = tableAt(image, upper);
  if (table == NO_BLOCK) return extentOf(ABSENT, length);
  const bytes = image.tableGroup * image.tableEntryBytes;
  if (!isInFile(image, table, bytes, image.blocksFrom)) return refuseEntry(t, image, upperAt);
  const index = (offset % span) / image.blockBytes;
  const entryAt = table + index * image.tableEntryBytes;
  const within = offset % image.blockBytes;
  return lookupBlocks(t, image, entryAt, image.tableGroup - index, within, length, blockAt);
}

/**
 * A block that is deflated, as a whole. How long its stream is is not in the table, so it may reach
 * to the next block that has a place, if that comes behind it: those who write streams write them
 * in order, and what is fetched is little more than what is there.
 */
function deflated(
  t: Task | null,
  image: Blocks,
  first: usize,
  count: u32,
  block: u64,
  entryAt: u64,
  length: u64,
  blockAt: BlockAt,
): Extent | null {
  let end = min(image.fileSize, block + image.streamHeadBytes + image.blockBytes + SECTOR_BYTES);
  for (let i: u32 = 1; i < count; i++) {
    const next = blockAt(image, first + i * image.tableEntryBytes);
    if (next <= ZERO_BLOCK) continue;
    if (next > block) end = min(end, next);
    break;
  }
  const stream = block + image.streamHeadBytes;
  if (stream >= end) return refuseEntry(t, image, entryAt);
  return compressedExtent(length, image.file, stream, end - stream);
}

/** Whether a block that the entry at `entryAt` of the file tells of begins where one can. */
function isBlockPlaced(t: Task | null, image: Blocks, block: u64, entryAt: u64): bool {
  if (block >= image.blocksFrom && block < image.fileSize) return true;
  refuseEntry(t, image, entryAt);
  return false;
}

function refuseEntry(t: Task | null, image: Blocks, entryAt: u64): Extent | null {
  if (t !== null) fail(t, ECORRUPT, R_BLOCK_OUTSIDE, image.index, entryAt);
  return null;
}

/**
 * Whether what the header says of blocks and table can be: blocks of whole sectors, and a table in
 * the file, behind `from`, with an entry for each block. OK, or the reason why not.
 */
export function checkTable(image: Blocks, from: u64): i32 {
  image.unitBytes = image.blockBytes;
  if (!isBlockSize(image.blockBytes)) return R_BLOCK_SIZE;
  if (image.size > OFFSET_MAX) return R_SIZE;
  const entries = (image.size + image.blockBytes - 1) / image.blockBytes;
  const bytes = image.tableEntries * image.tableEntryBytes;
  if (image.tableEntries < entries) return R_BLOCK_TABLE;
  const placed = isInFile(image, image.tableAt, bytes, from);
  return placed && image.tableAt % image.tableEntryBytes == 0 ? OK : R_BLOCK_TABLE;
}

/** As `checkTable`, of the upper one of two levels. */
export function checkTables(image: Blocks): i32 {
  image.unitBytes = image.blockBytes;
  if (!isBlockSize(image.blockBytes)) return R_BLOCK_SIZE;
  if (image.size > OFFSET_MAX) return R_SIZE;
  const span = image.blockBytes * image.tableGroup;
  if (span > OFFSET_MAX) return R_BLOCK_TABLE;
  const bytes = ((image.size + span - 1) / span) * image.tableEntryBytes;
  const placed = isInFile(image, image.tableAt, bytes, SECTOR_BYTES);
  return placed && bytes <= L1_BYTES_MAX ? OK : R_BLOCK_TABLE;
}

function isBlockSize(bytes: u64): bool {
  return bytes != 0 && bytes % SECTOR_BYTES == 0 && bytes <= BLOCK_BYTES_MAX;
}

export function isInFile(image: Blocks, at: u64, bytes: u64, from: u64): bool {
  return at >= from && at <= image.fileSize && bytes <= image.fileSize - at;
}
