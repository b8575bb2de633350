// A guest's read. What the overlay lacks is populated first (copy-on-read), under the lock that keeps others from fetching it too;
// then everything is read from the overlay. Where nothing can be stored, the base is read directly.

import { clusterBytes, imageCount } from '../core/image';
import { tell } from '../core/ring';
import {
  DONE,
  fail,
  lock,
  ON_IO,
  releaseMemory,
  SHARED,
  Task,
  takeMemory,
  unlock,
  WAIT,
  wait,
} from '../core/task';
import {
  GATHERED,
  gather,
  gatherBegin,
  gatherFinish,
  gatherRange,
  MISSED,
  NEEDS_SCRATCH,
  scratchFor,
} from '../data/gather';
import { unplace } from '../data/place';
import { chunkBytes, grain, populate, populateBegin, requestBytes } from '../data/populate';
import { overlay } from '../formats/qcow2/image';
import { noteGuestRead } from '../job/readahead';
import { EINVAL, ENOSPC, OP_GIVE, OVERLAY, R_RANGE } from '../protocol';

/** Times a read lets missing clusters be populated before it reads the base directly: others may discard them again. */
const POPULATE_TRIES_MAX: u32 = 16;

const LOCK: u32 = 0;
const MEMORY: u32 = 1;
const GATHER: u32 = 2;
const FINISH: u32 = 3;
const DROP: u32 = 4;

/** Set when the disk is opened: reads store what they fetch. */
let copyOnRead: bool = false;

export function setCopyOnRead(yes: bool): void {
  copyOnRead = yes;
}

export function runRead(t: Task): i32 {
  // A read need not fail because there is no room to keep what it has read.
  if (t.error) return t.error == ENOSPC && t.tries < POPULATE_TRIES_MAX ? withoutStoring(t) : WAIT;
  const image = overlay();
  if (t.offset + t.length > image.size || t.length > requestBytes()) {
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return WAIT;
  }
  if (t.state == LOCK) {
    const mask = clusterBytes(image) - 1;
    if (!lock(t, SHARED, t.offset & ~mask, (t.offset + t.length + mask) & ~mask)) return WAIT;
    t.state = MEMORY;
  }
  if (t.state == MEMORY) {
    if (!takeMemory(t, <u32>t.length, scratchFor(<u32>t.length))) return WAIT;
    t.bufferFrom = t.offset;
    gatherBegin(t);
    gatherRange(t, t.offset, t.offset + t.length);
    t.state = GATHER;
  }
  if (t.state == GATHER) {
    const next = gather(t, copyOnRead && t.tries < POPULATE_TRIES_MAX);
    if (next == MISSED || next == NEEDS_SCRATCH) {
      t.cursor = next == MISSED ? t.gatherMissed : 0;
      t.state = DROP;
    } else if (next != GATHERED) {
      return WAIT;
    } else {
      t.state = FINISH;
    }
  }
  if (t.state == FINISH) {
    if (!gatherFinish(t)) return WAIT;
    const give = tell(OP_GIVE, t.request);
    give.address = <u32>t.buffer;
    give.length = <u32>t.length;
    noteGuestRead(t.offset, t.length, t.tries > 0);
    return DONE;
  }
  if (t.state == DROP) {
    if (t.pending) return wait(t, ON_IO);
    releaseMemory(t);
    unlock(t);
    if (t.cursor == 0) {
      t.state = LOCK;
      return runRead(t);
    }
    t.tries++;
    const bytes = grain();
    const from = t.gatherAt - (t.gatherAt % bytes);
    populateBegin(
      t,
      from,
      min(roundUp(t.gatherAt + t.cursor, bytes), from + chunkBytes()),
      imageCount(),
    );
  }
  return populate(t) ? again(t) : WAIT;
}

function withoutStoring(t: Task): i32 {
  if (t.pending) return wait(t, ON_IO);
  if (!unplace(t)) return WAIT;
  t.error = 0;
  t.tries = POPULATE_TRIES_MAX;
  return again(t);
}

function again(t: Task): i32 {
  releaseMemory(t);
  unlock(t);
  t.state = LOCK;
  return runRead(t);
}

function roundUp(value: u64, unit: u64): u64 {
  return ((value + unit - 1) / unit) * unit;
}
