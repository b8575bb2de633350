// A copy: one chunk that is populated in the background, for the job or for read-ahead.

import { imageCount } from '../core/image';
import { theJob } from '../core/job';
import { COPY_AHEAD, COPY_OF_ZEROES, DONE, fail, ON_JOB, Task, WAIT, wake } from '../core/task';
import { hasFetched, populate, populateBegin } from '../data/populate';
import { ABORTED, OVERLAY, R_ABORTED } from '../protocol';
import { jobCopyFailed } from './stream';

export function runCopy(t: Task): i32 {
  if (t.state == 0) {
    populateBegin(
      t,
      t.offset,
      t.offset + t.length,
      t.argument == COPY_AHEAD ? imageCount() : theJob().bottom,
    );
    t.zeroes = t.argument == COPY_OF_ZEROES;
  }
  // After an abort no copy begins to read; the host cancels the reads that are under way.
  if (t.argument != COPY_AHEAD && theJob().aborted && !hasFetched(t)) {
    fail(t, ABORTED, R_ABORTED, OVERLAY, t.offset);
    return WAIT;
  }
  return populate(t) ? DONE : WAIT;
}

/** Called once when a copy has ended, well or badly. */
export function copyEnded(t: Task): void {
  if (t.argument == COPY_AHEAD) return;
  const job = theJob();
  job.copies--;
  if (t.error) jobCopyFailed(t);
  wake(ON_JOB);
}
