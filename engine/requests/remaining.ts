// remaining: how much of a range is not populated, told by the overlay alone.

import { imageCount, topImage } from '../core/image';
import { AGAIN, DONE, fail, recordOf, Task, WAIT } from '../core/task';
import { lookup } from '../formats/chain';
import { SCAN_ENTRIES_MAX } from '../limits';
import { ABSENT, EINVAL, KIND_REMAINING, OVERLAY, R_RANGE } from '../protocol';

@unmanaged
class RemainingTask extends Task {
  /** Bytes of the range that have been looked at. */
  scanned: u64;
}

/** `value` is the bytes that are missing. */
export function runRemaining(task: Task): i32 {
  const t = recordOf<RemainingTask>(task, KIND_REMAINING);
  const end = t.offset + t.length;
  if (end > topImage().size) {
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return WAIT;
  }
  // Without a base nothing is missing: what is absent is zeros, and stays so.
  if (imageCount() < 2) return DONE;
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    const at = t.offset + t.scanned;
    if (at >= end) return DONE;
    const extent = lookup(t, topImage(), at, end - at);
    if (extent === null) return WAIT;
    if (extent.state == ABSENT) t.value += extent.length;
    t.scanned += extent.length;
  }
  return AGAIN;
}
