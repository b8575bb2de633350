// Populating: bringing clusters that the overlay does not have from its base into it. Copy-on-read
// and the job's copies are this one sequence; a range lock makes sure that no cluster is fetched
// twice.

import { clusterBytes, imageCount } from '../core/image';
import { jobAllocatesFull } from '../core/job';
import { lock } from '../core/lock';
import { releaseMemory, takeMemory } from '../core/memory';
import { clusterMap, EXCLUSIVE, ON_IO, Task } from '../core/task';
import { overlay } from '../formats/qcow2/image';
import { CHUNK_CLUSTERS_MAX } from '../limits';
import { noteFetched } from '../overlay/progress';
import { KEEP } from './actions';
import { classify, onlyZeroes } from './classify';
import {
  GATHERED,
  gather,
  gatherBegin,
  gatherFinish,
  gatherRange,
  NEEDS_SCRATCH,
  scratchFor,
} from './gather';
import {
  isAllKept,
  isPacked,
  KEEP_ALONE,
  KEEP_AMONG_ALL,
  KEEP_NOTHING,
  keepNothing,
  linkKept,
  placeKept,
  storeKept,
} from './keep';
import { link } from './link';
import { place, storeClusters } from './place';
import {
  anyStreams,
  fetchStreams,
  measureStreams,
  streamsBegin,
  streamsFetched,
  streamsPlaced,
  streamsRoom,
} from './streams';

/** Steps of `populating`. */
const LOCK: u32 = 1;
const CLASSIFY: u32 = 2;
const MEASURE: u32 = 3;
const ROOM: u32 = 4;
const STREAMS: u32 = 5;
const STREAMED: u32 = 6;
const PACK: u32 = 7;
const WRITE_KEPT: u32 = 8;
const LINK_KEPT: u32 = 9;
const MEMORY: u32 = 10;
const GATHER: u32 = 11;
const PLACE: u32 = 12;
const STORE: u32 = 13;
const STORED: u32 = 14;

/**
 * Starts populating what is absent of [from, to), which is cut to whole clusters of the disk and to
 * one chunk.
 */
export function populateBegin(t: Task, from: u64, to: u64, bottom: u32): void {
  assert(from < to && bottom <= imageCount());
  const bits = overlay().clusterBits;
  const first = from >> bits;
  const end = min(
    (min(to, overlay().size) + clusterBytes(overlay()) - 1) >> bits,
    first + CHUNK_CLUSTERS_MAX,
  );
  t.clusterFirst = first;
  // The disk may have become smaller since the task began.
  t.clusterCount = end > first ? <u32>(end - first) : 0;
  t.clusterAt = 0;
  t.bottom = bottom;
  t.populating = LOCK;
}

/** Whether all that is to be stored, or to be kept as it is, has been read. */
export function hasFetched(t: Task): bool {
  return t.populating > GATHER || (t.populating >= PACK && t.populating <= LINK_KEPT);
}

/**
 * Goes on; true when the range is populated. False: the task waits or has failed. A task that wants
 * all of what it asked for has it in its buffer then, unless all was there already: it has no
 * buffer then.
 */
export function populate(t: Task): bool {
  const bits = overlay().clusterBits;
  if (t.populating == LOCK) {
    if (!lock(t, EXCLUSIVE, t.clusterFirst << bits, (t.clusterFirst + t.clusterCount) << bits))
      return false;
    // While it waited for the lock, the disk may have become smaller.
    const clusters = (overlay().size + clusterBytes(overlay()) - 1) >> bits;
    t.clusterCount =
      clusters > t.clusterFirst ? <u32>min<u64>(t.clusterCount, clusters - t.clusterFirst) : 0;
    t.clusterAt = 0;
    t.populating = CLASSIFY;
  }
  if (t.populating == CLASSIFY) {
    if (!classify(t)) return false;
    if (t.clusterCount == 0) return true;
    t.populating = t.zeroes && onlyZeroes(t) ? STORED : t.background ? MEASURE : MEMORY;
    t.clusterAt = 0;
    t.bufferFrom = t.clusterFirst << bits;
    streamsBegin(t);
  }
  if (t.populating >= MEASURE && t.populating < MEMORY && !fetchAhead(t)) return false;
  if (t.populating == MEMORY) {
    const bytes = t.clusterCount << bits;
    if (!takeMemory(t, bytes, scratchFor(bytes))) return false;
    if (t.streamed) streamsPlaced(t);
    t.clusterAt = 0;
    gatherBegin(t);
    t.populating = GATHER;
  }
  if (t.populating == GATHER) {
    if (!gatherClusters(t)) return false;
    t.clusterAt = 0;
    t.populating = PLACE;
  }
  if (t.populating == PLACE) {
    if (!place(t, !(t.background && jobAllocatesFull()))) return false;
    t.populating = STORE;
  }
  if (t.populating == STORE) {
    if (!storeClusters(t, 0, u64.MAX_VALUE)) return false;
    t.populating = STORED;
  }
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  if (t.error || !link(t)) return false;
  if (t.buffer || t.kept) noteFetched();
  return true;
}

/** Turns to the next run of clusters that need content; false after the last. */
function nextRun(t: Task): bool {
  const image = overlay();
  while (t.clusterAt < t.clusterCount && !isWanted(t, t.clusterAt)) t.clusterAt++;
  if (t.clusterAt == t.clusterCount) return false;
  const from = (t.clusterFirst + t.clusterAt) << image.clusterBits;
  while (t.clusterAt < t.clusterCount && isWanted(t, t.clusterAt)) t.clusterAt++;
  const to = (t.clusterFirst + t.clusterAt) << image.clusterBits;
  gatherRange(t, from, min(to, image.size));
  return true;
}

/** Whether a cluster's content is to be fetched now. */
function isWanted(t: Task, index: u32): bool {
  return t.keeping == KEEP_ALONE ? isPacked(t, index) : clusterMap(t, index) != KEEP;
}

/**
 * Fetches the streams of compressed clusters, before there is a buffer. False: the task waits or
 * has failed.
 */
function fetchAhead(t: Task): bool {
  if (t.populating == MEASURE) {
    do {
      if (!measureStreams(t)) return false;
    } while (nextRun(t));
    t.clusterAt = 0;
    t.overHoles = anyStreams(t);
    if (!t.overHoles && t.kept) return measureAgain(t);
    t.populating = t.overHoles ? ROOM : MEMORY;
  }
  if (t.populating == ROOM) {
    if (!streamsRoom(t)) return false;
    t.populating = STREAMS;
  }
  if (t.populating == STREAMS) {
    do {
      if (!fetchStreams(t)) return false;
    } while (nextRun(t));
    t.populating = STREAMED;
  }
  if (t.populating == STREAMED) {
    if (!streamsFetched(t)) return false;
    t.clusterAt = 0;
    t.populating = t.kept ? PACK : MEMORY;
  }
  return t.populating < PACK || t.populating >= MEMORY || keep(t);
}

/**
 * What is to be kept cannot be fetched along with the rest: it is fetched alone, or if there will
 * never be room even for that, inflated as the rest is.
 */
function measureAgain(t: Task): bool {
  assert(t.populating == MEASURE && t.kept > 0);
  if (t.keeping == KEEP_AMONG_ALL) t.keeping = KEEP_ALONE;
  else keepNothing(t);
  streamsBegin(t);
  return fetchAhead(t);
}

/** Stores the streams that are kept as they are, and goes on with what else there is. */
function keep(t: Task): bool {
  assert(t.kept > 0);
  if (t.populating == PACK) {
    if (!placeKept(t)) return false;
    t.populating = WRITE_KEPT;
  }
  if (t.populating == WRITE_KEPT) {
    if (!storeKept(t)) return false;
    t.populating = LINK_KEPT;
  }
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  if (t.error || !linkKept(t)) return false;
  if (isAllKept(t)) {
    t.populating = STORED;
    return true;
  }
  t.populating = MEMORY;
  if (t.keeping == KEEP_AMONG_ALL) return true;
  // The rest has not been fetched yet.
  releaseMemory(t);
  t.keeping = KEEP_NOTHING;
  t.kept = 0;
  streamsBegin(t);
  t.populating = MEASURE;
  return fetchAhead(t);
}

/** Gathers the runs of clusters that need content. */
function gatherClusters(t: Task): bool {
  assert(t.buffer != 0);
  const image = overlay();
  while (t.gatherAt < t.gatherTo || nextRun(t)) {
    const to = (t.clusterFirst + t.clusterAt) << image.clusterBits;
    if (to > image.size)
      memory.fill(t.buffer + <usize>(image.size - t.bufferFrom), 0, <usize>(to - image.size));
    const next = gather(t);
    if (next == NEEDS_SCRATCH) {
      t.restart = true;
      break;
    }
    if (next != GATHERED) return false;
  }
  if (!t.restart) return gatherFinish(t);
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  t.restart = false;
  releaseMemory(t);
  t.populating = MEMORY;
  return populate(t);
}
