// stream: the job that copies the base into the overlay. It counts what is missing, then walks the
// range from start to end, hands out chunks as copies, several in flight, and when all is populated
// takes the reference to the base out of the overlay's header.

import { imageCount, imagesDropped } from '../core/image';
import { Job, setAlarm, theJob } from '../core/job';
import { lock, unlock } from '../core/lock';
import { AGAIN, DONE, EXCLUSIVE, ON_IO, ON_JOB, Task, WAIT, wait } from '../core/task';
import { chunkBytes } from '../data/chunk';
import { HOLE_BLOCKS_MIN } from '../limits';
import { referToBacking, writeBackingAhead } from '../overlay/backing';
import { flushed } from '../overlay/flush';
import { textsForget } from '../overlay/texts';
import {
  ABORTED,
  ON_ERROR_IGNORE,
  R_FLUSH_LOST,
  STATUS_COMPLETED,
  STATUS_FAILED,
} from '../protocol';
import { noteError, pauseByItself, pausesOn } from './errors';
import { copyOn } from './handout';
import { methodSettled } from './method';
import { count, dropsAll, findUncovered, keepsBase, recount } from './missing';
import { leavesRange } from './order';
import { StreamTask, streamTaskOf } from './tasks';

const COUNT: u32 = 0;
const COPY: u32 = 1;
const DRAIN: u32 = 2;
const FLUSH: u32 = 3;
const RECOUNT: u32 = 4;
const WHOLE: u32 = 5;
const AHEAD: u32 = 6;
const FLUSH_AHEAD: u32 = 7;
const DETACH: u32 = 8;
const DETACHED: u32 = 9;
const END: u32 = 10;

export function runStream(task: Task): i32 {
  const t = streamTaskOf(task);
  const j = theJob();
  t.holeBlocksMin = HOLE_BLOCKS_MIN;
  if (t.error) return failedStep(t, j);
  if (j.paused && !j.aborted && t.state == COUNT) return wait(t, ON_JOB);
  if (t.state == COUNT) {
    if (j.keeps && !methodSettled(t)) return t.waits ? WAIT : AGAIN;
    const next = count(t, j);
    if (next != DONE) return next;
    t.state = COPY;
  }
  if (t.state == COPY) {
    const next = copyOn(t, j);
    if (next != DONE) return next;
    setAlarm(0);
    t.state = DRAIN;
  }
  if (t.state == DRAIN) {
    if (j.copies) return wait(t, ON_JOB);
    // A copy that failed at the last moment may have paused the job, or set it back.
    if (!j.ending && !j.aborted && (j.paused || j.cursor < j.to)) {
      t.state = COPY;
      return AGAIN;
    }
    t.state = FLUSH;
  }
  if (t.state == FLUSH) {
    if (!flushed(t)) return WAIT;
    t.state = RECOUNT;
  }
  if (t.state == RECOUNT) {
    const next = recount(t, j);
    if (next != DONE) return next;
    j.decided = true;
    t.state = keepsBase(j) ? END : WHOLE;
  }
  return t.state == END ? end(t, j) : detach(t, j);
}

/**
 * After a job that left nothing behind: takes the reference to the base, or to the images above the
 * new one, out of the header.
 */
function detach(t: StreamTask, j: Job): i32 {
  assert(j.copies == 0 && j.decided);
  if (t.state == WHOLE) {
    const next = findUncovered(t, j);
    if (next != DONE) return next;
    t.state = t.showsThrough ? END : AHEAD;
  }
  if (t.state == AHEAD) {
    if (!j.limited) textsForget();
    if (!writeBackingAhead(t)) return WAIT;
    t.state = dropsAll(j) ? DETACH : FLUSH_AHEAD;
  }
  if (t.state == FLUSH_AHEAD) {
    if (!flushed(t)) return WAIT;
    t.state = DETACH;
  }
  if (t.state == DETACH) {
    // No guest request may be on its way through the chain while it changes.
    if (!lock(t, EXCLUSIVE, 0, u64.MAX_VALUE) || !referToBacking(t)) return WAIT;
    t.state = DETACHED;
  }
  if (t.state == DETACHED) {
    if (!flushed(t)) return WAIT;
    imagesDropped(j.limited ? j.bottom : imageCount());
    j.remaining = 0;
  }
  return end(t, j);
}

function end(t: Task, j: Job): i32 {
  assert(j.copies == 0);
  assert(j.remaining <= j.to - j.from);
  unlock(t);
  setAlarm(0);
  j.status = j.error || j.aborted ? STATUS_FAILED : STATUS_COMPLETED;
  t.value = j.remaining;
  return DONE;
}

/**
 * A step of the job itself has failed: it is tried again after a pause, or left out, or the job
 * ends with it.
 */
function failedStep(t: StreamTask, j: Job): i32 {
  assert(t.error != 0);
  if (t.pending) return wait(t, ON_IO);
  // Once a flush has failed, no resume makes it good.
  const pauses = pausesOn(j, t.error) && t.reason != R_FLUSH_LOST;
  // What an abort has cancelled is no error of the job.
  const cancelled = j.aborted && t.error == ABORTED;
  if ((!j.error || pauses) && !cancelled) noteError(t, j);
  t.error = 0;
  t.flushStep = 0;
  t.recounting = false;
  t.coveredTo = 0;
  unlock(t);
  if (pauses && !j.aborted && !j.ending && t.state <= FLUSH) {
    pauseByItself(j);
    if (t.state > COPY) t.state = COPY;
    return AGAIN;
  }
  if (t.state == COPY && j.onError == ON_ERROR_IGNORE) {
    if (leavesRange(j)) return AGAIN;
    // The tables that tell of the next chunk cannot be had: it is left out.
    j.cursor = j.cursor - (j.cursor % chunkBytes()) + chunkBytes();
    return AGAIN;
  }
  j.uncounted = j.counted < j.to;
  j.counted = j.to;
  j.ending = true;
  j.decided = t.state >= RECOUNT;
  // If the base could not be let go, the holes that were left out are missing after all.
  const recounts = t.state < RECOUNT || (t.state > RECOUNT && j.holes != 0);
  t.state = t.state < DRAIN ? DRAIN : recounts ? RECOUNT : END;
  return AGAIN;
}
