/**
 * What is remembered of each disk in IndexedDB, so that a page can list disks without opening them
 * and take up a job after a reload. The disks themselves are files (opfs.ts): a record that is lost
 * costs nothing but what it says, and never makes a disk fail.
 */

import type { UseStore } from 'idb-keyval';
import { createStore, del, get, update } from 'idb-keyval';
import type { StreamOptions } from '../api/job.ts';

/** A job as it can be started again. */
export interface RememberedJob extends Omit<StreamOptions, 'signal' | 'nonblock'> {
  /** It was told to pause. */
  paused?: boolean;
}

/**
 * A disk in this browser. What is not known of one whose record was lost is missing until it is
 * opened again.
 */
export interface DiskRecord {
  /** The name it is opened by. */
  name: string;
  /** Bytes of the disk, as the guest sees it. */
  size?: number;
  /**
   * The base: its URL or name, and its identity when the disk was last opened. Missing when the
   * disk stands alone.
   */
  base?: { name: string; identity?: string };
  /** Bytes that are not populated yet. */
  remaining?: number;
  /** Milliseconds since 1970. */
  lastUsed?: number;
  /** The job that was under way when the disk was last used: see `resumeJob`. */
  job?: RememberedJob;
  /**
   * The state of its machine that `saveState` has put beside the disk: bytes, and when, in
   * milliseconds since 1970.
   */
  state?: { size: number; saved: number };
}

let store: UseStore | undefined;
let warned = false;

function records(): UseStore {
  return (store ??= createStore('millrace', 'disks'));
}

export function recallDisk(name: string): Promise<DiskRecord | undefined> {
  return attempt(() => get<DiskRecord>(name, records()));
}

/** Changes what is remembered; calls take effect in their order. */
export async function rememberDisk(name: string, change: Partial<DiskRecord>): Promise<void> {
  await attempt(() =>
    update<DiskRecord>(name, (record) => ({ ...record, ...change, name }), records()),
  );
}

export async function forgetDisk(name: string): Promise<void> {
  await attempt(() => del(name, records()));
}

/**
 * The catalogue is a convenience: where the browser refuses it, that is said once, and the disks
 * work without.
 */
async function attempt<T>(action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    if (!warned) console.warn(`millrace: the catalogue of disks cannot be kept: ${String(error)}`);
    warned = true;
    return undefined;
  }
}
