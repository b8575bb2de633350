// A guest's flush, and the end of a disk.

import { be64, putBe64 } from '../core/bytes';
import { lock } from '../core/lock';
import { STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { DONE, EXCLUSIVE, recordOf, Task, WAIT } from '../core/task';
import { AT_INCOMPATIBLE, INCOMPATIBLE_DIRTY } from '../formats/qcow2/header';
import { overlay } from '../formats/qcow2/image';
import { SECTOR_BYTES } from '../limits';
import { flushed, settle } from '../overlay/flush';
import { CLOSE_READ_ONLY, KIND_CLOSE, OVERLAY } from '../protocol';

export function runFlush(t: Task): i32 {
  return flushed(t) ? DONE : WAIT;
}

const SETTLE: u32 = 0;
const CLEAN: u32 = 1;
const CLOSED: u32 = 2;

@unmanaged
class CloseTask extends Task {
  /** Nothing may be written. */
  get isReadOnly(): bool {
    return this.argument == CLOSE_READ_ONLY;
  }
}

/**
 * Writes everything, gives every freed cluster back, and takes the dirty bit out of the header. The
 * disk may go on afterwards: whatever is changed then sets the bit again.
 */
export function runClose(task: Task): i32 {
  const t = recordOf<CloseTask>(task, KIND_CLOSE);
  // What others are halfway through ends first: it would leave clusters behind that nothing refers
  // to yet, and I/O on closed files.
  if (!lock(t, EXCLUSIVE, 0, u64.MAX_VALUE)) return WAIT;
  if (t.isReadOnly) return DONE;
  const image = overlay();
  if (t.state == SETTLE) {
    if (!settle(t)) return WAIT;
    t.state = image.dirty ? CLEAN : CLOSED;
  }
  if (t.state == CLEAN) {
    const header = pageGet(t, OVERLAY, 0);
    if (!header) return WAIT;
    putBe64(header + AT_INCOMPATIBLE, be64(header + AT_INCOMPATIBLE) & ~INCOMPATIBLE_DIRTY);
    pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
    image.cleaning = true;
    t.state = CLOSED;
  }
  if (!flushed(t)) return WAIT;
  image.dirty = false;
  // Whoever changes something from now on sets the bit again.
  image.cleaning = false;
  return DONE;
}

/**
 * Called once when a close has ended. Of one that failed, nobody knows what the header on disk says
 * now: the next change says it anew.
 */
export function closeEnded(t: Task): void {
  if (!t.error || !overlay().cleaning) return;
  overlay().cleaning = false;
  overlay().dirty = false;
}
