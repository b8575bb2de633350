// map: the extents of a range, each with the image of the chain that decides it. Neighbours that
// are alike are told as one.

import { Extent } from '../core/extent';
import { clusterBytes, imageAt, imageCount, topImage } from '../core/image';
import { takeMemory } from '../core/memory';
import { tell } from '../core/ring';
import { AGAIN, DONE, fail, recordOf, Task, WAIT } from '../core/task';
import { lookupChain } from '../formats/chain';
import { SCAN_ENTRIES_MAX } from '../limits';
import {
  COMPRESSED_DATA,
  DATA,
  EINVAL,
  EXTENT_BYTES,
  EXTENT_DEPTH,
  EXTENT_FILE_BITS,
  EXTENT_HOST,
  EXTENT_LENGTH,
  EXTENT_OFFSET,
  EXTENT_STATE,
  KIND_MAP,
  MAP_BYTES,
  OP_GIVE,
  OVERLAY,
  R_RANGE,
} from '../protocol';

/** An extent as the requester gets it; see README.md. */
@unmanaged
export class ExtentRecord {
  offset: u64;
  length: u64;
  /**
   * Position in the image's file: of data, of zeros or of nothing yet where the cluster keeps a
   * place; else 0.
   */
  host: u64;
  /** The state, and from EXTENT_FILE_BITS on, of data, the number of its file. */
  state: u32;
  depth: u32;
}

@unmanaged
class MapTask extends Task {
  /** Extents that stand in the buffer, and the bytes of the disk that they tell of. */
  extents: u32;
  told: u64;

  /** The depth not to look below: 1 for the overlay alone, and so on. */
  get lastDepth(): u32 {
    return this.argument ? min(<u32>this.argument, imageCount()) : imageCount();
  }
}

/**
 * Gives as many extents as fit into a block, the last of them perhaps going on in the next answer;
 * `value` is how far they reach.
 */
export function runMap(task: Task): i32 {
  const t = recordOf<MapTask>(task, KIND_MAP);
  const end = t.offset + t.length;
  if (end > topImage().size) {
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return WAIT;
  }
  if (!takeMemory(t, MAP_BYTES, 0)) return WAIT;
  mustBeLaidOut();
  // Every hole is told.
  t.holeBlocksMin = 1;
  const bottom = t.lastDepth;
  const most: u32 = MAP_BYTES / EXTENT_BYTES;
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    const at = t.offset + t.told;
    if (at >= end) break;
    const extent = lookupChain(t, OVERLAY, bottom, at, end - at);
    if (extent === null) return WAIT;
    if (!add(t, extent, at)) {
      if (t.extents == most) break;
      t.extents++;
      write(t, extent, at);
    }
    t.told += extent.length;
    if (i == SCAN_ENTRIES_MAX - 1) return AGAIN;
  }
  const give = tell(OP_GIVE, t.request);
  give.address = <u32>t.buffer;
  give.length = t.extents * <u32>EXTENT_BYTES;
  t.value = t.offset + t.told;
  return DONE;
}

/** Lengthens the last extent if what was found goes on like it. */
function add(t: MapTask, extent: Extent, at: u64): bool {
  if (t.extents == 0) return false;
  const last = recordAt(t, t.extents - 1);
  if (
    last.state != stateOf(extent) ||
    last.depth != extent.depth ||
    last.offset + last.length != at
  )
    return false;
  const host = place(extent, at);
  const placed = extent.state == DATA || host != 0;
  const lastPlaced = extent.state == DATA || last.host != 0;
  if (placed != lastPlaced || (placed && last.host + last.length != host)) return false;
  last.length += extent.length;
  return true;
}

function write(t: MapTask, extent: Extent, at: u64): void {
  assert(t.extents > 0);
  const record = recordAt(t, t.extents - 1);
  record.offset = at;
  record.length = extent.length;
  record.host = place(extent, at);
  record.state = stateOf(extent);
  record.depth = extent.depth;
}

/**
 * Where `at` is in the file of the image that decides it. Zeros and absent subclusters are told
 * with their cluster's place.
 */
function place(extent: Extent, at: u64): u64 {
  if (extent.state == DATA) return extent.host;
  if (extent.state == COMPRESSED_DATA || extent.host == 0) return 0;
  return extent.host + (at & (clusterBytes(imageAt(extent.depth)) - 1));
}

/** Its state, and the file of data in which it lies. */
function stateOf(extent: Extent): u32 {
  return extent.state | (extent.state == DATA ? extent.file << EXTENT_FILE_BITS : 0);
}

/** The class above lays out what hosts read by the numbers of the protocol. */
function mustBeLaidOut(): void {
  if (
    offsetof<ExtentRecord>() != EXTENT_BYTES ||
    offsetof<ExtentRecord>('offset') != EXTENT_OFFSET ||
    offsetof<ExtentRecord>('length') != EXTENT_LENGTH ||
    offsetof<ExtentRecord>('host') != EXTENT_HOST ||
    offsetof<ExtentRecord>('state') != EXTENT_STATE ||
    offsetof<ExtentRecord>('depth') != EXTENT_DEPTH
  )
    ERROR('the extents of a map are not laid out as protocol.ts has it');
}

function recordAt(t: Task, index: u32): ExtentRecord {
  assert(index < <u32>(MAP_BYTES / EXTENT_BYTES));
  return changetype<ExtentRecord>(t.buffer + index * EXTENT_BYTES);
}
