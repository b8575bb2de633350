// A guest's write: in place where the overlay has the whole cluster to itself, else into a new
// cluster that is filled up with what stood around the written bytes.

import { clusterBytes } from '../core/image';
import { lock } from '../core/lock';
import { releaseMemory, takeMemory } from '../core/memory';
import { ioBegin } from '../core/ring';
import {
  clusterMap,
  DONE,
  EXCLUSIVE,
  fail,
  ON_IO,
  ON_SLOT,
  recordOf,
  setClusterMap,
  Task,
  WAIT,
  wait,
} from '../core/task';
import { ACTION, FILL, IN_PLACE, KEEP, OWNED } from '../data/actions';
import { requestBytes } from '../data/chunk';
import { isSole } from '../data/classify';
import {
  GATHERED,
  gather,
  gatherBegin,
  gatherFinish,
  gatherRange,
  NEEDS_SCRATCH,
  scratchFor,
} from '../data/gather';
import { link } from '../data/link';
import { place, storeClusters } from '../data/place';
import { lookup } from '../formats/chain';
import { overlay } from '../formats/qcow2/image';
import {
  COMPRESSED_DATA,
  EINVAL,
  KIND_WRITE,
  OP_TAKE,
  OVERLAY,
  R_RANGE,
  WRITE_FULL,
  WRITE_ZEROES,
  ZEROES,
} from '../protocol';

const LOCK: u32 = 0;
const CLASSIFY: u32 = 1;
const MEMORY: u32 = 2;
const TAKE: u32 = 3;
const HEAD: u32 = 4;
const TAIL: u32 = 5;
const GATHERING: u32 = 6;
const PLACE: u32 = 7;
const STORE: u32 = 8;
const STORED: u32 = 9;
const DROP: u32 = 10;

@unmanaged
class WriteTask extends Task {
  /** The data is zeros, for parts of clusters that cannot be zero clusters. */
  get isZeroes(): bool {
    return (this.argument & WRITE_ZEROES) != 0;
  }

  /** Clusters of zeros are no zero clusters. */
  get isFull(): bool {
    return (this.argument & WRITE_FULL) != 0;
  }
}

export function runWrite(task: Task): i32 {
  const t = recordOf<WriteTask>(task, KIND_WRITE);
  const image = overlay();
  const bits = image.clusterBits;
  const end = t.offset + t.length;
  if (end > image.size || t.length > requestBytes()) {
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return WAIT;
  }
  if (t.state == LOCK) {
    t.clusterFirst = t.offset >> bits;
    t.clusterCount = <u32>(((end - 1) >> bits) - t.clusterFirst) + 1;
    if (!lock(t, EXCLUSIVE, t.clusterFirst << bits, (t.clusterFirst + t.clusterCount) << bits))
      return WAIT;
    t.clusterAt = 0;
    t.state = CLASSIFY;
  }
  if (t.state == CLASSIFY) {
    if (!classify(t)) return WAIT;
    t.state = MEMORY;
  }
  if (t.state == MEMORY) {
    if (!takeRoom(t)) return WAIT;
    t.state = TAKE;
  }
  if (t.state == TAKE) {
    if (!takeData(t)) return wait(t, ON_SLOT);
    gatherBegin(t);
    gatherRange(t, t.bufferFrom, t.offset);
    t.state = HEAD;
  }
  if (t.state == HEAD) {
    if (!edge(t)) return t.state == DROP ? drop(t) : WAIT;
    const to = t.bufferFrom + t.bufferBytes;
    if (to > image.size)
      memory.fill(t.buffer + <usize>(image.size - t.bufferFrom), 0, <usize>(to - image.size));
    gatherRange(t, end, min(to, image.size));
    t.state = TAIL;
  }
  if (t.state == TAIL) {
    if (!edge(t)) return t.state == DROP ? drop(t) : WAIT;
    t.state = GATHERING;
  }
  if (t.state == GATHERING) {
    if (!gatherFinish(t)) return WAIT;
    t.clusterAt = 0;
    t.state = PLACE;
  }
  if (t.state == PLACE) {
    if (!place(t, !t.isFull)) return WAIT;
    t.state = STORE;
  }
  if (t.state == STORE) {
    if (!storeClusters(t, t.offset, end)) return WAIT;
    t.state = STORED;
  }
  if (t.state == STORED) {
    if (t.pending) return wait(t, ON_IO);
    return link(t) ? DONE : WAIT;
  }
  return drop(t);
}

/** Decides for every cluster whether it is written in place. */
function classify(t: WriteTask): bool {
  const image = overlay();
  while (t.clusterAt < t.clusterCount) {
    const offset = (t.clusterFirst + t.clusterAt) << image.clusterBits;
    const extent = lookup(t, image, offset, 1);
    if (extent === null) return false;
    let entry = FILL;
    if (extent.state == ZEROES && t.isZeroes && !image.extendedL2) {
      entry = KEEP;
    } else if (extent.host && extent.state != COMPRESSED_DATA) {
      const sole = isSole(t, image, extent);
      if (sole < 0) return false;
      if (sole) entry = extent.host | (extent.whole ? IN_PLACE : OWNED);
    }
    setClusterMap(t, t.clusterAt++, entry);
  }
  return true;
}

/** Takes memory for what is written, and for what must be filled up around it. */
function takeRoom(t: Task): bool {
  const bits = overlay().clusterBits;
  const end = t.offset + t.length;
  const lastEnd = (t.clusterFirst + t.clusterCount) << bits;
  t.bufferFrom = needsContent(t, 0) ? t.clusterFirst << bits : t.offset;
  const to = needsContent(t, t.clusterCount - 1) ? lastEnd : end;
  const bytes = <u32>(to - t.bufferFrom);
  return takeMemory(t, bytes, hasEdges(t) ? scratchFor(bytes) : 0);
}

/** Has the requester's bytes come into the buffer; false when slots have run out. */
function takeData(t: WriteTask): bool {
  const at = t.buffer + <usize>(t.offset - t.bufferFrom);
  if (t.isZeroes) {
    memory.fill(at, 0, <usize>t.length);
    return true;
  }
  const take = ioBegin(t, OP_TAKE, OVERLAY, 0, <u32>t.length, at);
  if (take === null) return false;
  take.request = t.request;
  return true;
}

function needsContent(t: Task, index: u32): bool {
  assert(index < t.clusterCount);
  const action = clusterMap(t, index) & ACTION;
  return action == FILL || action == OWNED;
}

/** Whether anything around the written bytes has to be gathered. */
function hasEdges(t: Task): bool {
  const mask = clusterBytes(overlay()) - 1;
  const end = t.offset + t.length;
  return (
    (needsContent(t, 0) && (t.offset & mask) != 0) ||
    (needsContent(t, t.clusterCount - 1) && (end & mask) != 0 && end != overlay().size)
  );
}

function edge(t: Task): bool {
  const next = gather(t);
  if (next == NEEDS_SCRATCH) t.state = DROP;
  return next == GATHERED;
}

/** Compressed data was met without scratch memory to inflate it: begin again with some. */
function drop(t: Task): i32 {
  assert(t.buffer != 0);
  if (t.pending) return wait(t, ON_IO);
  releaseMemory(t);
  t.state = MEMORY;
  return runWrite(t);
}
