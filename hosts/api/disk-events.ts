/** The names of a disk's events, for who hands on all of them. */
import type { DiskEvent } from './disk.ts';

export const DISK_EVENTS: readonly DiskEvent[] = [
  'progress',
  'completed',
  'failed',
  'paused',
  'resumed',
];
