// What an error means to the job: its policy says whether it ends, pauses, or goes on.

import { clusterBytes } from '../core/image';
import { Job, theJob } from '../core/job';
import { ON_JOB, Task } from '../core/task';
import { wake } from '../core/wake';
import { overlay } from '../formats/qcow2/image';
import { ENOSPC, ON_ERROR_ENOSPC, ON_ERROR_IGNORE, ON_ERROR_STOP } from '../protocol';
import { noteCopyTime } from './pace';
import { CopyTask, copyTaskOf } from './tasks';

export function pausesOn(j: Job, error: i32): bool {
  return j.onError == ON_ERROR_STOP || (j.onError == ON_ERROR_ENOSPC && error == ENOSPC);
}

export function pauseByItself(j: Job): void {
  assert(j.error != 0);
  if (!j.paused) j.stops++;
  j.paused = 1;
}

export function noteError(t: Task, j: Job): void {
  assert(t.error != 0);
  j.error = t.error;
  j.reason = t.reason;
  j.errorImage = t.errorImage;
  j.errorOffset = t.errorOffset;
  j.detail = t.detail;
}

/** Called once when a copy has ended, well or badly. */
export function copyEnded(task: Task): void {
  assert(task.pending == 0);
  if (!task.isJobs) return;
  theJob().copies--;
  if (task.error) copyFailed(copyTaskOf(task));
  else noteCopyTime(theJob(), copyTaskOf(task));
  wake(ON_JOB);
}

/** A copy has ended badly: what that means is the job's policy. */
function copyFailed(copy: CopyTask): void {
  assert(copy.error != 0);
  const j = theJob();
  if (j.aborted) return;
  // Where in the disk it happened, not where in the base's file.
  copy.errorOffset = copy.offset;
  if (j.onError == ON_ERROR_IGNORE) {
    if (!j.error) noteError(copy, j);
    return;
  }
  if (j.ending) return;
  const pauses = pausesOn(j, copy.error);
  // What a resume has come after is tried again without another: it may fail of what has been
  // mended since.
  const stale = pauses && copy.resumes != j.resumes;
  if (!stale) noteError(copy, j);
  if (!pauses) {
    j.ending = true;
    return;
  }
  // What failed is tried again when the job is resumed.
  const from = copy.offset & ~(clusterBytes(overlay()) - 1);
  if (from < j.cursor) {
    j.cursor = from;
    j.holeAt = 0;
  }
  if (!stale) pauseByItself(j);
}
