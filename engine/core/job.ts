// The job: the state of the one stream that a disk can have at a time, and the count of what it
// still lacks. What the job does is stream.ts's; here is what others tell it and ask of it.
import { ORDER_RANGES_MAX, STATUS_ACTIVE, STATUS_NONE } from '../protocol';
import { imageCount } from './image';

/** The job as the engine has it; reports.ts makes the host's report of it. */
@unmanaged
export class Job {
  status: u32;
  paused: u32;
  aborted: u32;
  error: i32;
  reason: i32;
  errorImage: u32;
  detail: u32;
  /** Counts pauses that the job made by itself. */
  stops: u32;
  errorOffset: u64;
  from: u64;
  to: u64;
  remaining: u64;
  /** Bytes a second, 0 = unlimited. */
  speed: u64;

  // Not for the host.
  onError: u32;
  keepBase: bool;
  full: bool;
  /** Compressed clusters that suit the overlay go into it as they are; how many bytes have. */
  keeps: bool;
  kept: u64;
  /**
   * The range was all of the disk; what the disk gains while the job runs shows zeros and needs no
   * copying.
   */
  whole: bool;
  /** Images from this one down are left; the number of images when all of the chain is streamed. */
  bottom: u32;
  limited: bool;
  /** Where the next copy begins. */
  cursor: u64;
  /** What it copies before it goes on from the cursor: see order.ts. */
  rangeAt: u64;
  rangeTo: u64;
  /** Ranges that wait, in a circle; whether more may come. */
  rangesFirst: u32;
  rangesCount: u32;
  ordered: bool;
  /** Where the copy that was handed out last ends. */
  handedTo: u64;
  /** How far the first count has come; what is populated behind it is not counted yet. */
  counted: u64;
  copies: u32;
  /** How many more than beside a guest there may be, and what the quickest took: see pace.ts. */
  copiesMore: u32;
  copyMsLeast: f64;
  /** How often it has been resumed. */
  resumes: u32;
  /**
   * Bytes left out because no image has anything there; once the base is gone they are zeros all
   * the same.
   */
  holes: u64;
  /** Where the search for the next hole stands, and up to where holes have been counted. */
  holeAt: u64;
  holesTo: u64;
  /** The first count could not be ended: it is made up for at the job's end. */
  uncounted: bool;
  /** What is missing by a later count, and how far that has come. */
  missing: u64;
  missingTo: u64;
  /** An error ends the job once its copies have ended. */
  ending: bool;
  /** What becomes of the base has been decided: abort and pause come too late. */
  decided: bool;
  /** Bytes that may be copied now. */
  allowance: f64;
  allowanceAt: f64;
}

let job: usize = 0;
/** The earliest time at which `step` is wanted again; 0 for none. */
let alarm: f64 = 0;

/** Bytes of a range that waits: where it begins and ends. */
const RANGE_BYTES: i32 = 16;

export function jobBytes(): usize {
  return rangesAt() + <usize>(ORDER_RANGES_MAX * RANGE_BYTES);
}

function rangesAt(): usize {
  return (offsetof<Job>() + 7) & ~7;
}

/** Where the range stands that waits behind so many others. */
export function jobRangeAt(behind: u32): usize {
  assert(behind < <u32>ORDER_RANGES_MAX);
  const index = (theJob().rangesFirst + behind) % ORDER_RANGES_MAX;
  return job + rangesAt() + <usize>(index * RANGE_BYTES);
}

export function jobInit(at: usize): void {
  job = at;
  memory.fill(at, 0, jobBytes());
  theJob().status = STATUS_NONE;
  alarm = 0;
}

export function theJob(): Job {
  return changetype<Job>(job);
}

export function jobActive(): bool {
  return theJob().status == STATUS_ACTIVE;
}

export function jobAllocatesFull(): bool {
  return jobActive() && theJob().full;
}

export function setAlarm(time: f64): void {
  assert(time >= 0);
  alarm = time;
}

export function alarmTime(): f64 {
  return alarm;
}

/**
 * [offset, offset + bytes) has become populated, by a copy of the job or by a guest. A job that
 * streams down to an image of the chain counts only what it copied itself until it counts again at
 * its end: others also populate what it leaves below.
 */
export function jobPopulated(offset: u64, bytes: u64, byJob: bool): void {
  assert(bytes > 0);
  const j = theJob();
  // With nothing below nothing was missing.
  if (imageCount() < 2) return;
  const from = max(offset, j.from);
  const to = min(offset + bytes, j.to);
  if (!jobActive() || (j.limited && !byJob)) return;
  j.remaining -= min(between(from, min(to, j.counted)), j.remaining);
  j.missing -= min(between(from, min(to, j.missingTo)), j.missing);
}

function between(from: u64, to: u64): u64 {
  return to > from ? to - from : 0;
}
