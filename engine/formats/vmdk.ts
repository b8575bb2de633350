// VMware's sparse extents (VMDK; "Virtual Disk Format 5.0"): monolithicSparse, streamOptimized, and
// each file of twoGbMaxExtentSparse. A header, a text that describes the disk, a grain directory of
// 32-bit places, in sectors, of grain tables, and those, of places of grains. All numbers are
// little-endian. Grains of a stream-optimized one are deflated, and its header, written before they
// were, may leave the directory's place to a footer. A file that is such a text and nothing else
// describes a disk in other files: the host reads it, and tells the parts (parts.ts).

import { le16, le32, le64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { Image } from '../core/image';
import { pageGet } from '../core/pages';
import { Task } from '../core/task';
import { OFFSET_MAX, PAGE_BYTES, PAGE_MASK, SECTOR_BYTES } from '../limits';
import {
  METHOD_DEFLATE,
  R_BLOCK_SIZE,
  R_BLOCK_TABLE,
  R_DIFFERENCING,
  R_FORMAT_HEADER,
  R_FORMAT_VERSION,
  R_SIZE,
} from '../protocol';
import {
  Blocks,
  blocksBegun,
  blocksOf,
  checkTables,
  isInFile,
  lookupTables,
  refuseBlocks,
  ZERO_BLOCK,
} from './blocks';
import { hasMemory } from './format';
import { hasParts, lookupParts, openParts } from './parts';

/** "KDMV" */
const MAGIC: u32 = 0x564d444b;
const AT_VERSION: u32 = 4;
const VERSION_MAX: u32 = 3;
const AT_FLAGS: u32 = 8;
const FLAG_ZERO_GRAINS: u32 = 4;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const AT_CAPACITY: u32 = 12;
const AT_GRAIN: u32 = 20;
const AT_DESCRIPTOR: u32 = 28;
const AT_DESCRIPTOR_SECTORS: u32 = 36;
const AT_TABLE_ENTRIES: u32 = 44;
const AT_DIRECTORY: u32 = 56;
const AT_COMPRESSION: u32 = 77;
const DEFLATE: u32 = 1;
const HEADER_BYTES: u32 = 512;

/** The directory's place is in the footer: a header, the last sector but one. */
const IN_FOOTER: u64 = u64.MAX_VALUE;
const FOOTER_FROM_END: u64 = 1024;

const TABLE_ENTRIES_MAX: u32 = 512;
const GRAIN_SECTORS_MIN: u64 = 8;
/** VMware's have 64 KiB. */
const GRAIN_BYTES_MAX: u64 = 1 << 20;
const ENTRY_BYTES: u32 = 4;
const ENTRY_ZERO: u32 = 1;

/** In front of a deflated grain: its sector and its bytes (12 bytes), and the header of zlib. */
const MARKER_BYTES: u32 = 14;

/** "# Disk DescriptorFil", with which a text in a file of its own begins; little-endian. */
const TEXT_START: u64 = 0x44206b7369442023;
const TEXT_START_2: u64 = 0x6f74706972637365;
const TEXT_START_3: u32 = 0x6c694672;
const TEXT_START_BYTES: u64 = 20;

const TEXT_BYTES_MAX: u64 = 20480;
/** "parentCID=" and "ffffffff", little-endian. */
const PARENT: u64 = 0x4943746e65726170;
const PARENT_END: u32 = 0x3d44;
const PARENT_BYTES: u32 = 10;
const NO_PARENT: u64 = 0x6666666666666666;
const NO_PARENT_BYTES: u32 = 8;
const LOWER_CASE: u64 = 0x2020202020202020;

export function isVmdk(at: usize, image: Image): bool {
  return isSparse(at, image) || isText(at, image);
}

function isSparse(at: usize, image: Image): bool {
  return image.fileSize >= HEADER_BYTES && le32(at) == MAGIC;
}

function isText(at: usize, image: Image): bool {
  return (
    image.fileSize >= TEXT_START_BYTES &&
    le64(at) == TEXT_START &&
    le64(at + 8) == TEXT_START_2 &&
    le32(at + 16) == TEXT_START_3
  );
}

/** Reads header, footer and text. False: the task waits or has failed. */
export function openVmdk(t: Task, base: Image): bool {
  const image = blocksBegun(base);
  let header = pageGet(t, image.file, 0);
  if (!header) return false;
  if (isText(header, image) || hasParts(image)) return openParts(t, image);
  if (!isSparse(header, image)) return refuseBlocks(t, image, R_FORMAT_HEADER);
  const textAt = le64(header + AT_DESCRIPTOR) * SECTOR_BYTES;
  const textBytes = le64(header + AT_DESCRIPTOR_SECTORS) * SECTOR_BYTES;
  if (le64(header + AT_DIRECTORY) == IN_FOOTER) {
    if (image.fileSize < FOOTER_FROM_END + HEADER_BYTES)
      return refuseBlocks(t, image, R_FORMAT_HEADER);
    const footer = image.fileSize - FOOTER_FROM_END;
    if (footer % SECTOR_BYTES) return refuseBlocks(t, image, R_FORMAT_HEADER);
    header = pageGet(t, image.file, footer);
    if (!header) return false;
    if (le32(header) != MAGIC) return refuseBlocks(t, image, R_FORMAT_HEADER);
  }
  const reason = parseHeader(header, image);
  if (reason) return refuseBlocks(t, image, reason);
  if (textBytes && !openText(t, image, textAt, textBytes)) return false;
  return hasMemory(t, image);
}

function parseHeader(at: usize, image: Blocks): i32 {
  if (le32(at + AT_VERSION) - 1 >= VERSION_MAX) return R_FORMAT_VERSION;
  const flags = le32(at + AT_FLAGS);
  image.zeroEntries = (flags & FLAG_ZERO_GRAINS) != 0;
  const compressed = (flags & FLAG_COMPRESSED) != 0;
  if (compressed && (!(flags & FLAG_MARKERS) || le16(at + AT_COMPRESSION) != DEFLATE))
    return R_FORMAT_VERSION;
  image.streamHeadBytes = compressed ? MARKER_BYTES : 0;
  const grain = le64(at + AT_GRAIN);
  if (grain < GRAIN_SECTORS_MIN || grain * SECTOR_BYTES > GRAIN_BYTES_MAX || popcnt(grain) != 1)
    return R_BLOCK_SIZE;
  const sectors = le64(at + AT_CAPACITY);
  if (sectors > OFFSET_MAX / SECTOR_BYTES) return R_SIZE;
  image.size = sectors * SECTOR_BYTES;
  image.blockBytes = grain * SECTOR_BYTES;
  image.clusterBits = <u32>ctz(image.blockBytes);
  image.compression = METHOD_DEFLATE;
  image.cutsLastCluster = true;
  image.tableEntryBytes = ENTRY_BYTES;
  image.tableGroup = le32(at + AT_TABLE_ENTRIES);
  if (image.tableGroup - 1 >= TABLE_ENTRIES_MAX) return R_BLOCK_TABLE;
  const directory = le64(at + AT_DIRECTORY);
  if (directory > OFFSET_MAX / SECTOR_BYTES) return R_BLOCK_TABLE;
  image.tableAt = directory * SECTOR_BYTES;
  image.blocksFrom = HEADER_BYTES;
  return checkTables(image);
}

/**
 * The text names the image that this one changes by "parentCID=", and says "ffffffff" where there
 * is none. It must stand in one page: no program makes it longer.
 */
function openText(t: Task, image: Blocks, at: u64, bytes: u64): bool {
  bytes = min(bytes, TEXT_BYTES_MAX);
  if (!isInFile(image, at, bytes, HEADER_BYTES) || (at & PAGE_MASK) + bytes > PAGE_BYTES)
    return refuseBlocks(t, image, R_FORMAT_HEADER);
  const text = pageGet(t, image.file, at);
  if (!text) return false;
  return !namesParent(text, <u32>bytes) || refuseBlocks(t, image, R_DIFFERENCING);
}

function namesParent(text: usize, bytes: u32): bool {
  for (let at: u32 = 0; at + PARENT_BYTES + NO_PARENT_BYTES <= bytes; at++) {
    const found = le64(text + at) == PARENT && le16(text + at + 8) == PARENT_END;
    if (found) return (le64(text + at + PARENT_BYTES) | LOWER_CASE) != NO_PARENT;
  }
  return false;
}

export function lookupVmdk(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  if (image.partCount) return lookupParts(t, image, offset, length);
  return lookupTables(t, blocksOf(image), offset, length, placeAt, blockAt);
}

function placeAt(_image: Blocks, at: usize): u64 {
  return <u64>le32(at) * SECTOR_BYTES;
}

function blockAt(image: Blocks, at: usize): u64 {
  return le32(at) == ENTRY_ZERO && image.zeroEntries ? ZERO_BLOCK : placeAt(image, at);
}
