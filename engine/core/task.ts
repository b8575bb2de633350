// Tasks: everything that the engine does over more than one step. A task is run as a straight-line
// function that returns when it must wait, and is run again when what it waits for has come; its
// progress is in its fields, so that running it again is harmless.

import { CHUNK_CLUSTERS_MAX, SERVING_TASKS_MAX, TASKS_MAX } from '../limits';
import { R_HOST } from '../protocol';

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
  /** It fetches what a guest is expected to want soon: see populate.ts of requests/. */
  isAhead: bool;
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
  /** It has waited for what another task brings into the overlay. */
  waited: bool;

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
  /** What of them goes into the overlay as it is, and how many clusters that is: see keep.ts. */
  keeping: u32;
  kept: u32;
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
  /** Only what touches is fetched as one run. */
  withoutGaps: bool;
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
  /** What it populates is also to replace clusters that cannot be changed in their place. */
  fillsUnwritable: bool;
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
   * `settle` in flush.ts.
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

  /** See `flushed` in flush.ts. */
  flushStep: u32;
  flushTarget: u32;
  flushBegun: u32;
  flushCovers: u32;
}

/** Room for a task's record, whatever its kind; behind it stands the map of its clusters. */
const RECORD_BYTES: u32 = 512;
const TASK_BYTES: u32 = RECORD_BYTES + CHUNK_CLUSTERS_MAX * 8;

let tasks: usize = 0;

/** Tasks that are ready to run, in their order. */
@unmanaged
class Queue {
  first: Task | null;
  last: Task | null;
}

const QUEUES_BYTES: u32 = 2 * offsetof<Queue>();

/** Those of the background, or all others. */
function queue(background: bool): Queue {
  const first = memory.data(QUEUES_BYTES, 8);
  return changetype<Queue>(background ? first + offsetof<Queue>() : first);
}

export function tasksBytes(): usize {
  return TASKS_MAX * TASK_BYTES;
}

export function tasksInit(at: usize): void {
  tasks = at;
  memory.fill(tasks, 0, TASKS_MAX * TASK_BYTES);
  memory.fill(changetype<usize>(queue(false)), 0, QUEUES_BYTES);
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

/** The map entry of a task's cluster: see actions.ts. */
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
export function failAs(t: Task, cause: Task): void {
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
  const q = queue(t.background);
  const last = q.last;
  if (last === null) q.first = t;
  else last.next = t;
  q.last = t;
}

export function takeReady(): Task | null {
  const q = queue(queue(false).first === null);
  const t = q.first;
  if (t === null) return null;
  q.first = t.next;
  if (t.next === null) q.last = null;
  t.queued = false;
  t.next = null;
  return t;
}

export function anyReady(): bool {
  return queue(false).first !== null || queue(true).first !== null;
}

/** Whether anything is being fetched ahead: the job leaves the line to it. */
export function fetchesAhead(): bool {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_NONE && t.kind != KIND_GIVEN && t.isAhead) return true;
  }
  return false;
}
