// Counting references: everything in the image that refers to clusters of its file, noted in the
// check's window, in the order and by the rules of QEMU's own check, so that both find the same. A
// wrong entry is counted and followed as far as that can be.

import { be64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { pageGet } from '../core/pages';
import { AGAIN, DONE, Task, WAIT } from '../core/task';
import { Qcow2 } from '../formats/qcow2/image';
import {
  ALL_ALLOCATED,
  COMPRESSED,
  COPIED,
  compressedBytes,
  compressedOffset,
  L1_RESERVED,
  L2_RESERVED,
  OFFSET_MASK,
  ZERO,
} from '../formats/qcow2/l2';
import { OFFSET_MAX, PAGE_BYTES, PAGE_MASK, SCAN_ENTRIES_MAX } from '../limits';
import { BLOCK_OFFSET_MASK } from '../overlay/refcounts';
import {
  R_CLUSTER_OUTSIDE,
  R_CLUSTER_UNALIGNED,
  R_COMPRESSED,
  R_L1_ENTRY,
  R_L2_ENTRY,
  R_SHARED_PLACE,
  R_SUBCLUSTERS,
} from '../protocol';
import {
  Check,
  COUNT_BYTES,
  LOOK,
  REFERENCES,
  telling,
  unreadAt,
  WHOLE,
  wrongEntry,
} from './state';

/**
 * Counts one reference to each cluster that a range touches; `whole` says that no other may refer
 * to them.
 */
export function refer(c: Check, image: Qcow2, offset: u64, bytes: u64, whole: bool): void {
  if (bytes == 0) return;
  // What is referred to last may end up to a cluster behind the file: files are not always filled
  // up.
  if (offset > OFFSET_MAX || offset + bytes >= image.fileSize + clusterBytes(image)) {
    if (!telling(c)) return;
    wrongEntry(c, R_CLUSTER_OUTSIDE);
    unreadAt(c, c.entryAt);
    c.outside++;
    return;
  }
  const end = ((offset + bytes - 1) >> image.clusterBits) + 1;
  c.clusters = max(c.clusters, end);
  const to = min(end, c.windowFirst + c.windowClusters);
  for (let cluster = max(offset >> image.clusterBits, c.windowFirst); cluster < to; cluster++)
    countOne(c, cluster, whole);
}

/** References found to a cluster of the window, as far as its refcount can hold them. */
export function referencesTo(c: Check, cluster: u64): u64 {
  return min<u64>(countedOf(c, cluster), c.refcountMax);
}

/** References found to a cluster of the window, up to the most that are counted. */
export function countedOf(c: Check, cluster: u64): u16 {
  return load<u16>(countAt(c, cluster)) & REFERENCES;
}

export function claimedWhole(c: Check, cluster: u64): bool {
  return (load<u16>(countAt(c, cluster)) & WHOLE) != 0;
}

function countAt(c: Check, cluster: u64): usize {
  assert(cluster >= c.windowFirst && cluster < c.windowFirst + c.windowClusters);
  return c.window + <usize>(cluster - c.windowFirst) * COUNT_BYTES;
}

function countOne(c: Check, cluster: u64, whole: bool): void {
  const at = countAt(c, cluster);
  const counted = countedOf(c, cluster);
  // What the refcount's width cannot hold is told.
  if (c.round == LOOK && counted >= c.refcountMax) wrongEntry(c, R_SHARED_PLACE);
  if (counted == REFERENCES) c.uncounted++;
  else store<u16>(at, load<u16>(at) + 1);
  if (whole) store<u16>(at, load<u16>(at) | WHOLE);
}

/** Eight-byte entries from an offset of the file to the end of its page. */
export function entriesOfPage(offset: u64): u64 {
  return (<u64>PAGE_BYTES - (offset & PAGE_MASK)) >> 3;
}

/** Counts a reference to an L2 table, and turns to its entries. */
export function enterTable(c: Check, image: Qcow2, entry: u64): void {
  assert(entry != 0);
  const table = entry & OFFSET_MASK;
  if (telling(c)) {
    const unaligned = (table & (clusterBytes(image) - 1)) != 0;
    if (entry & L1_RESERVED) wrongEntry(c, R_L1_ENTRY);
    if (unaligned) wrongEntry(c, R_CLUSTER_UNALIGNED);
    if (unaligned || entry & L1_RESERVED) unreadAt(c, c.entryAt);
  }
  refer(c, image, table, clusterBytes(image), true);
  c.entered = true;
  c.l2 = 0;
  c.contiguous = 0;
  c.tables++;
}

/**
 * Counts what `count` neighbouring L2 entries refer to, which are at an address, and in the file at
 * `place`; `statistics` says to also count clusters by kind.
 */
export function countEntries(
  c: Check,
  image: Qcow2,
  at: usize,
  place: u64,
  count: u32,
  statistics: bool,
): void {
  assert(count > 0);
  const step = (<usize>1) << image.l2EntryBits;
  const first = at;
  const last = at + <usize>count * step;
  for (; at < last; at += step) {
    const entry = be64(at);
    const bitmap = image.extendedL2 ? be64(at + 8) : 0;
    if ((entry | bitmap) == 0) continue;
    c.entryAt = place + (at - first);
    if (entry & COMPRESSED) {
      countCompressed(c, image, entry, bitmap, statistics);
      continue;
    }
    if (telling(c)) tellEntry(c, image, entry, bitmap);
    const offset = entry & OFFSET_MASK;
    if (offset == 0) continue;
    if (statistics) {
      c.allocated++;
      if (c.contiguous && offset != c.contiguous) c.fragmented++;
      c.contiguous = offset + clusterBytes(image);
    }
    refer(c, image, offset, clusterBytes(image), true);
  }
}

/** What is wrong with a standard or extended entry by itself. */
function tellEntry(c: Check, image: Qcow2, entry: u64, bitmap: u64): void {
  if (entry & L2_RESERVED) {
    wrongEntry(c, R_L2_ENTRY);
    unreadAt(c, c.entryAt);
  }
  const offset = entry & OFFSET_MASK;
  if (offset == 0) {
    // The zero bit comes first, where there are no subclusters: what it says needs no place.
    if (bitmap & ALL_ALLOCATED) {
      wrongEntry(c, R_SUBCLUSTERS);
      unreadAt(c, c.entryAt);
    }
    return;
  }
  if ((bitmap >> 32) & bitmap) wrongEntry(c, R_SUBCLUSTERS);
  if (offset & (clusterBytes(image) - 1)) {
    wrongEntry(c, R_CLUSTER_UNALIGNED);
    if (showsNoData(image, entry, bitmap)) c.looseZeroes++;
    else unreadAt(c, c.entryAt);
  }
}

/** Whether an entry with a place shows nothing of what is there. */
export function showsNoData(image: Qcow2, entry: u64, bitmap: u64): bool {
  return image.extendedL2 ? (bitmap & ALL_ALLOCATED) == 0 : (entry & ZERO) != 0;
}

function countCompressed(c: Check, image: Qcow2, entry: u64, bitmap: u64, statistics: bool): void {
  if (telling(c) && entry & COPIED) wrongEntry(c, R_COMPRESSED);
  if (bitmap) {
    if (telling(c)) wrongEntry(c, R_SUBCLUSTERS);
    unreadAt(c, c.entryAt);
    return;
  }
  const host = compressedOffset(image, entry);
  const wrong = c.wrongEntries;
  refer(c, image, host, compressedBytes(image, entry), false);
  // Some of what it claims may lie behind the file's end, but not its beginning.
  if (telling(c) && host >= image.fileSize && c.wrongEntries == wrong) {
    wrongEntry(c, R_CLUSTER_OUTSIDE);
    unreadAt(c, c.entryAt);
  }
  if (!statistics) return;
  c.allocated++;
  c.compressed++;
  c.fragmented++;
}

/**
 * Counts the refcount blocks, after everything else: nothing but the refcount table may refer to
 * them, and that once.
 */
export function countBlocks(t: Task, c: Check, image: Qcow2): i32 {
  const entries = image.refcountTableBytes >> 3;
  let scanned: u64 = 0;
  while (entries > c.cursor) {
    if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
    const offset = image.refcountTableOffset + (c.cursor << 3);
    const at = pageGet(t, image.file, offset);
    if (!at) return WAIT;
    const count = <u32>min(entries - c.cursor, entriesOfPage(offset));
    for (let i: u32 = 0; i < count; i++) countBlock(c, image, be64(at + (i << 3)));
    c.cursor += count;
    scanned += count;
  }
  return DONE;
}

function countBlock(c: Check, image: Qcow2, entry: u64): void {
  const offset = entry & BLOCK_OFFSET_MASK;
  if (offset == 0 && entry == 0) return;
  const cluster = offset >> image.clusterBits;
  if (entry != offset || offset & (clusterBytes(image) - 1) || cluster >= c.clusters) {
    if (telling(c)) c.wrongBlocks++;
    return;
  }
  refer(c, image, offset, clusterBytes(image), true);
  if (c.round != LOOK || c.windowFirst > cluster || cluster >= c.windowFirst + c.windowClusters)
    return;
  if (countedOf(c, cluster) != 1) c.sharedBlocks++;
  if (referencesTo(c, cluster) != 1) c.wrongBlocks++;
}
