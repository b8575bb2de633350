// Moving a table to a larger place: what the old one holds is copied in the cache, sector by
// sector, with zeros behind it.

import { STAGE_REFCOUNTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { Task } from '../core/task';
import { SECTOR_BYTES } from '../limits';
import { OVERLAY } from '../protocol';

/**
 * Fills the `bytes` at `to` with the `oldBytes` at `from`, then zeros; `t.moved` is how far it
 * has come. False: the task waits or has failed.
 */
export function moveTable(t: Task, from: u64, oldBytes: u64, to: u64, bytes: u64): bool {
  assert(oldBytes <= bytes && (to & (SECTOR_BYTES - 1)) == 0);
  while (bytes > t.moved) {
    // The new one first: behind the end of the file it comes at once, and could come in the other's
    // place.
    const target = pageGet(t, OVERLAY, to + t.moved);
    if (!target) return false;
    const kept = oldBytes > t.moved ? <u32>min<u64>(oldBytes - t.moved, SECTOR_BYTES) : 0;
    const source = kept ? pageGet(t, OVERLAY, from + t.moved) : target;
    if (!source) return false;
    memory.copy(target, source, kept);
    memory.fill(target + kept, 0, SECTOR_BYTES - kept);
    pageChanged(target, SECTOR_BYTES, STAGE_REFCOUNTS);
    t.moved += SECTOR_BYTES;
  }
  return true;
}
