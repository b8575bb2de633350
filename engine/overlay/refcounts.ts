// The overlay's refcounts: which clusters of its file are in use, and the search for free ones
// (QEMU's docs/interop/qcow2.txt, "Host cluster management"). A cluster is taken here long before
// anything refers to it; order on disk is writeback.ts's work.

import { be32, be64, putBe32, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { STAGE_REFCOUNTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { fail, KIND_GROW, ON_REFCOUNTS, Task, taskBegin } from '../core/task';
import { inFixedMetadata, overlay, Qcow2 } from '../formats/qcow2/image';
import { PAGE_BYTES } from '../limits';
import { ECORRUPT, R_CLUSTER_IN_METADATA, R_REFCOUNT, R_REFCOUNT_BLOCK } from '../protocol';

/** Bits 9 to 63 of a refcount table's entry: where the block is. The others must be zero. */
export const BLOCK_OFFSET_MASK: u64 = 0xfffffffffffffe00;

/** Clusters of the overlay in a row: where the first stands in its file, and how many. */
@unmanaged
export class Run {
  at: u64;
  count: u32;
}

/** The one that is told: good until the next is. */
function record(): Run {
  return changetype<Run>(memory.data(offsetof<Run>(), 8));
}

/** No cluster below this one is free, as far as is known. */
let freeFrom: u64 = 0;
/** The refcount block that is missing, while a task makes it. */
let growing: bool = false;
let wantedBlock: u64 = 0;
/** The cluster that more is going to be put into; 0 once it may be another's. See packing.ts. */
let open: u64 = 0;

export function refcountsInit(): void {
  freeFrom = 0;
  open = 0;
  growing = false;
}

export function missingBlock(): u64 {
  return wantedBlock;
}

/** A task makes refcount blocks now. */
export function refcountsGrowing(): bool {
  return growing;
}

export function grown(): void {
  growing = false;
}

/** Refcounts in a block, which is one cluster. */
export function refcountsPerBlock(image: Qcow2): u64 {
  return (clusterBytes(image) << 3) >> image.refcountOrder;
}

/**
 * Entries that fit into one page of a block (all of them where clusters are no larger than pages).
 */
export function refcountsPerPart(image: Qcow2): u64 {
  return (min<u64>(clusterBytes(image), PAGE_BYTES) << 3) >> image.refcountOrder;
}

/**
 * Takes up to `wanted` contiguous free clusters. Null: the task waits or has failed. Nothing has
 * changed then, except that the search goes on where it stopped.
 */
export function allocate(t: Task, wanted: u32): Run | null {
  assert(wanted > 0);
  const image = overlay();
  while (true) {
    const part = partOf(t, image, freeFrom);
    if (!part) return null;
    const run = findRun(image, part, freeFrom, wanted);
    freeFrom = run.at >> image.clusterBits;
    if (run.count == 0) continue;
    if (takeRun(t, image, part, run) === null) return null;
    freeFrom += run.count;
    return run;
  }
}

/**
 * As allocate, for `wanted` clusters and no fewer: `t.searchFrom` passes gaps that are too
 * small, which stay free.
 */
export function allocateWhole(t: Task, wanted: u32): Run | null {
  assert(wanted > 0);
  const image = overlay();
  t.searchFrom = max(t.searchFrom, freeFrom);
  while (true) {
    const part = partOf(t, image, t.searchFrom);
    if (!part) return null;
    const run = findRun(image, part, t.searchFrom, wanted);
    if (run.count == wanted) return takeRun(t, image, part, run);
    t.searchFrom = (run.at >> image.clusterBits) + run.count;
  }
}

/**
 * Finds free clusters in a row, up to `most`, of which the first is at or behind `from`; looks no
 * further than `part`, which holds that one's refcount. Without any, `at` is where the part ends.
 */
function findRun(image: Qcow2, part: usize, from: u64, most: u32): Run {
  assert(most > 0);
  const perPart = <u32>refcountsPerPart(image);
  const start = <u32>(from % perPart);
  let index = start;
  while (index < perPart && getRefcount(part, index, image.refcountOrder)) index++;
  let count: u32 = 0;
  while (
    count < most &&
    index + count < perPart &&
    !getRefcount(part, index + count, image.refcountOrder)
  )
    count++;
  const run = record();
  run.at = (from - start + index) << image.clusterBits;
  run.count = count;
  return run;
}

/** Takes the clusters that findRun has found; null: the task has failed. */
function takeRun(t: Task, image: Qcow2, part: usize, run: Run): Run | null {
  assert(run.count > 0);
  if (!isFreePlace(t, image, run.at, (<u64>run.count) << image.clusterBits)) return null;
  const first = run.at >> image.clusterBits;
  const index = <u32>(first % refcountsPerPart(image));
  for (let i: u32 = 0; i < run.count; i++) putRefcount(part, index + i, image.refcountOrder, 1);
  changed(part, index, run.count, image.refcountOrder);
  image.fileSize = max(image.fileSize, (first + run.count) << image.clusterBits);
  return run;
}

/**
 * What the refcounts say is free must not be where header, L1 table or refcount table are: the task
 * fails then.
 */
export function isFreePlace(t: Task, image: Qcow2, offset: u64, bytes: u64): bool {
  if (!inFixedMetadata(image, offset, bytes)) return true;
  fail(t, ECORRUPT, R_CLUSTER_IN_METADATA, image.index, offset);
  return false;
}

/** What extend answers. */
export const EXTEND_WAITS: i32 = -1;
export const EXTEND_CANNOT: i32 = 0;
export const EXTENDED: i32 = 1;

/**
 * One reference more to each of the clusters from `first` up to, but not including, `held`, which
 * are in use; those from there up to `end` are taken, if they are free. All of it or nothing: so
 * their refcounts must stand in one page.
 */
export function extend(t: Task, first: u64, held: u64, end: u64): i32 {
  assert(first < end && first <= held && held <= end);
  const image = overlay();
  const perPart = refcountsPerPart(image);
  if (first / perPart != (end - 1) / perPart) return EXTEND_CANNOT;
  const part = partOf(t, image, first);
  if (!part) return EXTEND_WAITS;
  const index = <u32>(first % perPart);
  const inUse = <u32>(held - first);
  const count = <u32>(end - first);
  const order = image.refcountOrder;
  for (let i: u32 = 0; i < count; i++) {
    const refcount = getRefcount(part, index + i, order);
    if (i < inUse ? refcount == 0 || refcount >= refcountMax(image) : refcount != 0)
      return EXTEND_CANNOT;
  }
  const taken = (<u64>(count - inUse)) << image.clusterBits;
  if (taken && !isFreePlace(t, image, held << image.clusterBits, taken)) return EXTEND_WAITS;
  for (let i: u32 = 0; i < count; i++)
    putRefcount(part, index + i, order, getRefcount(part, index + i, order) + 1);
  changed(part, index, count, order);
  image.fileSize = max(image.fileSize, end << image.clusterBits);
  return EXTENDED;
}

/** The most references to a cluster that can be counted. */
export function refcountMax(image: Qcow2): u64 {
  assert(image.refcountOrder <= 6);
  return image.refcountOrder == 6 ? u64.MAX_VALUE : ((<u64>1) << (1 << image.refcountOrder)) - 1;
}

/** Says which cluster more is going to be put into; 0: none. */
export function leaveOpen(cluster: u64): void {
  open = cluster;
}

/** That cluster, unless its last reference has gone since. */
export function openCluster(): u64 {
  return open;
}

/** Lowers the refcount of one cluster; false: the task waits or has failed. */
export function release(t: Task, cluster: u64): bool {
  assert(cluster > 0);
  const image = overlay();
  const part = partOf(t, image, cluster);
  if (!part) return false;
  const index = <u32>(cluster % refcountsPerPart(image));
  const count = getRefcount(part, index, image.refcountOrder);
  if (count == 0) {
    fail(t, ECORRUPT, R_REFCOUNT, image.index, cluster << image.clusterBits);
    return false;
  }
  putRefcount(part, index, image.refcountOrder, count - 1);
  changed(part, index, 1, image.refcountOrder);
  if (count == 1) becameFree(cluster);
  return true;
}

/** Sets a refcount outright, as a repair does; false: the task waits or has failed. */
export function setRefcount(t: Task, cluster: u64, value: u64): bool {
  const image = overlay();
  const part = partOf(t, image, cluster);
  if (!part) return false;
  const index = <u32>(cluster % refcountsPerPart(image));
  putRefcount(part, index, image.refcountOrder, value);
  changed(part, index, 1, image.refcountOrder);
  if (value == 0) becameFree(cluster);
  return true;
}

function becameFree(cluster: u64): void {
  freeFrom = min(freeFrom, cluster);
  if (cluster == open) open = 0;
}

/**
 * The refcount of a cluster of any image, 0 for one without a block; -1: the task waits or has
 * failed. No sound image has more references than fit.
 */
export function refcountOf(t: Task, image: Qcow2, cluster: u64): i64 {
  const block = blockOf(t, image, cluster / refcountsPerBlock(image));
  if (block <= 0) return block;
  const part = pageGet(t, image.file, partOffset(image, block, cluster));
  if (!part) return -1;
  const index = <u32>(cluster % refcountsPerPart(image));
  return min<u64>(getRefcount(part, index, image.refcountOrder), i64.MAX_VALUE);
}

/** Position of a refcount block, 0 if there is none, -1 if the task waits or has failed. */
export function blockOf(t: Task, image: Qcow2, index: u64): i64 {
  if (index << 3 >= image.refcountTableBytes) return 0;
  const at = pageGet(t, image.file, image.refcountTableOffset + (index << 3));
  if (!at) return -1;
  const block = be64(at);
  if (
    block & (clusterBytes(image) - 1) ||
    (block && (block >= image.fileSize || block < clusterBytes(image)))
  ) {
    fail(t, ECORRUPT, R_REFCOUNT_BLOCK, image.index, image.refcountTableOffset + (index << 3));
    return -1;
  }
  return block;
}

export function putRefcount(part: usize, index: u32, order: u32, value: u64): void {
  assert(order <= 6);
  if (order == 4) store<u16>(part + (index << 1), bswap<u16>(<u16>value));
  else if (order == 3) store<u8>(part + index, <u8>value);
  else if (order == 5) putBe32(part + (index << 2), <u32>value);
  else if (order == 6) putBe64(part + (index << 3), value);
  else {
    const bit = index << order;
    const at = part + (bit >> 3);
    const mask = ((1 << (1 << order)) - 1) << (bit & 7);
    store<u8>(at, <u8>((load<u8>(at) & ~mask) | (((<i32>value) << (bit & 7)) & mask)));
  }
}

export function getRefcount(part: usize, index: u32, order: u32): u64 {
  assert(order <= 6);
  if (order == 4) return bswap<u16>(load<u16>(part + (index << 1)));
  if (order == 3) return load<u8>(part + index);
  if (order == 5) return be32(part + (index << 2));
  if (order == 6) return be64(part + (index << 3));
  const bit = index << order;
  return (load<u8>(part + (bit >> 3)) >> (bit & 7)) & ((1 << (1 << order)) - 1);
}

/**
 * The part of the overlay's refcount block that holds `cluster`'s entry; a missing block is made
 * first.
 */
function partOf(t: Task, image: Qcow2, cluster: u64): usize {
  const index = cluster / refcountsPerBlock(image);
  const block = blockOf(t, image, index);
  if (block < 0) return 0;
  if (block > 0) return pageGet(t, image.file, partOffset(image, block, cluster));
  if (!growing) {
    if (taskBegin(KIND_GROW, false, true) !== null) {
      growing = true;
      wantedBlock = index;
    }
  }
  t.waits = ON_REFCOUNTS;
  return 0;
}

/** Where in the file the part of the block begins that holds `cluster`'s entry. */
export function partOffset(image: Qcow2, block: u64, cluster: u64): u64 {
  assert(block != 0 && (block & (clusterBytes(image) - 1)) == 0);
  const perPart = refcountsPerPart(image);
  const within = (cluster % refcountsPerBlock(image)) / perPart;
  return block + within * min<u64>(clusterBytes(image), PAGE_BYTES);
}

function changed(part: usize, index: u32, count: u32, order: u32): void {
  assert(count > 0);
  const first = (index << order) >> 3;
  const end = ((index + count - 1) << order) >> 3;
  pageChanged(
    part + first,
    end - first + 1 + (order > 3 ? (1 << (order - 3)) - 1 : 0),
    STAGE_REFCOUNTS,
  );
}
