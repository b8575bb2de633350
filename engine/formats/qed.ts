// QEMU's enhanced disks (QED; QEMU's docs/interop/qed_spec.txt): a header, and L1 and L2 tables of
// 64-bit places as in qcow2, but several clusters long. All numbers are little-endian.

import { le32, le64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { Image } from '../core/image';
import { Task } from '../core/task';
import { R_BLOCK_SIZE, R_BLOCK_TABLE, R_DIFFERENCING, R_FORMAT_VERSION } from '../protocol';
import {
  BAD_BLOCK,
  Blocks,
  blocksOf,
  checkTables,
  lookupTables,
  openBlocks,
  ZERO_BLOCK,
} from './blocks';

/** "QED\0" */
const MAGIC: u32 = 0x00444551;
const AT_CLUSTER_BYTES: u32 = 4;
const AT_TABLE_CLUSTERS: u32 = 8;
const AT_HEADER_CLUSTERS: u32 = 12;
const AT_FEATURES: u32 = 16;
const AT_L1: u32 = 40;
const AT_SIZE: u32 = 48;
const HEADER_BYTES: u32 = 64;

const FEATURE_BACKING_FILE: u64 = 1;
/** Has not been closed: clusters may have leaked, which does no harm to who reads. */
const FEATURE_NEED_CHECK: u64 = 2;
/** The backing file is raw. */
const FEATURE_BACKING_RAW: u64 = 4;
const FEATURES_KNOWN: u64 = FEATURE_BACKING_FILE | FEATURE_NEED_CHECK | FEATURE_BACKING_RAW;

const CLUSTER_BYTES_MIN: u64 = 4096;
const CLUSTER_BYTES_MAX: u64 = 64 << 20;
const TABLE_CLUSTERS_MAX: u64 = 16;
const ENTRY_BYTES: u32 = 8;
/** Of an L2 table: reads as zeros. */
const ENTRY_ZERO: u64 = 1;

export function isQed(at: usize, image: Image): bool {
  return image.fileSize >= HEADER_BYTES && le32(at) == MAGIC;
}

export function openQed(t: Task, image: Image): bool {
  return openBlocks(t, image, isQed, parse);
}

/** Reads the header at address `at`: OK, or the reason why it cannot be. */
function parse(at: usize, image: Blocks): i32 {
  const features = le64(at + AT_FEATURES);
  if (features & ~FEATURES_KNOWN) return R_FORMAT_VERSION;
  if (features & FEATURE_BACKING_FILE) return R_DIFFERENCING;
  const cluster = <u64>le32(at + AT_CLUSTER_BYTES);
  const tableClusters = <u64>le32(at + AT_TABLE_CLUSTERS);
  if (cluster < CLUSTER_BYTES_MIN || cluster > CLUSTER_BYTES_MAX || popcnt(cluster) != 1)
    return R_BLOCK_SIZE;
  if (tableClusters > TABLE_CLUSTERS_MAX || popcnt(tableClusters) != 1) return R_BLOCK_TABLE;
  image.size = le64(at + AT_SIZE);
  image.blockBytes = cluster;
  image.tableAt = le64(at + AT_L1);
  image.tableEntryBytes = ENTRY_BYTES;
  image.tableGroup = (tableClusters * cluster) / ENTRY_BYTES;
  image.blocksFrom = <u64>le32(at + AT_HEADER_CLUSTERS) * cluster;
  if (image.blocksFrom < HEADER_BYTES || image.tableAt & (cluster - 1)) return R_BLOCK_TABLE;
  return checkTables(image);
}

export function lookupQed(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  return lookupTables(t, blocksOf(image), offset, length, tableAt, blockAt);
}

function tableAt(image: Blocks, at: usize): u64 {
  return aligned(image, le64(at));
}

function blockAt(image: Blocks, at: usize): u64 {
  const entry = le64(at);
  return entry == ENTRY_ZERO ? ZERO_BLOCK : aligned(image, entry);
}

function aligned(image: Blocks, place: u64): u64 {
  return place & (image.blockBytes - 1) ? BAD_BLOCK : place;
}
