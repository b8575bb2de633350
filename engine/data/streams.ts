// Streams ahead: background work fetches the compressed streams of its clusters before it takes a buffer for what they inflate to. A
// stream takes a fraction of its cluster, so that many more of them can be on their way over a slow line than there is memory for
// clusters. What does not compress stands among the streams, and comes with them. Measured first, all get a scratch (gather.ts) that
// holds them exactly; the base never changes, so that both walks over its tables, and that of gathering, find the same. What is told of
// a file's holes may change: these walks do without it.

import { arenaAheadBytes } from '../core/arena';
import { clusterBytes, imageCount, imageOf } from '../core/image';
import { ON_IO, Task, takeScratchAhead } from '../core/task';
import {
  foundBytes,
  foundHost,
  foundImage,
  foundLength,
  foundState,
  lookupChain,
} from '../formats/qcow2/mapping';
import { COMPRESSED_DATA, DATA, OVERLAY } from '../protocol';
import {
  addEntry,
  addToRun,
  closeRun,
  ENTRY_BYTES,
  entryAt,
  gatherBegin,
  isNear,
  STORED,
} from './gather';

/** Begins to measure; the ranges follow one by one. */
export function streamsBegin(t: Task): void {
  gatherBegin(t);
  t.streams = 0;
  t.overHoles = true;
}

/** Measures what stands in the current range. False: the task waits or has failed. */
export function measureStreams(t: Task): bool {
  while (t.gatherAt < t.gatherTo) {
    if (!lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt)) return false;
    if (foundState == COMPRESSED_DATA) {
      const image = imageOf(foundImage);
      image.compressedSeen = true;
      t.streams++;
      if (foundLength != clusterBytes(image)) t.partOpen = true;
      measure(t, <u32>foundBytes);
    } else if (foundState == DATA) {
      measure(t, <u32>foundLength);
    }
    t.gatherAt += foundLength;
  }
  return true;
}

/** Adds what stands there to a run of neighbours, just as addToRun will. */
function measure(t: Task, bytes: u32): void {
  t.entries++;
  const end = foundHost + bytes;
  if (!t.runOpen || !isNear(t, foundImage, foundHost)) {
    t.runOpen = true;
    t.runImage = foundImage;
    t.runFrom = foundHost;
    t.runTo = foundHost;
  }
  if (end <= t.runTo) return;
  t.scratchUsed += <u32>(end - t.runTo);
  t.runTo = end;
}

/**
 * Whether there are streams to be fetched ahead: those of whole clusters are. Of small clusters that lie a little apart, what is between
 * them may come to more than there will ever be room for.
 */
export function anyStreams(t: Task): bool {
  return t.streams > 0 && !t.partOpen && scratchBytes(t) <= arenaAheadBytes();
}

function scratchBytes(t: Task): u32 {
  return t.scratchUsed + (t.entries + 2) * ENTRY_BYTES;
}

/** Takes the memory for what has been measured; false: the task waits. The ranges are then walked again. */
export function streamsRoom(t: Task): bool {
  if (!takeScratchAhead(t, scratchBytes(t))) return false;
  gatherBegin(t);
  return true;
}

/** Asks for what stands in the current range; false: the task waits or has failed. */
export function fetchStreams(t: Task): bool {
  while (t.gatherAt < t.gatherTo) {
    if (!lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt)) return false;
    if (foundState == COMPRESSED_DATA) {
      const image = imageOf(foundImage);
      if (!fetch(t, image.compression, <u32>foundBytes, <u32>clusterBytes(image))) return false;
    } else if (foundState == DATA) {
      if (!fetch(t, STORED, <u32>foundLength, <u32>foundLength)) return false;
    }
    t.gatherAt += foundLength;
  }
  return true;
}

function fetch(t: Task, method: u32, bytes: u32, targetBytes: u32): bool {
  if (!addToRun(t, foundImage, foundHost, bytes)) {
    if (!closeRun(t)) return false;
    // There is room: all has been measured.
    const fits = addToRun(t, foundImage, foundHost, bytes);
    assert(fits);
  }
  const source = t.runAddress + <usize>(foundHost - t.runFrom);
  addEntry(t, method, source, bytes, <usize>(t.gatherAt - t.bufferFrom), targetBytes);
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
  for (let i: u32 = 0; i < t.entries; i++) entryAt(t, i).target += <u32>t.buffer;
}
