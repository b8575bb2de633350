// Read-ahead: what a guest will ask of a remote base next is fetched before it does. When it reads
// from one end to the other, that is what comes next: the window doubles while reads go on where
// the last one ended, and halves when they do not. When it jumps, that is what lies around: files
// that are read one after another lie near one another, and a round trip costs more than these
// bytes. A guest that does not come back to where it has been is no such one, and gets no more.

import { clusterBytes, imageCount } from '../core/image';
import { chunkBytes } from '../data/chunk';
import { overlay } from '../formats/qcow2/image';
import { beginCopy } from './copy';

/** Bytes of the first window, and of the largest: a few round trips' worth on a fast link. */
const WINDOW_BYTES_MIN: u64 = 256 << 10;
const WINDOW_BYTES_MAX: u64 = 4 << 20;
/**
 * A read that starts so far behind the end of the last one still goes on from it: boot loaders
 * skip.
 */
const SKIP_BYTES_MAX: u64 = 64 << 10;

/** What is fetched around a read that jumped: the part of the disk that it is in, of this size. */
const NEIGHBOURHOOD_BYTES: u64 = 512 << 10;
/** Whether the guest comes back is looked at for so many of them, the last ones. */
const NEIGHBOURHOODS: u32 = 8;
/** So many in a row to which it did not: then only one in so many jumps is a trial. */
const WASTED_MAX: u32 = 4;
const JUMPS_A_TRIAL: u32 = 8;

/** Where a guest is. */
@unmanaged
class ReadAhead {
  /** Where the next read of such a guest begins. */
  expected: u64;
  /** Up to where has been asked for. */
  frontier: u64;
  /** Bytes to ask for ahead of it; 0: it does not read on and on. */
  window: u64;
  /** Where it reads on now, the base was needed: what is there already is not fetched ahead of. */
  isNeeded: bool;
  enabled: bool;
  /** Reads that jumped to where the base was needed. */
  jumps: u32;
  /** Neighbourhoods that were fetched; the last ones' numbers stand in a ring. */
  fetched: u32;
  /** Places in the ring to whose neighbourhood the guest has come back. */
  used: u32;
  /** How many in a row it has not come back to. */
  wasted: u32;
}

function readAhead(): ReadAhead {
  return changetype<ReadAhead>(memory.data(offsetof<ReadAhead>(), 8));
}

/** The number of the neighbourhood in a place of the ring. */
function placeOf(index: u32): usize {
  return memory.data(NEIGHBOURHOODS * sizeof<u64>(), 8) + (index % NEIGHBOURHOODS) * sizeof<u64>();
}

export function readaheadInit(yes: bool): void {
  const r = readAhead();
  r.enabled = yes;
  r.expected = 0;
  r.frontier = 0;
  r.window = 0;
  r.isNeeded = false;
  r.jumps = 0;
  r.fetched = 0;
  r.used = 0;
  r.wasted = 0;
}

/** Whether a request of a base costs a round trip. */
export function basesAreFar(): bool {
  return readAhead().enabled;
}

/** A guest read has been answered; `missed` if the base was needed for it. */
export function noteGuestRead(offset: u64, length: u64, missed: bool): void {
  const r = readAhead();
  if (!r.enabled || imageCount() < 2) return;
  const sequential = offset >= r.expected && offset <= r.expected + SKIP_BYTES_MAX;
  r.expected = offset + length;
  const hasReturned = returnsTo(r, offset / NEIGHBOURHOOD_BYTES);
  if (!sequential) {
    // A read of what is there already says nothing about where the base will be needed.
    if (missed) {
      r.window /= 2;
      if (!hasReturned) fetchAround(r, offset / NEIGHBOURHOOD_BYTES);
    }
    if (r.window < WINDOW_BYTES_MIN) r.window = 0;
    r.isNeeded = missed || hasReturned;
    r.frontier = r.expected;
    return;
  }
  if (missed) {
    r.window = max(r.window, WINDOW_BYTES_MIN);
    r.isNeeded = true;
  }
  if (!r.isNeeded || r.window == 0) return;
  r.frontier = max(r.frontier, r.expected);
  // Ask for the next piece when half of the window has been used up; the one after that may be
  // larger.
  if (r.frontier - r.expected > r.window / 2) return;
  const to = min(r.expected + r.window, overlay().size);
  r.window = min(r.window * 2, WINDOW_BYTES_MAX);
  r.frontier = fetch(r.frontier, to);
}

/** Fetches [from, to) as far as there is room for tasks; returns to where. */
function fetch(from: u64, to: u64): u64 {
  let at = from;
  while (at < to) {
    const end = min(to, at - (at % clusterBytes(overlay())) + chunkBytes());
    if (beginCopy(at, end) === null) break;
    at = end;
  }
  return at;
}

/** Whether a read is where one of the last neighbourhoods was fetched. */
function returnsTo(r: ReadAhead, number: u64): bool {
  for (let i: u32 = 0; i < min(r.fetched, NEIGHBOURHOODS); i++) {
    if (load<u64>(placeOf(i)) != number) continue;
    r.used |= 1 << i;
    r.wasted = 0;
    return true;
  }
  return false;
}

function fetchAround(r: ReadAhead, number: u64): void {
  const isTrial = r.jumps++ % JUMPS_A_TRIAL == 0;
  if (r.wasted >= WASTED_MAX && !isTrial) return;
  const place: u32 = 1 << (r.fetched % NEIGHBOURHOODS);
  if (r.fetched >= NEIGHBOURHOODS && !(r.used & place)) r.wasted++;
  r.used &= ~place;
  store<u64>(placeOf(r.fetched++), number);
  const from = number * NEIGHBOURHOOD_BYTES;
  fetch(from, min(from + NEIGHBOURHOOD_BYTES, overlay().size));
}
