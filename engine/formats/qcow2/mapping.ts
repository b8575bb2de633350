// What a qcow2 image says of a position: the one place where L1 and L2 tables are read. Every entry
// is checked before it is followed.

import { be64 } from '../../core/bytes';
import { compressedExtent, Extent, extentOf } from '../../core/extent';
import { clusterBytes, Image } from '../../core/image';
import { pageGet } from '../../core/pages';
import { fail, Task } from '../../core/task';
import { PAGE_BYTES, PAGE_MASK, SECTOR_BYTES } from '../../limits';
import {
  ABSENT,
  DATA,
  ECORRUPT,
  OVERLAY,
  R_CLUSTER_IN_METADATA,
  R_CLUSTER_OUTSIDE,
  R_CLUSTER_UNALIGNED,
  R_COMPRESSED,
  R_L1_ENTRY,
  R_L2_ENTRY,
  R_SUBCLUSTERS,
  ZEROES,
} from '../../protocol';
import { inFixedMetadata, l2Span, Qcow2, qcow2Of } from './image';
import {
  COMPRESSED,
  COPIED,
  compressedBytes,
  compressedOffset,
  L1_RESERVED,
  L2_RESERVED,
  OFFSET_MASK,
  SUBCLUSTERS,
  ZERO,
} from './l2';

/**
 * Entries that one lookup follows: nobody can use a longer run at once, and who wants to know asks
 * again.
 */
const RUN_ENTRIES_MAX: u32 = 512;

export function lookupQcow2(t: Task | null, base: Image, offset: u64, length: u64): Extent | null {
  assert(offset < base.size && length > 0);
  const image = qcow2Of(base);
  const l1Place = image.l1Offset + ((offset >> (image.clusterBits + image.l2Bits)) << 3);
  const l1 = pageGet(t, image.file, l1Place);
  if (!l1) return null;
  const entry = be64(l1);
  const table = entry & OFFSET_MASK;
  const span = l2Span(image);
  length = min(length, span - (offset & (span - 1)));
  if (!isTableSound(t, image, entry, l1Place)) return null;
  if (table == 0) return extentOf(ABSENT, length);
  const at = l2EntryPlace(image, table, offset);
  const l2 = pageGet(t, image.file, at);
  if (!l2) return null;
  return image.extendedL2
    ? lookupSubclusters(t, image, l2, at, offset, length)
    : lookupClusters(t, image, l2, at, offset, length);
}

/**
 * Whether an L1 entry, which stands at `at` of the file, points to nothing or to where a table can
 * be.
 */
export function isTableSound(t: Task | null, image: Qcow2, entry: u64, at: u64): bool {
  assert((at & 7) == 0);
  const table = entry & OFFSET_MASK;
  if (entry & L1_RESERVED) return corrupt(t, image, R_L1_ENTRY, at);
  if (table == 0) return true;
  return placed(t, image, table, clusterBytes(image), at);
}

/**
 * Whether an L2 entry, which stands at `at` of the file, has no place or one where a cluster can
 * be.
 */
export function isClusterSound(t: Task | null, image: Qcow2, entry: u64, at: u64): bool {
  assert((at & 7) == 0);
  if (entry & COMPRESSED) return isCompressedSound(t, image, entry, at);
  const host = entry & OFFSET_MASK;
  return host == 0 || placed(t, image, host, clusterBytes(image), at);
}

/** Where the L2 entry for `offset` of the disk stands in the file; `table` is its L2 table. */
export function l2EntryPlace(image: Qcow2, table: u64, offset: u64): u64 {
  assert(table != 0 && (table & (clusterBytes(image) - 1)) == 0);
  const index = (offset >> image.clusterBits) & (((<u64>1) << image.l2Bits) - 1);
  return table + (index << image.l2EntryBits);
}

function lookupClusters(
  t: Task | null,
  image: Qcow2,
  l2: usize,
  at: u64,
  offset: u64,
  length: u64,
): Extent | null {
  const cluster = clusterBytes(image);
  const within = offset & (cluster - 1);
  const first = be64(l2);
  if (!isEntrySound(t, image, first, at)) return null;
  if (first & COMPRESSED) return compressedCluster(image, first, min(cluster - within, length));
  const host = first & OFFSET_MASK;
  const state = first & ZERO ? ZEROES : host ? DATA : ABSENT;
  let run = cluster - within;
  // Neighbouring entries of the same page that go on alike.
  const pageEnd = l2 + min<usize>(PAGE_BYTES - <u32>(at & PAGE_MASK), RUN_ENTRIES_MAX * 8);
  let expected = first;
  for (let next = l2 + 8; next < pageEnd && run < length; next += 8) {
    if (state == DATA) expected += cluster;
    const entry = be64(next);
    if (state == DATA ? (entry ^ expected) & ~COPIED : entry != first) break;
    run += cluster;
  }
  if (state == DATA && !inFile(t, image, host, within + min(run, length), at)) return null;
  const extent = extentOf(state, min(run, length));
  extent.file = image.file;
  extent.host = state == DATA ? host + within : host;
  extent.whole = state == DATA;
  extent.copied = (first & COPIED) != 0;
  return insideFile(image, extent);
}

/** Whether a standard entry says nothing that it must not. */
function isEntrySound(t: Task | null, image: Qcow2, entry: u64, at: u64): bool {
  if (!(entry & COMPRESSED) && (entry & L2_RESERVED || (entry & ZERO && image.version == 2)))
    return corrupt(t, image, R_L2_ENTRY, at);
  return isClusterSound(t, image, entry, at);
}

function isCompressedSound(t: Task | null, image: Qcow2, entry: u64, at: u64): bool {
  const host = compressedOffset(image, entry);
  if (entry & COPIED || host < clusterBytes(image)) return corrupt(t, image, R_COMPRESSED, at);
  if (host >= image.fileSize) return corrupt(t, image, R_CLUSTER_OUTSIDE, at);
  return (
    !inFixedMetadata(image, host, compressedBytes(image, entry)) ||
    corrupt(t, image, R_CLUSTER_IN_METADATA, at)
  );
}

/** The extent of a compressed cluster whose entry is sound. */
function compressedCluster(image: Qcow2, entry: u64, length: u64): Extent {
  const host = compressedOffset(image, entry);
  // It may claim more sectors than a stream can need: other writers are not made to count them.
  const most = min(clusterBytes(image) + SECTOR_BYTES, image.fileSize - host);
  return compressedExtent(length, image.file, host, min(compressedBytes(image, entry), most));
}

function lookupSubclusters(
  t: Task | null,
  image: Qcow2,
  l2: usize,
  at: u64,
  offset: u64,
  length: u64,
): Extent | null {
  const cluster = clusterBytes(image);
  const entry = be64(l2);
  const bitmap = be64(l2 + 8);
  const within = offset & (cluster - 1);
  if (!areSubclustersSound(t, image, entry, bitmap, at)) return null;
  if (entry & COMPRESSED) return compressedCluster(image, entry, min(cluster - within, length));
  const host = entry & OFFSET_MASK;
  const allocated = <u32>bitmap;
  const zero = <u32>(bitmap >> 32);
  const subclusterBits = image.clusterBits - 5;
  const first = <u32>(within >> subclusterBits);
  const state = subclusterState(allocated, zero, first);
  let end = first + 1;
  while (end < SUBCLUSTERS && subclusterState(allocated, zero, end) == state) end++;
  const run = min(((<u64>end) << subclusterBits) - within, length);
  if (state == DATA && !inFile(t, image, host, within + run, at)) return null;
  const extent = extentOf(state, run);
  extent.file = image.file;
  extent.host = state == DATA ? host + within : host;
  extent.partial = (allocated | zero) != 0 && (allocated | zero) != 0xffffffff;
  extent.whole = allocated == 0xffffffff;
  extent.copied = (entry & COPIED) != 0;
  return insideFile(image, extent);
}

/**
 * A read stays inside a base's file: behind its end, which may lie within its last cluster, there
 * are zeros. The overlay's grows as it is written.
 */
function insideFile(image: Qcow2, extent: Extent): Extent {
  if (image.index == <u32>OVERLAY || extent.state != DATA) return extent;
  if (extent.host >= image.fileSize) {
    extent.state = ZEROES;
    extent.host = 0;
    extent.whole = false;
  } else extent.length = min(extent.length, image.fileSize - extent.host);
  return extent;
}

/** Whether an extended entry and its bitmap agree. */
function areSubclustersSound(t: Task | null, image: Qcow2, entry: u64, bitmap: u64, at: u64): bool {
  if (entry & COMPRESSED) {
    if (bitmap) return corrupt(t, image, R_SUBCLUSTERS, at);
    return isCompressedSound(t, image, entry, at);
  }
  const host = entry & OFFSET_MASK;
  const allocated = <u32>bitmap;
  if (entry & (L2_RESERVED | ZERO)) return corrupt(t, image, R_L2_ENTRY, at);
  if (allocated & <u32>(bitmap >> 32) || (allocated && !host))
    return corrupt(t, image, R_SUBCLUSTERS, at);
  return host == 0 || placed(t, image, host, clusterBytes(image), at);
}

function subclusterState(allocated: u32, zero: u32, index: u32): u32 {
  const bit = (<u32>1) << index;
  return allocated & bit ? DATA : zero & bit ? ZEROES : ABSENT;
}

/** A table or cluster must be aligned, in the file, and not over the fixed metadata. */
function placed(t: Task | null, image: Qcow2, offset: u64, bytes: u64, at: u64): bool {
  if (offset & (clusterBytes(image) - 1)) return corrupt(t, image, R_CLUSTER_UNALIGNED, at);
  if (offset >= image.fileSize) return corrupt(t, image, R_CLUSTER_OUTSIDE, at);
  if (inFixedMetadata(image, offset, bytes)) return corrupt(t, image, R_CLUSTER_IN_METADATA, at);
  return true;
}

/**
 * A file may end within its last cluster, as those of some writers do: behind its end there are
 * zeros.
 */
function inFile(t: Task | null, image: Qcow2, host: u64, bytes: u64, at: u64): bool {
  const cluster = clusterBytes(image);
  if (host + bytes > ((image.fileSize + cluster - 1) & ~(cluster - 1)))
    return corrupt(t, image, R_CLUSTER_OUTSIDE, at);
  if (inFixedMetadata(image, host, bytes)) return corrupt(t, image, R_CLUSTER_IN_METADATA, at);
  return true;
}

function corrupt(t: Task | null, image: Qcow2, reason: i32, at: u64): bool {
  if (t !== null) fail(t, ECORRUPT, reason, image.index, at);
  return false;
}
