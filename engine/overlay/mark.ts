// The marks in the overlay's header that say whether it is in use.

import { be64, putBe64 } from '../core/bytes';
import { STAGE_MARK } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { Task } from '../core/task';
import { AT_AUTOCLEAR, AT_INCOMPATIBLE, INCOMPATIBLE_DIRTY } from '../formats/qcow2/header';
import { overlay } from '../formats/qcow2/image';
import { SECTOR_BYTES } from '../limits';
import { OVERLAY } from '../protocol';
import { writebacks } from './progress';

/** Whether the header says that the image is in use; version 2 has no words for it. */
export function isMarked(): bool {
  const image = overlay();
  return image.version < 3 || (image.dirty && !image.autoclear);
}

/**
 * Sets the header's dirty bit before the first change: whoever opens the image after a crash then
 * knows to look for leaks.
 */
export function markDirty(t: Task): bool {
  assert(writebacks().running);
  const image = overlay();
  if (isMarked() || image.cleaning) return true;
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  putBe64(header + AT_INCOMPATIBLE, be64(header + AT_INCOMPATIBLE) | INCOMPATIBLE_DIRTY);
  putBe64(header + AT_AUTOCLEAR, 0);
  pageChanged(header, SECTOR_BYTES, STAGE_MARK);
  image.dirty = true;
  image.autoclear = false;
  return true;
}
