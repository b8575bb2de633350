// Zeroes and discard over whole clusters: they become zero clusters, and the space they took is
// freed. (Parts of clusters are written as zeros by write.ts, or for a discard left as they are.) A
// discarded cluster becomes a zero cluster too, not an absent one: what lies below in the base must
// not come to light again.

import { clusterBytes, imageCount } from '../core/image';
import { AGAIN, DONE, EXCLUSIVE, fail, lock, Task, WAIT } from '../core/task';
import { linkCluster } from '../data/place';
import { lookup } from '../formats/chain';
import { overlay } from '../formats/qcow2/image';
import { SCAN_ENTRIES_MAX } from '../limits';
import {
  ABSENT,
  DISCARD_TO_BASE,
  EINVAL,
  KIND_DISCARD,
  OVERLAY,
  R_RANGE,
  ZEROES,
} from '../protocol';

/**
 * KIND_ZERO and KIND_DISCARD; the range is of whole clusters, except that it may end where the disk
 * does.
 */
export function runZeroes(t: Task): i32 {
  const image = overlay();
  const cluster = clusterBytes(image);
  const end = t.offset + t.length;
  if (end > image.size || t.offset & (cluster - 1) || (end & (cluster - 1) && end != image.size)) {
    fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return WAIT;
  }
  // Version 2 has no zero clusters: the host writes zeros instead, and a discard need not do
  // anything.
  const empties = t.argument == DISCARD_TO_BASE;
  if (image.version < 3 && !empties) {
    if (t.kind != KIND_DISCARD) fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
    return t.error ? WAIT : DONE;
  }
  if (!lock(t, EXCLUSIVE, t.offset, (end + cluster - 1) & ~(cluster - 1))) return WAIT;
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    const at = t.offset + t.cursor;
    if (at >= end) return DONE;
    const extent = lookup(t, image, at, end - at);
    if (extent === null) return WAIT;
    const whole = min(cluster, end - at);
    const nothing = extent.state == ABSENT && extent.host == 0;
    const asWanted = empties
      ? nothing
      : extent.state == ZEROES
        ? extent.host == 0
        : nothing && imageCount() == 1;
    if (asWanted && extent.length >= whole) {
      t.cursor += extent.length;
      continue;
    }
    if (!linkCluster(t, image, at, 0, empties)) return WAIT;
    t.cursor += whole;
  }
  return AGAIN;
}
