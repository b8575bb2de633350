// A guest's read. What the overlay lacks is populated first (copy-on-read), under the lock that
// keeps others from fetching it too, and given from the buffer that it was fetched into. What is
// all there, and everything where nothing can be stored, is read as it stands.

import { clusterBytes, imageCount, topImage } from '../core/image';
import { lock, unlock } from '../core/lock';
import { releaseMemory, takeMemory } from '../core/memory';
import { tell } from '../core/ring';
import { DONE, fail, ON_IO, recordOf, SHARED, Task, WAIT, wait } from '../core/task';
import { chunkBytes, grain, requestBytes } from '../data/chunk';
import {
  GATHERED,
  gather,
  gatherBegin,
  gatherFinish,
  gatherRange,
  NEEDS_SCRATCH,
  scratchFor,
} from '../data/gather';
import { unplace } from '../data/place';
import { populate, populateBegin } from '../data/populate';
import { lookup } from '../formats/chain';
import { noteGuestRead } from '../job/readahead';
import {
  ABSENT,
  EINVAL,
  ENOSPC,
  KIND_READ,
  OP_GIVE,
  OVERLAY,
  R_RANGE,
  READ_AT_ONCE,
  READ_MISSED,
  READ_WAITED,
} from '../protocol';

/**
 * Times a read lets missing clusters be populated before it reads the base directly: others may
 * discard them again.
 */
const POPULATE_TRIES_MAX: u32 = 16;

const LOCK: u32 = 0;
const SEEK: u32 = 1;
const MEMORY: u32 = 2;
const GATHER: u32 = 3;
const FINISH: u32 = 4;
const POPULATE: u32 = 5;
const DROP: u32 = 6;

/** Set when the disk is opened: reads store what they fetch. */
let copyOnRead: bool = false;

export function setCopyOnRead(yes: bool): void {
  copyOnRead = yes;
}

/** Whether what is fetched is kept in the overlay. */
export function storesReads(): bool {
  return copyOnRead;
}

@unmanaged
class ReadTask extends Task {
  /** How often it has begun to populate what it lacks. */
  populateTries: u32;
  /** How far the overlay is known to have all of it: a position of the disk. */
  presentTo: u64;
}

export function runRead(task: Task): i32 {
  const t = recordOf<ReadTask>(task, KIND_READ);
  // A read need not fail because there is no room to keep what it has read.
  if (t.error)
    return t.error == ENOSPC && t.populateTries < POPULATE_TRIES_MAX ? withoutStoring(t) : WAIT;
  const image = topImage();
  if (t.offset + t.length > image.size || t.length > requestBytes()) {
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return WAIT;
  }
  if (t.state == LOCK) {
    const mask = clusterBytes(image) - 1;
    if (!lock(t, SHARED, t.offset & ~mask, (t.offset + t.length + mask) & ~mask)) return WAIT;
    t.presentTo = t.offset;
    t.state = copyOnRead && t.populateTries < POPULATE_TRIES_MAX ? SEEK : MEMORY;
  }
  if (t.state == SEEK && !seek(t)) return WAIT;
  if (t.state == POPULATE) {
    if (!populate(t)) return WAIT;
    // Others may have populated it while this one waited for its lock: there is no buffer then.
    return hasAll(t) ? give(t) : again(t);
  }
  if (t.state == MEMORY) {
    if (!takeMemory(t, <u32>t.length, scratchFor(<u32>t.length))) return WAIT;
    t.bufferFrom = t.offset;
    gatherBegin(t);
    gatherRange(t, t.offset, t.offset + t.length);
    t.state = GATHER;
  }
  if (t.state == GATHER) {
    const next = gather(t);
    if (next != GATHERED && next != NEEDS_SCRATCH) return WAIT;
    t.state = next == GATHERED ? FINISH : DROP;
  }
  if (t.state == DROP) return t.pending ? wait(t, ON_IO) : again(t);
  return gatherFinish(t) ? give(t) : WAIT;
}

/** Looks whether the overlay has all of the range, and begins to populate it if not. */
function seek(t: ReadTask): bool {
  const end = t.offset + t.length;
  while (t.presentTo < end) {
    const extent = lookup(t, topImage(), t.presentTo, end - t.presentTo);
    if (extent === null) return false;
    if (extent.state == ABSENT) {
      missed(t);
      return true;
    }
    t.presentTo += extent.length;
  }
  t.state = MEMORY;
  return true;
}

function missed(t: ReadTask): void {
  assert(t.presentTo >= t.offset && t.presentTo < t.offset + t.length);
  unlock(t);
  t.populateTries++;
  t.wantsAll = true;
  const bytes = grain();
  // All of the request, to be given from the buffer; or what is missing, if that is too much at
  // once.
  let from = t.offset - (t.offset % bytes);
  if (t.offset + t.length > from + chunkBytes()) from = t.presentTo - (t.presentTo % bytes);
  populateBegin(
    t,
    from,
    min(roundUp(t.offset + t.length, bytes), from + chunkBytes()),
    imageCount(),
  );
  t.state = POPULATE;
}

/** Whether the buffer is about all that was asked for. */
function hasAll(t: Task): bool {
  const bufferEnd = t.bufferFrom + t.bufferBytes;
  return t.buffer != 0 && t.bufferFrom <= t.offset && t.offset + t.length <= bufferEnd;
}

/** Gives what was asked for from the buffer, which holds it. */
function give(t: ReadTask): i32 {
  assert(hasAll(t));
  const within = t.offset - t.bufferFrom;
  const give = tell(OP_GIVE, t.request);
  give.address = <u32>(t.buffer + <usize>within);
  give.length = <u32>t.length;
  noteGuestRead(t.offset, t.length, t.populateTries > 0);
  t.value = t.populateTries ? READ_MISSED : t.waited ? READ_WAITED : READ_AT_ONCE;
  return DONE;
}

function withoutStoring(t: ReadTask): i32 {
  assert(t.error == ENOSPC);
  if (t.pending) return wait(t, ON_IO);
  if (!unplace(t)) return WAIT;
  t.error = 0;
  t.populateTries = POPULATE_TRIES_MAX;
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
