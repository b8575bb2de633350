// abort: the job ends as soon as what is in flight has ended; the host cancels its background reads
// meanwhile.
import { jobActive, theJob } from '../core/job';
import { wakeJobs } from '../core/task';

/** False if there is no job to abort, or its end has been decided already. */
export function jobAbort(): bool {
  if (!jobActive() || theJob().decided) return false;
  theJob().aborted = 1;
  // What its copies wait for may be a guest's, and may not come.
  wakeJobs();
  return true;
}
