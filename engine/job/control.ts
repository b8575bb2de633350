// What others do to the job: make it, end it, go on with it, change its speed.

import { now } from '../core/clock';
import { clusterBytes, imageCount } from '../core/image';
import { Job, jobActive, theJob } from '../core/job';
import { ON_JOB, taskAt } from '../core/task';
import { wake, wakeJobs } from '../core/wake';
import { overlay } from '../formats/qcow2/image';
import { TASKS_MAX } from '../limits';
import {
  KIND_STREAM,
  ON_ERROR_IGNORE,
  R_JOB_ACTIVE,
  R_NOT_A_BASE,
  R_RANGE,
  STATUS_ACTIVE,
} from '../protocol';
import { earn } from './handout';

/**
 * Makes the job, or says why there cannot be one. One that was made before and never run is
 * forgotten. `bottom` is the depth of the image to stream down to, 0 for all of the chain.
 */
export function jobBegin(
  from: u64,
  length: u64,
  speed: u64,
  onError: u32,
  keepBase: bool,
  full: bool,
  bottom: u32,
  keeps: bool,
  ordered: bool,
): i32 {
  const size = overlay().size;
  // Its copies would count for the new one.
  for (let i: u32 = 0; i < TASKS_MAX; i++) if (taskAt(i).kind == KIND_STREAM) return R_JOB_ACTIVE;
  if (from == 0 && length == 0) length = size;
  if (from > size || length > size - from) return R_RANGE;
  if (bottom >= imageCount() && bottom != 0) return R_NOT_A_BASE;
  const j = theJob();
  memory.fill(changetype<usize>(j), 0, offsetof<Job>());
  j.status = STATUS_ACTIVE;
  j.from = from;
  j.to = from + length;
  j.counted = from;
  j.cursor = from & ~(clusterBytes(overlay()) - 1);
  j.remaining = length;
  j.speed = speed;
  j.onError = onError;
  j.keepBase = keepBase;
  j.whole = from == 0 && length == size;
  j.full = full;
  j.keeps = keeps;
  j.limited = bottom != 0;
  j.bottom = bottom ? bottom : imageCount();
  j.allowanceAt = now();
  j.ordered = ordered;
  return 0;
}

/** False if there is no job to abort, or its end has been decided already. */
export function jobAbort(): bool {
  if (!jobActive() || theJob().decided) return false;
  theJob().aborted = 1;
  // What its copies wait for may be a guest's, and may not come.
  wakeJobs();
  return true;
}

/** Goes on with a paused job; an error that paused it is forgotten. */
export function jobResume(): void {
  const j = theJob();
  // One that ends the job stays, even if its last copies are still under way.
  if (j.paused && !j.ending && j.onError != ON_ERROR_IGNORE) j.error = 0;
  j.paused = 0;
  j.resumes++;
  j.allowanceAt = now();
  wake(ON_JOB);
}

/** Bytes a second, 0 for unlimited; it holds from now on. */
export function jobSetSpeed(bytesPerSecond: u64): void {
  const j = theJob();
  earn(j);
  j.speed = bytesPerSecond;
  wake(ON_JOB);
}
