// Clusters that the overlay uses no longer. They are given back only when nothing on disk refers to
// them any more: a cluster that was reused or counted free too early would, after a power cut, show
// one place's data at another.

import { clusterBytes } from '../core/image';
import { overlay } from '../formats/qcow2/image';
import { FREES_MAX } from '../limits';

@unmanaged
export class Free {
  /** Position in the file. */
  offset: u64;
  clusters: u32;
  /** The write-back that takes the last reference from the disk; 0 if there never was one. */
  after: u32;
  /** Others may have a part of these clusters: their space must not go back to the storage. */
  shared: bool;
}

let list: usize = 0;
let count: u32 = 0;

export function freesBytes(): usize {
  return FREES_MAX * offsetof<Free>();
}

export function freesInit(at: usize): void {
  list = at;
  count = 0;
}

export function freeCount(): u32 {
  return count;
}

export function clustersFreed(): u64 {
  let sum: u64 = 0;
  for (let i: u32 = 0; i < count; i++) sum += freeAt(i).clusters;
  return sum;
}

/** Whether so many more can be noted; if not, a write-back has to come first. */
export function freesHaveRoom(more: u32): bool {
  return count + more <= FREES_MAX;
}

export function freeAt(index: u32): Free {
  assert(index < FREES_MAX);
  return changetype<Free>(list + index * offsetof<Free>());
}

/**
 * Notes one reference less to clusters, after write-back `after` is on stable storage. With
 * `shared`, compressed clusters beside the one that went may still stand there. The caller has made
 * sure of room.
 */
export function freeLater(offset: u64, clusters: u32, after: u32, shared: bool = false): void {
  assert(clusters > 0 && offset != 0);
  assert((offset & (clusterBytes(overlay()) - 1)) == 0);
  if (count) {
    const last = freeAt(count - 1);
    if (
      last.after == after &&
      last.shared == shared &&
      last.offset + ((<u64>last.clusters) << overlay().clusterBits) == offset
    ) {
      last.clusters += clusters;
      return;
    }
  }
  assert(count < FREES_MAX);
  const entry = freeAt(count++);
  entry.offset = offset;
  entry.clusters = clusters;
  entry.after = after;
  entry.shared = shared;
}

/** Whether anything can be given back, now that write-back `durable` is on stable storage. */
export function anyFree(durable: u32): bool {
  for (let i: u32 = 0; i < count; i++) if (freeAt(i).after <= durable) return true;
  return false;
}

/** Whether the byte at `offset` of the file lies in a cluster that is noted as free. */
export function isFree(offset: u64): bool {
  for (let i: u32 = 0; i < count; i++) {
    const entry = freeAt(i);
    if (
      offset >= entry.offset &&
      offset - entry.offset < (<u64>entry.clusters) << overlay().clusterBits
    )
      return true;
  }
  return false;
}

/** Takes one cluster off the first run that can be given back; 0 when there is none. */
export function peekFree(durable: u32): u64 {
  for (let i: u32 = 0; i < count; i++) if (freeAt(i).after <= durable) return freeAt(i).offset;
  return 0;
}

/** The cluster that peekFree told has been given back. */
export function dropFree(durable: u32): void {
  assert(count > 0);
  for (let i: u32 = 0; i < count; i++) {
    const entry = freeAt(i);
    if (entry.after > durable) continue;
    entry.offset += clusterBytes(overlay());
    if (--entry.clusters) return;
    count--;
    memory.copy(
      changetype<usize>(entry),
      changetype<usize>(freeAt(i + 1)),
      (count - i) * offsetof<Free>(),
    );
    return;
  }
}
