// Packing: where compressed streams get their places in the overlay's file, one behind the other,
// several in one cluster (QEMU's docs/interop/qcow2.txt, "Compressed Clusters Descriptor"). Each of
// them holds one reference to every cluster that it lies in. What is packed are the whole sectors
// that a stream lies in, so that nothing is written into a sector in which another stands already.

import { clusterBytes } from '../core/image';
import { Task } from '../core/task';
import { overlay } from '../formats/qcow2/image';
import { SECTOR_BYTES } from '../limits';
import {
  allocate,
  allocateWhole,
  EXTEND_CANNOT,
  EXTENDED,
  extend,
  leaveOpen,
  openCluster,
} from './refcounts';

/** Where the last stream ends; what is behind it in its cluster is free while that is left open. */
let end: u64 = 0;

export function packingInit(): void {
  end = 0;
}

/** Where the last stream that was packed ends. */
export function packedTo(): u64 {
  return end;
}

/**
 * Takes a place for the sectors of one stream, of which the first `shared` bytes are the last ones
 * of the stream that was packed last: behind that one, or else at the start of a free cluster.
 * Gives its position in the file; 0: the task waits or has failed, and nothing has changed.
 */
export function pack(t: Task, bytes: u32, shared: u32): u64 {
  assert(bytes > 0 && bytes % SECTOR_BYTES == 0 && shared % SECTOR_BYTES == 0);
  const bits = overlay().clusterBits;
  const last = openCluster();
  if (last) {
    const from = end - shared;
    const next = ((from + bytes - 1) >> bits) + 1;
    const result = extend(t, from >> bits, min(last + 1, next), next);
    if (result == EXTENDED) {
      packed(max(end, from + bytes));
      return from;
    }
    if (result != EXTEND_CANNOT) return 0;
  }
  const clusters = <u32>((bytes + clusterBytes(overlay()) - 1) >> bits);
  const run = clusters == 1 ? allocate(t, 1) : allocateWhole(t, clusters);
  if (run === null) return 0;
  t.searchFrom = 0;
  packed(run.at + bytes);
  return run.at;
}

function packed(to: u64): void {
  end = to;
  leaveOpen((to - 1) >> overlay().clusterBits);
}
