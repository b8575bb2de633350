// A copy: one chunk that is populated in the background, for the job or for read-ahead.

import { imageCount } from '../core/image';
import { theJob } from '../core/job';
import { DONE, fail, ON_JOB, Task, WAIT, wake } from '../core/task';
import { hasFetched, populate, populateBegin } from '../data/populate';
import { ABORTED, OVERLAY, R_ABORTED } from '../protocol';
import { jobCopyFailed } from './stream';

export function runCopy(t: Task): i32 {
  assert(t.background && t.length > 0);
  if (!t.populating) {
    const bottom = t.isJobs ? theJob().bottom : imageCount();
    populateBegin(t, t.offset, t.offset + t.length, bottom);
  }
  // After an abort no copy begins to read; the host cancels the reads that are under way.
  if (t.isJobs && theJob().aborted && !hasFetched(t)) {
    fail(t, ABORTED, R_ABORTED, OVERLAY, t.offset);
    return WAIT;
  }
  return populate(t) ? DONE : WAIT;
}

/** Called once when a copy has ended, well or badly. */
export function copyEnded(t: Task): void {
  assert(t.pending == 0);
  if (!t.isJobs) return;
  const job = theJob();
  job.copies--;
  if (t.error) jobCopyFailed(t);
  wake(ON_JOB);
}
