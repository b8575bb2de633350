// Read-ahead: when a guest reads a remote base from one end to the other, what comes next is
// fetched before it is asked for. The window doubles while reads go on where the last one ended,
// and halves when they do not.

import { clusterBytes, imageCount } from '../core/image';
import { chunkBytes } from '../data/populate';
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

let expected: u64 = 0;
let frontier: u64 = 0;
let window: u64 = 0;
let enabled: bool = false;

export function readaheadInit(yes: bool): void {
  enabled = yes;
  expected = 0;
  frontier = 0;
  window = 0;
}

/** A guest read has been answered; `missed` if the base was needed for it. */
export function noteGuestRead(offset: u64, length: u64, missed: bool): void {
  if (!enabled || imageCount() < 2) return;
  const sequential = offset >= expected && offset <= expected + SKIP_BYTES_MAX;
  expected = offset + length;
  if (!sequential) {
    // A read of what is there already says nothing about where the base will be needed.
    if (missed) window /= 2;
    if (window < WINDOW_BYTES_MIN) window = 0;
    frontier = expected;
    return;
  }
  if (missed) window = max(window, WINDOW_BYTES_MIN);
  if (window == 0) return;
  frontier = max(frontier, expected);
  // Ask for the next piece when half of the window has been used up; the one after that may be
  // larger.
  if (frontier - expected > window / 2) return;
  const to = min(expected + window, overlay().size);
  window = min(window * 2, WINDOW_BYTES_MAX);
  while (frontier < to) {
    const end = min(to, frontier - (frontier % clusterBytes(overlay())) + chunkBytes());
    if (beginCopy(frontier, end) === null) return;
    frontier = end;
  }
}
