// VirtualBox's disk images (VDI; VirtualBox's VDICore.h): a header, a table of 32-bit numbers of
// blocks, and the blocks. All numbers are little-endian. An image of fixed size has the same table.

import { le32, le64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { Image } from '../core/image';
import { Task } from '../core/task';
import { SECTOR_BYTES } from '../limits';
import { OK, R_BLOCK_TABLE, R_DIFFERENCING, R_FORMAT_VERSION } from '../protocol';
import {
  Blocks,
  blocksOf,
  checkTable,
  lookupTable,
  NO_BLOCK,
  openBlocks,
  ZERO_BLOCK,
} from './blocks';

const AT_SIGNATURE: u32 = 0x40;
const SIGNATURE: u32 = 0xbeda107f;
const AT_VERSION: u32 = 0x44;
const VERSION: u32 = 0x00010001;
const AT_TYPE: u32 = 0x4c;
const TYPE_DYNAMIC: u32 = 1;
const TYPE_FIXED: u32 = 2;
const AT_TABLE: u32 = 0x154;
const AT_BLOCKS: u32 = 0x158;
const AT_SIZE: u32 = 0x170;
const AT_BLOCK_BYTES: u32 = 0x178;
/** Bytes in front of each block; no program makes any. */
const AT_BLOCK_EXTRA: u32 = 0x17c;
const AT_BLOCK_COUNT: u32 = 0x180;
/** Identifiers of the image that this one changes; all zeros where there is none. */
const AT_LINK: u32 = 0x1a8;
const AT_PARENT: u32 = 0x1b8;
const HEADER_BYTES: u32 = 0x1c8;

const ENTRY_BYTES: u32 = 4;
/** Reads as zeros, and never had a block. */
const ENTRY_FREE: u32 = 0xffffffff;
/** Reads as zeros: its block has been given back. */
const ENTRY_DISCARDED: u32 = 0xfffffffe;

export function isVdi(at: usize, image: Image): bool {
  return image.fileSize >= HEADER_BYTES && le32(at + AT_SIGNATURE) == SIGNATURE;
}

export function openVdi(t: Task, image: Image): bool {
  return openBlocks(t, image, isVdi, parse);
}

/** Reads the header at address `at`: OK, or the reason why it cannot be. */
function parse(at: usize, image: Blocks): i32 {
  if (le32(at + AT_VERSION) != VERSION) return R_FORMAT_VERSION;
  const type = le32(at + AT_TYPE);
  if (type != TYPE_DYNAMIC && type != TYPE_FIXED) return R_DIFFERENCING;
  if (!isNil(at + AT_LINK) || !isNil(at + AT_PARENT)) return R_DIFFERENCING;
  // VirtualBox has made disks of odd sizes: their last sector is filled up.
  image.size = (le64(at + AT_SIZE) + SECTOR_BYTES - 1) & ~(<u64>SECTOR_BYTES - 1);
  image.blockBytes = le32(at + AT_BLOCK_BYTES);
  image.tableAt = le32(at + AT_TABLE);
  image.tableEntries = le32(at + AT_BLOCK_COUNT);
  image.tableEntryBytes = ENTRY_BYTES;
  image.blocksFrom = le32(at + AT_BLOCKS);
  if (le32(at + AT_BLOCK_EXTRA)) return R_BLOCK_TABLE;
  const tableEnd = image.tableAt + image.tableEntries * ENTRY_BYTES;
  const reason = checkTable(image, HEADER_BYTES);
  return reason ? reason : image.blocksFrom < tableEnd ? R_BLOCK_TABLE : OK;
}

function isNil(at: usize): bool {
  return (le64(at) | le64(at + 8)) == 0;
}

export function lookupVdi(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  return lookupTable(t, blocksOf(image), offset, length, blockAt);
}

function blockAt(image: Blocks, at: usize): u64 {
  const entry = le32(at);
  if (entry == ENTRY_FREE) return NO_BLOCK;
  if (entry == ENTRY_DISCARDED) return ZERO_BLOCK;
  return image.blocksFrom + entry * image.blockBytes;
}
