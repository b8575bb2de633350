// Write-back: how changed metadata reaches the overlay, so that what is on disk is a valid image at
// every moment.
//
// One write-back runs at a time. It takes a snapshot of all changed sectors and writes it stage by
// stage (see pages.ts), with a barrier (a flush) after every stage that a later one depends on; the
// first barrier also covers the data written before the snapshot. Tasks go on changing pages
// meanwhile: what they change belongs to the next write-back.

import { be64, putBe64 } from '../core/bytes';
import { now } from '../core/clock';
import {
  anyDirty,
  manyDirty,
  Page,
  pageAt,
  pageChanged,
  pageCount,
  pageGet,
  pagesPressed,
  pagesRelieved,
  STAGE_MARK,
  STAGES,
  sectorDirty,
  sectorsTaken,
  stageDirty,
} from '../core/pages';
import { ioBegin } from '../core/ring';
import {
  DONE,
  fail,
  failOfHost,
  KIND_WRITEBACK,
  ON_IO,
  ON_SLOT,
  ON_WRITEBACK,
  recordOf,
  Task,
  taskBegin,
  WAIT,
  wait,
  wake,
  wakeFailed,
} from '../core/task';
import { AT_AUTOCLEAR, AT_INCOMPATIBLE, INCOMPATIBLE_DIRTY } from '../formats/qcow2/header';
import { overlay } from '../formats/qcow2/image';
import {
  PAGE_BYTES,
  SECTOR_BITS,
  SECTOR_BYTES,
  STAGED_RUNS_MAX,
  STAGING_BYTES,
  WRITEBACK_BYTES_MAX,
  WRITEBACK_BYTES_MIN,
  WRITEBACK_PAUSE_MS_MAX,
  WRITEBACK_PAUSE_MS_MIN,
} from '../limits';
import { ECORRUPT, EIO, OP_DISCARD, OP_FLUSH, OP_WRITE, OVERLAY, R_FLUSH_LOST } from '../protocol';
import { anyFree, clustersFreed, dropFree, freeAt, freeCount, isFree, peekFree } from './frees';
import { release } from './refcounts';

/** A run of neighbouring sectors in the snapshot. */
@unmanaged
export class StagedRun {
  page: Page;
  offset: u64;
  address: usize;
  bytes: u32;
  stage: u32;
}

let staging: usize = 0;
let runs: usize = 0;
let runCount: u32 = 0;
let stagingUsed: u32 = 0;

let running: bool = false;
let wanted: bool = false;
/** Bytes of data that only the cache's metadata refers to. */
let unwritten: u64 = 0;
/** Only the cache knows of something that was fetched: a crash would make that be fetched again. */
let fetched: bool = false;
/** Flushes are not to be made oftener than need be. */
let sparing: bool = false;
/** When the running or last write-back began, and when the last one ended. */
let begunAt: f64 = 0;
let endedAt: f64 = 0;
/** How long the next one waits. */
let pause: f64 = WRITEBACK_PAUSE_MS_MIN;
/** Number of the write-back that runs, or ran last. */
let started: u32 = 0;
/**
 * Number of the last one that wrote all there was when it started, and of the last such that a
 * barrier followed.
 */
let complete: u32 = 0;
let durable: u32 = 0;
/** `complete` when the barrier in flight was issued. */
let barrierCovers: u32 = 0;
/** How many have begun, and the last of these that ended badly, and how it did. */
let begun: u32 = 0;
let failedLast: u32 = 0;
let failError: i32 = 0;
let failDetail: u32 = 0;
/** The last one failed: the next waits until somebody asks for it. */
let stalled: bool = false;
/** A flush failed: what it covered may be lost, and no later one can tell. */
let lost: bool = false;
let trimming: bool = false;

export function writebackBytes(): usize {
  return STAGING_BYTES + STAGED_RUNS_MAX * offsetof<StagedRun>();
}

export function writebackInit(at: usize): void {
  staging = at;
  runs = at + STAGING_BYTES;
  running = false;
  wanted = false;
  unwritten = 0;
  fetched = false;
  sparing = false;
  begunAt = 0;
  endedAt = 0;
  pause = WRITEBACK_PAUSE_MS_MIN;
  started = 0;
  complete = 0;
  durable = 0;
  begun = 0;
  failedLast = 0;
  stalled = false;
  lost = false;
  trimming = false;
}

/** The host can give space back to the storage. */
export function setTrimming(yes: bool): void {
  trimming = yes;
}

/** A flush holds up all else, or costs money. */
export function setSparing(yes: bool): void {
  sparing = yes;
}

/** Metadata in the cache now refers to so many more bytes of data. */
export function noteUnwritten(bytes: u64): void {
  assert(bytes > 0);
  unwritten += bytes;
}

/** Metadata in the cache now tells of something that was fetched, be it zeros. */
export function noteFetched(): void {
  fetched = true;
}

/** The write-back whose snapshot will hold what is changed now. */
export function nextWriteback(): u32 {
  return started + 1;
}

export function writebackWanted(): void {
  wanted = true;
}

/** The last one failed: who waits for room must do without. */
export function writebackStalled(): bool {
  return stalled;
}

export function writebackRunning(): bool {
  return running;
}

/**
 * A barrier that covers everything completed before it was issued has succeeded; `covers` was
 * `complete` then.
 */
function barrierDone(covers: u32): void {
  assert(<i32>(complete - covers) >= 0);
  if (<i32>(covers - durable) > 0) durable = covers;
}

export function barrierFailed(): void {
  lost = true;
}

/** Whether nothing is left to be brought to disk, freed clusters included. */
export function settled(): bool {
  return !running && !anyDirty() && freeCount() == 0;
}

/** Starts a write-back if there is a reason to. Called at the end of every step. */
export function scheduleWriteback(): void {
  if (running) return;
  const due = manyDirty() || dataDue();
  if (!wanted && !pagesPressed() && (stalled || !due)) return;
  if (!anyDirty() && !anyFree(wanted ? complete : durable)) {
    // With nothing to be written, whoever wants room in the cache waits for pages that are being
    // read.
    if (wanted) wake(ON_WRITEBACK);
    wanted = false;
    fetched = false;
    pagesRelieved();
    return;
  }
  if (taskBegin(KIND_WRITEBACK, false, true) === null) return;
  running = true;
  // Who wants one from here on may come too late for this one, which may have passed the freed
  // clusters already.
  wanted = false;
  begun++;
  begunAt = now();
}

/**
 * What was fetched is written back as soon as the write-back before it has ended, so that a crash
 * takes only what was on its way, and the storage is at work all along. What a guest has written
 * waits for its flush, or until it is much.
 */
function dataDue(): bool {
  if (fetched && !sparing) return true;
  if (unwritten >= WRITEBACK_BYTES_MAX) return true;
  return unwritten >= WRITEBACK_BYTES_MIN && now() - endedAt >= pause;
}

const FIRST_BARRIER: u32 = 0;
const PUNCH: u32 = 1;
const GIVE_BACK: u32 = 2;
const MARK: u32 = 3;
const SNAPSHOT: u32 = 4;
const WRITE: u32 = 5;
const BARRIER: u32 = 6;

/**
 * Reads of refcounts that one write-back waits for to free clusters; the rest is the next one's.
 * With all of the cache changed but for one page, the table and the block would push each other out
 * for ever, and only this write-back makes room.
 */
const REFCOUNT_READS_MAX: u32 = 64;
/** Bytes that one discard gives back at most. */
const DISCARD_BYTES_MAX: u64 = 1 << 30;

@unmanaged
class WritebackTask extends Task {
  /** The first barrier has been issued. */
  barrierIssued: bool;
  /** Write-backs that are on stable storage, or will be with the first barrier. */
  covers: u32;
  /** The next freed run whose space goes back to the storage, and the bytes of it that have. */
  punchRun: u32;
  punched: u64;
  /** Reads of refcounts that it has waited for. */
  refcountReads: u32;
  /** The snapshot holds all that was changed. */
  hasAll: bool;
  /** The next run of the snapshot, and the stage that is being written. */
  writeRun: u32;
  stage: u32;
}

export function runWriteback(task: Task): i32 {
  const t = recordOf<WritebackTask>(task, KIND_WRITEBACK);
  if (t.error) return t.pending ? wait(t, ON_IO) : failed(t);
  if (t.state == FIRST_BARRIER) {
    if (!firstBarrier(t)) return WAIT;
    t.covers = durable;
    t.state = PUNCH;
  }
  if (t.state == PUNCH) {
    if (trimming && !punch(t)) return WAIT;
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
    started++;
    unwritten = 0;
    fetched = false;
    pagesRelieved();
    t.hasAll = snapshot();
    t.state = WRITE;
  }
  while (true) {
    if (t.state == WRITE) {
      if (!writeStage(t)) return wait(t, ON_SLOT);
      if (t.pending) return wait(t, ON_IO);
      if (t.error) return failed(t);
      if (t.writeRun == runCount) return succeeded(t);
      if (!barrier(t)) return wait(t, ON_SLOT);
      t.state = BARRIER;
    }
    if (t.pending) return wait(t, ON_IO);
    if (t.error) return failed(t);
    barrierDone(barrierCovers);
    t.stage++;
    t.state = WRITE;
  }
}

/**
 * Where nothing is to be written and freed clusters wait for a barrier all the same, this is it.
 */
function firstBarrier(t: WritebackTask): bool {
  assert(running);
  if (!t.barrierIssued) {
    if (anyDirty() || anyFree(durable)) return true;
    t.covers = complete;
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

/**
 * Gives the space of clusters that nothing on disk refers to any more back to the storage, before
 * they count as free: a discard on its way must not hit who takes them next.
 */
function punch(t: WritebackTask): bool {
  const image = overlay();
  while (t.punchRun < freeCount()) {
    const entry = freeAt(t.punchRun);
    const bytes = (<u64>entry.clusters) << image.clusterBits;
    if (entry.shared || entry.after > t.covers || t.punched >= bytes) {
      t.punchRun++;
      t.punched = 0;
      continue;
    }
    const piece = <u32>min(DISCARD_BYTES_MAX, bytes - t.punched);
    if (ioBegin(t, OP_DISCARD, OVERLAY, entry.offset + t.punched, piece, 0) === null) {
      t.waits = ON_SLOT;
      return false;
    }
    t.punched += piece;
  }
  if (t.pending) t.waits = ON_IO;
  return t.pending == 0;
}

/** Lowers the refcounts of clusters that nothing on disk refers to any more. */
function giveBack(t: WritebackTask): bool {
  const image = overlay();
  while (true) {
    const offset = peekFree(t.covers);
    if (!offset) return true;
    if (!release(t, offset >> image.clusterBits)) {
      if (t.error) {
        if (t.error == ECORRUPT) dropFree(t.covers);
        return false;
      }
      // Without room in the cache for their refcounts, they wait for the next time: this write-back
      // is what makes room.
      if (!(t.waits & ON_WRITEBACK) && ++t.refcountReads < REFCOUNT_READS_MAX) return false;
      t.waits = 0;
      return true;
    }
    dropFree(t.covers);
  }
}

/** Whether the header says that the image is in use; version 2 has no words for it. */
export function isMarked(): bool {
  const image = overlay();
  return image.version < 3 || (image.dirty && !image.autoclear);
}

/**
 * Sets the header's dirty bit before the first change: whoever opens the image after a crash then
 * knows to look for leaks.
 */
function markDirty(t: Task): bool {
  assert(running);
  const image = overlay();
  if (isMarked() || image.cleaning) return true;
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  putBe64(header + AT_INCOMPATIBLE, be64(header + AT_INCOMPATIBLE) | INCOMPATIBLE_DIRTY);
  putBe64(header + AT_AUTOCLEAR, 0);
  pageChanged(header, SECTOR_BYTES, STAGE_MARK);
  image.dirty = true;
  image.autoclear = false;
  return true;
}

/** Copies the changed sectors, stage by stage, as far as there is room; true if that was all. */
function snapshot(): bool {
  runCount = 0;
  stagingUsed = 0;
  for (let stage: u32 = 0; stage < STAGES; stage++) {
    for (let i: u32 = 0; i < pageCount(); i++) {
      const page = pageAt(i);
      // A later stage may depend on all of an earlier one: where one does not fit, the later ones
      // wait for the next write-back.
      if (stageDirty(page, stage) && !snapshotPage(page, stage)) return false;
    }
  }
  return true;
}

function snapshotPage(page: Page, stage: u32): bool {
  assert(page.file == OVERLAY && stageDirty(page, stage));
  const sectors = PAGE_BYTES / SECTOR_BYTES;
  let first: u32 = 0;
  while (first < sectors) {
    if (!sectorDirty(page, stage, first)) {
      first++;
      continue;
    }
    let end = first + 1;
    while (end < sectors && sectorDirty(page, stage, end)) end++;
    const bytes = (end - first) << SECTOR_BITS;
    if (runCount == STAGED_RUNS_MAX || stagingUsed + bytes > STAGING_BYTES) return false;
    const run = runAt(runCount++);
    run.page = page;
    run.offset = page.offset + (first << SECTOR_BITS);
    run.address = staging + stagingUsed;
    run.bytes = bytes;
    run.stage = stage;
    memory.copy(run.address, page.frame + (first << SECTOR_BITS), bytes);
    stagingUsed += bytes;
    page.pins++;
    sectorsTaken(page, stage, first, end - first);
    first = end;
  }
  return true;
}

/** Issues the writes of the current stage; false when slots have run out. */
function writeStage(t: WritebackTask): bool {
  assert(t.stage < STAGES);
  while (t.writeRun < runCount) {
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
  barrierCovers = complete;
  return ioBegin(t, OP_FLUSH, OVERLAY, 0, 0, 0) !== null;
}

function succeeded(t: WritebackTask): i32 {
  assert(running && t.pending == 0);
  assert(t.writeRun == runCount);
  unpin();
  if (t.hasAll) complete = started;
  endedAt = now();
  pause = min(max(endedAt - begunAt, WRITEBACK_PAUSE_MS_MIN), WRITEBACK_PAUSE_MS_MAX);
  running = false;
  stalled = false;
  wake(ON_WRITEBACK);
  return DONE;
}

/**
 * Marks what was not written as changed again, so that a later write-back can try it again; but for
 * what has been freed meanwhile.
 */
function failed(t: Task): i32 {
  assert(running && t.error != 0);
  for (let i: u32 = 0; i < runCount; i++) {
    const run = runAt(i);
    const address = run.page.frame + <usize>(run.offset - run.page.offset);
    for (let at: u32 = 0; at < run.bytes; at += SECTOR_BYTES) {
      if (!isFree(run.offset + at)) pageChanged(address + at, SECTOR_BYTES, run.stage);
    }
  }
  unpin();
  failedLast = begun;
  failError = t.error;
  failDetail = t.detail;
  running = false;
  wanted = false;
  stalled = true;
  pagesRelieved();
  wakeFailed(t);
  return DONE;
}

function unpin(): void {
  for (let i: u32 = 0; i < runCount; i++) runAt(i).page.pins--;
  runCount = 0;
}

function runAt(index: u32): StagedRun {
  assert(index < STAGED_RUNS_MAX);
  return changetype<StagedRun>(runs + index * offsetof<StagedRun>());
}

const FLUSH_START: u32 = 0;
const FLUSH_WRITEBACK: u32 = 1;
const FLUSH_BARRIER: u32 = 2;

/**
 * Brings everything completed so far to stable storage: a step that several tasks take, with fields
 * of their own for it. True when that is done; false: the task waits or has failed.
 */
export function flushed(t: Task): bool {
  if (t.error) return false;
  if (lost) {
    fail(t, EIO, R_FLUSH_LOST, OVERLAY, 0);
    return false;
  }
  if (t.flushStep == FLUSH_START) {
    // Only a write-back whose snapshot is taken from now on is sure to hold all that was changed
    // before.
    t.flushTarget = nextWriteback();
    t.flushBegun = begun;
    t.flushStep = FLUSH_WRITEBACK;
  }
  if (t.flushStep == FLUSH_WRITEBACK) {
    // What one that ran already could not write is tried again: the cause may be gone by now.
    if (<i32>(failedLast - t.flushBegun) > 0) {
      t.flushStep = FLUSH_START;
      failOfHost(t, failError, OVERLAY, 0, failDetail);
      return false;
    }
    const covered = <i32>(complete - t.flushTarget) >= 0;
    if (!covered && (anyDirty() || running)) {
      wanted = true;
      t.waits = ON_WRITEBACK;
      return false;
    }
    t.flushCovers = complete;
    if (ioBegin(t, OP_FLUSH, OVERLAY, 0, 0, 0) === null) {
      t.waits = ON_SLOT;
      return false;
    }
    t.flushStep = FLUSH_BARRIER;
  }
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  barrierDone(t.flushCovers);
  // Nothing on disk refers to them any more: their space goes back now, not when something is
  // written again.
  if (anyFree(durable)) wanted = true;
  t.flushStep = FLUSH_START;
  return true;
}

/**
 * Write-backs that settling waits for without fewer freed clusters than before: those freed by one
 * are given back by the next, and counted by the one after. Each gives back only those whose
 * refcounts it has room for.
 */
const SETTLES_MAX: u32 = 8;

/** Writes everything and gives every freed cluster back; false: the task waits or has failed. */
export function settle(t: Task): bool {
  if (!flushed(t)) return false;
  if (settled()) return true;
  const left = clustersFreed();
  if (left >= t.settlesLeft && ++t.settles >= SETTLES_MAX) return true;
  t.settlesLeft = left;
  writebackWanted();
  t.waits = ON_WRITEBACK;
  return false;
}
