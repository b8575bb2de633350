// refer: gives the overlay another base in its header, or none. What the overlay lacks then shows
// from there: whoever asks for it has seen to that, and closes the disk after it.

import { lock } from '../core/lock';
import { DONE, EXCLUSIVE, Task, WAIT } from '../core/task';
import { referToBacking, writeBackingAhead } from '../overlay/backing';
import { flushed } from '../overlay/flush';

const AHEAD: u32 = 0;
const FLUSH: u32 = 1;
const REFER: u32 = 2;
const REFERRED: u32 = 3;

/** The texts of backing.ts tell the new base; an empty name means none. */
export function runRefer(t: Task): i32 {
  if (t.state == AHEAD) {
    if (!writeBackingAhead(t)) return WAIT;
    t.state = FLUSH;
  }
  if (t.state == FLUSH) {
    if (!flushed(t)) return WAIT;
    t.state = REFER;
  }
  if (t.state == REFER) {
    if (!lock(t, EXCLUSIVE, 0, u64.MAX_VALUE) || !referToBacking(t)) return WAIT;
    t.state = REFERRED;
  }
  return flushed(t) ? DONE : WAIT;
}
