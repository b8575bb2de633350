// Writes clusters that the host has compressed: streams of the overlay's method, one a cluster.
// They get their places as those of a base do that are kept as they are (keep.ts), several in one
// cluster. Nothing looks at what a stream holds.

import { clusterBytes } from '../core/image';
import { lock } from '../core/lock';
import { takeMemory } from '../core/memory';
import { ioBegin } from '../core/ring';
import {
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
import { ACTION_BITS, KEEP, PACKED } from '../data/actions';
import { requestBytes } from '../data/chunk';
import { ENTRY_BYTES, entryAt, KEPT } from '../data/gather';
import { linkKept, placeKept, sectorsFrom, storeKept } from '../data/keep';
import { overlay } from '../formats/qcow2/image';
import { compressedReaches } from '../formats/qcow2/l2';
import { CHUNK_CLUSTERS_MAX } from '../limits';
import {
  EINVAL,
  KIND_PACK,
  OP_TAKE,
  OVERLAY,
  PACK_LENGTH_BYTES,
  R_RANGE,
  R_TOO_LARGE,
} from '../protocol';

const LOCK: u32 = 0;
const MEMORY: u32 = 1;
const TAKE: u32 = 2;
const TAKEN: u32 = 3;
const PLACE: u32 = 4;
const STORE: u32 = 5;
const STORED: u32 = 6;

/** What is taken: the length of each cluster's stream (u32), then the streams. */
@unmanaged
class PackTask extends Task {
  get dataBytes(): u32 {
    return <u32>this.argument;
  }

  get lengthsBytes(): u32 {
    return this.clusterCount * PACK_LENGTH_BYTES;
  }
}

export function runPack(task: Task): i32 {
  const t = recordOf<PackTask>(task, KIND_PACK);
  const image = overlay();
  const bits = image.clusterBits;
  if (t.state == LOCK) {
    t.clusterFirst = t.offset >> bits;
    t.clusterCount = <u32>((t.length + clusterBytes(image) - 1) >> bits);
    if (!isSound(t)) return WAIT;
    if (!lock(t, EXCLUSIVE, t.clusterFirst << bits, (t.clusterFirst + t.clusterCount) << bits))
      return WAIT;
    t.state = MEMORY;
  }
  // While it waited for the lock, the disk may have become smaller.
  if (t.state == MEMORY) {
    if (!isSound(t) || !takeMemory(t, t.dataBytes, (t.clusterCount + 1) * ENTRY_BYTES)) return WAIT;
    t.state = TAKE;
  }
  if (t.state == TAKE) {
    const take = ioBegin(t, OP_TAKE, OVERLAY, 0, t.dataBytes, t.buffer);
    if (take === null) return wait(t, ON_SLOT);
    take.request = t.request;
    t.state = TAKEN;
  }
  if (t.state == TAKEN) {
    if (t.pending) return wait(t, ON_IO);
    if (!noteStreams(t)) return WAIT;
    t.clusterAt = 0;
    t.state = PLACE;
  }
  if (t.state == PLACE) {
    if (!placeKept(t)) return WAIT;
    t.state = STORE;
  }
  if (t.state == STORE) {
    if (!storeKept(t)) return WAIT;
    t.state = STORED;
  }
  if (t.pending) return wait(t, ON_IO);
  return linkKept(t) ? DONE : WAIT;
}

/** Whether whole clusters are asked for, except that the last may end where the disk does. */
function isSound(t: PackTask): bool {
  const image = overlay();
  const mask = clusterBytes(image) - 1;
  const end = t.offset + t.length;
  if (
    t.length == 0 ||
    t.length > requestBytes() ||
    end > image.size ||
    t.offset & mask ||
    (end & mask && end != image.size) ||
    t.clusterCount > CHUNK_CLUSTERS_MAX ||
    t.dataBytes < t.lengthsBytes ||
    t.dataBytes > t.lengthsBytes + (t.clusterCount << image.clusterBits)
  )
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
  else if (!compressedReaches(image, image.fileSize + 2 * clusterBytes(image)))
    fail(t, EINVAL, R_TOO_LARGE, OVERLAY, t.offset);
  return t.error == 0;
}

/**
 * Notes where each stream stands among those that were taken, as though those were a file of their
 * own: what shares a sector there shares one in the overlay. A cluster without one stays as it is.
 */
function noteStreams(t: PackTask): bool {
  const cluster = clusterBytes(overlay());
  const from = t.buffer + t.lengthsBytes;
  const end = t.dataBytes - t.lengthsBytes;
  let at: u32 = 0;
  t.entries = 0;
  for (let i: u32 = 0; i < t.clusterCount; i++) {
    const bytes = load<u32>(t.buffer + i * PACK_LENGTH_BYTES);
    setClusterMap(t, i, KEEP);
    if (!bytes) continue;
    if (bytes > cluster || bytes > end - at) {
      fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
      return false;
    }
    setClusterMap(t, i, ((<u64>t.entries) << ACTION_BITS) | PACKED);
    const stream = entryAt(t, t.entries++);
    const sectors = <u32>sectorsFrom(at);
    stream.method = KEPT;
    stream.file = OVERLAY;
    stream.host = at;
    stream.source = <u32>(from + sectors);
    stream.bytes = at - sectors + bytes;
    stream.place = 0;
    at += bytes;
  }
  t.streamed = true;
  return true;
}
