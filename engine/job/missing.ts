// What the job has yet to do: counted at its beginning, and where that may differ again at its end.

import { basesEnd, imageCount } from '../core/image';
import { Job } from '../core/job';
import { lock, unlock } from '../core/lock';
import { AGAIN, DONE, EXCLUSIVE, Task, WAIT } from '../core/task';
import { lookup, lookupChain } from '../formats/chain';
import { overlay } from '../formats/qcow2/image';
import { SCAN_ENTRIES_MAX } from '../limits';
import { ABSENT } from '../protocol';
import { StreamTask } from './tasks';

/** Whether nothing of the base shows once this job has ended well. */
export function dropsAll(j: Job): bool {
  return j.whole && !j.limited && !keepsBase(j);
}

export function keepsBase(j: Job): bool {
  return j.error != 0 || j.aborted != 0 || j.keepBase || imageCount() < 2 || j.bottom == 1;
}

/**
 * Bytes from `offset` on that the job has to copy; as many that it has not, if that is negative; 0:
 * the task waits or has failed.
 */
export function missingAt(t: Task, j: Job, offset: u64, length: u64): i64 {
  assert(length > 0);
  const extent = lookup(t, overlay(), offset, length);
  if (extent === null) return 0;
  // With nothing below, all that is absent is zeros already, and stays so.
  if (extent.state != ABSENT || imageCount() < 2) return -(<i64>extent.length);
  if (!j.limited) return extent.length;
  const below = lookupChain(t, 1, j.bottom, offset, extent.length);
  if (below === null) return 0;
  return below.state != ABSENT ? below.length : -(<i64>below.length);
}

/**
 * The first look at the range: what is there already is taken off `remaining`, which starts with
 * all of it.
 */
export function count(t: Task, j: Job): i32 {
  if (imageCount() < 2) {
    j.remaining = 0;
    j.counted = j.to;
    j.cursor = j.to;
  }
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.counted >= j.to) return DONE;
    const missing = missingAt(t, j, j.counted, j.to - j.counted);
    if (missing == 0) return WAIT;
    if (missing < 0) j.remaining -= -missing;
    j.counted += abs(missing);
  }
  return AGAIN;
}

/**
 * Counts anew what is missing at the end, where the count that was kept may differ: holes that were
 * left out are missing after all when the base stays; of a job that goes down to an image of the
 * chain, guests may have populated parts; or the first count failed.
 */
export function recount(t: StreamTask, j: Job): i32 {
  if (!(j.holes && keepsBase(j)) && !j.limited && !j.uncounted) return DONE;
  // What a guest populates meanwhile is told, but to such a job: guests must wait. Others may not,
  // for one may hang on its base.
  if (j.limited && !lock(t, EXCLUSIVE, 0, u64.MAX_VALUE)) return WAIT;
  if (!t.recounting) {
    j.missing = 0;
    j.missingTo = j.from;
    t.recounting = true;
  }
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.missingTo >= j.to) {
      j.remaining = j.missing;
      j.holes = 0;
      t.recounting = false;
      unlock(t);
      return DONE;
    }
    const missing = missingAt(t, j, j.missingTo, j.to - j.missingTo);
    if (missing == 0) return WAIT;
    if (missing > 0) j.missing += missing;
    j.missingTo += abs(missing);
  }
  return AGAIN;
}

/** Looks whether anything of the disk still shows through. */
export function findUncovered(t: StreamTask, j: Job): i32 {
  t.showsThrough = false;
  if (dropsAll(j)) return DONE;
  const end = min(overlay().size, basesEnd());
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (t.coveredTo >= end) return DONE;
    const missing = missingAt(t, j, t.coveredTo, end - t.coveredTo);
    if (missing == 0) return WAIT;
    if (missing > 0) {
      t.showsThrough = true;
      return DONE;
    }
    t.coveredTo += -missing;
  }
  return AGAIN;
}
