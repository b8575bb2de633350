// How much of the disk one task takes on at once.

import { clusterBytes, imageAt, imageCount } from '../core/image';
import { overlay } from '../formats/qcow2/image';
import { CHUNK_BYTES, CHUNK_CLUSTERS_MAX } from '../limits';

/** Bytes that one populating task takes on: a multiple of every cluster size that matters. */
export function chunkBytes(): u64 {
  const cluster = clusterBytes(overlay());
  return min(max<u64>(CHUNK_BYTES, max(cluster, grain())), cluster * CHUNK_CLUSTERS_MAX);
}

/**
 * The most that has been allowed so far: what a guest has been told stays true when the base goes
 * that called for it.
 */
let mostAllowed: u64 = 0;

/**
 * Most that one read or write of a guest may ask for, so that with the clusters around its ends it
 * is a chunk at most.
 */
export function requestBytes(): u64 {
  mostAllowed = max(mostAllowed, max(chunkBytes() / 2, clusterBytes(overlay())));
  return mostAllowed;
}

/** Least that is worth populating: a compressed cluster of a base is inflated whole anyway. */
export function grain(): u64 {
  let bytes = clusterBytes(overlay());
  for (let i: u32 = 1; i < imageCount(); i++) {
    const image = imageAt(i);
    if (image.compressedSeen) bytes = max(bytes, clusterBytes(image));
  }
  return min(bytes, clusterBytes(overlay()) * CHUNK_CLUSTERS_MAX);
}
