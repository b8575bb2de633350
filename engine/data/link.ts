// Linking: letting the L2 table point to what a task has stored. What the entry pointed to before
// is given back, the job hears of what has become populated, and an L2 table that is missing is
// made.

import { be64, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { jobPopulated } from '../core/job';
import { STAGE_L1, STAGE_L2 } from '../core/page';
import { pageChanged, pageGet, pageMake, pagesForget } from '../core/pages';
import {
  clusterMap,
  KIND_NONE,
  ON_TABLE,
  ON_WRITEBACK,
  setClusterMap,
  Task,
  taskAt,
} from '../core/task';
import { wake } from '../core/wake';
import { inFixedMetadata, overlay, Qcow2 } from '../formats/qcow2/image';
import {
  ALL_ALLOCATED,
  ALL_ZERO,
  COMPRESSED,
  COPIED,
  compressedBytes,
  compressedOffset,
  OFFSET_MASK,
  SUBCLUSTERS,
  ZERO,
} from '../formats/qcow2/l2';
import { isClusterSound, isTableSound, l2EntryPlace } from '../formats/qcow2/mapping';
import { PAGE_BYTES, TASKS_MAX } from '../limits';
import { freeLater, freesHaveRoom } from '../overlay/frees';
import { nextWriteback, noteUnwritten, writebackWanted } from '../overlay/progress';
import { allocate } from '../overlay/refcounts';
import { zeroOnDisk } from '../overlay/zeropage';
import { OVERLAY } from '../protocol';
import { ACTION, KEEP, NEW, OWNED, ZEROED } from './actions';

/** Lets the L2 tables point to what has been stored. */
export function link(t: Task): bool {
  assert(t.pending == 0 && t.error == 0);
  const image = overlay();
  while (t.clusterAt < t.clusterCount) {
    const entry = clusterMap(t, t.clusterAt);
    const action = entry & ACTION;
    if (action == NEW || action == OWNED || action == ZEROED) {
      const offset = (t.clusterFirst + t.clusterAt) << image.clusterBits;
      if (!linkCluster(t, image, offset, action == ZEROED ? 0 : entry & ~ACTION)) return false;
      setClusterMap(t, t.clusterAt, KEEP);
    }
    t.clusterAt++;
  }
  t.placed = false;
  return true;
}

/**
 * Makes one cluster's L2 entry point to `host`, or be a zero cluster if that is 0, or none at all
 * (`absent`); makes the L2 table if there is none, and frees what the entry pointed to before.
 * False: the task waits or has failed, and nothing has changed.
 */
export function linkCluster(
  t: Task,
  image: Qcow2,
  offset: u64,
  host: u64,
  absent: bool = false,
): bool {
  assert((host & (clusterBytes(image) - 1)) == 0);
  assert(!absent || host == 0);
  assert(host == 0 || !inFixedMetadata(image, host, clusterBytes(image)));
  const zero = image.extendedL2 || image.version < 3 || absent ? 0 : ZERO;
  const bitmap = host ? ALL_ALLOCATED : absent ? 0 : ALL_ZERO;
  if (!linkEntry(t, image, offset, host ? host | COPIED : zero, bitmap)) return false;
  if (host) noteUnwritten(clusterBytes(image));
  return true;
}

/** As linkCluster, for any entry, and its bitmap where there are subclusters. */
export function linkEntry(t: Task, image: Qcow2, offset: u64, entry: u64, bitmap: u64): bool {
  assert((offset & (clusterBytes(image) - 1)) == 0);
  if (!freesHaveRoom(4)) {
    writebackWanted();
    t.waits = ON_WRITEBACK;
    return false;
  }
  const table = tableFor(t, image, offset);
  if (!table) return false;
  const place = l2EntryPlace(image, table, offset);
  const at = pageGet(t, OVERLAY, place);
  if (!at) return false;
  const old = be64(at);
  if (!isClusterSound(t, image, old, place)) return false;
  const oldBitmap = image.extendedL2 ? be64(at + 8) : 0;
  putBe64(at, entry);
  if (image.extendedL2) putBe64(at + 8, bitmap);
  pageChanged(at, (<u32>1) << image.l2EntryBits, STAGE_L2);
  freeOld(image, old, entry);
  tellPopulated(image, offset, old, oldBitmap, t.isJobs);
  return true;
}

/**
 * Position of the L2 table that maps `offset`, made if there is none; 0: the task waits or has
 * failed.
 */
function tableFor(t: Task, image: Qcow2, offset: u64): u64 {
  const index = offset >> (image.clusterBits + image.l2Bits);
  const l1 = pageGet(t, OVERLAY, image.l1Offset + (index << 3));
  if (!l1) return 0;
  if (!isTableSound(t, image, be64(l1), image.l1Offset + (index << 3))) return 0;
  const table = be64(l1) & OFFSET_MASK;
  if (table) return table;
  if (!t.spareTable) {
    if (isBeingMade(index)) {
      t.waits = ON_TABLE;
      return 0;
    }
    const taken = allocate(t, 1);
    if (taken === null) return 0;
    t.spareTable = taken.at;
    t.spareTableIndex = index;
    t.zeroed = 0;
  }
  if (!makeTable(t, t.spareTable)) return 0;
  // Making the table may have taken a while: the L1 page may have gone.
  const again = pageGet(t, OVERLAY, image.l1Offset + (index << 3));
  if (!again) return 0;
  assert((be64(again) & OFFSET_MASK) == 0);
  putBe64(again, t.spareTable | COPIED);
  pageChanged(again, 8, STAGE_L1);
  const made = t.spareTable;
  leaveSpareTable(t);
  return made;
}

/**
 * Whether another task is making this table: each would make one of its own otherwise, and all but
 * one be given back.
 */
function isBeingMade(index: u64): bool {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const o = taskAt(i);
    if (o.kind != KIND_NONE && o.spareTable && o.spareTableIndex == index) return true;
  }
  return false;
}

/** The table that the task made is no longer its own: those who waited for it look again. */
export function leaveSpareTable(t: Task): void {
  t.spareTable = 0;
  wake(ON_TABLE);
}

/** Fills a new L2 table with zeros: in the cache if it fits into a page, else on disk. */
function makeTable(t: Task, table: u64): bool {
  assert(table != 0);
  const bytes = clusterBytes(overlay());
  if (bytes > PAGE_BYTES) return zeroOnDisk(t, table, bytes);
  const whole = bytes == PAGE_BYTES;
  const at = whole ? pageMake(t, OVERLAY, table) : pageGet(t, OVERLAY, table);
  if (!at) return false;
  memory.fill(at, 0, <usize>bytes);
  pageChanged(at, <u32>bytes, STAGE_L2);
  return true;
}

/**
 * The task has failed before the table was in use: it is given back, and what it has in the cache
 * not written over its next user's data.
 */
export function dropSpareTable(t: Task): void {
  assert(t.spareTable != 0);
  pagesForget(OVERLAY, t.spareTable, t.spareTable + clusterBytes(overlay()));
  freeLater(t.spareTable, 1, 0);
  leaveSpareTable(t);
}

/**
 * Gives back what the old entry of a cluster refers to and the new one does not. What may have
 * another reference stays as it is.
 */
function freeOld(image: Qcow2, old: u64, entry: u64): void {
  const after = nextWriteback();
  if (old & COMPRESSED) {
    freeStream(image, compressedOffset(image, old), compressedBytes(image, old), after);
    return;
  }
  const was = old & OFFSET_MASK;
  const is = entry & COMPRESSED ? 0 : entry & OFFSET_MASK;
  if (was && was != is) freeLater(was, 1, after, !(old & COPIED));
}

/** Gives back the reference that a stream has to every cluster it lies in. */
export function freeStream(image: Qcow2, from: u64, bytes: u64, after: u32): void {
  assert(bytes > 0);
  const last = (from + bytes - 1) >> image.clusterBits;
  for (let c = from >> image.clusterBits; c <= last; c++)
    freeLater(c << image.clusterBits, 1, after, true);
}

/** Tells the job which parts of a cluster were absent, by its old entry, and are there now. */
function tellPopulated(image: Qcow2, offset: u64, old: u64, bitmap: u64, byJob: bool): void {
  if (old & COMPRESSED) return;
  if (!image.extendedL2) {
    if (!(old & (OFFSET_MASK | ZERO))) jobPopulated(offset, clusterBytes(image), byJob);
    return;
  }
  const present = (bitmap | (bitmap >> 32)) & ALL_ALLOCATED;
  const bytes = clusterBytes(image) / SUBCLUSTERS;
  for (let i: u64 = 0; i < SUBCLUSTERS; i++)
    if (!(present & ((<u64>1) << i))) jobPopulated(offset + i * bytes, bytes, byJob);
}
