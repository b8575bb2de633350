// check: compares what the overlay's file says is in use with what refers to it, and repairs it. It
// finds what `qemu-img check` finds; the disk is at rest meanwhile. What is repaired is written so
// that a crash in between leaves nothing worse than before.

import { arenaBytes } from '../core/arena';
import { be64, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { lock } from '../core/lock';
import { takeMemory } from '../core/memory';
import { STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { tell } from '../core/ring';
import {
  DONE,
  EXCLUSIVE,
  fail,
  ON_REFCOUNTS,
  recordOf,
  Task,
  taskAt,
  WAIT,
  wait,
} from '../core/task';
import { AT_INCOMPATIBLE, INCOMPATIBLE_CORRUPT } from '../formats/qcow2/header';
import { inFixedMetadata, overlay, Qcow2 } from '../formats/qcow2/image';
import { CHECK_REPAIRS_MAX, CHECK_WINDOW_BYTES_MIN, SECTOR_BYTES, TASKS_MAX } from '../limits';
import { settle } from '../overlay/flush';
import { settled } from '../overlay/progress';
import { refcountMax, refcountsGrowing } from '../overlay/refcounts';
import {
  CHECK_ALLOCATED,
  CHECK_COMPRESSED,
  CHECK_CORRUPTIONS,
  CHECK_CORRUPTIONS_FIXED,
  CHECK_END,
  CHECK_FRAGMENTED,
  CHECK_LEAKS,
  CHECK_LEAKS_FIXED,
  CHECK_NUMBERS,
  ECORRUPT,
  EUNSUPPORTED,
  FORMAT_QCOW2,
  KIND_CHECK,
  OP_GIVE,
  OVERLAY,
  R_BITMAPS,
  R_CLUSTER_IN_METADATA,
  R_DAMAGED,
  R_MAGIC,
  R_SHARED_PLACE,
  R_UNREAD,
  REPAIR_ALL,
  REPAIR_CRASH,
  REPAIR_LEAKS,
  REPAIR_NOTHING,
} from '../protocol';
import { beginMend, mayMend, mendSnapshots } from './mend';
import { planRebuild, switchTable, writeTable } from './rebuild';
import { freeBehindEnd } from './refcounts';
import {
  beginLook,
  beginTable,
  Check,
  COUNT_BYTES,
  checkOf,
  corruptions,
  mayFree,
  REBUILD,
  REPAIR,
} from './state';
import { COMPARE_FLAGS, shareWalked, walkTables } from './walk';
import { allWindows, shareOfWindow, startWindows } from './windows';

const REPORT_BYTES: u32 = CHECK_NUMBERS * 8;

const REST: u32 = 0;
const BEGIN: u32 = 1;
const LOOKING: u32 = 2;
const LOOKING_AT_FLAGS: u32 = 3;
const DECIDE: u32 = 4;
const MENDING: u32 = 5;
const REPAIRING: u32 = 6;
const REBUILDING: u32 = 7;
const SWITCHING: u32 = 8;
const REPAIRED: u32 = 9;
const FLAGS: u32 = 10;
const FLAGGED: u32 = 11;
const BEHIND_END: u32 = 12;
const MARK: u32 = 13;
const MARKED: u32 = 14;
const END: u32 = 15;

@unmanaged
class CheckTask extends Task {
  /** What may be repaired: REPAIR_NOTHING and the following. */
  get mayRepair(): u64 {
    return this.argument;
  }
}

/**
 * Gives the numbers of CHECK_CORRUPTIONS and the following:
 * clusters of the disk that have a place are allocated, the end is that of the last cluster in use,
 * and clusters that do not follow the one before them are fragmented.
 */
export function runCheck(task: Task): i32 {
  const t = recordOf<CheckTask>(task, KIND_CHECK);
  const image = overlay();
  if (!mayCheck(t, image) || !lock(t, EXCLUSIVE, 0, u64.MAX_VALUE)) return WAIT;
  if (t.state == REST) {
    // What a failed task took, and what was freed, is counted as free first.
    if (refcountsGrowing()) return wait(t, ON_REFCOUNTS);
    if (!settled() && !settle(t)) return WAIT;
    t.state = BEGIN;
  }
  if (!takeMemory(t, windowBytes(image), offsetof<Check>())) return WAIT;
  const c = checkOf(t);
  if (t.state == BEGIN) begin(t, c, image);
  while (t.state != END) {
    const next =
      t.state < DECIDE
        ? look(t, c, image)
        : t.state == DECIDE
          ? decide(t, c, image)
          : t.state == MENDING
            ? mend(t, c, image)
            : repair(t, c, image);
    if (next != DONE) return next;
  }
  report(t, c);
  return DONE;
}

/**
 * How far the check is that is under way: the share of its way through the tables, of which each
 * window is one and the flags are another. A repair is followed by a look from the start. 0 where
 * it has not begun.
 */
export function checkedShare(): f64 {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_CHECK && t.state > BEGIN) return share(t, checkOf(t), overlay());
  }
  return 0;
}

function share(t: Task, c: Check, image: Qcow2): f64 {
  if (t.state >= DECIDE) return 1;
  const windows = max<u64>(1, (c.clusters + c.windowClusters - 1) / c.windowClusters);
  const done = t.state == LOOKING_AT_FLAGS ? windows : c.windowFirst / c.windowClusters;
  const walked = t.state == LOOKING_AT_FLAGS ? shareWalked(c, image) : shareOfWindow(c, image);
  return (<f64>done + walked) / <f64>(windows + 1);
}

function mayCheck(t: CheckTask, image: Qcow2): bool {
  if (image.format != FORMAT_QCOW2) fail(t, EUNSUPPORTED, R_MAGIC, OVERLAY, 0);
  else if (t.mayRepair != REPAIR_NOTHING && image.bitmapCount)
    fail(t, EUNSUPPORTED, R_BITMAPS, OVERLAY, 0);
  return t.error == 0;
}

/** Enough to count all clusters at once, or half of the memory. */
function windowBytes(image: Qcow2): u32 {
  assert(image.clusterBits > 0);
  const wanted = ((image.fileSize >> image.clusterBits) + 2) * COUNT_BYTES;
  let bytes = CHECK_WINDOW_BYTES_MIN;
  while (wanted > bytes && bytes << 1 <= arenaBytes() / 2) bytes <<= 1;
  return bytes;
}

function begin(t: Task, c: Check, image: Qcow2): void {
  memory.fill(changetype<usize>(c), 0, offsetof<Check>());
  c.window = t.buffer;
  c.windowClusters = t.bufferBytes / COUNT_BYTES;
  c.refcountMax = refcountMax(image);
  startLook(t, c, image);
}

function startLook(t: Task, c: Check, image: Qcow2): void {
  beginLook(c, image);
  startWindows(c, image);
  t.state = LOOKING;
}

function look(t: CheckTask, c: Check, image: Qcow2): i32 {
  if (t.state == LOOKING) {
    const next = allWindows(t, c, image, t.mayRepair != REPAIR_LEAKS);
    if (next != DONE) return next;
    beginTable(c);
    t.state = LOOKING_AT_FLAGS;
  }
  // Opening takes no second way through all tables for flags: with every refcount right, and none
  // of them above one, they are only hints.
  if (t.mayRepair == REPAIR_CRASH && corruptions(c) + c.leaks + c.shared == 0) {
    t.state = DECIDE;
    return DONE;
  }
  const next = walkTables(t, c, image, image.l1Offset, image.l1Size, COMPARE_FLAGS);
  if (next == DONE) t.state = DECIDE;
  return next;
}

/** Whether to repair, and how. */
function decide(t: CheckTask, c: Check, image: Qcow2): i32 {
  assert(c.repairs <= CHECK_REPAIRS_MAX);
  const leaks = mayFree(c, image) ? c.leaks : 0;
  const fixable =
    t.mayRepair != REPAIR_LEAKS
      ? corruptions(c) - c.wrongEntries + leaks + c.looseZeroes
      : moreIsWrong(c)
        ? leaks
        : leaks + c.wrongFlags;
  t.settles = 0;
  const wrongBlocks = c.wrongBlocks + c.sharedBlocks;
  if (t.mayRepair == REPAIR_CRASH && c.wrongEntries + wrongBlocks + c.shared)
    return refuse(t, c, image);
  // What cannot be followed may lead to any cluster that nothing else refers to.
  const wants = t.mayRepair == REPAIR_CRASH || (t.mayRepair != REPAIR_NOTHING && fixable + c.leaks);
  if (c.unread && wants) return failed(t, ECORRUPT, R_UNREAD, c.unreadAt);
  if (t.mayRepair == REPAIR_ALL && c.repairs < CHECK_REPAIRS_MAX && mayMend(c)) {
    c.repairs++;
    beginMend(t, c, image);
    t.state = MENDING;
    return DONE;
  }
  if (t.mayRepair == REPAIR_NOTHING || fixable == 0 || c.repairs == CHECK_REPAIRS_MAX) {
    c.round = REPAIR;
    c.cursor = c.clusters;
    t.state = t.mayRepair == REPAIR_CRASH ? BEHIND_END : MARK;
    return DONE;
  }
  // A block that something else refers to as well, or that is not where blocks can be, must not be
  // written to.
  if (t.mayRepair == REPAIR_LEAKS && wrongBlocks) return failed(t, ECORRUPT, R_DAMAGED, 0);
  c.repairs++;
  const rebuilds = t.mayRepair != REPAIR_LEAKS && wrongBlocks + c.missing != 0;
  if (rebuilds && !planRebuild(t, c, image)) return WAIT;
  if (!rebuilds) c.round = REPAIR;
  startWindows(c, image);
  t.state = REPAIRING;
  return DONE;
}

/**
 * With leaks go the flags that they made wrong, as in QEMU; not where more is wrong, which is not
 * asked for.
 */
function moreIsWrong(c: Check): bool {
  return corruptions(c) != c.wrongFlags;
}

/**
 * Tells what is wrong that no crash leaves behind. Clusters that are rightly shared are sound, but
 * nothing here writes beside them.
 */
function refuse(t: Task, c: Check, image: Qcow2): i32 {
  if (c.wrongEntries && c.reason) return failed(t, ECORRUPT, c.reason, c.reasonAt);
  if (c.wrongEntries + c.wrongBlocks + c.sharedBlocks) return failed(t, ECORRUPT, R_DAMAGED, 0);
  if (inFixedMetadata(image, c.sharedAt, clusterBytes(image)))
    return failed(t, ECORRUPT, R_CLUSTER_IN_METADATA, c.sharedAt);
  return failed(t, c.tooLow ? ECORRUPT : EUNSUPPORTED, R_SHARED_PLACE, c.sharedAt);
}

function failed(t: Task, error: i32, reason: i32, at: u64): i32 {
  fail(t, error, reason, OVERLAY, at);
  return WAIT;
}

function mend(t: Task, c: Check, image: Qcow2): i32 {
  const next = mendSnapshots(t, c, image);
  if (next == DONE) t.state = FLAGGED;
  return next;
}

function repair(t: CheckTask, c: Check, image: Qcow2): i32 {
  assert(c.repairs > 0 || t.state >= BEHIND_END);
  if (t.state == REPAIRING) {
    const next = allWindows(t, c, image, t.mayRepair != REPAIR_LEAKS);
    if (next != DONE) return next;
    c.cursor = 0;
    t.state = c.round == REBUILD ? REBUILDING : REPAIRED;
  }
  if (t.state == REBUILDING) {
    if (!writeTable(t, c, image)) return WAIT;
    t.state = SWITCHING;
  }
  if (t.state == SWITCHING) {
    if (!switchTable(t, c, image)) return WAIT;
    c.round = REPAIR;
    t.state = REPAIRED;
  }
  // Refcounts are on stable storage before a flag relies on them.
  if (t.state == REPAIRED) {
    if (!settle(t)) return WAIT;
    beginTable(c);
    t.state = t.mayRepair == REPAIR_LEAKS && moreIsWrong(c) ? FLAGGED : FLAGS;
  }
  if (t.state == FLAGS) {
    const next = walkTables(t, c, image, image.l1Offset, image.l1Size, COMPARE_FLAGS);
    if (next != DONE) return next;
    t.state = FLAGGED;
  }
  if (t.state == FLAGGED) {
    if (!settle(t)) return WAIT;
    if (t.mayRepair != REPAIR_CRASH) {
      startLook(t, c, image);
      return DONE;
    }
    c.cursor = c.clusters;
    t.state = BEHIND_END;
  }
  if (t.state == BEHIND_END) {
    const next = freeBehindEnd(t, c, image);
    if (next != DONE) return next;
    t.state = MARK;
  }
  return markSound(t, c, image);
}

/**
 * Takes the mark of a corrupt image off one that has been repaired; before writing, what nothing
 * here looks after is taken off too.
 */
function markSound(t: CheckTask, c: Check, image: Qcow2): i32 {
  if (t.state == MARK) {
    t.state = MARKED;
    const mends = t.mayRepair == REPAIR_ALL && image.corrupt && corruptions(c) == 0;
    if (mends || (t.mayRepair == REPAIR_CRASH && image.autoclear)) {
      const header = pageGet(t, OVERLAY, 0);
      if (!header) {
        t.state = MARK;
        return WAIT;
      }
      if (mends) {
        putBe64(header + AT_INCOMPATIBLE, be64(header + AT_INCOMPATIBLE) & ~INCOMPATIBLE_CORRUPT);
        image.corrupt = false;
      }
      // The bits go with whatever is written: see markDirty.
      pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
    }
  }
  if (!settled() && !settle(t)) return WAIT;
  t.state = END;
  return DONE;
}

function report(t: Task, c: Check): void {
  put(t, CHECK_CORRUPTIONS, corruptions(c));
  put(t, CHECK_LEAKS, c.leaks);
  put(t, CHECK_CORRUPTIONS_FIXED, c.corruptionsFixed);
  put(t, CHECK_LEAKS_FIXED, c.leaksFixed);
  put(t, CHECK_ALLOCATED, c.allocated);
  put(t, CHECK_COMPRESSED, c.compressed);
  put(t, CHECK_END, c.end);
  put(t, CHECK_FRAGMENTED, c.fragmented);
  const give = tell(OP_GIVE, t.request);
  give.address = <u32>t.buffer;
  give.length = REPORT_BYTES;
}

function put(t: Task, index: u32, value: u64): void {
  assert(index < <u32>CHECK_NUMBERS && t.buffer != 0);
  store<f64>(t.buffer + index * 8, <f64>value);
}
