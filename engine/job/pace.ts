// How many copies a job has under way: as many as keep the line to a far base busy. What is above
// that waits in front of all that a guest asks for next, and does not come sooner for it.

import { now } from '../core/clock';
import { guestAtWork } from '../core/guest';
import { Job } from '../core/job';
import { COPIES_MAX, COPIES_WITH_GUEST_MAX } from '../limits';
import { basesAreFar } from './readahead';
import { CopyTask } from './tasks';

/** What a copy may take longer than the quickest, as there are so many. */
const QUEUE_MS_MAX: f64 = 500;

/** The most that may be under way now. */
export function copiesAllowed(j: Job): u32 {
  if (guestAtWork()) return COPIES_WITH_GUEST_MAX;
  return basesAreFar() ? COPIES_WITH_GUEST_MAX + j.copiesMore : COPIES_MAX;
}

/** A copy has fetched what it was for: there may be one more, or are to be fewer. */
export function noteCopyTime(j: Job, copy: CopyTask): void {
  if (copy.zeroes) return;
  const ms = now() - copy.begunAt;
  if (j.copyMsLeast == 0 || ms < j.copyMsLeast) j.copyMsLeast = max<f64>(ms, 1);
  if (ms > j.copyMsLeast + QUEUE_MS_MAX) {
    // With the fewest it is not they that wait for one another: the line has become longer.
    if (j.copiesMore) j.copiesMore--;
    else if (copy.among < COPIES_WITH_GUEST_MAX) j.copyMsLeast = ms;
    return;
  }
  // What a guest or the job's speed held back says nothing about more of them.
  const allowed = COPIES_WITH_GUEST_MAX + j.copiesMore;
  if (j.copies + 1 >= allowed && allowed < COPIES_MAX) j.copiesMore++;
}
