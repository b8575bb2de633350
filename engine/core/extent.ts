// An extent: what an image, or the chain of them, says of a position. It is what a lookup answers
// with, and the one thing that all formats are to the rest of the engine.

import { COMPRESSED_DATA, DATA } from '../protocol';

@unmanaged
export class Extent {
  /** ABSENT, DATA, ZEROES or COMPRESSED_DATA. */
  state: u32;
  /**
   * Bytes from the asked position on that are in this state; of data, also one behind the other in
   * one file. Of compressed data at most to the end of its cluster.
   */
  length: u64;
  /**
   * Where it is in the file: the asked position's data, or the cluster's compressed stream. Of
   * zeros and of what is absent, the place that the cluster keeps all the same, or 0.
   */
  host: u64;
  /** Bytes of the compressed stream, which may have foreign bytes behind it. */
  bytes: u64;
  /** Number of the file that `host` is a position of. */
  file: u32;
  /** The image that has decided, by its number, and how deep it stands in the chain. */
  image: u32;
  depth: u32;
  /** Parts of the cluster are absent, and others are not: it must be completed as a whole. */
  partial: bool;
  /** The cluster has its own place and all of it is data: it may be written in place. */
  whole: bool;
  /** The entry says that nothing else refers to the cluster. */
  copied: bool;
}

/** The one extent there is: it is good until the next lookup. */
function record(): Extent {
  return changetype<Extent>(memory.data(offsetof<Extent>(), 8));
}

/** What a lookup answers with; the rest of it is set where it matters. */
export function extentOf(state: u32, length: u64): Extent {
  const extent = record();
  extent.state = state;
  extent.length = length;
  extent.host = 0;
  extent.bytes = 0;
  extent.file = 0;
  extent.image = 0;
  extent.depth = 0;
  extent.partial = false;
  extent.whole = false;
  extent.copied = false;
  return extent;
}

/** As extentOf, for data that stands at `host` of a file. */
export function dataExtent(length: u64, file: u32, host: u64): Extent {
  const extent = extentOf(DATA, length);
  extent.file = file;
  extent.host = host;
  return extent;
}

/** As extentOf, for a cluster whose compressed stream is `bytes` bytes at `host` of a file. */
export function compressedExtent(length: u64, file: u32, host: u64, bytes: u64): Extent {
  const extent = extentOf(COMPRESSED_DATA, length);
  extent.file = file;
  extent.host = host;
  extent.bytes = bytes;
  return extent;
}
