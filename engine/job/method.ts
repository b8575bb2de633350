// A job that keeps compressed clusters needs an overlay of the base's method of compression: all
// compressed clusters of an image have the one that its header tells. An overlay that has none yet
// is given the base's; in one that has, clusters of another method are inflated.

import { be64, putBe64 } from '../core/bytes';
import { clusterBytes, Image, imageAt, imageCount } from '../core/image';
import { STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { lookup } from '../formats/chain';
import { AT_COMPRESSION, AT_INCOMPATIBLE, INCOMPATIBLE_COMPRESSION } from '../formats/qcow2/header';
import { overlay } from '../formats/qcow2/image';
import { SCAN_ENTRIES_MAX, SECTOR_BYTES } from '../limits';
import { flushed } from '../overlay/flush';
import { COMPRESSED_DATA, FORMAT_QCOW2, OVERLAY } from '../protocol';
import { StreamTask } from './tasks';

const LOOK: u32 = 0;
const SEARCH: u32 = 1;
const FLUSH: u32 = 2;
const SETTLED: u32 = 3;

/**
 * Gives the overlay the method of the first base whose clusters could be kept, if it may have that.
 * True when that has been settled; false: the task waits, has failed, or is to be run again.
 */
export function methodSettled(t: StreamTask): bool {
  if (t.methodStep == LOOK) t.methodStep = mayChange() ? SEARCH : SETTLED;
  if (t.methodStep == SEARCH && !hasNoStreams(t)) return t.methodStep == SETTLED;
  if (t.methodStep == SEARCH) t.methodStep = FLUSH;
  if (t.methodStep == FLUSH) {
    // On disk there may be one yet that has been overwritten since. The new method comes to disk
    // before the entries that are made from now on.
    if (!flushed(t) || !changeMethod(t)) return false;
    t.methodStep = SETTLED;
  }
  return true;
}

/** The first base with compressed clusters of the overlay's size, or null. */
function baseToKeep(): Image | null {
  for (let i: u32 = 1; i < imageCount(); i++) {
    const image = imageAt(i);
    if (image.format == FORMAT_QCOW2 && clusterBytes(image) == clusterBytes(overlay()))
      return image;
  }
  return null;
}

/** Whether the header has a field for the method, and another one would be wanted there. */
function mayChange(): bool {
  const image = overlay();
  const base = baseToKeep();
  return (
    base !== null &&
    base.compression != image.compression &&
    image.version > 2 &&
    image.headerLength > AT_COMPRESSION
  );
}

/** Looks through the overlay; settles it if a compressed cluster is found. */
function hasNoStreams(t: StreamTask): bool {
  const image = overlay();
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (t.methodSearchedTo >= image.size) return true;
    const extent = lookup(t, image, t.methodSearchedTo, image.size - t.methodSearchedTo);
    if (extent === null) return false;
    if (extent.state == COMPRESSED_DATA) {
      t.methodStep = SETTLED;
      return false;
    }
    t.methodSearchedTo += extent.length;
  }
  return false;
}

/** Tells the base's method in the header. */
function changeMethod(t: StreamTask): bool {
  const image = overlay();
  const base = baseToKeep();
  assert(base !== null);
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  image.compression = base!.compression;
  const others = be64(header + AT_INCOMPATIBLE) & ~INCOMPATIBLE_COMPRESSION;
  putBe64(header + AT_INCOMPATIBLE, others | (image.compression ? INCOMPATIBLE_COMPRESSION : 0));
  store<u8>(header + AT_COMPRESSION, <u8>image.compression);
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  return true;
}
