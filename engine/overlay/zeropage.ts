// Zeros that are written to the overlay as they are: over a table that is larger than a page of the
// cache, or where data must really be zeros.

import { pagesDrop } from '../core/pages';
import { ioBegin } from '../core/ring';
import { ON_IO, ON_SLOT, Task } from '../core/task';
import { overlay } from '../formats/qcow2/image';
import { PAGE_BYTES } from '../limits';
import { OP_WRITE, OVERLAY } from '../protocol';

let zeroPage: usize = 0;

export function zeroPageAt(): usize {
  return zeroPage;
}

/** A page that stays all zeros. */
export function zeroPageInit(at: usize): void {
  zeroPage = at;
  memory.fill(at, 0, PAGE_BYTES);
}

/**
 * Writes zeros over a table that is larger than a page. The writes are done when this returns true.
 */
export function zeroOnDisk(t: Task, table: u64, bytes: u64): bool {
  assert(table != 0 && bytes % PAGE_BYTES == 0);
  while (t.zeroed < bytes) {
    if (ioBegin(t, OP_WRITE, OVERLAY, table + t.zeroed, PAGE_BYTES, zeroPage) === null) {
      t.waits = ON_SLOT;
      return false;
    }
    t.zeroed += PAGE_BYTES;
  }
  overlay().fileSize = max(overlay().fileSize, table + bytes);
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  // Another table may have stood there.
  return pagesDrop(t, OVERLAY, table, table + bytes);
}
