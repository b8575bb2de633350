// What a write-back does with freed clusters that nothing on disk refers to any more: their space
// goes back to the storage, then their refcounts are lowered, so that they can be taken again.

import { ioBegin } from '../core/ring';
import { ON_IO, ON_SLOT, ON_WRITEBACK, Task } from '../core/task';
import { overlay } from '../formats/qcow2/image';
import { ECORRUPT, OP_DISCARD, OVERLAY } from '../protocol';
import { dropFree, freeAt, freeCount, peekFree } from './frees';
import { release } from './refcounts';

/**
 * Reads of refcounts that one write-back waits for to free clusters; the rest is the next one's.
 * With all of the cache changed but for one page, the table and the block would push each other out
 * for ever, and only this write-back makes room.
 */
const REFCOUNT_READS_MAX: u32 = 64;
/** Bytes that one discard gives back at most. */
const DISCARD_BYTES_MAX: u64 = 1 << 30;

/** How far a write-back is with that. */
@unmanaged
export class GiveBackTask extends Task {
  /** Write-backs that are on stable storage, or will be with the first barrier. */
  covers: u32;
  /** The next freed run whose space goes back to the storage, and the bytes of it that have. */
  punchRun: u32;
  punched: u64;
  /** Reads of refcounts that it has waited for. */
  refcountReads: u32;
}

/**
 * Gives the space of clusters that nothing on disk refers to any more back to the storage, before
 * they count as free: a discard on its way must not hit who takes them next.
 */
export function punch(t: GiveBackTask): bool {
  const image = overlay();
  while (t.punchRun < freeCount()) {
    const entry = freeAt(t.punchRun);
    const bytes = (<u64>entry.clusters) << image.clusterBits;
    if (entry.shared || entry.after > t.covers || t.punched >= bytes) {
      t.punchRun++;
      t.punched = 0;
      continue;
    }
    const piece = <u32>min(DISCARD_BYTES_MAX, bytes - t.punched);
    if (ioBegin(t, OP_DISCARD, OVERLAY, entry.offset + t.punched, piece, 0) === null) {
      t.waits = ON_SLOT;
      return false;
    }
    t.punched += piece;
  }
  if (t.pending) t.waits = ON_IO;
  return t.pending == 0;
}

/** Lowers the refcounts of clusters that nothing on disk refers to any more. */
export function giveBack(t: GiveBackTask): bool {
  const image = overlay();
  while (true) {
    const offset = peekFree(t.covers);
    if (!offset) return true;
    if (!release(t, offset >> image.clusterBits)) {
      if (t.error) {
        if (t.error == ECORRUPT) dropFree(t.covers);
        return false;
      }
      // Without room in the cache for their refcounts, they wait for the next time: this write-back
      // is what makes room.
      if (!(t.waits & ON_WRITEBACK) && ++t.refcountReads < REFCOUNT_READS_MAX) return false;
      t.waits = 0;
      return true;
    }
    dropFree(t.covers);
  }
}
