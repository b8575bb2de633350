// The order of a job: ranges that the host hands over one after another, which are copied first.
// Whatever they leave out, or could not be had, the walk from the start to the end finds.

import { clusterBytes } from '../core/image';
import { Job, jobActive, jobRangeAt, theJob } from '../core/job';
import { ON_JOB } from '../core/task';
import { wake } from '../core/wake';
import { overlay } from '../formats/qcow2/image';
import { ORDER_RANGES_MAX } from '../protocol';

/** Where the end of a range stands, behind its beginning. */
const RANGE_TO: usize = 8;

/** The host tells of the next range, or by a length of 0 of the end; false: there is no room. */
export function jobTakesRange(offset: u64, length: u64): bool {
  const j = theJob();
  if (!jobActive() || !j.ordered) return false;
  if (length == 0) {
    j.ordered = false;
    wake(ON_JOB);
    return true;
  }
  if (j.rangesCount == <u32>ORDER_RANGES_MAX) return false;
  const mask = clusterBytes(overlay()) - 1;
  // A hostile one may begin anywhere, and be as long as it likes.
  const from = max(offset & ~mask, j.cursor);
  const to = offset < j.to ? min(offset + min(length, j.to - offset), j.to) : j.to;
  if (from >= to) return true;
  const at = jobRangeAt(j.rangesCount++);
  store<u64>(at, from);
  store<u64>(at + RANGE_TO, to);
  wake(ON_JOB);
  return true;
}

/** Whether a range is under way, or can be taken up now. */
export function hasRange(j: Job): bool {
  if (j.rangeAt < j.rangeTo) return true;
  if (j.rangesCount == 0) return false;
  const at = jobRangeAt(0);
  j.rangeAt = load<u64>(at);
  j.rangeTo = load<u64>(at + RANGE_TO);
  j.rangesFirst = (j.rangesFirst + 1) % ORDER_RANGES_MAX;
  j.rangesCount--;
  return true;
}

/** Leaves the range under way where it is; false when there is none. */
export function leavesRange(j: Job): bool {
  if (j.rangeAt >= j.rangeTo) return false;
  j.rangeAt = j.rangeTo;
  return true;
}
