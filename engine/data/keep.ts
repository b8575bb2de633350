// Keeping clusters compressed: a job that is told to takes a compressed cluster of a base into the
// overlay as it is, where its size and method are the overlay's own. Nothing is inflated, and
// nothing looks at what the stream holds. It is fetched with all other streams (streams.ts), in the
// whole sectors that it lies in; those go to a place of their own (packing.ts), and the entry says
// of them what the base's entry says. Like data they are written before anything refers to them.

import { Extent } from '../core/extent';
import { clusterBytes, imageOf } from '../core/image';
import { theJob } from '../core/job';
import { ioBegin } from '../core/ring';
import { clusterMap, ON_SLOT, setClusterMap, Task } from '../core/task';
import { overlay } from '../formats/qcow2/image';
import { compressedEntry, compressedReaches } from '../formats/qcow2/l2';
import { SECTOR_BYTES } from '../limits';
import { pack, packedTo } from '../overlay/packing';
import { noteUnwritten } from '../overlay/progress';
import { COMPRESSED_DATA, FORMAT_QCOW2, OP_WRITE, OVERLAY } from '../protocol';
import { ACTION, ACTION_BITS, FILL, KEEP, PACKED } from './actions';
import { entryAt, Inflation } from './gather';
import { linkEntry } from './link';

/** What a task keeps as it is: nothing, what suits of all that it fetches, or only that for now. */
export const KEEP_NOTHING: u32 = 0;
export const KEEP_AMONG_ALL: u32 = 1;
export const KEEP_ALONE: u32 = 2;

/** Whether what a lookup found at `offset` of the disk can go into the overlay as it is. */
export function isKeepable(extent: Extent, offset: u64): bool {
  const image = overlay();
  const base = imageOf(extent.image);
  const cluster = clusterBytes(image);
  return (
    extent.state == COMPRESSED_DATA &&
    extent.image != <u32>OVERLAY &&
    base.format == FORMAT_QCOW2 &&
    base.clusterBits == image.clusterBits &&
    base.compression == image.compression &&
    // The last cluster of a disk may be cut: what its stream has behind the end is not looked at.
    extent.length == cluster &&
    (offset & (cluster - 1)) == 0 &&
    // Those of other writers may claim more than a cluster: they would lie in three.
    sectorsOf(extent) <= cluster + SECTOR_BYTES &&
    compressedReaches(image, image.fileSize + 2 * cluster)
  );
}

/** Bytes of the sectors that a stream lies in. */
function sectorsOf(extent: Extent): u64 {
  return roundUp(extent.host - sectorsFrom(extent.host) + extent.bytes);
}

function roundUp(bytes: u64): u64 {
  return (bytes + SECTOR_BYTES - 1) & ~(<u64>SECTOR_BYTES - 1);
}

/** Where the sectors of a stream at `host` begin. */
export function sectorsFrom(host: u64): u64 {
  return host & ~(<u64>SECTOR_BYTES - 1);
}

/** Takes places for the streams that are kept, in the order of their clusters. */
export function placeKept(t: Task): bool {
  assert(t.streamed && t.pending == 0);
  while (t.clusterAt < t.clusterCount) {
    const entry = clusterMap(t, t.clusterAt);
    if (isPacked(t, t.clusterAt)) {
      const index = <u32>(entry >> ACTION_BITS);
      const stream = entryAt(t, index);
      stream.place = pack(t, <u32>roundUp(stream.bytes), sharedWithLast(t, index));
      if (!stream.place) return false;
      t.placed = true;
    }
    t.clusterAt++;
  }
  t.clusterAt = 0;
  return true;
}

/**
 * How many bytes of a stream's sectors are the last ones of the stream before it, if that one was
 * packed last: where one of them ends, the next begins.
 */
function sharedWithLast(t: Task, index: u32): u32 {
  if (index == 0) return 0;
  const last = entryAt(t, index - 1);
  const stream = entryAt(t, index);
  const lastFrom = sectorsFrom(last.host);
  const lastTo = lastFrom + roundUp(last.bytes);
  const from = sectorsFrom(stream.host);
  const isNext =
    last.place != 0 &&
    last.place + (lastTo - lastFrom) == packedTo() &&
    last.file == stream.file &&
    from >= lastFrom &&
    from < lastTo;
  return isNext ? <u32>(lastTo - from) : 0;
}

/** Writes the streams to their places: what lies side by side in one operation. */
export function storeKept(t: Task): bool {
  while (t.clusterAt < t.clusterCount) {
    const entry = clusterMap(t, t.clusterAt);
    let next = t.clusterAt + 1;
    if ((entry & ACTION) == PACKED) {
      const first = entryAt(t, <u32>(entry >> ACTION_BITS));
      let bytes = <u64>first.bytes;
      while (next < t.clusterCount) {
        const other = clusterMap(t, next);
        if ((other & ACTION) != PACKED) break;
        const stream = entryAt(t, <u32>(other >> ACTION_BITS));
        if (!liesIn(first, bytes, stream)) break;
        bytes = max(bytes, stream.place - first.place + stream.bytes);
        next++;
      }
      if (ioBegin(t, OP_WRITE, OVERLAY, first.place, <u32>bytes, first.source) === null) {
        t.waits = ON_SLOT;
        return false;
      }
    }
    t.clusterAt = next;
  }
  t.clusterAt = 0;
  return true;
}

/** Whether a stream begins within, or right behind, `bytes` of another, here as in the overlay. */
function liesIn(first: Inflation, bytes: u64, stream: Inflation): bool {
  const distance = stream.place - first.place;
  return (
    stream.place >= first.place &&
    distance <= bytes &&
    stream.source >= first.source &&
    <u64>(stream.source - first.source) == distance
  );
}

/** Lets the L2 tables refer to the streams that have been written. */
export function linkKept(t: Task): bool {
  assert(t.pending == 0 && t.error == 0);
  const image = overlay();
  while (t.clusterAt < t.clusterCount) {
    const entry = clusterMap(t, t.clusterAt);
    if ((entry & ACTION) == PACKED) {
      const stream = entryAt(t, <u32>(entry >> ACTION_BITS));
      assert(stream.place != 0);
      const offset = (t.clusterFirst + t.clusterAt) << image.clusterBits;
      const sectors = roundUp(stream.bytes) / SECTOR_BYTES;
      const at = stream.place + (stream.host - sectorsFrom(stream.host));
      if (!linkEntry(t, image, offset, compressedEntry(image, at, sectors), 0)) return false;
      noteUnwritten(stream.bytes);
      if (t.isJobs) theJob().kept += clusterBytes(image);
      setClusterMap(t, t.clusterAt, KEEP);
    }
    t.clusterAt++;
  }
  t.clusterAt = 0;
  t.placed = false;
  return true;
}

/** Whether anything remains to be filled once what is kept has been linked. */
export function isAllKept(t: Task): bool {
  for (let i: u32 = 0; i < t.clusterCount; i++) if (clusterMap(t, i) != KEEP) return false;
  return true;
}

/** Has what was to be kept inflated after all. */
export function keepNothing(t: Task): void {
  assert(!t.placed);
  for (let i: u32 = 0; i < t.clusterCount; i++) if (isPacked(t, i)) setClusterMap(t, i, FILL);
  t.keeping = KEEP_NOTHING;
  t.kept = 0;
}

export function isPacked(t: Task, index: u32): bool {
  return (clusterMap(t, index) & ACTION) == PACKED;
}
