// Parallels' expanding disk images (QEMU's docs/interop/parallels.txt): a header, a table of 32-bit
// places of blocks right behind it, and the blocks. All numbers are little-endian.

import { le32, le64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { Image } from '../core/image';
import { Task } from '../core/task';
import { SECTOR_BYTES } from '../limits';
import { R_BLOCK_TABLE, R_FORMAT_VERSION } from '../protocol';
import { Blocks, blocksOf, checkTable, lookupTable, NO_BLOCK, openBlocks } from './blocks';

const AT_VERSION: u32 = 16;
const VERSION: u32 = 2;
/** Sectors of a block; not always a power of two. */
const AT_BLOCK_SECTORS: u32 = 28;
const AT_ENTRIES: u32 = 32;
const AT_SECTORS: u32 = 36;
const HEADER_BYTES: u32 = 64;
const ENTRY_BYTES: u32 = 4;

/** "WithoutFreeSpace": entries count sectors, and a disk has at most 2 TiB. */
const MAGIC_SECTORS: u64 = 0x4674756f68746957;
const MAGIC_SECTORS_END: u64 = 0x6563617053656572;
/** "WithouFreSpacExt": entries count blocks. */
const MAGIC_BLOCKS: u64 = 0x7246756f68746957;
const MAGIC_BLOCKS_END: u64 = 0x7478456361705365;

export function isParallels(at: usize, image: Image): bool {
  return image.fileSize >= HEADER_BYTES && (countsSectors(at) || countsBlocks(at));
}

function countsSectors(at: usize): bool {
  return le64(at) == MAGIC_SECTORS && le64(at + 8) == MAGIC_SECTORS_END;
}

function countsBlocks(at: usize): bool {
  return le64(at) == MAGIC_BLOCKS && le64(at + 8) == MAGIC_BLOCKS_END;
}

export function openParallels(t: Task, image: Image): bool {
  return openBlocks(t, image, isParallels, parse);
}

/** Reads the header at address `at`: OK, or the reason why it cannot be. */
function parse(at: usize, image: Blocks): i32 {
  if (le32(at + AT_VERSION) != VERSION) return R_FORMAT_VERSION;
  const sectors = countsBlocks(at) ? le64(at + AT_SECTORS) : le32(at + AT_SECTORS);
  if (sectors > u64.MAX_VALUE / SECTOR_BYTES) return R_BLOCK_TABLE;
  image.size = sectors * SECTOR_BYTES;
  image.blockBytes = <u64>le32(at + AT_BLOCK_SECTORS) * SECTOR_BYTES;
  image.tableAt = HEADER_BYTES;
  image.tableEntries = le32(at + AT_ENTRIES);
  image.tableEntryBytes = ENTRY_BYTES;
  image.unit = countsBlocks(at) ? image.blockBytes : SECTOR_BYTES;
  image.blocksFrom = HEADER_BYTES + image.tableEntries * ENTRY_BYTES;
  return checkTable(image, HEADER_BYTES);
}

export function lookupParallels(
  t: Task | null,
  image: Image,
  offset: u64,
  length: u64,
): Extent | null {
  return lookupTable(t, blocksOf(image), offset, length, blockAt);
}

function blockAt(image: Blocks, at: usize): u64 {
  const entry = le32(at);
  return entry ? entry * image.unit : NO_BLOCK;
}
