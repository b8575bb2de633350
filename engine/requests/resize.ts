// Resizing the disk, also while a job runs. What a larger disk gains reads as zeros, also where the
// base goes on further than the old disk did; what a smaller one loses gives its space back.

import { putBe32, putBe64 } from '../core/bytes';
import { basesEnd, clusterBytes, imageCount } from '../core/image';
import { lock, unlock } from '../core/lock';
import { releaseMemory } from '../core/memory';
import { STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet, pagesForget } from '../core/pages';
import { ioBegin } from '../core/ring';
import {
  AGAIN,
  clusterMap,
  DONE,
  EXCLUSIVE,
  fail,
  ON_IO,
  ON_SLOT,
  ON_WRITEBACK,
  recordOf,
  setClusterMap,
  Task,
  WAIT,
  wait,
} from '../core/task';
import { ACTION, NEW } from '../data/actions';
import { linkCluster } from '../data/link';
import { populate, populateBegin } from '../data/populate';
import { lookup } from '../formats/chain';
import { AT_L1_OFFSET, AT_L1_SIZE, AT_SIZE } from '../formats/qcow2/header';
import { overlay, Qcow2 } from '../formats/qcow2/image';
import { L1_BYTES_MAX, PAGE_BYTES, SCAN_ENTRIES_MAX, SECTOR_BYTES } from '../limits';
import { flushed } from '../overlay/flush';
import { freeLater, freesHaveRoom } from '../overlay/frees';
import { moveTable } from '../overlay/move';
import { nextWriteback, writebackWanted } from '../overlay/progress';
import { allocate, allocateWhole, refcountsPerBlock } from '../overlay/refcounts';
import { zeroPageAt } from '../overlay/zeropage';
import { ABSENT, EUNSUPPORTED, KIND_RESIZE, OP_WRITE, OVERLAY, R_TOO_LARGE } from '../protocol';

const EDGE: u32 = 0;
const LOCK: u32 = 1;
const TAIL: u32 = 2;
const FLUSH: u32 = 3;
const TABLE: u32 = 4;
const COPY: u32 = 5;
const COPIED_TABLE: u32 = 6;
const HIDE: u32 = 7;
const SETTLE: u32 = 8;
const SIZE: u32 = 9;
const FLUSHED: u32 = 10;
const CUT: u32 = 11;

/**
 * One such request at a time. For a smaller disk, the requester has zeroed the rest of the last
 * cluster.
 */
@unmanaged
class ResizeTask extends Task {
  /** Up to where zeros are being written to the file; 0 before the first. */
  zeroAt: u64;
  /** The larger L1 table: its position in the file, and its clusters. */
  table: u64;
  tableClusters: u64;
  /** Up to where what a larger disk gains shows zeros: a position of the disk. */
  hiddenTo: u64;
  /** Up to where what a smaller one has lost has been freed. */
  cutTo: u64;

  /** Bytes of the disk that it is to have. */
  get size(): u64 {
    return this.length;
  }
}

export function runResize(task: Task): i32 {
  const t = recordOf<ResizeTask>(task, KIND_RESIZE);
  const image = overlay();
  const cluster = clusterBytes(image);
  const grows = t.size > image.size;
  if (t.state == EDGE) {
    // The cluster that the old end cuts must show no more of the base, nor of what cannot be
    // changed in its place: it is populated, which fills its rest with zeros.
    t.fillsUnwritable = true;
    if (grows && image.size & (cluster - 1))
      populateBegin(t, image.size & ~(cluster - 1), image.size, imageCount());
    t.state = LOCK;
  }
  if (t.populating) {
    if (!populate(t)) return WAIT;
    t.populating = 0;
    releaseMemory(t);
    unlock(t);
  }
  if (t.state == LOCK) {
    if (!lock(t, EXCLUSIVE, 0, u64.MAX_VALUE)) return WAIT;
    t.state = TAIL;
  }
  if (t.state == TAIL) {
    if (grows && image.size & (cluster - 1) && !zeroTail(t, image)) return WAIT;
    t.state = FLUSH;
  }
  if (t.state == FLUSH) {
    if (!flushed(t)) return WAIT;
    t.state = neededEntries(image, t.size) > image.l1Size ? TABLE : HIDE;
    t.hiddenTo = image.size;
  }
  if (t.state < HIDE && !growTable(t, image)) return WAIT;
  if (t.state == HIDE) {
    const next = hideGain(t, image);
    if (next != DONE) return next;
    t.state = SETTLE;
  }
  if (t.state == SETTLE) {
    if (!flushed(t)) return WAIT;
    t.state = SIZE;
  }
  if (t.state == SIZE) {
    const header = pageGet(t, OVERLAY, 0);
    if (!header) return WAIT;
    putBe64(header + AT_SIZE, t.size);
    pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
    t.state = FLUSHED;
  }
  if (t.state == FLUSHED) {
    if (!flushed(t)) return WAIT;
    t.cutTo = (t.size + cluster - 1) & ~(cluster - 1);
    t.state = CUT;
  }
  const next = cut(t, image);
  if (next == DONE) image.size = t.size;
  return next;
}

/** Has what a larger disk gains show zeros. */
function hideGain(t: ResizeTask, image: Qcow2): i32 {
  const cluster = clusterBytes(image);
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    const at = (t.hiddenTo + cluster - 1) & ~(cluster - 1);
    if (at >= t.size) return DONE;
    if (at >= basesEnd()) {
      if (!forget(t, image, at)) return WAIT;
    } else {
      if (!hide(t, image, at)) return WAIT;
      t.hiddenTo = at + cluster;
    }
  }
  return AGAIN;
}

/** Frees what lies behind the new end, once the header tells of that. */
function cut(t: ResizeTask, image: Qcow2): i32 {
  const mask = clusterBytes(image) - 1;
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (t.cutTo >= image.size) return DONE;
    const extent = lookup(t, image, t.cutTo, image.size - t.cutTo);
    if (extent === null) return WAIT;
    if (extent.state == ABSENT && extent.host == 0) {
      t.cutTo = (t.cutTo + extent.length + mask) & ~mask;
    } else {
      if (!linkCluster(t, image, t.cutTo, 0)) return WAIT;
      t.cutTo += clusterBytes(image);
    }
  }
  return AGAIN;
}

/**
 * Called once when a resize has ended: one that failed gives back the table that nothing points to.
 */
export function resizeEnded(task: Task): void {
  const t = recordOf<ResizeTask>(task, KIND_RESIZE);
  if (t.error && t.state == FLUSHED) {
    // The header in the cache tells the size that could not be brought to disk: it tells the old
    // one again.
    const header = pageGet(null, OVERLAY, 0);
    assert(header != 0);
    putBe64(header + AT_SIZE, overlay().size);
    pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  }
  // The disk has its new size; what was not freed behind its end is when it grows again, or never
  // shows.
  if (t.error && t.state == CUT) overlay().size = t.size;
  if (!t.error || (t.state != COPY && t.state != COPIED_TABLE) || !freesHaveRoom(1)) return;
  pagesForget(OVERLAY, t.table, t.table + (t.tableClusters << overlay().clusterBits));
  freeLater(t.table, <u32>t.tableClusters, 0);
}

function neededEntries(image: Qcow2, size: u64): u64 {
  const span = image.clusterBits + image.l2Bits;
  return (size + ((<u64>1) << span) - 1) >> span;
}

/** Zeros in the last cluster behind the old end, where it has a place of its own. */
function zeroTail(t: ResizeTask, image: Qcow2): bool {
  const within = image.size & (clusterBytes(image) - 1);
  if (t.zeroAt == 0) {
    const extent = lookup(t, image, image.size - within, 1);
    if (extent === null) return false;
    if (!extent.host) return true;
    // Of data, it is where the asked position stands, which is the cluster's first byte.
    t.zeroAt = extent.host + within;
  }
  const mask = clusterBytes(image) - 1;
  return writeZeroes(t, (t.zeroAt + mask) & ~mask);
}

/**
 * What lies behind the end, where a crash came before a smaller disk had freed it, must not show
 * when the disk grows over it.
 */
function forget(t: ResizeTask, image: Qcow2, at: u64): bool {
  assert(image.size <= t.size);
  const size = image.size;
  image.size = t.size;
  const extent = lookup(t, image, at, t.size - at);
  image.size = size;
  if (extent === null) return false;
  if (extent.state == ABSENT && extent.host == 0) {
    t.hiddenTo = at + extent.length;
    return true;
  }
  if (!linkCluster(t, image, at, 0)) return false;
  t.hiddenTo = at + clusterBytes(image);
  return true;
}

/** Makes the cluster at `at` show zeros, whatever the base has there. */
function hide(t: ResizeTask, image: Qcow2, at: u64): bool {
  assert((at & (clusterBytes(image) - 1)) == 0);
  if (image.version > 2) return linkCluster(t, image, at, 0);
  // Version 2 has no zero clusters: one full of zeros does it too.
  if (!t.placed) {
    const taken = allocate(t, 1);
    if (taken === null) return false;
    setClusterMap(t, 0, taken.at | NEW);
    t.clusterCount = 1;
    t.placed = true;
    t.zeroAt = taken.at;
  }
  const host = clusterMap(t, 0) & ~ACTION;
  if (!writeZeroes(t, host + clusterBytes(image)) || !linkCluster(t, image, at, host)) return false;
  t.placed = false;
  return true;
}

/** Writes zeros to the file from `zeroAt` on to `to`; true when that is done. */
function writeZeroes(t: ResizeTask, to: u64): bool {
  assert(t.zeroAt > 0);
  while (t.zeroAt < to) {
    const bytes = <u32>min<u64>(PAGE_BYTES, to - t.zeroAt);
    if (ioBegin(t, OP_WRITE, OVERLAY, t.zeroAt, bytes, zeroPageAt()) === null) {
      wait(t, ON_SLOT);
      return false;
    }
    t.zeroAt += bytes;
  }
  // What came from elsewhere may end where the disk did.
  overlay().fileSize = max(overlay().fileSize, to);
  if (t.pending) wait(t, ON_IO);
  return t.pending == 0;
}

/** Moves the L1 table to a larger place; true when that is done. */
function growTable(t: ResizeTask, image: Qcow2): bool {
  assert(t.state >= TABLE);
  if (t.state == TABLE) {
    const entries = neededEntries(image, t.size);
    const clusters = ((entries << 3) + clusterBytes(image) - 1) >> image.clusterBits;
    // A table stands in one piece, and so between two refcount blocks: with small clusters that is
    // not far.
    if (entries << 3 > L1_BYTES_MAX || clusters >= refcountsPerBlock(image)) return tooLarge(t);
    const taken = allocateWhole(t, <u32>clusters);
    if (taken === null) return false;
    t.table = taken.at;
    t.tableClusters = clusters;
    t.state = COPY;
  }
  if (t.state == COPY) {
    if (
      !moveTable(
        t,
        image.l1Offset,
        (<u64>image.l1Size) << 3,
        t.table,
        t.tableClusters << image.clusterBits,
      )
    )
      return false;
    t.state = COPIED_TABLE;
  }
  if (!flushed(t) || !roomToFree(t)) return false;
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  putBe64(header + AT_L1_OFFSET, t.table);
  putBe32(header + AT_L1_SIZE, <u32>(t.tableClusters << (image.clusterBits - 3)));
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  const oldBytes =
    (((<u64>image.l1Size) << 3) + clusterBytes(image) - 1) & ~(clusterBytes(image) - 1);
  pagesForget(OVERLAY, image.l1Offset, image.l1Offset + oldBytes);
  if (oldBytes) freeLater(image.l1Offset, <u32>(oldBytes >> image.clusterBits), nextWriteback());
  image.l1Offset = t.table;
  image.l1Size = <u32>(t.tableClusters << (image.clusterBits - 3));
  t.state = HIDE;
  return true;
}

function roomToFree(t: Task): bool {
  if (freesHaveRoom(1)) return true;
  writebackWanted();
  wait(t, ON_WRITEBACK);
  return false;
}

function tooLarge(t: Task): bool {
  fail(t, EUNSUPPORTED, R_TOO_LARGE, OVERLAY, 0);
  return false;
}
