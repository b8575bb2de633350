// The windows of a check: as many clusters of the file as there is memory for numbers. All
// references to them are counted, and then the numbers are compared with the refcounts, or written
// as new ones.

import { clusterBytes } from '../core/image';
import { DONE, Task } from '../core/task';
import { Qcow2 } from '../formats/qcow2/image';
import { countBlocks, refer } from './count';
import { writeBlocks } from './rebuild';
import { compareWindow } from './refcounts';
import { countBitmaps, countSnapshots } from './snapshots';
import { beginTable, Check, REBUILD } from './state';
import { COUNT_ACTIVE, shareWalked, walkTables } from './walk';

/** Parts of what is done with one window. */
const START: u32 = 0;
const ACTIVE: u32 = 1;
const SNAPSHOTS: u32 = 2;
const BITMAPS: u32 = 3;
const BLOCKS: u32 = 4;
const COMPARE: u32 = 5;

/** Begins anew with the first window. */
export function startWindows(c: Check, image: Qcow2): void {
  if (c.round != REBUILD)
    c.clusters = (image.fileSize + clusterBytes(image) - 1) >> image.clusterBits;
  c.windowFirst = 0;
  c.part = START;
}

/**
 * Counts the references to all clusters of the file, window by window, and does with each window
 * what the round is for. `raises` is whether refcounts that are too low may be raised.
 */
export function allWindows(t: Task, c: Check, image: Qcow2, raises: bool): i32 {
  while (true) {
    if (c.part != COMPARE) {
      const next = countReferences(t, c, image);
      if (next != DONE) return next;
      c.cursor = c.windowFirst;
      c.part = COMPARE;
    }
    const next = c.round == REBUILD ? writeBlocks(t, c, image) : compareWindow(t, c, image, raises);
    if (next != DONE) return next;
    c.windowFirst += c.windowClusters;
    c.part = START;
    if (c.windowFirst >= c.clusters) return DONE;
  }
}

/** How much of this window has been done, by its longest part: from 0 to 1. */
export function shareOfWindow(c: Check, image: Qcow2): f64 {
  if (c.part == START) return 0;
  return c.part == ACTIVE ? shareWalked(c, image) : 1;
}

/**
 * Counts all references to the clusters of the window. The refcount blocks come last: see
 * countBlocks.
 */
function countReferences(t: Task, c: Check, image: Qcow2): i32 {
  if (c.part == START) {
    memory.fill(c.window, 0, t.bufferBytes);
    refer(c, image, 0, clusterBytes(image), true);
    refer(c, image, image.l1Offset, (<u64>image.l1Size) << 3, true);
    beginTable(c);
    c.part = ACTIVE;
  }
  if (c.part == ACTIVE) {
    const next = walkTables(t, c, image, image.l1Offset, image.l1Size, COUNT_ACTIVE);
    if (next != DONE) return next;
    c.item = 0;
    c.itemAt = image.snapshotsOffset;
    c.itemRead = false;
    c.part = SNAPSHOTS;
  }
  if (c.part == SNAPSHOTS) {
    const next = countSnapshots(t, c, image);
    if (next != DONE) return next;
    c.item = 0;
    c.itemAt = image.bitmapsOffset;
    c.itemRead = false;
    c.part = BITMAPS;
  }
  if (c.part == BITMAPS) {
    const next = countBitmaps(t, c, image);
    if (next != DONE) return next;
    // A rebuild makes a new refcount table, with new blocks.
    if (c.round == REBUILD) return DONE;
    refer(c, image, image.refcountTableOffset, image.refcountTableBytes, true);
    c.cursor = 0;
    c.part = BLOCKS;
  }
  return countBlocks(t, c, image);
}
