/** Waiting for a job without holding on to its disk. */
import type { Disk } from '../api/disk.ts';
import { JobStatus } from '../api/job.ts';

const AT_REST = ['completed', 'failed', 'paused'] as const;

/**
 * Resolves when no job of the disk is running (it has ended, or pauses), or by `enough` at the
 * latest; and leaves no listener behind.
 */
export async function untilJobRests(disk: Disk, enough: AbortSignal): Promise<void> {
  const leave = new AbortController();
  const rest = new Promise<void>((resolve) => {
    for (const type of AT_REST)
      disk.addEventListener(type, () => resolve(), { signal: leave.signal });
    enough.addEventListener('abort', () => resolve(), { signal: leave.signal });
  });
  try {
    const info = await disk.info().catch(() => undefined);
    if (info?.status === JobStatus.ACTIVE && !info.paused && !enough.aborted) await rest;
  } finally {
    leave.abort();
  }
}
