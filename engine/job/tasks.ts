// The records of the job's own task and of its copies.

import { KIND_COPY, recordOf, Task } from '../core/task';
import { KIND_STREAM } from '../protocol';

/** The job's task. What is of the job, and outlives it, is in core/job.ts. */
@unmanaged
export class StreamTask extends Task {
  /** What is missing is being counted anew. */
  recounting: bool;
  /** Up to where nothing of the disk shows through: a position of the disk. */
  coveredTo: u64;
  /** Something behind that does. */
  showsThrough: bool;
  /** Step of choosing the overlay's method of compression, see method.ts; how far it has looked. */
  methodStep: u32;
  methodSearchedTo: u64;
}

/** One chunk that is populated in the background, for the job or for read-ahead. */
@unmanaged
export class CopyTask extends Task {
  /** Of the job's: how often that had been resumed when it began. */
  resumes: u32;
  begunAt: f64;
  /** So many others were under way then. */
  among: u32;
}

export function streamTaskOf(t: Task): StreamTask {
  return recordOf<StreamTask>(t, KIND_STREAM);
}

export function copyTaskOf(t: Task): CopyTask {
  return recordOf<CopyTask>(t, KIND_COPY);
}
