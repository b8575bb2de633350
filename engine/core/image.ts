// The images of the chain: the overlay is image 0, its base 1, and so on down. An image is read through lookup.ts; only the overlay
// is ever changed.

import { IMAGES_MAX, OVERLAY } from '../protocol';

@unmanaged
export class Image {
  /** Its number: see imageOf. */
  index: u32;
  format: u32;
  /** Bytes of the disk it shows. */
  size: u64;
  /** Bytes of its file; the overlay's grows as it is written. */
  fileSize: u64;
  /** Its host can tell where the file has holes. */
  tellsHoles: bool;

  version: u32;
  clusterBits: u32;
  /** Entries of an L2 table, as a power of two. */
  l2Bits: u32;
  /** Bytes of an L2 entry as a power of two: 3, or 4 with subclusters. */
  l2EntryBits: u32;
  extendedL2: bool;
  /** 0 zlib, 1 zstd: also the ring's number of the method. */
  compression: u32;
  refcountOrder: u32;
  headerLength: u32;
  dirty: bool;
  /** Has autoclear feature bits: they go before anything is written, for nothing here looks after what they tell of. */
  autoclear: bool;
  /** The dirty bit is being taken out for good: nothing sets it again. */
  cleaning: bool;
  corrupt: bool;
  /** Has header extensions or autoclear bits that are not known: clusters that nothing refers to may be theirs. */
  foreign: bool;
  lazyRefcounts: bool;
  snapshots: u32;
  snapshotsOffset: u64;
  bitmaps: bool;
  /** The bitmap directory, and how many are in it; none if another program has written to the disk since. */
  bitmapCount: u32;
  bitmapsOffset: u64;
  bitmapsBytes: u64;

  l1Offset: u64;
  /** Entries. */
  l1Size: u32;
  refcountTableOffset: u64;
  /** Bytes. */
  refcountTableBytes: u32;

  /** Positions in the header's page, 0 where there is none. Without bytes, an extension has room there and says nothing. */
  backingNameAt: u32;
  backingNameBytes: u32;
  backingFormatAt: u32;
  backingFormatBytes: u32;
  identityAt: u32;
  identityBytes: u32;
  featureNamesAt: u32;
  /** Where the header extensions end. */
  extensionsEnd: u32;

  /** A compressed cluster has been seen: copies take scratch memory from the start. */
  compressedSeen: bool;
}

let images: usize = 0;
/** Chain order: which image stands at each depth. */
let order: usize = 0;
let imageTotal: u32 = 0;

export function imagesBytes(): usize {
  return IMAGES_MAX * (((offsetof<Image>() + 7) & ~7) + 4);
}

export function imagesInit(at: usize): void {
  images = at;
  order = at + IMAGES_MAX * ((offsetof<Image>() + 7) & ~7);
  imageTotal = 0;
  memory.fill(images, 0, imagesBytes());
  for (let i: u32 = 0; i < <u32>IMAGES_MAX; i++) {
    imageOf(i).index = i;
    store<u32>(order + i * 4, i);
  }
}

/** An image by its number, which is also its file's in the ring and never changes. */
export function imageOf(index: u32): Image {
  return changetype<Image>(images + index * ((offsetof<Image>() + 7) & ~7));
}

/** The image at a depth of the chain. */
export function imageAt(depth: u32): Image {
  return imageOf(load<u32>(order + depth * 4));
}

/** Takes the images from depth 1 up to, but not including, `bottom` out of the chain. */
export function imagesDropped(bottom: u32): void {
  memory.copy(order + 4, order + bottom * 4, (imageTotal - bottom) * 4);
  imageTotal -= bottom - 1;
}

export function imageCount(): u32 {
  return imageTotal;
}

export function setImageCount(count: u32): void {
  imageTotal = count;
}

export function overlay(): Image {
  return imageAt(OVERLAY);
}

export function clusterBytes(image: Image): u64 {
  return (<u64>1) << image.clusterBits;
}

/** Where the longest image below the overlay ends: behind it, all that the overlay lacks is zeros. */
export function basesEnd(): u64 {
  let end: u64 = 0;
  for (let i: u32 = 1; i < imageCount(); i++) end = max(end, imageAt(i).size);
  return end;
}

/** Bytes of the disk that one L2 table maps. */
export function l2Span(image: Image): u64 {
  return (<u64>1) << (image.clusterBits + image.l2Bits);
}

/** Whether a cluster at `offset` of the file would lie over the header, the L1 table or the refcount table. */
export function inFixedMetadata(image: Image, offset: u64, bytes: u64): bool {
  return (
    offset < clusterBytes(image) ||
    overlaps(offset, bytes, image.l1Offset, (<u64>image.l1Size) << 3) ||
    overlaps(offset, bytes, image.refcountTableOffset, image.refcountTableBytes)
  );
}

function overlaps(a: u64, aBytes: u64, b: u64, bBytes: u64): bool {
  return a < b + bBytes && b < a + aBytes;
}
