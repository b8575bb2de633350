// Tasks: everything that the engine does over more than one step. A task is run as a straight-line
// function that returns when it must wait, and is run again when what it waits for has come; its
// progress is in its fields, so that running it again is harmless.

import { CHUNK_CLUSTERS_MAX, GUEST_MEMORY_SHARE, SERVING_TASKS_MAX, TASKS_MAX } from '../limits';
import { ABORTED, R_HOST } from '../protocol';
import { arenaBytes, arenaFreeBytes, arenaGive, arenaTake, arenaTakeAhead } from './arena';

/** What a run of a task returns. */
export const DONE: i32 = 0;
export const WAIT: i32 = 1;
/** Let others run, then run again. */
export const AGAIN: i32 = 2;

/** What a task waits for; several may be set. */
export const ON_IO: u32 = 1;
export const ON_SLOT: u32 = 2;
export const ON_PAGE: u32 = 4;
export const ON_LOCK: u32 = 8;
export const ON_MEMORY: u32 = 16;
export const ON_WRITEBACK: u32 = 32;
export const ON_REFCOUNTS: u32 = 64;
export const ON_JOB: u32 = 128;
/** An L2 table that another task makes. */
export const ON_TABLE: u32 = 256;

/** Kinds of task. Those up to KIND_REQUEST_LAST are requests of the host. */
export const KIND_NONE: u32 = 0;
export const KIND_REQUEST_LAST: u32 = 31;
/** The engine's own: a copy of the job, the write-back, the growth of the refcount tables. */
export const KIND_COPY: u32 = 32;
export const KIND_WRITEBACK: u32 = 33;
export const KIND_GROW: u32 = 34;
/** A request that has ended: the host copies from its memory until the next step. */
export const KIND_GIVEN: u32 = 35;

export const UNLOCKED: u32 = 0;
export const SHARED: u32 = 1;
export const EXCLUSIVE: u32 = 2;

/**
 * What every task has. What only one kind of them has is in a record of its own, which extends this
 * one and stands in the same place: see `recordOf`. The steps that several kinds take (to populate,
 * to gather, to flush, …) have fields of their own here.
 */
@unmanaged
export class Task {
  kind: u32;
  /** Step of the task's function; its meaning is the kind's. */
  state: u32;
  waits: u32;
  queued: bool;
  /** No guest waits for it yet: guest requests go first. */
  background: bool;
  /** It is the job, or one of its copies: what it waits for may be cancelled with that. */
  isJobs: bool;
  /** Others wait for it: it waits neither for its turn to load pages nor for a place here. */
  serves: bool;
  next: Task | null;

  /** The host's tag. */
  request: u32;
  /**
   * What was asked: bytes of the disk. Of a request that is about something else, the host's
   * numbers, to which the record of its kind gives names.
   */
  offset: u64;
  length: u64;
  argument: u64;
  /** What the host is told when it ends well. */
  value: u64;

  error: i32;
  reason: i32;
  /** The image, and the disk or file position, that the error is about. */
  errorImage: u32;
  errorOffset: u64;
  /** The host's number for its own error. */
  detail: u32;

  /** Operations in flight. */
  pending: u32;
  /** The page it waits for; 0: any, or its turn to load one. */
  page: usize;
  /** It is its turn to load pages. */
  loads: bool;

  lockMode: u32;
  lockHeld: bool;
  lockFrom: u64;
  lockTo: u64;
  lockTurn: u32;

  buffer: usize;
  bufferBytes: u32;
  /** Disk position of the buffer's first byte. */
  bufferFrom: u64;

  /** Scratch for compressed data; see gather.ts. */
  scratch: usize;
  scratchBytes: u32;
  scratchUsed: u32;
  /** The turn of background work that has yet to take its first memory. */
  memoryTurn: u32;
  /**
   * Compressed streams among the clusters to be filled; whether the scratch holds them, and all
   * that stands among them. See streams.ts.
   */
  streams: u32;
  streamed: bool;
  /** It leaves out holes of raw images of so many blocks or more; 0: it does not ask for them. */
  holeBlocksMin: u32;
  /** For now, it reads over them all the same. */
  overHoles: bool;
  /** Everything is given back and begun again once no operation is in flight. */
  restart: bool;
  entries: u32;
  entriesIssued: u32;
  runFile: u32;
  runOpen: bool;
  runFrom: u64;
  runTo: u64;
  runAddress: usize;
  partOpen: bool;
  partReady: bool;
  partFile: u32;
  partFrom: u64;
  gatherPhase: u32;
  gatherAt: u64;
  gatherTo: u64;

  /**
   * The clusters being mapped: the first one, how many, and how far the current step is. See
   * place.ts.
   */
  clusterFirst: u64;
  clusterCount: u32;
  clusterAt: u32;
  /** Host clusters taken and not yet linked must be given back if the task fails. */
  placed: bool;
  /** An L2 table that has been taken and nothing points to yet, and its index in the L1 table. */
  spareTable: u64;
  spareTableIndex: u64;
  /** Images from this one down are left where they are: see populate.ts. */
  bottom: u32;
  /** What it populates is also to replace compressed clusters. */
  fillsCompressed: bool;
  /** Step of populating, which several kinds of task do; 0: it does not. See populate.ts. */
  populating: u32;
  /** What it populates it also wants to have, all of [offset, offset + length). */
  wantsAll: bool;
  /** What is populated shows zeros only: nothing has to be read for it. */
  zeroes: bool;
  /** How far `zeroOnDisk`, `moveTable` and `allocateWhole` have come: bytes, bytes, clusters. */
  zeroed: u64;
  moved: u64;
  searchFrom: u64;
  /**
   * Write-backs that left as many freed clusters as the one before, and how many those were: see
   * `settle` in writeback.ts.
   */
  settles: u32;
  settlesLeft: u64;

  /**
   * Bases that have nothing at `passedAt`, and for how long, in a chain of so many images: see
   * lookupChain.
   */
  passedTo: u32;
  passedOf: u32;
  passedAt: u64;
  passedLength: u64;

  /** See `flushed` in writeback.ts. */
  flushStep: u32;
  flushTarget: u32;
  flushBegun: u32;
  flushCovers: u32;
}

/** Room for a task's record, whatever its kind; behind it stands the map of its clusters. */
const RECORD_BYTES: u32 = 512;
const TASK_BYTES: u32 = RECORD_BYTES + CHUNK_CLUSTERS_MAX * 8;

let tasks: usize = 0;
let turn: u32 = 0;
let firstTurn: u32 = 0;
let given: u32 = 0;
/** Buffers that tasks hold. */
let buffers: u32 = 0;
let readyFirst: Task | null = null;
let readyLast: Task | null = null;
let backFirst: Task | null = null;
let backLast: Task | null = null;

export function tasksBytes(): usize {
  return TASKS_MAX * TASK_BYTES;
}

export function tasksInit(at: usize): void {
  tasks = at;
  memory.fill(tasks, 0, TASKS_MAX * TASK_BYTES);
  turn = 0;
  firstTurn = 0;
  given = 0;
  buffers = 0;
  readyFirst = null;
  readyLast = null;
  backFirst = null;
  backLast = null;
}

export function taskAt(index: u32): Task {
  assert(index < TASKS_MAX);
  return changetype<Task>(tasks + index * TASK_BYTES);
}

/** A task as the record of its kind. */
export function recordOf<T>(t: Task, kind: u32): T {
  if (offsetof<T>() > RECORD_BYTES) ERROR('a kind of task needs more room than tasks have');
  assert(t.kind == kind);
  return changetype<T>(t);
}

/** The map entry of a task's cluster: see place.ts. */
export function clusterMap(t: Task, index: u32): u64 {
  return load<u64>(mapAddress(t, index));
}

export function setClusterMap(t: Task, index: u32, entry: u64): void {
  store<u64>(mapAddress(t, index), entry);
}

function mapAddress(t: Task, index: u32): usize {
  assert(index < CHUNK_CLUSTERS_MAX);
  return changetype<usize>(t) + RECORD_BYTES + index * 8;
}

/**
 * A fresh task, ready to run, or null when the table is full. There is always a place for the two
 * that serve others: the write-back, and the growth of the refcount tables.
 */
export function taskBegin(kind: u32, background: bool, serves: bool = false): Task | null {
  assert(kind != KIND_NONE);
  const places = serves ? TASKS_MAX : TASKS_MAX - SERVING_TASKS_MAX;
  for (let i: u32 = 0; i < places; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_NONE) continue;
    memory.fill(changetype<usize>(t), 0, RECORD_BYTES);
    t.kind = kind;
    t.background = background;
    t.serves = serves;
    ready(t);
    return t;
  }
  return null;
}

/**
 * Gives back all that a task holds; the memory of a request only with the next step, for the host
 * has yet to copy from it.
 */
export function taskEnd(t: Task): void {
  assert(t.pending == 0);
  unlock(t);
  endTurn(t);
  t.waits = 0;
  if (t.buffer && t.kind <= KIND_REQUEST_LAST) {
    t.kind = KIND_GIVEN;
    given++;
    return;
  }
  releaseMemory(t);
  t.kind = KIND_NONE;
}

/** Called at the start of a step: the host has copied what ended requests gave it. */
export function givenTaken(): void {
  if (!given) return;
  given = 0;
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_GIVEN) continue;
    releaseMemory(t);
    t.kind = KIND_NONE;
  }
}

export function anyGiven(): bool {
  return given != 0;
}

/** Notes the first error of a task; later ones are its consequences. */
export function fail(t: Task, error: i32, reason: i32, image: u32, offset: u64): void {
  assert(error > 0);
  if (t.error) return;
  t.error = error;
  t.reason = reason;
  t.errorImage = image;
  t.errorOffset = offset;
}

export function failOfHost(t: Task, error: i32, image: u32, offset: u64, detail: u32): void {
  if (t.error) return;
  fail(t, error, R_HOST, image, offset);
  t.detail = detail;
}

/** Fails a task of what another one has failed of. */
function failAs(t: Task, cause: Task): void {
  if (t.error) return;
  fail(t, cause.error, cause.reason, cause.errorImage, cause.errorOffset);
  t.detail = cause.detail;
}

export function wait(t: Task, on: u32): i32 {
  assert(on != 0);
  t.waits = on;
  return WAIT;
}

/** Puts a task into its queue: guest requests before background work, each in its order. */
export function ready(t: Task): void {
  assert(t.kind != KIND_NONE && t.kind != KIND_GIVEN);
  t.waits = 0;
  if (t.queued) return;
  t.queued = true;
  t.next = null;
  if (t.background) {
    const last = backLast;
    if (last === null) backFirst = t;
    else last.next = t;
    backLast = t;
  } else {
    const last = readyLast;
    if (last === null) readyFirst = t;
    else last.next = t;
    readyLast = t;
  }
}

export function takeReady(): Task | null {
  let t = readyFirst;
  if (t !== null) {
    readyFirst = t.next;
    if (readyFirst === null) readyLast = null;
  } else {
    t = backFirst;
    if (t === null) return null;
    backFirst = t.next;
    if (backFirst === null) backLast = null;
  }
  t.queued = false;
  t.next = null;
  return t;
}

export function anyReady(): bool {
  return readyFirst !== null || backFirst !== null;
}

/** Makes every task that waits on one of these ready again, in the order of the table. */
export function wake(on: u32): void {
  assert(on != 0);
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_NONE && t.waits & on) ready(t);
  }
}

/**
 * Makes the job and its copies ready, whatever they wait for: each looks for itself whether it
 * still has to.
 */
export function wakeJobs(): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_NONE && t.waits && t.isJobs) ready(t);
  }
}

/**
 * Makes the tasks that wait for a page ready, failing them if it could not be read. Where it was
 * cancelled with the job, others who wait for it try again.
 */
export function wakePage(page: usize, error: i32, image: u32, offset: u64, detail: u32): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_NONE || !(t.waits & ON_PAGE) || (t.page != page && t.page != 0)) continue;
    if (error && t.page == page && (error != ABORTED || t.isJobs))
      failOfHost(t, error, image, offset, detail);
    ready(t);
  }
}

/**
 * Another task may load pages now: whoever waits for that looks, each time from another one on, so
 * that everyone's turn comes.
 */
export function wakeTurns(): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt((firstTurn + i) % TASKS_MAX);
    if (t.kind != KIND_NONE && t.waits == ON_PAGE && t.page == 0) ready(t);
  }
  firstTurn++;
}

/**
 * A write-back has failed: those who wait for room in the cache fail with it, the others look for
 * themselves.
 */
export function wakeFailed(cause: Task): void {
  assert(cause.error != 0);
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_NONE || !(t.waits & ON_WRITEBACK)) continue;
    // Those that flush look for themselves; nobody else can go on without what it would have made
    // room for.
    if (!t.flushStep) failAs(t, cause);
    ready(t);
  }
}

/** The refcount tables could not grow: those who wait for it fail. */
export function wakeRefcounts(cause: Task): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_NONE || !(t.waits & ON_REFCOUNTS)) continue;
    if (cause.error) failAs(t, cause);
    ready(t);
  }
}

/**
 * Locks [from, to) of the disk for a task, or says that it must wait. Shared locks go together; a
 * task waits behind every earlier one that its lock conflicts with, held or waiting, so that
 * overlapping requests are done in the order they came.
 */
export function lock(t: Task, mode: u32, from: u64, to: u64): bool {
  assert(mode != UNLOCKED && from <= to);
  if (t.lockHeld) return true;
  if (t.lockMode == UNLOCKED) {
    t.lockMode = mode;
    t.lockFrom = from;
    t.lockTo = to;
    t.lockTurn = ++turn;
  }
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const o = taskAt(i);
    if (o === t || o.kind == KIND_NONE || o.lockMode == UNLOCKED) continue;
    if (o.lockFrom >= t.lockTo || t.lockFrom >= o.lockTo) continue;
    if (o.lockMode == SHARED && t.lockMode == SHARED) continue;
    if (o.lockHeld || <i32>(o.lockTurn - t.lockTurn) < 0) {
      t.waits = ON_LOCK;
      return false;
    }
  }
  t.lockHeld = true;
  return true;
}

export function unlock(t: Task): void {
  if (t.lockMode == UNLOCKED) return;
  t.lockMode = UNLOCKED;
  t.lockHeld = false;
  wake(ON_LOCK);
}

/** Takes a buffer and, unless the task has it already, a scratch, or says that it must wait. */
export function takeMemory(t: Task, bufferBytes: u32, scratchBytes: u32): bool {
  assert(bufferBytes > 0);
  if (t.buffer) return true;
  if (t.scratch) scratchBytes = 0;
  else if (!isNext(t)) return lacksMemory(t);
  if (!mayTake(t, bufferBytes + scratchBytes)) return lacksMemory(t);
  const buffer = arenaTake(bufferBytes);
  if (!buffer) return lacksMemory(t);
  if (scratchBytes) {
    const scratch = arenaTake(scratchBytes);
    if (!scratch) {
      arenaGive(buffer, bufferBytes);
      return lacksMemory(t);
    }
    t.scratch = scratch;
    t.scratchBytes = scratchBytes;
  }
  t.buffer = buffer;
  t.bufferBytes = bufferBytes;
  buffers++;
  endTurn(t);
  return true;
}

/** Takes a scratch for what is fetched before the task has a buffer, or says that it must wait. */
export function takeScratchAhead(t: Task, bytes: u32): bool {
  assert(bytes > 0 && !t.buffer);
  if (t.scratch) return true;
  const scratch = isNext(t) && mayTake(t, bytes) ? arenaTakeAhead(bytes) : 0;
  if (!scratch) return lacksMemory(t);
  t.scratch = scratch;
  t.scratchBytes = bytes;
  endTurn(t);
  return true;
}

/**
 * Background work begins to take memory in the order of its locks, however much each of it needs:
 * what is fetched side by side lies side by side then, and goes over a line in few requests.
 */
function isNext(t: Task): bool {
  if (!t.background) return true;
  t.memoryTurn = t.lockTurn;
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const o = taskAt(i);
    if (o.kind != KIND_NONE && o.memoryTurn && <i32>(o.memoryTurn - t.memoryTurn) < 0) return false;
  }
  return true;
}

function endTurn(t: Task): void {
  if (!t.memoryTurn) return;
  t.memoryTurn = 0;
  wake(ON_MEMORY);
}

/**
 * Background work takes nothing while a guest request waits, and leaves guests their share; but
 * some of it always goes on, and what has a scratch already must, for a guest request may need that
 * memory too.
 */
function mayTake(t: Task, bytes: u32): bool {
  if (!t.background) return true;
  if (buffers == 0) return t.scratch != 0 || !guestWaitsForMemory();
  return !guestWaitsForMemory() && arenaFreeBytes() >= bytes + arenaBytes() / GUEST_MEMORY_SHARE;
}

function lacksMemory(t: Task): bool {
  t.waits = ON_MEMORY;
  return false;
}

export function releaseMemory(t: Task): void {
  if (!t.buffer && !t.scratch) return;
  if (t.buffer) {
    arenaGive(t.buffer, t.bufferBytes);
    buffers--;
  }
  if (t.scratch) arenaGive(t.scratch, t.scratchBytes);
  t.buffer = 0;
  t.scratch = 0;
  t.bufferBytes = 0;
  t.scratchBytes = 0;
  t.streamed = false;
  wake(ON_MEMORY);
}

export function guestWaitsForMemory(): bool {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    // The job's own task waits until there is room for another copy; it takes none itself.
    if (t.kind != KIND_NONE && !t.isJobs && !t.background && t.waits & ON_MEMORY) return true;
  }
  return false;
}
