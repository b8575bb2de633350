/** The range of a job that was noted down, on a disk that may have shrunk since. */
import type { StreamOptions } from '../../api/job.ts';

/**
 * The job on what of its range lies in a disk of `size` bytes; undefined for one that lies behind
 * the end altogether, of which nothing is left to do.
 */
export function jobWithin<Job extends Pick<StreamOptions, 'offset' | 'length'>>(
  job: Job,
  size: number,
): Job | undefined {
  const { offset = 0, length } = job;
  if (offset > 0 && offset >= size) return undefined;
  return length === undefined || offset + length <= size ? job : { ...job, length: size - offset };
}
