// How far the write-backs are: what has been changed and is not on disk yet, who wants it to be,
// and which of them are on stable storage.

import { anyDirty } from '../core/pages';
import { WRITEBACK_PAUSE_MS_MIN } from '../limits';
import { freeCount } from './frees';

/** How far the write-backs are. Their numbers go up, and may begin again from 0. */
@unmanaged
export class Writebacks {
  running: bool;
  wanted: bool;
  /**
   * Only the cache knows of something that was fetched: a crash would make that be fetched again.
   */
  fetched: bool;
  /** Flushes are not to be made oftener than need be. */
  sparing: bool;
  /** The host can give space back to the storage. */
  trimming: bool;
  /** The last one failed: the next waits until somebody asks for it. */
  stalled: bool;
  /** A flush failed: what it covered may be lost, and no later one can tell. */
  lost: bool;
  /** Bytes of data that only the cache's metadata refers to. */
  unwritten: u64;
  /** When the running or last one began, and when the last one ended. */
  begunAt: f64;
  endedAt: f64;
  /** How long the next one waits. */
  pause: f64;
  /** Number of the one that runs, or ran last. */
  started: u32;
  /**
   * Number of the last one that wrote all there was when it started, and of the last such that a
   * barrier followed.
   */
  complete: u32;
  durable: u32;
  /** How many have begun, and the last of these that ended badly, and how it did. */
  begun: u32;
  failedLast: u32;
  failError: i32;
  failDetail: u32;
}

export function writebacks(): Writebacks {
  return changetype<Writebacks>(memory.data(offsetof<Writebacks>(), 8));
}

export function writebacksInit(): void {
  memory.fill(changetype<usize>(writebacks()), 0, offsetof<Writebacks>());
  writebacks().pause = WRITEBACK_PAUSE_MS_MIN;
}

/** The host can give space back to the storage. */
export function setTrimming(yes: bool): void {
  writebacks().trimming = yes;
}

/** A flush holds up all else, or costs money. */
export function setSparing(yes: bool): void {
  writebacks().sparing = yes;
}

/** Metadata in the cache now refers to so many more bytes of data. */
export function noteUnwritten(bytes: u64): void {
  assert(bytes > 0);
  writebacks().unwritten += bytes;
}

/** Metadata in the cache now tells of something that was fetched, be it zeros. */
export function noteFetched(): void {
  writebacks().fetched = true;
}

/** The write-back whose snapshot will hold what is changed now. */
export function nextWriteback(): u32 {
  return writebacks().started + 1;
}

export function writebackWanted(): void {
  writebacks().wanted = true;
}

/** The last one failed: who waits for room must do without. */
export function writebackStalled(): bool {
  return writebacks().stalled;
}

export function writebackRunning(): bool {
  return writebacks().running;
}

/**
 * A barrier that covers everything completed before it was issued has succeeded; `covers` was
 * `complete` then.
 */
export function barrierDone(covers: u32): void {
  const w = writebacks();
  assert(<i32>(w.complete - covers) >= 0);
  if (<i32>(covers - w.durable) > 0) w.durable = covers;
}

export function barrierFailed(): void {
  writebacks().lost = true;
}

/** Whether nothing is left to be brought to disk, freed clusters included. */
export function settled(): bool {
  return !writebacks().running && !anyDirty() && freeCount() == 0;
}
