// Placing: giving clusters of the disk their content in the overlay. A task that stores data goes
// through four steps over its clusters: classify (what stands there), place (take host clusters),
// store (write the data), link (let the L2 table point there). Nothing refers to a host cluster
// before its data is written, so that a failure or a crash in between only wastes space.

import { be64, putBe64 } from '../core/bytes';
import { Extent } from '../core/extent';
import { clusterBytes } from '../core/image';
import { jobPopulated } from '../core/job';
import { STAGE_L1, STAGE_L2 } from '../core/page';
import { pageChanged, pageGet, pageMake, pagesForget } from '../core/pages';
import { ioBegin } from '../core/ring';
import {
  clusterMap,
  fail,
  KIND_NONE,
  ON_SLOT,
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
import { CHUNK_CLUSTERS_MAX, PAGE_BYTES, TASKS_MAX } from '../limits';
import { freeLater, freesHaveRoom } from '../overlay/frees';
import {
  nextWriteback,
  noteUnwritten,
  writebackStalled,
  writebackWanted,
} from '../overlay/progress';
import { allocate, refcountOf } from '../overlay/refcounts';
import { zeroOnDisk } from '../overlay/zeropage';
import { ECORRUPT, OP_WRITE, OVERLAY, R_REFCOUNT } from '../protocol';
import { entryAt } from './gather';
import { isZero } from './zero';

/**
 * What a task does with a cluster: the low bits of its map entry; the rest is the host cluster's
 * position.
 */
export const KEEP: u64 = 0;
/** Needs content, and a host cluster unless it is all zeros. */
export const FILL: u64 = 1;
/** Has a host cluster whose content is incomplete: to be written whole and linked anew. */
export const OWNED: u64 = 2;
/** Has a whole cluster: the requester's bytes go straight there. */
export const IN_PLACE: u64 = 3;
/** Has been given a host cluster. */
export const NEW: u64 = 4;
/** Becomes a zero cluster. */
export const ZEROED: u64 = 5;
/** Is there and stays as it is, but its content is wanted in the buffer. */
export const WANTED: u64 = 6;
/** Takes over a compressed stream: the rest of the entry is the stream's number. See keep.ts. */
export const PACKED: u64 = 7;
export const ACTION: u64 = 15;
export const ACTION_BITS: u64 = 4;

/**
 * Takes host clusters for what is to be filled; clusters that are all zeros become zero clusters
 * where `zeroes` allows it.
 */
export function place(t: Task, zeroes: bool): bool {
  assert(t.clusterAt <= t.clusterCount && t.buffer != 0);
  const cluster = <u32>clusterBytes(overlay());
  const sparse = zeroes && overlay().version > 2;
  while (t.clusterAt < t.clusterCount) {
    if ((clusterMap(t, t.clusterAt) & ACTION) != FILL) {
      t.clusterAt++;
      continue;
    }
    if (sparse && isZero(clusterBuffer(t, t.clusterAt), cluster)) {
      setClusterMap(t, t.clusterAt++, ZEROED);
      continue;
    }
    let end = t.clusterAt + 1;
    while (end < t.clusterCount && (clusterMap(t, end) & ACTION) == FILL) {
      if (sparse && isZero(clusterBuffer(t, end), cluster)) break;
      end++;
    }
    const taken = allocate(t, end - t.clusterAt);
    if (taken === null) return false;
    t.placed = true;
    for (let i: u32 = 0; i < taken.count; i++)
      setClusterMap(t, t.clusterAt + i, (taken.at + i * cluster) | NEW);
    t.clusterAt += taken.count;
  }
  t.clusterAt = 0;
  return true;
}

/**
 * Writes the clusters' data: whole ones to their new places, the bytes [from, to) of the disk to
 * those that stay.
 */
export function storeClusters(t: Task, from: u64, to: u64): bool {
  assert(t.clusterAt <= t.clusterCount && from <= to);
  const cluster = clusterBytes(overlay());
  while (t.clusterAt < t.clusterCount) {
    const entry = clusterMap(t, t.clusterAt);
    if (!isWritten(entry)) {
      t.clusterAt++;
      continue;
    }
    let end = t.clusterAt + 1;
    while (
      end < t.clusterCount &&
      continues(clusterMap(t, end), entry, (end - t.clusterAt) * cluster)
    )
      end++;
    let first = (t.clusterFirst + t.clusterAt) * cluster;
    let last = (t.clusterFirst + end) * cluster;
    let host = entry & ~ACTION;
    if ((entry & ACTION) == IN_PLACE) {
      host += max(first, from) - first;
      first = max(first, from);
      last = min(last, to);
    }
    const bytes = <u32>(last - first);
    if (
      ioBegin(t, OP_WRITE, OVERLAY, host, bytes, t.buffer + <usize>(first - t.bufferFrom)) === null
    ) {
      t.waits = ON_SLOT;
      return false;
    }
    overlay().fileSize = max(overlay().fileSize, host + bytes);
    t.clusterAt = end;
  }
  t.clusterAt = 0;
  return true;
}

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

/** Notes what a failed task took and never linked, to be given back. */
export function unplace(t: Task): bool {
  assert(t.pending == 0);
  if (t.spareTable && freesHaveRoom(1)) dropSpareTable(t);
  // A stream lies in two clusters at most.
  if (t.spareTable || (t.placed && !freesHaveRoom(2 * CHUNK_CLUSTERS_MAX))) {
    // Where no room can be made, they are left taken: the next opening gives them back.
    if (writebackStalled()) {
      leaveSpareTable(t);
      t.placed = false;
      return true;
    }
    writebackWanted();
    t.waits = ON_WRITEBACK;
    return false;
  }
  if (!t.placed) return true;
  for (let i: u32 = 0; i < t.clusterCount; i++) {
    const entry = clusterMap(t, i);
    if ((entry & ACTION) == NEW) freeLater(entry & ~ACTION, 1, 0);
    else if ((entry & ACTION) == PACKED) unpack(t, entry);
    else continue;
    setClusterMap(t, i, KEEP);
  }
  t.placed = false;
  // What comes next takes these clusters: it would make a file longer for which there may be no
  // room.
  writebackWanted();
  return true;
}

function unpack(t: Task, entry: u64): void {
  assert(t.scratch != 0);
  const stream = entryAt(t, <u32>(entry >> ACTION_BITS));
  if (stream.place) freeStream(overlay(), stream.place, stream.bytes, 0);
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
function leaveSpareTable(t: Task): void {
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
function dropSpareTable(t: Task): void {
  assert(t.spareTable != 0);
  pagesForget(OVERLAY, t.spareTable, t.spareTable + clusterBytes(overlay()));
  freeLater(t.spareTable, 1, 0);
  leaveSpareTable(t);
}

/**
 * Whether the overlay has the cluster of an extent to itself: 1 if so; 0 if something else may
 * refer to it, which the entry tells by having no COPIED flag: then it must not be written, and
 * what is to stand there goes into another. -1: the task waits or has failed.
 */
export function isSole(t: Task, image: Qcow2, extent: Extent): i32 {
  assert(extent.host != 0);
  if (extent.copied) return 1;
  const host = extent.host;
  const refcount = refcountOf(t, image, host >> image.clusterBits);
  if (refcount < 0) return -1;
  if (refcount > 0) return refcount == 1 ? 1 : 0;
  fail(t, ECORRUPT, R_REFCOUNT, OVERLAY, host);
  return -1;
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
function freeStream(image: Qcow2, from: u64, bytes: u64, after: u32): void {
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

function isWritten(entry: u64): bool {
  const action = entry & ACTION;
  return action == NEW || action == OWNED || action == IN_PLACE;
}

/**
 * Whether a cluster's place follows, `distance` bytes behind, the one of `first`, and it is written
 * in the same way.
 */
function continues(entry: u64, first: u64, distance: u64): bool {
  if (!isWritten(entry) || (entry & ~ACTION) != (first & ~ACTION) + distance) return false;
  return ((entry & ACTION) == IN_PLACE) == ((first & ACTION) == IN_PLACE);
}

function clusterBuffer(t: Task, index: u32): usize {
  assert(index < t.clusterCount);
  return t.buffer + <usize>(((t.clusterFirst + index) << overlay().clusterBits) - t.bufferFrom);
}
