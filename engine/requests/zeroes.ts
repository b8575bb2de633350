// Zeroes and discard over whole clusters: they become zero clusters, and the space they took is
// freed. (Parts of clusters are written as zeros by write.ts, or for a discard left as they are.) A
// discarded cluster becomes a zero cluster too, not an absent one: what lies below in the base must
// not come to light again.

import { clusterBytes, imageCount } from '../core/image';
import { lock } from '../core/lock';
import { AGAIN, DONE, EXCLUSIVE, fail, recordOf, Task, WAIT } from '../core/task';
import { linkCluster } from '../data/link';
import { lookup } from '../formats/chain';
import { overlay } from '../formats/qcow2/image';
import { SCAN_ENTRIES_MAX } from '../limits';
import {
  ABSENT,
  DISCARD_TO_BASE,
  EINVAL,
  KIND_DISCARD,
  KIND_ZERO,
  OVERLAY,
  R_RANGE,
  ZEROES,
} from '../protocol';

/** Of zeroes and of discards alike. */
@unmanaged
class ZeroTask extends Task {
  /** Bytes of the range that are as they are to be. */
  done: u64;

  /** Of a discard: the clusters become absent, for the base holds the same. */
  get isToBase(): bool {
    return this.argument == DISCARD_TO_BASE;
  }
}

export function runZero(task: Task): i32 {
  const t = recordOf<ZeroTask>(task, KIND_ZERO);
  // Version 2 has no zero clusters: the host writes zeros instead.
  if (overlay().version < 3) fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
  return isWhole(t) ? emptyClusters(t, false) : WAIT;
}

export function runDiscard(task: Task): i32 {
  const t = recordOf<ZeroTask>(task, KIND_DISCARD);
  if (!isWhole(t)) return WAIT;
  // Version 2 has no zero clusters, and a discard need not do anything.
  if (overlay().version < 3 && !t.isToBase) return DONE;
  return emptyClusters(t, t.isToBase);
}

/** Whether the range is of whole clusters, except that it may end where the disk does. */
function isWhole(t: Task): bool {
  const mask = clusterBytes(overlay()) - 1;
  const size = overlay().size;
  const end = t.offset + t.length;
  if (end > size || t.offset & mask || (end & mask && end != size))
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
  return t.error == 0;
}

/** Makes the clusters zero clusters, or absent ones. */
function emptyClusters(t: ZeroTask, absent: bool): i32 {
  const image = overlay();
  const cluster = clusterBytes(image);
  const end = t.offset + t.length;
  if (!lock(t, EXCLUSIVE, t.offset, (end + cluster - 1) & ~(cluster - 1))) return WAIT;
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    const at = t.offset + t.done;
    if (at >= end) return DONE;
    const extent = lookup(t, image, at, end - at);
    if (extent === null) return WAIT;
    const whole = min(cluster, end - at);
    const nothing = extent.state == ABSENT && extent.host == 0;
    const asWanted = absent
      ? nothing
      : extent.state == ZEROES
        ? extent.host == 0
        : nothing && imageCount() == 1;
    if (asWanted && extent.length >= whole) {
      t.done += extent.length;
      continue;
    }
    if (!linkCluster(t, image, at, 0, absent)) return WAIT;
    t.done += whole;
  }
  return AGAIN;
}
