// Classifying: what stands in the overlay's clusters, and so what is to become of each, before
// anything is fetched for them.

import { Extent } from '../core/extent';
import { clusterBytes, imageCount } from '../core/image';
import { clusterMap, fail, setClusterMap, Task } from '../core/task';
import { lookup, lookupChain } from '../formats/chain';
import { overlay, Qcow2 } from '../formats/qcow2/image';
import { refcountOf } from '../overlay/refcounts';
import { ABSENT, COMPRESSED_DATA, ECORRUPT, OVERLAY, R_REFCOUNT } from '../protocol';
import { FILL, KEEP, OWNED, WANTED, ZEROED } from './actions';

/** Finds out which clusters are absent, and cuts the range to the first and last of them. */
export function classify(t: Task): bool {
  const image = overlay();
  while (t.clusterAt < t.clusterCount) {
    const offset = (t.clusterFirst + t.clusterAt) << image.clusterBits;
    const length = min(
      (<u64>(t.clusterCount - t.clusterAt)) << image.clusterBits,
      image.size - offset,
    );
    const extent = lookup(t, image, offset, length);
    if (extent === null) return false;
    if (extent.partial) {
      const sole = extent.host ? isSole(t, image, extent) : 0;
      if (sole < 0) return false;
      setClusterMap(t, t.clusterAt++, sole ? extent.host | OWNED : FILL);
    } else if (extent.state == ABSENT && t.bottom < imageCount()) {
      const held = heldAbove(t, offset, min(length, clusterBytes(image)));
      if (held < 0) return false;
      setClusterMap(t, t.clusterAt++, held ? FILL : KEEP);
    } else {
      const alike: u32 = image.extendedL2
        ? 1
        : <u32>((extent.length + clusterBytes(image) - 1) >> image.clusterBits);
      const refilled = t.fillsUnwritable ? isUnwritable(t, image, extent) : 0;
      if (refilled < 0) return false;
      const filled = extent.state == ABSENT || refilled != 0;
      for (let i: u32 = 0; i < alike; i++) setClusterMap(t, t.clusterAt + i, filled ? FILL : KEEP);
      t.clusterAt += alike;
    }
  }
  if (t.wantsAll) wantRequested(t);
  trim(t);
  return true;
}

/**
 * Whether what stands in the cluster cannot be changed in its place: it is compressed, or shared.
 * -1: the task waits or has failed.
 */
function isUnwritable(t: Task, image: Qcow2, extent: Extent): i32 {
  if (extent.state == COMPRESSED_DATA) return 1;
  if (!extent.host) return 0;
  const sole = isSole(t, image, extent);
  return sole < 0 ? sole : 1 - sole;
}

/** Where anything is filled, what is there of the request is brought into the buffer too. */
function wantRequested(t: Task): void {
  assert(t.length > 0);
  let fills = false;
  for (let i: u32 = 0; i < t.clusterCount; i++) if (clusterMap(t, i) != KEEP) fills = true;
  if (!fills) return;
  const bits = overlay().clusterBits;
  const end = min(((t.offset + t.length - 1) >> bits) + 1, t.clusterFirst + t.clusterCount);
  for (let cluster = max(t.offset >> bits, t.clusterFirst); cluster < end; cluster++) {
    const i = <u32>(cluster - t.clusterFirst);
    if (clusterMap(t, i) == KEEP) setClusterMap(t, i, WANTED);
  }
}

/**
 * When streaming down to an image of the chain: 1 if an image above it has any of the cluster, 0 if
 * none, -1 to wait.
 */
function heldAbove(t: Task, offset: u64, length: u64): i32 {
  assert(length > 0);
  const extent = lookupChain(t, 1, t.bottom, offset, length);
  if (extent === null) return -1;
  return extent.state != ABSENT || extent.length < length ? 1 : 0;
}

/**
 * Whether the overlay has the cluster of an extent to itself: 1 if so; 0 if something else may
 * refer to it, which the entry tells by having no COPIED flag: then it must not be written, and
 * what is to stand there goes into another. -1: the task waits or has failed.
 */
export function isSole(t: Task, image: Qcow2, extent: Extent): i32 {
  assert(extent.host != 0);
  if (extent.copied) return 1;
  const host = extent.host;
  const refcount = refcountOf(t, image, host >> image.clusterBits);
  if (refcount < 0) return -1;
  if (refcount > 0) return refcount == 1 ? 1 : 0;
  fail(t, ECORRUPT, R_REFCOUNT, OVERLAY, host);
  return -1;
}

/**
 * Makes zero clusters of all that is to be filled, unless some cluster holds data already beside
 * what it lacks.
 */
export function onlyZeroes(t: Task): bool {
  assert(t.clusterCount > 0);
  for (let i: u32 = 0; i < t.clusterCount; i++)
    if (clusterMap(t, i) != KEEP && clusterMap(t, i) != FILL) return false;
  for (let i: u32 = 0; i < t.clusterCount; i++)
    if (clusterMap(t, i) == FILL) setClusterMap(t, i, ZEROED);
  return true;
}

function trim(t: Task): void {
  let first: u32 = 0;
  while (first < t.clusterCount && clusterMap(t, first) == KEEP) first++;
  let end = t.clusterCount;
  while (end > first && clusterMap(t, end - 1) == KEEP) end--;
  for (let i = first; i < end; i++) setClusterMap(t, i - first, clusterMap(t, i));
  t.clusterFirst += first;
  t.clusterCount = end - first;
}
