// L1 and L2 entries (QEMU's docs/interop/qcow2.txt, "Cluster mapping", "L1 table entry", "L2 table
// entry", "Extended L2 Entries").

import { Qcow2 } from './image';

/** Bits 9 to 55 of an L1 or L2 entry: where the table or the cluster is. */
export const OFFSET_MASK: u64 = 0x00fffffffffffe00;
/** The refcount is exactly one: the cluster may be written in place. */
export const COPIED: u64 = (<u64>1) << 63;
export const COMPRESSED: u64 = (<u64>1) << 62;
/** Version 3: reads as zeros, whatever the offset says. Never with subclusters. */
export const ZERO: u64 = 1;

/** Bits of an L1 entry, and of a standard L2 entry, that must be zero. */
export const L1_RESERVED: u64 = 0x7f000000000001ff;
export const L2_RESERVED: u64 = 0x3f000000000001fe;

/**
 * Extended entries: the second word has an "allocated" bit a subcluster below, a "reads as zeros"
 * bit above.
 */
export const SUBCLUSTERS: u32 = 32;
export const ALL_ALLOCATED: u64 = 0x00000000ffffffff;
export const ALL_ZERO: u64 = 0xffffffff00000000;

/** Where a compressed cluster starts: byte-granular. */
export function compressedOffset(image: Qcow2, entry: u64): u64 {
  return entry & (((<u64>1) << compressedShift(image)) - 1);
}

/** Bytes it may take: to the end of its last sector, so what follows may be another cluster's. */
export function compressedBytes(image: Qcow2, entry: u64): u64 {
  assert((entry & COMPRESSED) != 0);
  const shift = compressedShift(image);
  const sectors = ((entry & ~(COPIED | COMPRESSED)) >> shift) + 1;
  return (sectors << 9) - (entry & 511);
}

/** The entry of a stream at `offset` of the file that ends within `sectors` sectors. */
export function compressedEntry(image: Qcow2, offset: u64, sectors: u64): u64 {
  const shift = compressedShift(image);
  assert(sectors > 0 && offset >> shift == 0 && (sectors - 1) >> (62 - shift) == 0);
  return COMPRESSED | ((sectors - 1) << shift) | offset;
}

/** Whether a compressed cluster's entry can point to all of a file of so many bytes. */
export function compressedReaches(image: Qcow2, fileBytes: u64): bool {
  return fileBytes >> compressedShift(image) == 0;
}

function compressedShift(image: Qcow2): u64 {
  return 62 - (image.clusterBits - 8);
}
