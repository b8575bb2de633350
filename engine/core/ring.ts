// The ring: how the engine hands I/O to the host and learns how it went. The layout is documented in README.md; hosts in any
// language depend on it. Nothing here knows what an operation is for.
import { IO_MAX, SUBMISSIONS_MAX } from '../limits';
import { isJobs, Task } from './task';

/** Operations of a submission. */
export const OP_READ: u32 = 1;
export const OP_WRITE: u32 = 2;
export const OP_FLUSH: u32 = 3;
export const OP_TRUNCATE: u32 = 4;
export const OP_DISCARD: u32 = 5;
/** Inflate `length` bytes at `address` into exactly `length2` bytes at `address2`; `file` is the method: 0 zlib (raw deflate), 1 zstd. */
export const OP_DECOMPRESS: u32 = 6;
/** Copy the requester's bytes from `offset` of its data on into memory (a write's data). */
export const OP_TAKE: u32 = 7;
/** Copy `length` bytes of memory to the requester, to `offset` of its data; done before the next step, never completed. */
export const OP_GIVE: u32 = 8;
/** A request has ended; never completed. */
export const OP_DONE: u32 = 9;
/** Tell where the file has data: a bit for each block of it from `offset` on (HOLE_BLOCK_BITS), in `length` bytes. */
export const OP_HOLES: u32 = 10;

/** Submission flag: nobody but the job waits for it. */
export const FLAG_BACKGROUND: u32 = 1;
/** Submission flag: it is for the job, and may be cancelled when that is aborted. Guests that have come to wait for it try again. */
export const FLAG_JOBS: u32 = 2;

/** A submission queue entry. */
@unmanaged
export class Submission {
  /** Index of the I/O slot, given back in the completion; for TAKE, GIVE and DONE see `request`. */
  tag: u32;
  op: u32;
  /** Index of the image's file. */
  file: u32;
  flags: u32;
  /** Bytes in the file, or in the requester's data; for DONE the value, or the disk offset of the error. */
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
  /** The host's own number for the error behind it, handed back with the request that fails of it. */
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

let submissions: usize = 0;
let completions: usize = 0;
let slots: usize = 0;
let free: Io | null = null;
let submitted: u32 = 0;
let inFlight: u32 = 0;

export function ringBytes(): usize {
  return (
    SUBMISSIONS_MAX * offsetof<Submission>() + IO_MAX * (offsetof<Completion>() + offsetof<Io>())
  );
}

export function ringInit(at: usize): void {
  submissions = at;
  completions = submissions + SUBMISSIONS_MAX * offsetof<Submission>();
  slots = completions + IO_MAX * offsetof<Completion>();
  free = null;
  for (let i: i32 = <i32>IO_MAX - 1; i >= 0; i--) {
    const io = slot(i);
    io.next = free;
    free = io;
  }
  submitted = 0;
  inFlight = 0;
}

export function submissionsAt(): usize {
  return submissions;
}

export function completionsAt(): usize {
  return completions;
}

/** Called at the start of a step: the host has taken what the last step submitted. */
export function ringTaken(): void {
  submitted = 0;
}

export function submissionCount(): u32 {
  return submitted;
}

/** Whether the queue has room for what one task run may say without a slot: a GIVE and a DONE. */
export function ringHasRoom(): bool {
  return submitted + 2 <= SUBMISSIONS_MAX;
}

export function completion(index: u32): Completion {
  return changetype<Completion>(completions + index * offsetof<Completion>());
}

export function slot(tag: u32): Io {
  return changetype<Io>(slots + tag * offsetof<Io>());
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
  const io = free;
  if (io === null || submitted + 2 >= SUBMISSIONS_MAX) return null;
  free = io.next;
  inFlight++;
  io.task = task;
  io.page = 0;
  io.op = op;
  io.file = file;
  io.offset = offset;
  if (task !== null) task.pending++;
  const s = next();
  s.tag = <u32>((changetype<usize>(io) - slots) / offsetof<Io>());
  s.op = op;
  s.file = file;
  s.flags = task !== null && isJobs(task) ? FLAG_BACKGROUND | FLAG_JOBS : 0;
  s.offset = offset;
  s.length = length;
  s.address = <u32>address;
  return s;
}

/** Gives the slot of a completed operation back. */
export function ioEnd(io: Io): void {
  assert(inFlight > 0);
  inFlight--;
  io.task = null;
  io.next = free;
  free = io;
}

/** A message to a requester: GIVE or DONE. The caller has made sure of room. */
export function tell(op: u32, request: u32): Submission {
  const s = next();
  s.op = op;
  s.request = request;
  return s;
}

function next(): Submission {
  assert(submitted < SUBMISSIONS_MAX);
  const s = changetype<Submission>(submissions + submitted * offsetof<Submission>());
  submitted++;
  memory.fill(changetype<usize>(s), 0, offsetof<Submission>());
  return s;
}
