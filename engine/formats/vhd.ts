// Virtual PC's and Azure's disk images (VHD; "Virtual Hard Disk Image Format Specification"). All
// numbers are big-endian. At the end of the file stands a footer; one of fixed size has that behind
// raw data. A dynamic one has a copy of it at the start, then a header, a table of 32-bit places,
// in sectors, and blocks, each behind a bitmap of its sectors. What a block's bitmap leaves out is
// zeros in the block as well, so it is not looked at (nor is it by QEMU).

import { be16, be32, be64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { Image } from '../core/image';
import { pageGet } from '../core/pages';
import { Task } from '../core/task';
import { OFFSET_MAX, SECTOR_BYTES } from '../limits';
import {
  R_BLOCK_SIZE,
  R_BLOCK_TABLE,
  R_DIFFERENCING,
  R_FORMAT_HEADER,
  R_FORMAT_VERSION,
  R_HEADER_CHECKSUM,
  R_SIZE,
} from '../protocol';
import {
  Blocks,
  blocksBegun,
  blocksOf,
  checkTable,
  isInFile,
  lookupTable,
  NO_BLOCK,
  refuseBlocks,
} from './blocks';
import { lookupRaw } from './raw';

/** "conectix" */
const COOKIE: u64 = 0x636f6e6563746978;
const AT_VERSION: u32 = 12;
/** The higher half is the version, and must be known. */
const VERSION_MAJOR: u32 = 1;
const AT_HEADER: u32 = 16;
const AT_CREATOR: u32 = 28;
const AT_SIZE: u32 = 48;
const AT_CYLINDERS: u32 = 56;
const AT_HEADS: u32 = 58;
const AT_TRACK_SECTORS: u32 = 59;
const AT_TYPE: u32 = 60;
const TYPE_FIXED: u32 = 2;
const TYPE_DYNAMIC: u32 = 3;
const AT_CHECKSUM: u32 = 64;
const FOOTER_BYTES: u32 = 512;

/** "cxsparse" */
const HEADER_COOKIE: u64 = 0x6378737061727365;
const AT_TABLE: u32 = 16;
const AT_HEADER_VERSION: u32 = 24;
const AT_ENTRIES: u32 = 28;
const AT_BLOCK_BYTES: u32 = 32;
const AT_HEADER_CHECKSUM: u32 = 36;
const HEADER_BYTES: u32 = 1024;

const ENTRY_BYTES: u32 = 4;
const ENTRY_FREE: u32 = 0xffffffff;

/**
 * The largest geometry of the footer, in sectors: a disk that has it is as large as its size says.
 */
const GEOMETRY_SECTORS_MAX: u64 = 65535 * 16 * 255;

export function isVhd(at: usize, image: Image): bool {
  return image.fileSize >= FOOTER_BYTES && be64(at) == COOKIE;
}

/** Reads footer and header. False: the task waits or has failed. */
export function openVhd(t: Task, base: Image): bool {
  const image = blocksBegun(base);
  if (image.fileSize < FOOTER_BYTES || image.fileSize % SECTOR_BYTES)
    return refuseBlocks(t, image, R_FORMAT_HEADER);
  const first = pageGet(t, image.file, 0);
  if (!first) return false;
  if (isVhd(first, image)) return openFooter(t, image, first);
  const last = pageGet(t, image.file, image.fileSize - FOOTER_BYTES);
  if (!last) return false;
  if (be64(last) != COOKIE) return refuseBlocks(t, image, R_FORMAT_HEADER);
  return openFooter(t, image, last);
}

function openFooter(t: Task, image: Blocks, footer: usize): bool {
  if (sum(footer, FOOTER_BYTES, AT_CHECKSUM) != be32(footer + AT_CHECKSUM))
    return refuseBlocks(t, image, R_HEADER_CHECKSUM);
  if (be32(footer + AT_VERSION) >> 16 != VERSION_MAJOR)
    return refuseBlocks(t, image, R_FORMAT_VERSION);
  const type = be32(footer + AT_TYPE);
  if (type != TYPE_FIXED && type != TYPE_DYNAMIC) return refuseBlocks(t, image, R_DIFFERENCING);
  image.size = sizeOf(footer);
  if (image.size > OFFSET_MAX) return refuseBlocks(t, image, R_SIZE);
  image.blockBytes = 0;
  if (type == TYPE_DYNAMIC) return openDynamic(t, image, be64(footer + AT_HEADER));
  return image.size <= image.fileSize - FOOTER_BYTES || refuseBlocks(t, image, R_BLOCK_TABLE);
}

/**
 * Virtual PC shows its guests the geometry; Hyper-V and Azure, and what makes images for them, the
 * size that is noted beside it. As QEMU has it, by the program that made the image.
 */
function sizeOf(footer: usize): u64 {
  const track = <u64>load<u8>(footer + AT_HEADS) * load<u8>(footer + AT_TRACK_SECTORS);
  const sectors = track * be16(footer + AT_CYLINDERS);
  const creator = be32(footer + AT_CREATOR);
  return showsSize(creator) || sectors == GEOMETRY_SECTORS_MAX
    ? be64(footer + AT_SIZE) & ~(<u64>SECTOR_BYTES - 1)
    : sectors * SECTOR_BYTES;
}

function showsSize(creator: u32): bool {
  return (
    creator == 0x77696e20 || // "win ": Hyper-V
    creator == 0x71656d32 || // "qem2": qemu-img with force_size
    creator == 0x64327620 || // "d2v ": disk2vhd
    creator == 0x74617000 || // "tap\0": XenServer
    creator == 0x43545853 || // "CTXS": XenConverter
    creator == 0x77610000 // "wa\0\0": Azure
  );
}

function openDynamic(t: Task, image: Blocks, at: u64): bool {
  if (at % SECTOR_BYTES || !isInFile(image, at, HEADER_BYTES, FOOTER_BYTES))
    return refuseBlocks(t, image, R_FORMAT_HEADER);
  const header = pageGet(t, image.file, at);
  // It may begin in the last sector of a page.
  const rest = header ? pageGet(t, image.file, at + SECTOR_BYTES) : 0;
  if (!rest) return false;
  if (be64(header) != HEADER_COOKIE) return refuseBlocks(t, image, R_FORMAT_HEADER);
  const total =
    ~sum(header, SECTOR_BYTES, AT_HEADER_CHECKSUM) + ~sum(rest, SECTOR_BYTES, SECTOR_BYTES);
  if (~total != be32(header + AT_HEADER_CHECKSUM)) return refuseBlocks(t, image, R_HEADER_CHECKSUM);
  if (be32(header + AT_HEADER_VERSION) >> 16 != VERSION_MAJOR)
    return refuseBlocks(t, image, R_FORMAT_VERSION);
  image.blockBytes = be32(header + AT_BLOCK_BYTES);
  image.tableAt = be64(header + AT_TABLE);
  image.tableEntries = be32(header + AT_ENTRIES);
  image.tableEntryBytes = ENTRY_BYTES;
  image.blocksFrom = FOOTER_BYTES;
  const reason = checkTable(image, FOOTER_BYTES);
  if (reason) return refuseBlocks(t, image, reason);
  return (image.blockBytes & (image.blockBytes - 1)) == 0 || refuseBlocks(t, image, R_BLOCK_SIZE);
}

/** The checksum of a header or footer: the complement of the sum of its other bytes. */
function sum(at: usize, bytes: u32, checksumAt: u32): u32 {
  let total: u32 = 0;
  for (let i: u32 = 0; i < bytes; i++) {
    if (i < checksumAt || i >= checksumAt + 4) total += load<u8>(at + i);
  }
  return ~total;
}

export function lookupVhd(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  if (blocksOf(image).blockBytes == 0) return lookupRaw(t, image, offset, length);
  return lookupTable(t, blocksOf(image), offset, length, blockAt);
}

function blockAt(image: Blocks, at: usize): u64 {
  const entry = be32(at);
  return entry == ENTRY_FREE ? NO_BLOCK : <u64>entry * SECTOR_BYTES + bitmapBytes(image);
}

/** A bit a sector, in whole sectors. */
function bitmapBytes(image: Blocks): u64 {
  const bytes = image.blockBytes / SECTOR_BYTES / 8;
  return (bytes + SECTOR_BYTES - 1) & ~(<u64>SECTOR_BYTES - 1);
}
