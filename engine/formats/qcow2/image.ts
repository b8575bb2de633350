// A qcow2 image as the engine has it in memory, once its header has been read.

import { clusterBytes, IMAGE_BYTES, Image, topImage } from '../../core/image';

@unmanaged
export class Qcow2 extends Image {
  version: u32;
  /** Entries of an L2 table, as a power of two. */
  l2Bits: u32;
  /** Bytes of an L2 entry as a power of two: 3, or 4 with subclusters. */
  l2EntryBits: u32;
  extendedL2: bool;
  refcountOrder: u32;
  headerLength: u32;
  dirty: bool;
  /**
   * Has autoclear feature bits: they go before anything is written, for nothing here looks after
   * what they tell of.
   */
  autoclear: bool;
  /** The dirty bit is being taken out for good: nothing sets it again. */
  cleaning: bool;
  corrupt: bool;
  /** 0 none, 1 AES, 2 LUKS. */
  encryption: u32;
  /** The disk's data is in another file; which is raw by itself. */
  externalData: bool;
  rawData: bool;
  /**
   * Has header extensions or autoclear bits that are not known: clusters that nothing refers to may
   * be theirs.
   */
  foreign: bool;
  lazyRefcounts: bool;
  snapshots: u32;
  snapshotsOffset: u64;
  bitmaps: bool;
  /**
   * The bitmap directory, and how many are in it; none if another program has written to the disk
   * since.
   */
  bitmapCount: u32;
  bitmapsOffset: u64;
  bitmapsBytes: u64;

  l1Offset: u64;
  /** Entries. */
  l1Size: u32;
  refcountTableOffset: u64;
  /** Bytes. */
  refcountTableBytes: u32;

  /** Positions in the header's page: of the names of features, and where the extensions end. */
  featureNamesAt: u32;
  extensionsEnd: u32;
  /** Where they end at the latest: at the backing file's name, or the end of the first cluster. */
  extensionsLimit: u32;
  /** Position of the offset and length of the header of LUKS. */
  cryptoAt: u32;
  dataFileAt: u32;
  dataFileBytes: u32;
  /** The most room that an extension without a meaning has. */
  voidBytes: u32;
}

export function qcow2Of(image: Image): Qcow2 {
  if (offsetof<Qcow2>() > IMAGE_BYTES) ERROR('a qcow2 image needs more room than images have');
  return changetype<Qcow2>(image);
}

/** The overlay, which is a qcow2 image wherever it is written. */
export function overlay(): Qcow2 {
  return qcow2Of(topImage());
}

/** Bytes of the disk that one L2 table maps. */
export function l2Span(image: Qcow2): u64 {
  return (<u64>1) << (image.clusterBits + image.l2Bits);
}

/** Whether a cluster at `offset` of the file would lie over header, L1 table or refcount table. */
export function inFixedMetadata(image: Qcow2, offset: u64, bytes: u64): bool {
  return (
    offset < clusterBytes(image) ||
    overlaps(offset, bytes, image.l1Offset, (<u64>image.l1Size) << 3) ||
    overlaps(offset, bytes, image.refcountTableOffset, image.refcountTableBytes)
  );
}

function overlaps(a: u64, aBytes: u64, b: u64, bBytes: u64): bool {
  return a < b + bBytes && b < a + aBytes;
}
