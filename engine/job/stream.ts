// stream: the job that copies the base into the overlay. It counts what is missing, then walks the
// range from start to end, hands out chunks as copies, several in flight, and when all is populated
// takes the reference to the base out of the overlay's header.

import { arenaBytes, arenaFreeBytes } from '../core/arena';
import { now } from '../core/clock';
import { guestAtWork } from '../core/guest';
import { basesEnd, clusterBytes, imageCount, imagesDropped } from '../core/image';
import { Job, setAlarm, theJob } from '../core/job';
import {
  AGAIN,
  DONE,
  EXCLUSIVE,
  KIND_COPY,
  lock,
  ON_IO,
  ON_JOB,
  ON_MEMORY,
  Task,
  taskAt,
  taskBegin,
  unlock,
  WAIT,
  wait,
  wake,
} from '../core/task';
import { scratchFor } from '../data/gather';
import { chunkBytes } from '../data/populate';
import { lookup, lookupChain } from '../formats/chain';
import { l2Span, overlay } from '../formats/qcow2/image';
import {
  BLOCK_BYTES,
  CHUNK_CLUSTERS_MAX,
  COPIES_MAX,
  COPIES_WITH_GUEST_MAX,
  GUEST_MEMORY_SHARE,
  HOLE_BLOCKS_MIN,
  SCAN_ENTRIES_MAX,
  TASKS_MAX,
} from '../limits';
import { backingForget, referToBacking, writeBackingAhead } from '../overlay/backing';
import { flushed } from '../overlay/writeback';
import {
  ABORTED,
  ABSENT,
  COMPRESSED_DATA,
  DATA,
  ENOSPC,
  KIND_STREAM,
  ON_ERROR_ENOSPC,
  ON_ERROR_IGNORE,
  ON_ERROR_STOP,
  R_FLUSH_LOST,
  R_JOB_ACTIVE,
  R_NOT_A_BASE,
  R_RANGE,
  STATUS_ACTIVE,
  STATUS_COMPLETED,
  STATUS_FAILED,
} from '../protocol';

/** How far ahead of the copies the tables of the base are asked for. */
const TABLES_AHEAD_BYTES: u64 = 64 << 20;
/** A limited job copies pieces of a fraction of a second. */
const PIECES_PER_SECOND: u64 = 8;

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

/**
 * Makes the job, or says why there cannot be one. One that was made before and never run is
 * forgotten. `bottom` is the depth of the image to stream down to, 0 for all of the chain.
 */
export function jobBegin(
  from: u64,
  length: u64,
  speed: u64,
  onError: u32,
  keepBase: bool,
  full: bool,
  bottom: u32,
): i32 {
  const size = overlay().size;
  // Its copies would count for the new one.
  for (let i: u32 = 0; i < TASKS_MAX; i++) if (taskAt(i).kind == KIND_STREAM) return R_JOB_ACTIVE;
  if (from == 0 && length == 0) length = size;
  if (from > size || length > size - from) return R_RANGE;
  if (bottom >= imageCount() && bottom != 0) return R_NOT_A_BASE;
  const j = theJob();
  memory.fill(changetype<usize>(j), 0, offsetof<Job>());
  j.status = STATUS_ACTIVE;
  j.from = from;
  j.to = from + length;
  j.counted = from;
  j.cursor = from & ~(clusterBytes(overlay()) - 1);
  j.remaining = length;
  j.speed = speed;
  j.onError = onError;
  j.keepBase = keepBase;
  j.whole = from == 0 && length == size;
  j.full = full;
  j.limited = bottom != 0;
  j.bottom = bottom ? bottom : imageCount();
  j.allowanceAt = now();
  return 0;
}

/** The job's task. */
export function runStream(t: Task): i32 {
  const j = theJob();
  t.holeBlocksMin = HOLE_BLOCKS_MIN;
  if (t.error) return failedStep(t, j);
  if (j.paused && !j.aborted && t.state == COUNT) return wait(t, ON_JOB);
  if (t.state == COUNT) {
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
    t.cursor = 0;
    t.state = FLUSH;
  }
  if (t.state == FLUSH) {
    if (!flushed(t)) return WAIT;
    t.state = RECOUNT;
  }
  if (t.state == RECOUNT) {
    const next = recount(t, j);
    if (next != DONE) return next;
    t.cursor = 0;
    j.decided = true;
    t.state = keepsBase(j) ? END : WHOLE;
  }
  return t.state == END ? end(t, j) : detach(t, j);
}

/**
 * After a job that left nothing behind: takes the reference to the base, or to the images above the
 * new one, out of the header.
 */
function detach(t: Task, j: Job): i32 {
  assert(j.copies == 0 && j.decided);
  if (t.state == WHOLE) {
    const next = wholeDisk(t, j);
    if (next != DONE) return next;
    t.state = t.value ? END : AHEAD;
    t.cursor = 0;
  }
  if (t.state == AHEAD) {
    if (!j.limited) backingForget();
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
function failedStep(t: Task, j: Job): i32 {
  assert(t.error != 0);
  if (t.pending) return wait(t, ON_IO);
  // Once a flush has failed, no resume makes it good.
  const pauses = pausesOn(j, t.error) && t.reason != R_FLUSH_LOST;
  // What an abort has cancelled is no error of the job.
  const cancelled = j.aborted && t.error == ABORTED;
  if ((!j.error || pauses) && !cancelled) noteError(t, j);
  t.error = 0;
  t.flushStep = 0;
  t.cursor = 0;
  unlock(t);
  if (pauses && !j.aborted && !j.ending && t.state <= FLUSH) {
    pauseByItself(j);
    if (t.state > COPY) t.state = COPY;
    return AGAIN;
  }
  if (t.state == COPY && j.onError == ON_ERROR_IGNORE) {
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

function pausesOn(j: Job, error: i32): bool {
  return j.onError == ON_ERROR_STOP || (j.onError == ON_ERROR_ENOSPC && error == ENOSPC);
}

function pauseByItself(j: Job): void {
  assert(j.error != 0);
  if (!j.paused) j.stops++;
  j.paused = 1;
}

function noteError(t: Task, j: Job): void {
  assert(t.error != 0);
  j.error = t.error;
  j.reason = t.reason;
  j.errorImage = t.errorImage;
  j.errorOffset = t.errorOffset;
  j.detail = t.detail;
}

/** Whether nothing of the base shows once this job has ended well. */
function dropsAll(j: Job): bool {
  return j.whole && !j.limited && !keepsBase(j);
}

function keepsBase(j: Job): bool {
  return j.error != 0 || j.aborted != 0 || j.keepBase || imageCount() < 2 || j.bottom == 1;
}

/**
 * Bytes from `offset` on that the job has to copy; as many that it has not, if that is negative; 0:
 * the task waits or has failed.
 */
function missingAt(t: Task, j: Job, offset: u64, length: u64): i64 {
  assert(length > 0);
  const extent = lookup(t, overlay(), offset, length);
  if (extent === null) return 0;
  // With nothing below, all that is absent is zeros already, and stays so.
  if (extent.state != ABSENT || imageCount() < 2) return -(<i64>extent.length);
  if (!j.limited) return extent.length;
  const below = lookupChain(t, 1, j.bottom, offset, extent.length);
  if (below === null) return 0;
  return below.state != ABSENT ? below.length : -(<i64>below.length);
}

/**
 * The first look at the range: what is there already is taken off `remaining`, which starts with
 * all of it.
 */
function count(t: Task, j: Job): i32 {
  if (imageCount() < 2) {
    j.remaining = 0;
    j.counted = j.to;
    j.cursor = j.to;
  }
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.counted >= j.to) return DONE;
    const missing = missingAt(t, j, j.counted, j.to - j.counted);
    if (missing == 0) return WAIT;
    if (missing < 0) j.remaining -= -missing;
    j.counted += abs(missing);
  }
  return AGAIN;
}

/**
 * Counts anew what is missing at the end, where the count that was kept may differ: holes that were
 * left out are missing after all when the base stays; of a job that goes down to an image of the
 * chain, guests may have populated parts; or the first count failed.
 */
function recount(t: Task, j: Job): i32 {
  if (!(j.holes && keepsBase(j)) && !j.limited && !j.uncounted) return DONE;
  // What a guest populates meanwhile is told, but to such a job: guests must wait. Others may not,
  // for one may hang on its base.
  if (j.limited && !lock(t, EXCLUSIVE, 0, u64.MAX_VALUE)) return WAIT;
  if (t.cursor == 0) {
    j.missing = 0;
    j.missingTo = j.from;
    t.cursor = 1;
  }
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.missingTo >= j.to) {
      j.remaining = j.missing;
      j.holes = 0;
      unlock(t);
      return DONE;
    }
    const missing = missingAt(t, j, j.missingTo, j.to - j.missingTo);
    if (missing == 0) return WAIT;
    if (missing > 0) j.missing += missing;
    j.missingTo += abs(missing);
  }
  return AGAIN;
}

/** Looks whether anything of the disk still shows through; `value` is 1 then. */
function wholeDisk(t: Task, j: Job): i32 {
  t.value = 0;
  if (dropsAll(j)) return DONE;
  const end = min(overlay().size, basesEnd());
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (t.cursor >= end) return DONE;
    const missing = missingAt(t, j, t.cursor, end - t.cursor);
    if (missing == 0) return WAIT;
    if (missing > 0) {
      t.value = 1;
      return DONE;
    }
    t.cursor += -missing;
  }
  return AGAIN;
}

/** Hands out copies until nothing more can be done now. */
function copyOn(t: Task, j: Job): i32 {
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.aborted || j.ending) return DONE;
    if (j.paused) return wait(t, ON_JOB);
    if (j.cursor >= j.to) return DONE;
    const absent = missingAt(t, j, j.cursor, j.to - j.cursor);
    if (absent == 0) return WAIT;
    if (absent < 0) {
      j.cursor += -absent;
      continue;
    }
    const zeroes = zeroesFrom(t, j, absent);
    if (zeroes == UNKNOWN) return WAIT;
    if (zeroes && skipsHole(j, zeroes, absent)) continue;
    const next = handOut(t, j, absent, zeroes);
    if (next != DONE) return next;
  }
  return AGAIN;
}

const UNKNOWN: u64 = u64.MAX_VALUE;

/**
 * How many whole clusters' bytes from the cursor on, of the `absent` ones, are zeros in the chain,
 * as its tables tell. They are linked without reading anything. 0 if data stands there; UNKNOWN if
 * the task waits or has failed.
 */
function zeroesFrom(t: Task, j: Job, absent: u64): u64 {
  assert(absent > 0);
  if (j.full || overlay().version < 3) return 0;
  // The front of this cluster may show what the new base has: it is stored with what is read of
  // that.
  if (j.cursor & (clusterBytes(overlay()) - 1)) return 0;
  const from = max(j.cursor, j.holeAt);
  let at = from;
  const end = j.cursor + absent;
  while (at < end) {
    const extent = lookupChain(t, 1, imageCount(), at, end - at);
    if (extent === null) {
      // What has been found so far is kept, so that a hole of many tables is found in many runs.
      j.holeAt = at;
      return UNKNOWN;
    }
    if (extent.state == DATA || extent.state == COMPRESSED_DATA) break;
    at += extent.length;
    if (at - from >= l2Span(overlay())) break;
  }
  j.holeAt = 0;
  const bytes = at - j.cursor;
  return at >= overlay().size ? bytes : bytes & ~(clusterBytes(overlay()) - 1);
}

/**
 * Leaves out the span of a whole L2 table that does not exist and would map nothing but zeros, if
 * the base is going to go.
 */
function skipsHole(j: Job, zeroes: u64, absent: u64): bool {
  assert(zeroes <= absent);
  const span = l2Span(overlay());
  const spanBytes = min(span, j.to - j.cursor);
  if (!dropsAll(j) || j.cursor & (span - 1) || absent < spanBytes || zeroes < spanBytes)
    return false;
  j.cursor += spanBytes;
  // After an error the job may come past here again.
  if (j.cursor <= j.holesTo) return true;
  j.holesTo = j.cursor;
  j.holes += spanBytes;
  j.remaining -= min(spanBytes, j.remaining);
  return true;
}

/** Starts one copy at the cursor, if there is room for it now. */
function handOut(t: Task, j: Job, absent: u64, zeroes: u64): i32 {
  assert(absent > 0 && j.cursor < j.to);
  const cluster = clusterBytes(overlay());
  const start = j.cursor & ~(cluster - 1);
  // Only runs worth it go without reading; a few zero clusters between data are found in the data.
  const linkOnly = zeroes >= min(absent, chunkBytes()) && zeroes > 0;
  let end = linkOnly
    ? min(j.cursor + zeroes, start + cluster * CHUNK_CLUSTERS_MAX)
    : start - (start % chunkBytes()) + chunkBytes();
  end = min(end, j.to);
  if (j.speed) {
    end = min(
      end,
      min(j.cursor + absent, start + max(cluster, (j.speed / PIECES_PER_SECOND) & ~(cluster - 1))),
    );
    if (!allowed(j, end - j.cursor)) return wait(t, ON_JOB);
  }
  const most = guestAtWork() ? COPIES_WITH_GUEST_MAX : COPIES_MAX;
  const full = j.copies >= most || (!linkOnly && isMemoryShort());
  if (full && j.copies) return wait(t, ON_JOB | ON_MEMORY);
  const copy = taskBegin(KIND_COPY, true);
  if (copy === null) return wait(t, ON_JOB | ON_MEMORY);
  copy.offset = j.cursor;
  copy.length = end - j.cursor;
  copy.isJobs = true;
  copy.zeroes = linkOnly;
  copy.holeBlocksMin = HOLE_BLOCKS_MIN;
  copy.resumes = j.resumes;
  j.copies++;
  if (j.speed) j.allowance -= <f64>(end - j.cursor);
  j.cursor = end;
  // The tables that the next copies need come while these are under way; nobody waits for them
  // here.
  if (end + TABLES_AHEAD_BYTES < overlay().size)
    lookupChain(null, 1, imageCount(), end + TABLES_AHEAD_BYTES, 1);
  return DONE;
}

/** Whether the speed allows so many bytes now; if not, sets the alarm for when it will. */
function allowed(j: Job, bytes: u64): bool {
  earn(j);
  // A late alarm does not slow the job down, and a long wait does not let it burst.
  j.allowance = min(j.allowance, <f64>(bytes + j.speed / PIECES_PER_SECOND / 2));
  if (j.allowance >= <f64>bytes) return true;
  setAlarm(now() + ((<f64>bytes - j.allowance) * 1000) / <f64>j.speed + 1);
  return false;
}

/**
 * Whether another copy would only wait for memory, holding its lock; where data is compressed, it
 * begins with little.
 */
function isMemoryShort(): bool {
  const least = scratchFor(1) ? BLOCK_BYTES : <u32>chunkBytes();
  return arenaFreeBytes() < arenaBytes() / GUEST_MEMORY_SHARE + least;
}

/** Adds what the speed has allowed since the last look. */
function earn(j: Job): void {
  j.allowance += ((now() - j.allowanceAt) * <f64>j.speed) / 1000;
  j.allowanceAt = now();
}

/** Bytes a second, 0 for unlimited; it holds from now on. */
export function jobSetSpeed(bytesPerSecond: u64): void {
  const j = theJob();
  earn(j);
  j.speed = bytesPerSecond;
  wake(ON_JOB);
}

/** A copy has ended badly: what that means is the job's policy. */
export function jobCopyFailed(copy: Task): void {
  assert(copy.error != 0);
  const j = theJob();
  if (j.aborted) return;
  // Where in the disk it happened, not where in the base's file.
  copy.errorOffset = copy.offset;
  if (j.onError == ON_ERROR_IGNORE) {
    if (!j.error) noteError(copy, j);
    return;
  }
  if (j.ending) return;
  const pauses = pausesOn(j, copy.error);
  // What a resume has come after is tried again without another: it may fail of what has been
  // mended since.
  const stale = pauses && copy.resumes != j.resumes;
  if (!stale) noteError(copy, j);
  if (!pauses) {
    j.ending = true;
    return;
  }
  // What failed is tried again when the job is resumed.
  const from = copy.offset & ~(clusterBytes(overlay()) - 1);
  if (from < j.cursor) {
    j.cursor = from;
    j.holeAt = 0;
  }
  if (!stale) pauseByItself(j);
}

/** Goes on with a paused job; an error that paused it is forgotten. */
export function jobResume(): void {
  const j = theJob();
  // One that ends the job stays, even if its last copies are still under way.
  if (j.paused && !j.ending && j.onError != ON_ERROR_IGNORE) j.error = 0;
  j.paused = 0;
  j.resumes++;
  j.allowanceAt = now();
  wake(ON_JOB);
}
