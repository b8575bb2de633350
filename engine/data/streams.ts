// Streams ahead: background work fetches the compressed streams of its clusters before it takes a
// buffer for what they inflate to. A stream takes a fraction of its cluster, so that many more of
// them can be on their way over a slow line than there is memory for clusters. What does not
// compress stands among the streams, and comes with them. Measured first, all get a scratch
// (gather.ts) that holds them exactly; the base never changes, so that both walks over its tables,
// and that of gathering, find the same. What is told of a file's holes may change: these walks do
// without it.

import { arenaAheadBytes } from '../core/arena';
import { Extent } from '../core/extent';
import { imageCount, imageOf, inflatedBytes } from '../core/image';
import { takeScratchAhead } from '../core/memory';
import { ON_IO, setClusterMap, Task } from '../core/task';
import { lookupChain } from '../formats/chain';
import { overlay } from '../formats/qcow2/image';
import { COMPRESSED_DATA, DATA, OVERLAY } from '../protocol';
import { ACTION_BITS, PACKED } from './actions';
import {
  addEntry,
  addToRun,
  closeRun,
  ENTRY_BYTES,
  entryAt,
  gatherBegin,
  isNear,
  KEPT,
  STORED,
} from './gather';
import { isKeepable, isPacked, KEEP_ALONE, KEEP_AMONG_ALL, sectorsFrom } from './keep';

/** Begins to measure; the ranges follow one by one. */
export function streamsBegin(t: Task): void {
  gatherBegin(t);
  t.streams = 0;
  t.overHoles = true;
  t.withoutGaps = t.keeping == KEEP_ALONE;
}

/** Measures what stands in the current range. False: the task waits or has failed. */
export function measureStreams(t: Task): bool {
  while (t.gatherAt < t.gatherTo) {
    const extent = lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt);
    if (extent === null) return false;
    if (extent.state == COMPRESSED_DATA) {
      const image = imageOf(extent.image);
      image.compressedSeen = true;
      t.streams++;
      if (extent.length != inflatedBytes(image, t.gatherAt)) t.partOpen = true;
      if (t.keeping == KEEP_AMONG_ALL && isKeepable(extent, t.gatherAt)) pickOut(t);
      measure(t, extent.file, fetchedFrom(t, extent), extent.host + extent.bytes);
    } else if (extent.state == DATA) {
      measure(t, extent.file, extent.host, extent.host + extent.length);
    }
    t.gatherAt += extent.length;
  }
  return true;
}

/** The cluster at gatherAt is to be kept as it is. */
function pickOut(t: Task): void {
  setClusterMap(t, clusterIndex(t), PACKED);
  t.kept++;
}

function clusterIndex(t: Task): u32 {
  return <u32>((t.gatherAt >> overlay().clusterBits) - t.clusterFirst);
}

/** Where what is fetched of the stream at gatherAt begins: if it is kept, with its first sector. */
function fetchedFrom(t: Task, extent: Extent): u64 {
  return t.kept && isPacked(t, clusterIndex(t)) ? sectorsFrom(extent.host) : extent.host;
}

/** Adds what stands there to a run of neighbours, just as addToRun will. */
function measure(t: Task, file: u32, from: u64, end: u64): void {
  assert(end > from);
  t.entries++;
  if (!t.runOpen || !isNear(t, file, from)) {
    t.runOpen = true;
    t.runFile = file;
    t.runFrom = from;
    t.runTo = from;
  }
  if (end <= t.runTo) return;
  t.scratchUsed += <u32>(end - t.runTo);
  t.runTo = end;
}

/**
 * Whether there are streams to be fetched ahead: those of whole clusters are. Of small clusters
 * that lie a little apart, what is between them may come to more than there will ever be room for.
 */
export function anyStreams(t: Task): bool {
  return t.streams > 0 && !t.partOpen && scratchBytes(t) <= arenaAheadBytes();
}

function scratchBytes(t: Task): u32 {
  return t.scratchUsed + (t.entries + 2) * ENTRY_BYTES;
}

/**
 * Takes the memory for what has been measured; false: the task waits. The ranges are then walked
 * again.
 */
export function streamsRoom(t: Task): bool {
  if (!takeScratchAhead(t, scratchBytes(t))) return false;
  gatherBegin(t);
  return true;
}

/** Asks for what stands in the current range; false: the task waits or has failed. */
export function fetchStreams(t: Task): bool {
  while (t.gatherAt < t.gatherTo) {
    const extent = lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt);
    if (extent === null) return false;
    if (extent.state == COMPRESSED_DATA) {
      if (!fetchStream(t, extent)) return false;
    } else if (extent.state == DATA) {
      const bytes = <u32>extent.length;
      if (!fetch(t, extent, extent.host, STORED, bytes, bytes)) return false;
    }
    t.gatherAt += extent.length;
  }
  return true;
}

function fetchStream(t: Task, extent: Extent): bool {
  const image = imageOf(extent.image);
  const inflated = <u32>inflatedBytes(image, t.gatherAt);
  const from = fetchedFrom(t, extent);
  const bytes = <u32>(extent.host + extent.bytes - from);
  const isKept = t.kept != 0 && isPacked(t, clusterIndex(t));
  const index = t.entries;
  if (!fetch(t, extent, from, isKept ? KEPT : image.compression, bytes, inflated)) return false;
  if (isKept) setClusterMap(t, clusterIndex(t), ((<u64>index) << ACTION_BITS) | PACKED);
  return true;
}

/** Asks for `bytes` from `from` on, in which the extent stands. */
function fetch(
  t: Task,
  extent: Extent,
  from: u64,
  method: u32,
  bytes: u32,
  targetBytes: u32,
): bool {
  assert(t.scratch != 0);
  if (!addToRun(t, extent.file, from, bytes)) {
    if (!closeRun(t)) return false;
    // There is room: all has been measured.
    const fits = addToRun(t, extent.file, from, bytes);
    assert(fits);
  }
  const source = t.runAddress + <usize>(from - t.runFrom);
  const target = <usize>(t.gatherAt - t.bufferFrom);
  addEntry(t, extent, method, source, bytes, target, targetBytes);
  return true;
}

/** Waits for all that was asked for; false: the task waits or has failed. */
export function streamsFetched(t: Task): bool {
  if (!closeRun(t)) return false;
  if (t.pending) t.waits = ON_IO;
  if (t.pending || t.error) return false;
  t.streamed = true;
  return true;
}

/** Tells where to inflate to, once the buffer is there. */
export function streamsPlaced(t: Task): void {
  assert(t.streamed && t.buffer != 0);
  for (let i: u32 = 0; i < t.entries; i++) entryAt(t, i).target += <u32>t.buffer;
}
