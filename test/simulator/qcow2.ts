/**
 * qcow2 images in memory (QEMU's docs/interop/qcow2.txt): a reader of their headers and of what
 * they show. Written apart from the engine, so that neither repeats the other's mistakes.
 */
import { inflateRawSync } from 'node:zlib';

export interface Header {
  version: number;
  backingOffset: number;
  backingBytes: number;
  clusterBits: number;
  size: number;
  l1Size: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  incompatible: bigint;
  autoclear: bigint;
  refcountOrder: number;
  headerLength: number;
  extendedL2: boolean;
}

/** Where the fields of a header are. */
export const AT = {
  magic: 0,
  version: 4,
  backingOffset: 8,
  backingBytes: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Size: 36,
  l1Offset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  snapshots: 60,
  snapshotsOffset: 64,
  incompatible: 72,
  compatible: 80,
  autoclear: 88,
  refcountOrder: 96,
  headerLength: 100,
  compression: 104,
} as const;

export const MAGIC = 0x514649fb;
export const HEADER_V2_BYTES = 72;
export const HEADER_V3_BYTES = 112;
export const INCOMPATIBLE_DIRTY = 1n;
export const INCOMPATIBLE_EXTENDED_L2 = 16n;
export const COPIED: bigint = 1n << 63n;
export const COMPRESSED: bigint = 1n << 62n;
export const SUBCLUSTERS = 32;

/** An extension of nobody. */
export const EXTENSION_UNKNOWN = 0x0ddba115;
/** The engine's own extension, and what it is to tell of a base by this name. */
export const EXTENSION_IDENTITY = 0x4d494c52;
export function identityOf(name: string): string {
  return `of ${name}`;
}

/** @throws when it is none. */
export function readHeader(file: Uint8Array): Header {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < HEADER_V2_BYTES || view.getUint32(AT.magic) !== MAGIC)
    throw new Error('it is no qcow2 image');
  const version = view.getUint32(AT.version);
  const incompatible = version > 2 ? view.getBigUint64(AT.incompatible) : 0n;
  return {
    version,
    backingOffset: Number(view.getBigUint64(AT.backingOffset)),
    backingBytes: view.getUint32(AT.backingBytes),
    clusterBits: view.getUint32(AT.clusterBits),
    size: Number(view.getBigUint64(AT.size)),
    l1Size: view.getUint32(AT.l1Size),
    l1Offset: Number(view.getBigUint64(AT.l1Offset)),
    refcountTableOffset: Number(view.getBigUint64(AT.refcountTableOffset)),
    refcountTableClusters: view.getUint32(AT.refcountTableClusters),
    incompatible,
    autoclear: version > 2 ? view.getBigUint64(AT.autoclear) : 0n,
    refcountOrder: version > 2 ? view.getUint32(AT.refcountOrder) : 4,
    headerLength: version > 2 ? view.getUint32(AT.headerLength) : HEADER_V2_BYTES,
    extendedL2: (incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n,
  };
}

/** The header extensions, by type. @throws when one reaches out of the header cluster. */
export function extensionsOf(file: Uint8Array): Map<number, Uint8Array> {
  const header = readHeader(file);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const end = Math.min(header.backingOffset || 2 ** header.clusterBits, file.length);
  const extensions = new Map<number, Uint8Array>();
  for (let at = header.headerLength; at + 8 <= end; ) {
    const type = view.getUint32(at);
    const bytes = view.getUint32(at + 4);
    if (type === 0) break;
    if (bytes > end - at - 8)
      throw new Error(`the header extension at ${at} reaches past the header`);
    extensions.set(type, file.subarray(at + 8, at + 8 + bytes));
    at += 8 + Math.ceil(bytes / 8) * 8;
  }
  return extensions;
}

/** What a header has that nobody here knows: an extension, and fields behind the known ones. */
export function unknownOf(file: Uint8Array): Uint8Array {
  const fields = file.subarray(
    HEADER_V3_BYTES,
    Math.max(HEADER_V3_BYTES, readHeader(file).headerLength),
  );
  return Buffer.concat([fields, extensionsOf(file).get(EXTENSION_UNKNOWN) ?? new Uint8Array(0)]);
}

/**
 * What an image shows over `below`, past whose end there are zeros.
 * @throws when a table points past the file.
 */
export function contentOf(file: Uint8Array, below: Uint8Array): Uint8Array {
  const h = readHeader(file);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const cluster = 2 ** h.clusterBits;
  const step = h.extendedL2 ? 16 : 8;
  const content = new Uint8Array(h.size);
  content.set(below.subarray(0, Math.min(h.size, below.length)));
  for (let at = 0; at < h.size; at += cluster) {
    const index = at / cluster;
    const l1 = h.l1Offset + Math.floor(index / (cluster / step)) * 8;
    const table = l1 + 8 <= file.length ? Number(view.getBigUint64(l1) & OFFSET_MASK) : 0;
    if (!table) continue;
    const entryAt = table + (index % (cluster / step)) * step;
    // A table whose end was not written yet goes on with zeros.
    if (entryAt + step > file.length) continue;
    const shown = content.subarray(at, Math.min(at + cluster, h.size));
    showCluster(
      h,
      file,
      view.getBigUint64(entryAt),
      h.extendedL2 ? view.getBigUint64(entryAt + 8) : undefined,
      shown,
    );
  }
  return content;
}

const OFFSET_MASK = 0x00fffffffffffe00n;

function showCluster(
  h: Header,
  file: Uint8Array,
  entry: bigint,
  bitmap: bigint | undefined,
  shown: Uint8Array,
): void {
  const cluster = 2 ** h.clusterBits;
  if (entry & COMPRESSED) {
    const shift = BigInt(62 - (h.clusterBits - 8));
    const from = Number(entry & ((1n << shift) - 1n));
    const sectors = Number((entry & ~(COPIED | COMPRESSED)) >> shift) + 1;
    const bytes = inflateRawSync(file.subarray(from, from - (from % 512) + sectors * 512), {
      maxOutputLength: cluster,
    });
    if (bytes.length !== cluster)
      throw new Error(`a compressed cluster inflates to ${bytes.length} bytes`);
    shown.set(bytes.subarray(0, shown.length));
    return;
  }
  const host = Number(entry & OFFSET_MASK);
  const data = file.subarray(host, host + cluster);
  if (bitmap === undefined) {
    if (entry & 1n) shown.fill(0);
    else if (host) put(shown, data, 0, cluster);
    return;
  }
  const part = cluster / SUBCLUSTERS;
  for (let i = 0; i < SUBCLUSTERS; i++) {
    if (bitmap & (1n << BigInt(i + 32))) shown.fill(0, i * part, (i + 1) * part);
    else if (bitmap & (1n << BigInt(i))) put(shown, data, i * part, (i + 1) * part);
  }
}

/** Shows the bytes [from, to) of a cluster; what the file does not reach is zeros. */
function put(shown: Uint8Array, data: Uint8Array, from: number, to: number): void {
  const end = Math.min(to, shown.length);
  if (from >= end) return;
  shown.fill(0, from, end);
  shown.set(data.subarray(from, Math.min(end, data.length)), from);
}
