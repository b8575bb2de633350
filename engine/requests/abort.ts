// abort: the job ends as soon as what is in flight has ended; the host cancels its background reads meanwhile.
import { jobActive, theJob } from '../core/job';
import { ON_JOB, wake } from '../core/task';

/** False if there is no job to abort, or its end has been decided already. */
export function jobAbort(): bool {
  if (!jobActive() || theJob().decided) return false;
  theJob().aborted = 1;
  wake(ON_JOB);
  return true;
}
