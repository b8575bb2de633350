// Walking an L1 table and its L2 tables: to count what the entries refer to, or to look at their
// flags.

import { be64 } from '../core/bytes';
import { pageGet } from '../core/pages';
import { AGAIN, DONE, Task, WAIT } from '../core/task';
import { Qcow2 } from '../formats/qcow2/image';
import { OFFSET_MASK } from '../formats/qcow2/l2';
import { SCAN_ENTRIES_MAX } from '../limits';
import { countEntries, enterTable, entriesOfPage } from './count';
import { enterFlags, flagsOfPage } from './refcounts';
import { Check, telling, unreadAt } from './state';

/**
 * What for: to count what a snapshot's tables refer to, or the disk's own; to compare the flags of
 * the disk's own, or set them right.
 */
export const COUNT: u32 = 0;
export const COUNT_ACTIVE: u32 = 1;
export const COMPARE_FLAGS: u32 = 2;

/** How much of the disk's own tables has been walked: from 0 to 1. */
export function shareWalked(c: Check, image: Qcow2): f64 {
  return image.l1Size ? min<f64>(1, <f64>c.l1 / <f64>image.l1Size) : 1;
}

/** Goes on after what `c` says has been walked already. */
export function walkTables(
  t: Task,
  c: Check,
  image: Qcow2,
  l1Offset: u64,
  l1Entries: u64,
  purpose: u32,
): i32 {
  assert(purpose <= COMPARE_FLAGS);
  const l2Entries = (<u64>1) << image.l2Bits;
  const flags = purpose == COMPARE_FLAGS;
  let scanned: u64 = 0;
  while (l1Entries > c.l1) {
    if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
    c.entryAt = l1Offset + (c.l1 << 3);
    const at = pageGet(t, image.file, c.entryAt);
    if (!at) return WAIT;
    const entry = be64(at);
    if (entry && !c.entered) {
      if (!flags) enterTable(c, image, entry);
      else if (!enterFlags(t, c, image, at)) return WAIT;
    }
    while (c.entered && l2Entries > c.l2) {
      if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
      const offset = (entry & OFFSET_MASK) + (c.l2 << image.l2EntryBits);
      // Behind the end of the file there are no entries. An L1 table with more L2 tables than the
      // file has clusters is not followed on.
      if (offset >= image.fileSize) break;
      if (c.tables > c.clusters) {
        unreadAt(c, c.entryAt);
        break;
      }
      const l2 = pageGet(t, image.file, offset);
      if (!l2) return WAIT;
      const count = min(l2Entries - c.l2, entriesOfPage(offset) >> (image.l2EntryBits - 3));
      scanned += count;
      if (flags) {
        if (!flagsOfPage(t, c, image, l2, <u32>count)) return WAIT;
      } else {
        countEntries(c, image, l2, offset, <u32>count, purpose == COUNT_ACTIVE && telling(c));
        c.l2 += count;
      }
    }
    c.entered = false;
    c.l1++;
    scanned++;
  }
  return DONE;
}
