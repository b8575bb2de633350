// Populates a range before anyone reads it: what a guest is expected to want soon. It goes behind
// the guests' requests for memory, and the job hands out no copies meanwhile. Nobody is given the
// bytes, so whatever is asked for, a guest reads what it would have read.

import { clusterBytes, imageCount } from '../core/image';
import { DONE, fail, Task, WAIT } from '../core/task';
import { requestBytes } from '../data/chunk';
import { populate, populateBegin } from '../data/populate';
import { overlay } from '../formats/qcow2/image';
import { HOLE_BLOCKS_MIN } from '../limits';
import { EINVAL, OVERLAY, R_RANGE } from '../protocol';
import { storesReads } from './read';

/** `value` is how much was brought into the overlay: bytes, in whole clusters. */
export function runPopulate(t: Task): i32 {
  if (!t.populating) {
    const size = overlay().size;
    if (
      t.length == 0 ||
      t.length > requestBytes() ||
      t.offset > size ||
      t.length > size - t.offset
    ) {
      fail(t, EINVAL, R_RANGE, OVERLAY, t.offset);
      return WAIT;
    }
    if (!storesReads() || imageCount() < 2) return DONE;
    t.holeBlocksMin = HOLE_BLOCKS_MIN;
    populateBegin(t, t.offset, t.offset + t.length, imageCount());
  }
  if (!populate(t)) return WAIT;
  t.value = <u64>t.clusterCount * clusterBytes(overlay());
  return DONE;
}
