// Gathering: filling a task's buffer with what the disk shows. Data is read straight into
// its place; compressed clusters go through the task's scratch memory:
//
//   scratch: | compressed streams, as read ->            <- entries: Inflation, one a cluster |
//
// Streams that lie next to each other in the file are read by one operation. A compressed cluster
// of which only a part is wanted is inflated behind its stream in the scratch, alone, and the part
// is copied out. What streams.ts has fetched ahead is in the scratch already, with its entries.

import { Extent } from '../core/extent';
import { clusterBytes, imageAt, imageCount, imageOf, inflatedBytes } from '../core/image';
import { ioBegin, slot } from '../core/ring';
import { ON_IO, ON_SLOT, Task, WAIT, wait } from '../core/task';
import { lookupChain } from '../formats/chain';
import { GAP_BYTES_MAX, SECTOR_BYTES } from '../limits';
import { ABSENT, COMPRESSED_DATA, OP_DECOMPRESS, OP_READ, OVERLAY, ZEROES } from '../protocol';

/**
 * What gather returns: WAIT, or one of these. GATHERED says that all is under way; gatherFinish
 * tells when it has come.
 */
export const GATHERED: i32 = 10;
/**
 * Compressed clusters need scratch memory and the task has none: give back everything and begin
 * again with it.
 */
export const NEEDS_SCRATCH: i32 = 12;
export const GATHER_FAILED: i32 = 13;

/** Phases: looking up and reading; waiting for streams; inflating. */
const PLAN: u32 = 0;
const READ: u32 = 1;
const INFLATE: u32 = 2;

/** Beside the methods of compression: data that was fetched along with streams, and is copied. */
export const STORED: u32 = 255;
/** A stream that goes into the overlay as it is: see keep.ts. */
export const KEPT: u32 = 254;

/**
 * A stream in the scratch, where it is to be inflated to, and where it came from: a position in a
 * file.
 */
@unmanaged
export class Inflation {
  source: u32;
  bytes: u32;
  target: u32;
  targetBytes: u32;
  method: u32;
  file: u32;
  host: u64;
  /** Of one that is kept: where its sectors stand in the overlay, 0 until they have a place. */
  place: u64;
}

export const ENTRY_BYTES: u32 = 40;

/**
 * Scratch bytes that a buffer of so many bytes needs, if any image of the chain may hold compressed
 * clusters.
 */
export function scratchFor(bufferBytes: u32): u32 {
  let largest: u64 = 0;
  for (let i: u32 = 0; i < imageCount(); i++) {
    const image = imageAt(i);
    if (image.compressedSeen) largest = max(largest, clusterBytes(image));
  }
  if (!largest) return 0;
  return max(bufferBytes + 65536, <u32>(largest * 2) + 2 * SECTOR_BYTES + 2 * ENTRY_BYTES);
}

/**
 * Starts gathering into the task's buffer, of which nothing is filled yet; gatherRange says what.
 */
export function gatherBegin(t: Task): void {
  t.gatherAt = 0;
  t.gatherTo = 0;
  if (t.streamed) return;
  t.gatherPhase = PLAN;
  t.entries = 0;
  t.entriesIssued = 0;
  t.scratchUsed = 0;
  t.runOpen = false;
  t.partOpen = false;
  t.partReady = false;
}

/** The next range of the disk to be gathered. */
export function gatherRange(t: Task, from: u64, to: u64): void {
  assert(from <= to);
  t.gatherAt = from;
  t.gatherTo = to;
}

/** Goes on gathering. */
export function gather(t: Task): i32 {
  while (true) {
    if (t.error) return GATHER_FAILED;
    if (t.gatherPhase != PLAN) {
      if (!inflateAll(t)) return t.error ? GATHER_FAILED : WAIT;
      continue;
    }
    if (t.gatherAt >= t.gatherTo) return GATHERED;
    const extent = lookupChain(t, OVERLAY, imageCount(), t.gatherAt, t.gatherTo - t.gatherAt);
    if (extent === null) return t.error ? GATHER_FAILED : WAIT;
    const next = take(t, extent);
    if (next) return next;
  }
}

/**
 * Waits until everything that was gathered is in the buffer. False: the task waits or has failed.
 */
export function gatherFinish(t: Task): bool {
  if (t.entries || t.gatherPhase != PLAN) {
    if (t.gatherPhase == PLAN) t.gatherPhase = READ;
    if (!inflateAll(t)) return false;
  }
  if (t.pending) t.waits = ON_IO;
  return t.pending == 0 && t.error == 0;
}

/** Deals with what the lookup found at gatherAt; 0 to go on. */
function take(t: Task, extent: Extent): i32 {
  assert(t.buffer != 0 && t.gatherAt >= t.bufferFrom);
  assert(t.gatherAt - t.bufferFrom + extent.length <= t.bufferBytes);
  const target = t.buffer + <usize>(t.gatherAt - t.bufferFrom);
  const length = <u32>extent.length;
  if (extent.state == ABSENT || extent.state == ZEROES) {
    memory.fill(target, 0, length);
  } else if (!t.streamed) {
    if (extent.state == COMPRESSED_DATA) return takeCompressed(t, extent, target);
    if (ioBegin(t, OP_READ, extent.file, extent.host, length, target) === null)
      return wait(t, ON_SLOT);
  }
  t.gatherAt += length;
  return 0;
}

function takeCompressed(t: Task, extent: Extent, target: usize): i32 {
  assert(extent.bytes > 0);
  const image = imageOf(extent.image);
  const length = <u32>extent.length;
  const bytes = <u32>extent.bytes;
  image.compressedSeen = true;
  const inflated = <u32>inflatedBytes(image, t.gatherAt);
  if (t.scratchBytes < scratchFor(t.bufferBytes)) return NEEDS_SCRATCH;
  const within = <u32>(t.gatherAt & (clusterBytes(image) - 1));
  if (length != inflated) return takePart(t, extent, target, within, inflated);
  if (t.partReady || t.partOpen) dropPart(t);
  if (!addToRun(t, extent.file, extent.host, bytes)) {
    if (!closeRun(t)) return WAIT;
    // Not a neighbour: the next turn opens a run of its own. No room: what has been gathered is
    // inflated first.
    if (!roomFor(t, bytes)) t.gatherPhase = READ;
    return 0;
  }
  const source = t.runAddress + <usize>(extent.host - t.runFrom);
  addEntry(t, extent, image.compression, source, bytes, target, inflated);
  t.gatherAt += length;
  return 0;
}

/**
 * Adds what stands there to the open run of neighbours, or opens one; false if the run must be
 * closed or the scratch be emptied first.
 */
export function addToRun(t: Task, file: u32, host: u64, bytes: u32): bool {
  assert(bytes > 0 && t.scratch != 0);
  const end = host + bytes;
  if (t.runOpen) {
    if (!isNear(t, file, host) || !roomFor(t, end > t.runTo ? <u32>(end - t.runTo) : 0))
      return false;
    if (end > t.runTo) {
      t.scratchUsed += <u32>(end - t.runTo);
      t.runTo = end;
    }
    return true;
  }
  if (!roomFor(t, bytes)) return false;
  t.runOpen = true;
  t.runFile = file;
  t.runFrom = host;
  t.runTo = end;
  t.runAddress = t.scratch + t.scratchUsed;
  t.scratchUsed += bytes;
  return true;
}

/** Whether it is fetched with the open run. */
export function isNear(t: Task, file: u32, host: u64): bool {
  const gap = t.withoutGaps ? 0 : GAP_BYTES_MAX;
  return t.runFile == file && host >= t.runFrom && host <= t.runTo + gap;
}

function roomFor(t: Task, bytes: u32): bool {
  return t.scratchUsed + bytes + (t.entries + 2) * ENTRY_BYTES <= t.scratchBytes;
}

/** Issues the read of the open run; false when slots have run out. */
export function closeRun(t: Task): bool {
  assert(!t.runOpen || t.runTo > t.runFrom);
  if (!t.runOpen) return true;
  if (
    ioBegin(t, OP_READ, t.runFile, t.runFrom, <u32>(t.runTo - t.runFrom), t.runAddress) === null
  ) {
    t.waits = ON_SLOT;
    return false;
  }
  t.runOpen = false;
  return true;
}

/**
 * A part of a compressed cluster: once that cluster stands inflated in the scratch, the part is
 * copied.
 */
function takePart(t: Task, extent: Extent, target: usize, within: u32, size: u32): i32 {
  assert(within + <u32>extent.length <= size);
  const length = <u32>extent.length;
  if (t.partReady && t.partFile == extent.file && t.partFrom == extent.host) {
    memory.copy(target, t.scratch + t.scratchBytes - ENTRY_BYTES * 2 - size + within, length);
    t.gatherAt += length;
    return 0;
  }
  if (t.entries || t.runOpen) {
    t.gatherPhase = READ;
    return 0;
  }
  dropPart(t);
  if (t.pending) return wait(t, ON_IO);
  t.scratchUsed = 0;
  const bytes = <u32>extent.bytes;
  const inflated = t.scratch + t.scratchBytes - ENTRY_BYTES * 2 - size;
  const fits = addToRun(t, extent.file, extent.host, bytes);
  assert(fits);
  addEntry(t, extent, imageOf(extent.image).compression, t.runAddress, bytes, inflated, size);
  t.partOpen = true;
  t.partFile = extent.file;
  t.partFrom = extent.host;
  t.gatherPhase = READ;
  return 0;
}

function dropPart(t: Task): void {
  t.partOpen = false;
  t.partReady = false;
}

/** Waits for the streams, then has them inflated; true when all are. */
function inflateAll(t: Task): bool {
  if (!closeRun(t)) return false;
  if (t.gatherPhase == READ) {
    if (t.pending) {
      t.waits = ON_IO;
      return false;
    }
    t.gatherPhase = INFLATE;
  }
  while (t.entriesIssued < t.entries) {
    const entry = entryAt(t, t.entriesIssued);
    if (entry.method == KEPT) {
      t.entriesIssued++;
      continue;
    }
    if (entry.method == STORED) {
      memory.copy(entry.target, entry.source, entry.bytes);
      t.entriesIssued++;
      continue;
    }
    const s = ioBegin(t, OP_DECOMPRESS, entry.method, 0, entry.bytes, entry.source);
    if (s === null) {
      t.waits = ON_SLOT;
      return false;
    }
    s.address2 = entry.target;
    s.length2 = entry.targetBytes;
    // The submission tells the method; what fails is told of the file.
    const io = slot(s.tag);
    io.file = entry.file;
    io.offset = entry.host;
    t.entriesIssued++;
  }
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  t.entries = 0;
  t.entriesIssued = 0;
  t.scratchUsed = 0;
  t.partReady = t.partOpen;
  t.partOpen = false;
  t.gatherPhase = PLAN;
  return true;
}

/**
 * Notes an extent's stream, or data beside streams, which stands at `source` once it has been read.
 */
export function addEntry(
  t: Task,
  extent: Extent,
  method: u32,
  source: usize,
  bytes: u32,
  target: usize,
  targetBytes: u32,
): void {
  assert(bytes > 0 && targetBytes > 0);
  const entry = entryAt(t, t.entries++);
  entry.file = extent.file;
  entry.host = extent.host;
  entry.source = <u32>source;
  entry.bytes = bytes;
  entry.target = <u32>target;
  entry.targetBytes = targetBytes;
  entry.method = method;
  entry.place = 0;
}

export function entryAt(t: Task, index: u32): Inflation {
  return changetype<Inflation>(((t.scratch + t.scratchBytes) & ~7) - (index + 1) * ENTRY_BYTES);
}
