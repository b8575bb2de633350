// The ring: how the engine hands I/O to the host and learns how it went. The layout is documented
// in README.md; hosts in any language depend on it. Nothing here knows what an operation is for.

import { IO_MAX, SUBMISSIONS_MAX } from '../limits';
import {
  COMPLETION_BYTES,
  COMPLETION_DETAIL,
  COMPLETION_RESULT,
  COMPLETION_TAG,
  FLAG_AHEAD,
  FLAG_BACKGROUND,
  FLAG_JOBS,
  OP_DONE,
  OP_GIVE,
  OP_HOLES,
  OP_READ,
  OP_WRITE,
  OVERLAY,
  SUBMISSION_ADDRESS,
  SUBMISSION_ADDRESS2,
  SUBMISSION_BYTES,
  SUBMISSION_FILE,
  SUBMISSION_FLAGS,
  SUBMISSION_LENGTH,
  SUBMISSION_LENGTH2,
  SUBMISSION_OFFSET,
  SUBMISSION_OP,
  SUBMISSION_REQUEST,
  SUBMISSION_TAG,
} from '../protocol';
import { Task } from './task';

/** A submission queue entry. */
@unmanaged
export class Submission {
  /** Index of the I/O slot, given back in the completion; for TAKE, GIVE and DONE see `request`. */
  tag: u32;
  op: u32;
  /** Index of the image's file. */
  file: u32;
  flags: u32;
  /**
   * Bytes in the file, or in the requester's data; for DONE the value, or the disk offset of the
   * error.
   */
  offset: u64;
  length: u32;
  address: u32;
  address2: u32;
  length2: u32;
  /** The host's tag of the request, for TAKE, GIVE and DONE. */
  request: u32;
  reserved: u32;
}

/** A completion queue entry. */
@unmanaged
export class Completion {
  tag: u32;
  /** 0, or a negated error code. */
  result: i32;
  /**
   * The host's own number for the error behind it, handed back with the request that fails of it.
   */
  detail: u32;
  reserved: u32;
}

/** What an operation in flight belongs to. */
@unmanaged
export class Io {
  task: Task | null;
  /** The metadata page that is being read, if it is that. */
  page: usize;
  op: u32;
  file: u32;
  offset: u64;
  next: Io | null;
}

/** The queues, and the slots of operations in flight. */
@unmanaged
class Ring {
  submissions: usize;
  completions: usize;
  slots: usize;
  /** The first free slot. */
  free: Io | null;
  /** Entries of the submission queue. */
  submitted: u32;
  inFlight: u32;
}

function ring(): Ring {
  return changetype<Ring>(memory.data(offsetof<Ring>(), 8));
}

export function ringBytes(): usize {
  return (
    SUBMISSIONS_MAX * offsetof<Submission>() + IO_MAX * (offsetof<Completion>() + offsetof<Io>())
  );
}

/** The classes above lay out what hosts read and write by the numbers of the protocol. */
function mustBeLaidOut(): void {
  if (
    offsetof<Submission>() != SUBMISSION_BYTES ||
    offsetof<Submission>('tag') != SUBMISSION_TAG ||
    offsetof<Submission>('op') != SUBMISSION_OP ||
    offsetof<Submission>('file') != SUBMISSION_FILE ||
    offsetof<Submission>('flags') != SUBMISSION_FLAGS ||
    offsetof<Submission>('offset') != SUBMISSION_OFFSET ||
    offsetof<Submission>('length') != SUBMISSION_LENGTH ||
    offsetof<Submission>('address') != SUBMISSION_ADDRESS ||
    offsetof<Submission>('address2') != SUBMISSION_ADDRESS2 ||
    offsetof<Submission>('length2') != SUBMISSION_LENGTH2 ||
    offsetof<Submission>('request') != SUBMISSION_REQUEST ||
    offsetof<Completion>() != COMPLETION_BYTES ||
    offsetof<Completion>('tag') != COMPLETION_TAG ||
    offsetof<Completion>('result') != COMPLETION_RESULT ||
    offsetof<Completion>('detail') != COMPLETION_DETAIL
  )
    ERROR('the entries of the ring are not laid out as protocol.ts has it');
}

export function ringInit(at: usize): void {
  const r = ring();
  mustBeLaidOut();
  r.submissions = at;
  r.completions = r.submissions + SUBMISSIONS_MAX * offsetof<Submission>();
  r.slots = r.completions + IO_MAX * offsetof<Completion>();
  r.free = null;
  for (let i: i32 = <i32>IO_MAX - 1; i >= 0; i--) {
    const io = slot(i);
    io.next = r.free;
    r.free = io;
  }
  r.submitted = 0;
  r.inFlight = 0;
}

export function submissionsAt(): usize {
  return ring().submissions;
}

export function completionsAt(): usize {
  return ring().completions;
}

/** Called at the start of a step: the host has taken what the last step submitted. */
export function ringTaken(): void {
  ring().submitted = 0;
}

export function submissionCount(): u32 {
  return ring().submitted;
}

/** Whether the queue has room for what one task run may say without a slot: a GIVE and a DONE. */
export function ringHasRoom(): bool {
  return ring().submitted + 2 <= SUBMISSIONS_MAX;
}

export function completion(index: u32): Completion {
  assert(index < IO_MAX);
  return changetype<Completion>(ring().completions + index * offsetof<Completion>());
}

export function slot(tag: u32): Io {
  assert(tag < IO_MAX);
  return changetype<Io>(ring().slots + tag * offsetof<Io>());
}

/** Takes a slot for an operation, or returns null when all are in flight or the queue is full. */
export function ioBegin(
  task: Task | null,
  op: u32,
  file: u32,
  offset: u64,
  length: u32,
  address: usize,
): Submission | null {
  const r = ring();
  assert(op >= <u32>OP_READ && op <= <u32>OP_HOLES);
  assert(op != OP_WRITE || file == OVERLAY);
  const io = r.free;
  if (io === null || r.submitted + 2 >= SUBMISSIONS_MAX) return null;
  r.free = io.next;
  r.inFlight++;
  io.task = task;
  io.page = 0;
  io.op = op;
  io.file = file;
  io.offset = offset;
  if (task !== null) task.pending++;
  const s = next();
  s.tag = <u32>((changetype<usize>(io) - r.slots) / offsetof<Io>());
  s.op = op;
  s.file = file;
  s.flags = flagsOf(task);
  s.offset = offset;
  s.length = length;
  s.address = <u32>address;
  return s;
}

function flagsOf(task: Task | null): u32 {
  if (task === null) return 0;
  if (task.isJobs) return FLAG_BACKGROUND | FLAG_JOBS;
  return task.isAhead ? FLAG_BACKGROUND | FLAG_AHEAD : 0;
}

/** Gives the slot of a completed operation back. */
export function ioEnd(io: Io): void {
  const r = ring();
  assert(r.inFlight > 0);
  r.inFlight--;
  io.task = null;
  io.next = r.free;
  r.free = io;
}

/** A message to a requester: GIVE or DONE. The caller has made sure of room. */
export function tell(op: u32, request: u32): Submission {
  assert(op == OP_GIVE || op == OP_DONE);
  const s = next();
  s.op = op;
  s.request = request;
  return s;
}

function next(): Submission {
  const r = ring();
  assert(r.submitted < SUBMISSIONS_MAX);
  const s = changetype<Submission>(r.submissions + r.submitted * offsetof<Submission>());
  r.submitted++;
  memory.fill(changetype<usize>(s), 0, offsetof<Submission>());
  return s;
}
