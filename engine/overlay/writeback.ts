// Write-back: how changed metadata reaches the overlay, so that what is on disk is a valid image at
// every moment.
//
// One write-back runs at a time. It takes a snapshot of all changed sectors and writes it stage by
// stage (see pages.ts), with a barrier (a flush) after every stage that a later one depends on; the
// first barrier also covers the data written before the snapshot. Tasks go on changing pages
// meanwhile: what they change belongs to the next write-back.

import { now } from '../core/clock';
import { STAGES } from '../core/page';
import { anyDirty, manyDirty, pagesPressed, pagesRelieved } from '../core/pages';
import { ioBegin } from '../core/ring';
import {
  DONE,
  KIND_WRITEBACK,
  ON_IO,
  ON_SLOT,
  ON_WRITEBACK,
  recordOf,
  Task,
  taskBegin,
  WAIT,
  wait,
} from '../core/task';
import { wake, wakeFailed } from '../core/wake';
import {
  WRITEBACK_BYTES_MAX,
  WRITEBACK_BYTES_MIN,
  WRITEBACK_PAUSE_MS_MAX,
  WRITEBACK_PAUSE_MS_MIN,
} from '../limits';
import { OP_FLUSH, OP_WRITE, OVERLAY } from '../protocol';
import { anyFree } from './frees';
import { GiveBackTask, giveBack, punch } from './giveback';
import { markDirty } from './mark';
import { barrierDone, writebacks } from './progress';
import { dropSnapshot, restore, runAt, snapshot, stagedRuns } from './staging';

/** Starts a write-back if there is a reason to. Called at the end of every step. */
export function scheduleWriteback(): void {
  const w = writebacks();
  if (w.running) return;
  const due = manyDirty() || dataDue();
  if (!w.wanted && !pagesPressed() && (w.stalled || !due)) return;
  if (!anyDirty() && !anyFree(w.wanted ? w.complete : w.durable)) {
    // With nothing to be written, whoever wants room in the cache waits for pages that are being
    // read.
    if (w.wanted) wake(ON_WRITEBACK);
    w.wanted = false;
    w.fetched = false;
    pagesRelieved();
    return;
  }
  if (taskBegin(KIND_WRITEBACK, false, true) === null) return;
  w.running = true;
  // Who wants one from here on may come too late for this one, which may have passed the freed
  // clusters already.
  w.wanted = false;
  w.begun++;
  w.begunAt = now();
}

/**
 * What was fetched is written back as soon as the write-back before it has ended, so that a crash
 * takes only what was on its way, and the storage is at work all along. What a guest has written
 * waits for its flush, or until it is much.
 */
function dataDue(): bool {
  const w = writebacks();
  if (w.fetched && !w.sparing) return true;
  if (w.unwritten >= WRITEBACK_BYTES_MAX) return true;
  return w.unwritten >= WRITEBACK_BYTES_MIN && now() - w.endedAt >= w.pause;
}

const FIRST_BARRIER: u32 = 0;
const PUNCH: u32 = 1;
const GIVE_BACK: u32 = 2;
const MARK: u32 = 3;
const SNAPSHOT: u32 = 4;
const WRITE: u32 = 5;
const BARRIER: u32 = 6;

@unmanaged
class WritebackTask extends GiveBackTask {
  /** The first barrier has been issued. */
  barrierIssued: bool;
  /** The snapshot holds all that was changed. */
  hasAll: bool;
  /** The next run of the snapshot, and the stage that is being written. */
  writeRun: u32;
  stage: u32;
  /** `complete` when the barrier in flight was issued. */
  barrierCovers: u32;
}

export function runWriteback(task: Task): i32 {
  const w = writebacks();
  const t = recordOf<WritebackTask>(task, KIND_WRITEBACK);
  if (t.error) return t.pending ? wait(t, ON_IO) : failed(t);
  if (t.state == FIRST_BARRIER) {
    if (!firstBarrier(t)) return WAIT;
    t.covers = w.durable;
    t.state = PUNCH;
  }
  if (t.state == PUNCH) {
    if (w.trimming && !punch(t)) return WAIT;
    t.state = GIVE_BACK;
  }
  if (t.state == GIVE_BACK) {
    if (!giveBack(t)) return t.error ? runWriteback(t) : WAIT;
    t.state = MARK;
  }
  if (t.state == MARK) {
    if (!markDirty(t)) return t.error ? runWriteback(t) : WAIT;
    t.state = SNAPSHOT;
  }
  if (t.state == SNAPSHOT) {
    w.started++;
    w.unwritten = 0;
    w.fetched = false;
    pagesRelieved();
    t.hasAll = snapshot();
    t.state = WRITE;
  }
  while (true) {
    if (t.state == WRITE) {
      if (!writeStage(t)) return wait(t, ON_SLOT);
      if (t.pending) return wait(t, ON_IO);
      if (t.error) return failed(t);
      if (t.writeRun == stagedRuns()) return succeeded(t);
      if (!barrier(t)) return wait(t, ON_SLOT);
      t.state = BARRIER;
    }
    if (t.pending) return wait(t, ON_IO);
    if (t.error) return failed(t);
    barrierDone(t.barrierCovers);
    t.stage++;
    t.state = WRITE;
  }
}

/**
 * Where nothing is to be written and freed clusters wait for a barrier all the same, this is it.
 */
function firstBarrier(t: WritebackTask): bool {
  const w = writebacks();
  assert(w.running);
  if (!t.barrierIssued) {
    if (anyDirty() || anyFree(w.durable)) return true;
    t.covers = w.complete;
    if (ioBegin(t, OP_FLUSH, OVERLAY, 0, 0, 0) === null) {
      t.waits = ON_SLOT;
      return false;
    }
    t.barrierIssued = true;
  }
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  barrierDone(t.covers);
  return true;
}

/** Issues the writes of the current stage; false when slots have run out. */
function writeStage(t: WritebackTask): bool {
  assert(t.stage < STAGES);
  while (t.writeRun < stagedRuns()) {
    const run = runAt(t.writeRun);
    if (run.stage > t.stage) return true;
    if (ioBegin(t, OP_WRITE, OVERLAY, run.offset, run.bytes, run.address) === null) return false;
    t.writeRun++;
  }
  return true;
}

function barrier(t: WritebackTask): bool {
  // Empty stages need no barrier of their own; the next stage to be written is the one of the next
  // run.
  t.stage = runAt(t.writeRun).stage - 1;
  t.barrierCovers = writebacks().complete;
  return ioBegin(t, OP_FLUSH, OVERLAY, 0, 0, 0) !== null;
}

function succeeded(t: WritebackTask): i32 {
  const w = writebacks();
  assert(w.running && t.pending == 0);
  assert(t.writeRun == stagedRuns());
  dropSnapshot();
  if (t.hasAll) w.complete = w.started;
  w.endedAt = now();
  w.pause = min(max(w.endedAt - w.begunAt, WRITEBACK_PAUSE_MS_MIN), WRITEBACK_PAUSE_MS_MAX);
  w.running = false;
  w.stalled = false;
  wake(ON_WRITEBACK);
  return DONE;
}

function failed(t: Task): i32 {
  const w = writebacks();
  assert(w.running && t.error != 0);
  restore();
  dropSnapshot();
  w.failedLast = w.begun;
  w.failError = t.error;
  w.failDetail = t.detail;
  w.running = false;
  w.wanted = false;
  w.stalled = true;
  pagesRelieved();
  wakeFailed(t);
  return DONE;
}
