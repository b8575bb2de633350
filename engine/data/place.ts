// Placing: giving clusters of the disk their content in the overlay. A task that stores data goes
// through four steps over its clusters: classify (what stands there), place (take host clusters),
// store (write the data), link (let the L2 table point there: link.ts). Nothing refers to a host
// cluster before its data is written, so that a failure or a crash in between only wastes space.

import { clusterBytes } from '../core/image';
import { ioBegin } from '../core/ring';
import { clusterMap, ON_SLOT, ON_WRITEBACK, setClusterMap, Task } from '../core/task';
import { overlay } from '../formats/qcow2/image';
import { CHUNK_CLUSTERS_MAX } from '../limits';
import { freeLater, freesHaveRoom } from '../overlay/frees';
import { writebackStalled, writebackWanted } from '../overlay/progress';
import { allocate } from '../overlay/refcounts';
import { OP_WRITE, OVERLAY } from '../protocol';
import { ACTION, ACTION_BITS, FILL, IN_PLACE, KEEP, NEW, OWNED, PACKED, ZEROED } from './actions';
import { entryAt } from './gather';
import { dropSpareTable, freeStream, leaveSpareTable } from './link';
import { isZero } from './zero';

/**
 * Takes host clusters for what is to be filled; clusters that are all zeros become zero clusters
 * where `zeroes` allows it.
 */
export function place(t: Task, zeroes: bool): bool {
  assert(t.clusterAt <= t.clusterCount && t.buffer != 0);
  const cluster = <u32>clusterBytes(overlay());
  const sparse = zeroes && overlay().version > 2;
  while (t.clusterAt < t.clusterCount) {
    if ((clusterMap(t, t.clusterAt) & ACTION) != FILL) {
      t.clusterAt++;
      continue;
    }
    if (sparse && isZero(clusterBuffer(t, t.clusterAt), cluster)) {
      setClusterMap(t, t.clusterAt++, ZEROED);
      continue;
    }
    let end = t.clusterAt + 1;
    while (end < t.clusterCount && (clusterMap(t, end) & ACTION) == FILL) {
      if (sparse && isZero(clusterBuffer(t, end), cluster)) break;
      end++;
    }
    const taken = allocate(t, end - t.clusterAt);
    if (taken === null) return false;
    t.placed = true;
    for (let i: u32 = 0; i < taken.count; i++)
      setClusterMap(t, t.clusterAt + i, (taken.at + i * cluster) | NEW);
    t.clusterAt += taken.count;
  }
  t.clusterAt = 0;
  return true;
}

/**
 * Writes the clusters' data: whole ones to their new places, the bytes [from, to) of the disk to
 * those that stay.
 */
export function storeClusters(t: Task, from: u64, to: u64): bool {
  assert(t.clusterAt <= t.clusterCount && from <= to);
  const cluster = clusterBytes(overlay());
  while (t.clusterAt < t.clusterCount) {
    const entry = clusterMap(t, t.clusterAt);
    if (!isWritten(entry)) {
      t.clusterAt++;
      continue;
    }
    let end = t.clusterAt + 1;
    while (
      end < t.clusterCount &&
      continues(clusterMap(t, end), entry, (end - t.clusterAt) * cluster)
    )
      end++;
    let first = (t.clusterFirst + t.clusterAt) * cluster;
    let last = (t.clusterFirst + end) * cluster;
    let host = entry & ~ACTION;
    if ((entry & ACTION) == IN_PLACE) {
      host += max(first, from) - first;
      first = max(first, from);
      last = min(last, to);
    }
    const bytes = <u32>(last - first);
    if (
      ioBegin(t, OP_WRITE, OVERLAY, host, bytes, t.buffer + <usize>(first - t.bufferFrom)) === null
    ) {
      t.waits = ON_SLOT;
      return false;
    }
    overlay().fileSize = max(overlay().fileSize, host + bytes);
    t.clusterAt = end;
  }
  t.clusterAt = 0;
  return true;
}

/** Notes what a failed task took and never linked, to be given back. */
export function unplace(t: Task): bool {
  assert(t.pending == 0);
  if (t.spareTable && freesHaveRoom(1)) dropSpareTable(t);
  // A stream lies in two clusters at most.
  if (t.spareTable || (t.placed && !freesHaveRoom(2 * CHUNK_CLUSTERS_MAX))) {
    // Where no room can be made, they are left taken: the next opening gives them back.
    if (writebackStalled()) {
      leaveSpareTable(t);
      t.placed = false;
      return true;
    }
    writebackWanted();
    t.waits = ON_WRITEBACK;
    return false;
  }
  if (!t.placed) return true;
  for (let i: u32 = 0; i < t.clusterCount; i++) {
    const entry = clusterMap(t, i);
    if ((entry & ACTION) == NEW) freeLater(entry & ~ACTION, 1, 0);
    else if ((entry & ACTION) == PACKED) unpack(t, entry);
    else continue;
    setClusterMap(t, i, KEEP);
  }
  t.placed = false;
  // What comes next takes these clusters: it would make a file longer for which there may be no
  // room.
  writebackWanted();
  return true;
}

function unpack(t: Task, entry: u64): void {
  assert(t.scratch != 0);
  const stream = entryAt(t, <u32>(entry >> ACTION_BITS));
  if (stream.place) freeStream(overlay(), stream.place, stream.bytes, 0);
}

function isWritten(entry: u64): bool {
  const action = entry & ACTION;
  return action == NEW || action == OWNED || action == IN_PLACE;
}

/**
 * Whether a cluster's place follows, `distance` bytes behind, the one of `first`, and it is written
 * in the same way.
 */
function continues(entry: u64, first: u64, distance: u64): bool {
  if (!isWritten(entry) || (entry & ~ACTION) != (first & ~ACTION) + distance) return false;
  return ((entry & ACTION) == IN_PLACE) == ((first & ACTION) == IN_PLACE);
}

function clusterBuffer(t: Task, index: u32): usize {
  assert(index < t.clusterCount);
  return t.buffer + <usize>(((t.clusterFirst + index) << overlay().clusterBits) - t.bufferFrom);
}
