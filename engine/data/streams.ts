// Streams ahead: background work fetches the compressed streams of its clusters before it takes a buffer for what they inflate to. A
// stream takes a fraction of its cluster, so that many more of them can be on their way over a slow line than there is memory for
// clusters. Measured first, they get a scratch (gather.ts) that holds them exactly; the base never changes, so that both walks over its
// tables, and that of gathering, find the same.
import { OVERLAY, clusterBytes, imageCount, imageOf } from '../core/image';
import { GAP_BYTES_MAX } from '../limits';
import { COMPRESSED_DATA, foundBytes, foundHost, foundImage, foundLength, foundState, lookupChain } from '../tables/lookup';
import { ENTRY_BYTES, addEntry, addToRun, closeRun, entryAt, gatherBegin } from './gather';
import { ON_IO, Task, takeScratchAhead } from '../core/task';

/** Begins to measure; the ranges follow one by one. */
export function streamsBegin(t: Task): void {
  gatherBegin(t);
}

/**
 * Measures what the streams of the current range take. False: the task waits or has failed, or only parts of compressed clusters are
 * wanted, which are not fetched ahead: `streamsMeasured` is 0 then.
 */
export function measureStreams(t: Task): bool {
  while (t.gatherAt < t.gatherTo) {
    if (!lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt)) return false;
    if (foundState == COMPRESSED_DATA) {
      const image = imageOf(foundImage);
      image.compressedSeen = true;
      t.entries++;
      if (foundLength != clusterBytes(image)) t.partOpen = true;
      measure(t);
    }
    t.gatherAt += foundLength;
  }
  return true;
}

/** Adds the found stream to a run of neighbours, just as addToRun will. */
function measure(t: Task): void {
  const end = foundHost + foundBytes;
  const near = t.runOpen && t.runImage == foundImage && foundHost >= t.runFrom && foundHost <= t.runTo + GAP_BYTES_MAX;
  if (!near) {
    t.runOpen = true;
    t.runImage = foundImage;
    t.runFrom = foundHost;
    t.runTo = foundHost;
  }
  if (end <= t.runTo) return;
  t.scratchUsed += <u32>(end - t.runTo);
  t.runTo = end;
}

/** Whether there are streams that are worth it: whole clusters' only. */
export function anyStreams(t: Task): bool {
  return t.entries > 0 && !t.partOpen;
}

/** Takes the memory for what has been measured; false: the task waits. The ranges are then walked again. */
export function streamsRoom(t: Task): bool {
  if (!takeScratchAhead(t, t.scratchUsed + (t.entries + 2) * ENTRY_BYTES)) return false;
  gatherBegin(t);
  return true;
}

/** Asks for the streams of the current range; false: the task waits or has failed. */
export function fetchStreams(t: Task): bool {
  while (t.gatherAt < t.gatherTo) {
    if (!lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt)) return false;
    if (foundState == COMPRESSED_DATA) {
      const image = imageOf(foundImage);
      if (!addToRun(t, image)) {
        if (!closeRun(t)) return false;
        assert(addToRun(t, image));
      }
      const source = t.runAddress + <usize>(foundHost - t.runFrom);
      addEntry(t, image, source, <u32>foundBytes, <usize>(t.gatherAt - t.bufferFrom), <u32>clusterBytes(image));
    }
    t.gatherAt += foundLength;
  }
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
