// What the disk shows at a position: one image's word for it, or that of the chain of images.

import { Extent, extentOf } from '../core/extent';
import { Image, imageAt, imageCount } from '../core/image';
import { Task } from '../core/task';
import { ABSENT, OVERLAY, ZEROES } from '../protocol';
import { formatOf } from './format';

/**
 * Looks up `offset` in one image, and how far (up to `length`) it goes on alike. Past the end of
 * the image are zeros. Null: the task waits or has failed. What is returned is good until the next
 * lookup.
 */
export function lookup(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  assert(length > 0);
  if (offset >= image.size) return decided(extentOf(ZEROES, length), image);
  const format = formatOf(image.format);
  assert(format !== null);
  const look = format!.lookup;
  const extent = look(t, image, offset, min(length, image.size - offset));
  if (extent === null) return null;
  assert(extent.length > 0 && extent.length <= min(length, image.size - offset));
  return decided(extent, image);
}

function decided(extent: Extent, image: Image): Extent {
  extent.image = image.index;
  return extent;
}

/**
 * As lookup, but from image `depth` down to the one that decides, not as far as `bottom`; absent if
 * none does. A task that is run again does not look again into bases that had nothing there: the
 * tables of a long chain would push each other out of the cache.
 */
export function lookupChain(
  t: Task | null,
  depth: u32,
  bottom: u32,
  offset: u64,
  length: u64,
): Extent | null {
  assert(length > 0 && bottom <= imageCount());
  let last: Extent | null = null;
  for (let i = depth; i < bottom; i++) {
    last = null;
    if (t !== null && i > <u32>OVERLAY && hasPassed(t, i, offset)) {
      length = min(length, t.passedLength);
      continue;
    }
    const extent = lookup(t, imageAt(i), offset, length);
    if (extent === null) return null;
    extent.depth = i;
    if (extent.state != ABSENT) return extent;
    last = extent;
    length = extent.length;
    if (t !== null && i > <u32>OVERLAY) notePassed(t, i + 1, offset, length);
  }
  // The lowest image may keep a place for it.
  return last === null ? extentOf(ABSENT, length) : last;
}

/** Whether the base at this depth is known to have nothing at `offset`. */
function hasPassed(t: Task, depth: u32, offset: u64): bool {
  return depth < t.passedTo && t.passedAt == offset && t.passedOf == imageCount();
}

/**
 * The bases above depth `to` have nothing in this range. They never change: it stays true as long
 * as they are in the chain.
 */
function notePassed(t: Task, to: u32, offset: u64, length: u64): void {
  assert(to > <u32>OVERLAY + 1 && length > 0);
  t.passedAt = offset;
  t.passedLength = length;
  t.passedTo = to;
  t.passedOf = imageCount();
}
