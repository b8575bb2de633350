/**
 * The compressed clusters of a real qcow2 image, by the specification's plainest reading: for tests
 * of what decodes them.
 */
import { readFileSync } from 'node:fs';

/** Offsets in the header. */
const CLUSTER_BITS = 20;
const L1_SIZE = 36;
const L1_OFFSET = 40;
const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COMPRESSED = 1n << 62n;
const SECTOR = 512;
/** What lies behind an image's last sector, where a decoder must not look. */
const FOREIGN = 0xa5;

export interface CompressedCluster {
  /** Position in the disk, in bytes. */
  offset: number;
  /** The stream, and what follows it up to the end of its last sector. */
  from: Uint8Array;
}

export interface CompressedImage {
  clusterSize: number;
  clusters: CompressedCluster[];
}

export function readCompressed(path: string): CompressedImage {
  const file = readFileSync(path);
  const bits = file.readUInt32BE(CLUSTER_BITS);
  const clusterSize = 2 ** bits;
  const entries = clusterSize / 8;
  const offsetBits = BigInt(62 - (bits - 8));
  const clusters: CompressedCluster[] = [];
  for (let i = 0; i < file.readUInt32BE(L1_SIZE); i++) {
    const table = Number(
      file.readBigUInt64BE(Number(file.readBigUInt64BE(L1_OFFSET)) + 8 * i) & OFFSET_MASK,
    );
    for (let j = 0; table !== 0 && j < entries; j++) {
      const entry = file.readBigUInt64BE(table + 8 * j);
      if ((entry & COMPRESSED) === 0n) continue;
      const descriptor = entry & (COMPRESSED - 1n);
      const at = Number(descriptor & ((1n << offsetBits) - 1n));
      const sectors = Number(descriptor >> offsetBits) + 1;
      // The file itself may end with the last stream.
      const from = new Uint8Array(sectors * SECTOR - (at % SECTOR)).fill(FOREIGN);
      from.set(file.subarray(at, at + from.length));
      clusters.push({ offset: (i * entries + j) * clusterSize, from });
    }
  }
  return { clusterSize, clusters };
}
