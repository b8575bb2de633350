// Hyper-V's disk images (VHDX; Microsoft's [MS-VHDX]). All numbers are little-endian. Of two
// headers the newer sound one holds, of two region tables either; these say where the table of
// blocks is and where the metadata are: the size of the disk and of its blocks. Changes of tables
// go through a log; an image whose log has to be replayed first is refused.

import { le16, le32, le64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { Image } from '../core/image';
import { pageGet } from '../core/pages';
import { Task } from '../core/task';
import { PAGE_BYTES } from '../limits';
import {
  R_BLOCK_SIZE,
  R_BLOCK_TABLE,
  R_DIFFERENCING,
  R_FORMAT_HEADER,
  R_FORMAT_VERSION,
  R_HEADER_CHECKSUM,
  R_LOG,
} from '../protocol';
import {
  BAD_BLOCK,
  Blocks,
  blocksBegun,
  blocksOf,
  checkTable,
  isInFile,
  lookupBlocks,
  NO_BLOCK,
  refuseBlocks,
  ZERO_BLOCK,
} from './blocks';
import { crc32c } from './crc32c';

/** "vhdxfile" */
const MAGIC: u64 = 0x656c696678646876;

/** Each region, and each structure at the start, has 64 KiB for itself: a page. */
const HEADER_1: u64 = 0x10000;
const HEADER_2: u64 = 0x20000;
const REGIONS_1: u64 = 0x30000;
const REGIONS_2: u64 = 0x40000;
const STRUCTURES_END: u64 = 0x100000;
const AT_CHECKSUM: u32 = 4;

/** "head" */
const HEADER_SIGNATURE: u32 = 0x64616568;
const HEADER_BYTES: u32 = 4096;
const AT_SEQUENCE: u32 = 8;
/** Identifies the log that has to be replayed; zeros where there is none. */
const AT_LOG: u32 = 48;
const AT_VERSION: u32 = 66;
const VERSION: u32 = 1;

/** "regi" */
const REGIONS_SIGNATURE: u32 = 0x69676572;
const AT_REGION_COUNT: u32 = 8;
const REGIONS_AT: u32 = 16;
const REGION_BYTES: u32 = 32;
const REGIONS_MAX: u32 = 2047;
const REGION_OFFSET: u32 = 16;
const REGION_LENGTH: u32 = 24;
const REGION_REQUIRED: u32 = 28;
/** 2dc27766-f623-4200-9d64-115e9bfd4a08 */
const TABLE_ID: u64 = 0x4200f6232dc27766;
const TABLE_ID_END: u64 = 0x084afd9b5e11649d;
/** 8b7ca206-4790-4b9a-b8fe-575f050f886e */
const METADATA_ID: u64 = 0x4b9a47908b7ca206;
const METADATA_ID_END: u64 = 0x6e880f055f57feb8;
/** Regions begin at, and have, whole MiB. */
const REGION_UNIT: u64 = 1 << 20;

/** "metadata" */
const METADATA_SIGNATURE: u64 = 0x617461646174656d;
const AT_ITEM_COUNT: u32 = 10;
const ITEMS_AT: u32 = 32;
const ITEM_BYTES: u32 = 32;
const ITEMS_MAX: u32 = 2047;
const ITEM_OFFSET: u32 = 16;
const ITEM_FLAGS: u32 = 24;
const ITEM_REQUIRED: u32 = 4;
/** Items stand behind the table of them. */
const ITEM_OFFSET_MIN: u32 = 0x10000;
/** caa16737-fa36-4d43-b3b6-33f0aa44e76b: size of a block, and flags. */
const PARAMETERS_ID: u64 = 0x4d43fa36caa16737;
const PARAMETERS_ID_END: u64 = 0x6be744aaf033b6b3;
const HAS_PARENT: u32 = 2;
/** 2fa54224-cd1b-4876-b211-5dbed83bf4b8 */
const SIZE_ID: u64 = 0x4876cd1b2fa54224;
const SIZE_ID_END: u64 = 0xb8f43bd8be5d11b2;
/** 8141bf1d-a96f-4709-ba47-f233a8faab5f */
const SECTOR_ID: u64 = 0x4709a96f8141bf1d;
const SECTOR_ID_END: u64 = 0x5fabfaa833f247ba;
/** cda348c7-445d-4471-9cc9-e9885251c556: bytes of a sector of the medium; of no use here. */
const PHYSICAL_ID: u64 = 0x4471445dcda348c7;
const PHYSICAL_ID_END: u64 = 0x56c5515288e9c99c;
/** beca12ab-b2e6-4523-93ef-c309e000c746: what the disk is called; of no use here. */
const PAGE_83_ID: u64 = 0x4523b2e6beca12ab;
const PAGE_83_ID_END: u64 = 0x46c700e009c3ef93;

const BLOCK_BYTES_MIN: u64 = 1 << 20;
/** Bits of a bitmap block: behind so many sectors' blocks, the table has an entry for one. */
const BITMAP_SECTORS: u64 = 1 << 23;

const ENTRY_BYTES: u32 = 8;
const ENTRY_STATE: u64 = 7;
const ENTRY_OFFSET: u64 = 0xfffffffffff00000;
const BLOCK_NOT_PRESENT: u64 = 0;
const BLOCK_UNDEFINED: u64 = 1;
const BLOCK_ZERO: u64 = 2;
const BLOCK_UNMAPPED: u64 = 3;
const BLOCK_PRESENT: u64 = 6;

export function isVhdx(at: usize, image: Image): bool {
  return image.fileSize >= 8 && le64(at) == MAGIC;
}

/** Reads all that stands in front of the blocks. False: the task waits or has failed. */
export function openVhdx(t: Task, base: Image): bool {
  const image = blocksBegun(base);
  const first = pageGet(t, image.file, 0);
  if (!first) return false;
  if (!isVhdx(first, image) || image.fileSize < STRUCTURES_END)
    return refuseBlocks(t, image, R_FORMAT_HEADER);
  return openHeader(t, image) && openRegions(t, image);
}

function openHeader(t: Task, image: Blocks): bool {
  const one = pageGet(t, image.file, HEADER_1);
  const two = one ? pageGet(t, image.file, HEADER_2) : 0;
  if (!two) return false;
  const oneSound = isSound(one, HEADER_SIGNATURE, HEADER_BYTES);
  const twoSound = isSound(two, HEADER_SIGNATURE, HEADER_BYTES);
  if (!oneSound && !twoSound) return refuseBlocks(t, image, R_HEADER_CHECKSUM);
  const twoNewer = le64(two + AT_SEQUENCE) > le64(one + AT_SEQUENCE);
  const header = !oneSound || (twoSound && twoNewer) ? two : one;
  if (le16(header + AT_VERSION) != VERSION) return refuseBlocks(t, image, R_FORMAT_VERSION);
  const log = le64(header + AT_LOG) | le64(header + AT_LOG + 8);
  return log == 0 || refuseBlocks(t, image, R_LOG);
}

function isSound(at: usize, signature: u32, bytes: u32): bool {
  return le32(at) == signature && le32(at + AT_CHECKSUM) == crc32c(at, bytes, AT_CHECKSUM);
}

function openRegions(t: Task, image: Blocks): bool {
  let regions = pageGet(t, image.file, REGIONS_1);
  if (regions && !isSound(regions, REGIONS_SIGNATURE, PAGE_BYTES)) {
    regions = pageGet(t, image.file, REGIONS_2);
    if (regions && !isSound(regions, REGIONS_SIGNATURE, PAGE_BYTES))
      return refuseBlocks(t, image, R_HEADER_CHECKSUM);
  }
  if (!regions) return false;
  const count = le32(regions + AT_REGION_COUNT);
  if (count > REGIONS_MAX) return refuseBlocks(t, image, R_FORMAT_HEADER);
  let metadata: u64 = 0;
  image.tableAt = 0;
  for (let i: u32 = 0; i < count; i++) {
    const region = regions + REGIONS_AT + i * REGION_BYTES;
    const at = le64(region + REGION_OFFSET);
    const bytes = le32(region + REGION_LENGTH);
    if (at % REGION_UNIT || !isInFile(image, at, bytes, STRUCTURES_END))
      return refuseBlocks(t, image, R_FORMAT_HEADER);
    if (isId(region, TABLE_ID, TABLE_ID_END)) {
      image.tableAt = at;
      image.tableEntries = bytes / ENTRY_BYTES;
    } else if (isId(region, METADATA_ID, METADATA_ID_END)) metadata = at;
    else if (le32(region + REGION_REQUIRED)) return refuseBlocks(t, image, R_FORMAT_VERSION);
  }
  if (metadata == 0 || image.tableAt == 0) return refuseBlocks(t, image, R_FORMAT_HEADER);
  return openMetadata(t, image, metadata);
}

function isId(at: usize, start: u64, end: u64): bool {
  return le64(at) == start && le64(at + 8) == end;
}

function openMetadata(t: Task, image: Blocks, at: u64): bool {
  const table = pageGet(t, image.file, at);
  if (!table) return false;
  const count = le16(table + AT_ITEM_COUNT);
  if (le64(table) != METADATA_SIGNATURE || count > ITEMS_MAX)
    return refuseBlocks(t, image, R_FORMAT_HEADER);
  let parameters: u64 = 0;
  let size: u64 = 0;
  let sector: u64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const item = table + ITEMS_AT + i * ITEM_BYTES;
    const offset = le32(item + ITEM_OFFSET);
    if (isUsed(item)) {
      if (offset < ITEM_OFFSET_MIN || offset % 8 || offset >= <u32>REGION_UNIT)
        return refuseBlocks(t, image, R_FORMAT_HEADER);
    } else if (le32(item + ITEM_FLAGS) & ITEM_REQUIRED && !isOfNoUse(item))
      return refuseBlocks(t, image, R_FORMAT_VERSION);
    if (isId(item, PARAMETERS_ID, PARAMETERS_ID_END)) parameters = at + offset;
    else if (isId(item, SIZE_ID, SIZE_ID_END)) size = at + offset;
    else if (isId(item, SECTOR_ID, SECTOR_ID_END)) sector = at + offset;
  }
  if (!parameters || !size || !sector) return refuseBlocks(t, image, R_FORMAT_HEADER);
  return openItems(t, image, parameters, size, sector);
}

function isUsed(item: usize): bool {
  return (
    isId(item, PARAMETERS_ID, PARAMETERS_ID_END) ||
    isId(item, SIZE_ID, SIZE_ID_END) ||
    isId(item, SECTOR_ID, SECTOR_ID_END)
  );
}

function isOfNoUse(item: usize): bool {
  return isId(item, PHYSICAL_ID, PHYSICAL_ID_END) || isId(item, PAGE_83_ID, PAGE_83_ID_END);
}

function openItems(t: Task, image: Blocks, parameters: u64, size: u64, sector: u64): bool {
  const parametersAt = pageGet(t, image.file, parameters);
  const sizeAt = parametersAt ? pageGet(t, image.file, size) : 0;
  const sectorAt = sizeAt ? pageGet(t, image.file, sector) : 0;
  if (!sectorAt) return false;
  if (le32(parametersAt + 4) & HAS_PARENT) return refuseBlocks(t, image, R_DIFFERENCING);
  const sectorBytes = le32(sectorAt);
  if (sectorBytes != 512 && sectorBytes != 4096) return refuseBlocks(t, image, R_BLOCK_SIZE);
  image.blockBytes = le32(parametersAt);
  if (image.blockBytes < BLOCK_BYTES_MIN || popcnt(image.blockBytes) != 1)
    return refuseBlocks(t, image, R_BLOCK_SIZE);
  image.size = le64(sizeAt);
  image.tableEntryBytes = ENTRY_BYTES;
  image.tableGroup = (BITMAP_SECTORS * sectorBytes) / image.blockBytes;
  image.blocksFrom = STRUCTURES_END;
  const reason = checkTable(image, STRUCTURES_END);
  if (reason) return refuseBlocks(t, image, reason);
  // The last block's entry, behind those of bitmaps.
  const last = image.size ? (image.size - 1) / image.blockBytes : 0;
  return entryOf(image, last) < image.tableEntries || refuseBlocks(t, image, R_BLOCK_TABLE);
}

/** Behind each group of blocks' entries stands one for their bitmap, which only children use. */
function entryOf(image: Blocks, block: u64): u64 {
  return block + block / image.tableGroup;
}

export function lookupVhdx(t: Task | null, base: Image, offset: u64, length: u64): Extent | null {
  const image = blocksOf(base);
  const block = offset / image.blockBytes;
  return lookupBlocks(
    t,
    image,
    image.tableAt + entryOf(image, block) * ENTRY_BYTES,
    image.tableGroup - (block % image.tableGroup),
    offset % image.blockBytes,
    length,
    blockAt,
  );
}

function blockAt(_image: Blocks, at: usize): u64 {
  const entry = le64(at);
  const state = entry & ENTRY_STATE;
  if (state == BLOCK_PRESENT) return max(entry & ENTRY_OFFSET, BAD_BLOCK);
  if (state == BLOCK_ZERO || state == BLOCK_UNMAPPED) return ZERO_BLOCK;
  return state == BLOCK_NOT_PRESENT || state == BLOCK_UNDEFINED ? NO_BLOCK : BAD_BLOCK;
}
