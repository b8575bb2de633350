// A copy: one chunk that is populated in the background, for the job or for read-ahead.

import { imageCount } from '../core/image';
import { theJob } from '../core/job';
import { DONE, fail, KIND_COPY, Task, taskBegin, WAIT } from '../core/task';
import { hasFetched, populate, populateBegin } from '../data/populate';
import { HOLE_BLOCKS_MIN } from '../limits';
import { ABORTED, OVERLAY, R_ABORTED } from '../protocol';
import { CopyTask, copyTaskOf } from './tasks';

/** Begins to populate [from, to) of the disk; null when the table of tasks is full. */
export function beginCopy(from: u64, to: u64): CopyTask | null {
  assert(from < to);
  const task = taskBegin(KIND_COPY, true);
  if (task === null) return null;
  task.offset = from;
  task.length = to - from;
  task.holeBlocksMin = HOLE_BLOCKS_MIN;
  return copyTaskOf(task);
}

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
