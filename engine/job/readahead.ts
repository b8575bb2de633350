// Read-ahead: when a guest reads a remote base from one end to the other, what comes next is
// fetched before it is asked for. The window doubles while reads go on where the last one ended,
// and halves when they do not.

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

/** Where a guest that reads on and on is. */
@unmanaged
class ReadAhead {
  /** Where the next read of such a guest begins. */
  expected: u64;
  /** Up to where has been asked for. */
  frontier: u64;
  /** Bytes to ask for ahead of it; 0: it does not read on and on. */
  window: u64;
  enabled: bool;
}

function readAhead(): ReadAhead {
  return changetype<ReadAhead>(memory.data(offsetof<ReadAhead>(), 8));
}

export function readaheadInit(yes: bool): void {
  const r = readAhead();
  r.enabled = yes;
  r.expected = 0;
  r.frontier = 0;
  r.window = 0;
}

/** A guest read has been answered; `missed` if the base was needed for it. */
export function noteGuestRead(offset: u64, length: u64, missed: bool): void {
  const r = readAhead();
  if (!r.enabled || imageCount() < 2) return;
  const sequential = offset >= r.expected && offset <= r.expected + SKIP_BYTES_MAX;
  r.expected = offset + length;
  if (!sequential) {
    // A read of what is there already says nothing about where the base will be needed.
    if (missed) r.window /= 2;
    if (r.window < WINDOW_BYTES_MIN) r.window = 0;
    r.frontier = r.expected;
    return;
  }
  if (missed) r.window = max(r.window, WINDOW_BYTES_MIN);
  if (r.window == 0) return;
  r.frontier = max(r.frontier, r.expected);
  // Ask for the next piece when half of the window has been used up; the one after that may be
  // larger.
  if (r.frontier - r.expected > r.window / 2) return;
  const to = min(r.expected + r.window, overlay().size);
  r.window = min(r.window * 2, WINDOW_BYTES_MAX);
  while (r.frontier < to) {
    const end = min(to, r.frontier - (r.frontier % clusterBytes(overlay())) + chunkBytes());
    if (beginCopy(r.frontier, end) === null) return;
    r.frontier = end;
  }
}
