// A guest's flush, and the end of a disk.
import { AT_INCOMPATIBLE, INCOMPATIBLE_DIRTY, get64, put64 } from './format/header';
import { OVERLAY, overlay } from './image';
import { SECTOR_BYTES } from './limits';
import { STAGE_ROOTS, pageChanged, pageGet } from './pages';
import { DONE, ON_WRITEBACK, Task, WAIT } from './task';
import { flushed, settled, writebackWanted } from './writeback';

export function runFlush(t: Task): i32 {
  return flushed(t) ? DONE : WAIT;
}

const SETTLE: u32 = 0;
const CLEAN: u32 = 1;
const CLOSED: u32 = 2;

/** Write-backs that closing waits for: clusters freed by one are given back by the next, and counted by the one after. */
const SETTLES_MAX: u32 = 8;

/** Writes everything, gives every freed cluster back, and takes the dirty bit out of the header. The argument says read-only. */
export function runClose(t: Task): i32 {
  if (t.argument) return DONE;
  const image = overlay();
  if (t.state == SETTLE) {
    if (!flushed(t)) return WAIT;
    if (!settled() && ++t.settles < SETTLES_MAX) {
      writebackWanted();
      t.waits = ON_WRITEBACK;
      return WAIT;
    }
    t.state = image.dirty ? CLEAN : CLOSED;
  }
  if (t.state == CLEAN) {
    const header = pageGet(t, OVERLAY, 0);
    if (!header) return WAIT;
    put64(header + AT_INCOMPATIBLE, get64(header + AT_INCOMPATIBLE) & ~INCOMPATIBLE_DIRTY);
    pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
    image.cleaning = true;
    t.state = CLOSED;
  }
  if (!flushed(t)) return WAIT;
  image.dirty = false;
  return DONE;
}
