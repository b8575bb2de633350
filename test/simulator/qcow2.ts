/**
 * qcow2 images in memory (QEMU's docs/interop/qcow2.txt): a writer that lays out any mix of data, zero, compressed and absent clusters,
 * and a reader of headers. Written apart from the engine, so that neither repeats the other's mistakes.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';

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
  refcountOrder: number;
  headerLength: number;
  extendedL2: boolean;
}

/** Where the fields of a header are. */
export const AT = {
  magic: 0, version: 4, backingOffset: 8, backingBytes: 16, clusterBits: 20, size: 24, cryptMethod: 32, l1Size: 36, l1Offset: 40,
  refcountTableOffset: 48, refcountTableClusters: 56, snapshots: 60, snapshotsOffset: 64, incompatible: 72, compatible: 80, autoclear: 88,
  refcountOrder: 96, headerLength: 100, compression: 104,
} as const;

const MAGIC = 0x514649fb;
const HEADER_V2_BYTES = 72;
const HEADER_V3_BYTES = 112;
const INCOMPATIBLE_EXTENDED_L2 = 16n;
const EXTENSION_FEATURE_NAMES = 0x6803f857;
const FEATURE_NAMES_BYTES = 8 * 48;
const EXTENSION_FORMAT = 0xe2792aca;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const SUBCLUSTERS = 32;
const BEHIND_END = 0xee;

/** The engine's own extension, and what it is to tell of a base by this name. */
export const EXTENSION_IDENTITY = 0x4d494c52;
export function identityOf(name: string): string {
  return `of ${name}`;
}

/** @throws when it is none. */
export function readHeader(file: Uint8Array): Header {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < HEADER_V2_BYTES || view.getUint32(AT.magic) !== MAGIC) throw new Error('it is no qcow2 image');
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
    if (bytes > end - at - 8) throw new Error(`the header extension at ${at} reaches past the header`);
    extensions.set(type, file.subarray(at + 8, at + 8 + bytes));
    at += 8 + Math.ceil(bytes / 8) * 8;
  }
  return extensions;
}

/** What a cluster of an image is to be. */
export type Fill = 'data' | 'zero' | 'zero with place' | 'compressed' | 'absent' | 'subclusters';

export interface Recipe {
  version: 2 | 3;
  clusterBits: number;
  refcountOrder: number;
  extendedL2: boolean;
  /** What the disk shows where the image has something of its own; where a cluster is absent it does not matter. */
  content: Uint8Array;
  /** What each cluster is; those of `subclusters` have every other subcluster, the others are absent, the last are zeros. */
  fills: Fill[];
  backing?: { name: string; format: string };
  lazyRefcounts?: boolean;
}

/** Lays out an image; where it shows zeros, `content` is made zeros too. */
export function writeImage(recipe: Recipe): Uint8Array {
  return new Writer(recipe).run();
}

class Writer {
  readonly #recipe: Recipe;
  readonly #cluster: number;
  readonly #clusters: Uint8Array[] = [];
  /** Compressed streams are packed: where the next one may begin. */
  #packed = 0;
  #packedEnd = 0;
  readonly #counts: number[] = [];

  constructor(recipe: Recipe) {
    this.#recipe = recipe;
    this.#cluster = 2 ** recipe.clusterBits;
  }

  run(): Uint8Array {
    const { version, clusterBits, refcountOrder, extendedL2, content, fills } = this.#recipe;
    const cluster = this.#cluster;
    const perTable = cluster / (extendedL2 ? 16 : 8);
    const tables = Math.ceil(fills.length / perTable);
    this.#take(1);
    const l1 = this.#take(Math.max(1, Math.ceil((tables * 8) / cluster)));
    for (let i = 0; i < tables; i++) {
      const part = fills.slice(i * perTable, (i + 1) * perTable);
      if (part.every((fill) => fill === 'absent')) continue;
      const table = this.#take(1);
      part.forEach((fill, index) => this.#entry(table + index * (extendedL2 ? 16 : 8), i * perTable + index, fill));
      this.#put64(l1 + i * 8, BigInt(table) | COPIED);
    }
    const refcounts = this.#refcounts(refcountOrder);
    const header = new DataView(this.#clusters[0].buffer, this.#clusters[0].byteOffset);
    header.setUint32(AT.magic, MAGIC);
    header.setUint32(AT.version, version);
    header.setUint32(AT.clusterBits, clusterBits);
    header.setBigUint64(AT.size, BigInt(content.length));
    header.setUint32(AT.l1Size, tables);
    header.setBigUint64(AT.l1Offset, BigInt(l1));
    header.setBigUint64(AT.refcountTableOffset, BigInt(refcounts));
    header.setUint32(AT.refcountTableClusters, this.#tableClusters);
    this.#finishHeader(header);
    const file = new Uint8Array(this.#clusters.length * cluster);
    this.#clusters.forEach((bytes, index) => file.set(bytes, index * cluster));
    return file;
  }

  #tableClusters = 1;

  #finishHeader(header: DataView): void {
    const { version, refcountOrder, extendedL2, backing, lazyRefcounts } = this.#recipe;
    let at = HEADER_V2_BYTES;
    if (version === 3) {
      header.setBigUint64(AT.incompatible, extendedL2 ? INCOMPATIBLE_EXTENDED_L2 : 0n);
      header.setBigUint64(AT.compatible, lazyRefcounts ? 1n : 0n);
      header.setUint32(AT.refcountOrder, refcountOrder);
      header.setUint32(AT.headerLength, HEADER_V3_BYTES);
      at = HEADER_V3_BYTES;
    }
    const extend = (type: number, bytes: Uint8Array): void => {
      header.setUint32(at, type);
      header.setUint32(at + 4, bytes.length);
      this.#clusters[0].set(bytes, at + 8);
      at += 8 + Math.ceil(bytes.length / 8) * 8;
    };
    if (backing) extend(EXTENSION_FORMAT, new TextEncoder().encode(backing.format));
    // As QEMU does, where there is room for it: the extensions reach over the first sector then.
    if (version === 3 && this.#cluster >= 4096) extend(EXTENSION_FEATURE_NAMES, new Uint8Array(FEATURE_NAMES_BYTES));
    at += 8;
    if (!backing) return;
    const name = new TextEncoder().encode(backing.name);
    header.setBigUint64(AT.backingOffset, BigInt(at));
    header.setUint32(AT.backingBytes, name.length);
    this.#clusters[0].set(name, at);
  }

  #take(count: number): number {
    const at = this.#clusters.length * this.#cluster;
    for (let i = 0; i < count; i++) {
      this.#clusters.push(new Uint8Array(this.#cluster));
      this.#counts.push(1);
    }
    return at;
  }

  #put64(at: number, value: bigint): void {
    const bytes = this.#clusters[Math.floor(at / this.#cluster)];
    new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(at % this.#cluster, value);
  }

  #entry(at: number, index: number, fill: Fill): void {
    const cluster = this.#cluster;
    const { content, extendedL2 } = this.#recipe;
    const shown = content.subarray(index * cluster, (index + 1) * cluster);
    // What lies behind the end of the disk must never show.
    const bytes = new Uint8Array(cluster).fill(BEHIND_END);
    bytes.set(shown);
    if (fill === 'absent') return;
    if (fill === 'compressed') {
      const stream = deflateRawSync(bytes, { windowBits: 12 });
      if (stream.length < cluster - 512) return this.#compressed(at, stream);
    }
    const zeros = fill === 'zero' || fill === 'zero with place';
    if (zeros) shown.fill(0);
    const place = fill === 'zero' ? 0 : this.#take(1);
    if (place) this.#clusters[place / cluster].set(bytes);
    const offset = place ? BigInt(place) | COPIED : 0n;
    if (!extendedL2) return this.#put64(at, zeros ? offset | 1n : offset);
    this.#put64(at, offset);
    this.#put64(at + 8, zeros ? 0xffffffff00000000n : fill === 'subclusters' ? this.#subclusters(shown) : 0xffffffffn);
  }

  /** Data, absent, data, absent … in the first half; zeros in the last quarter. Returns the bitmap. */
  #subclusters(shown: Uint8Array): bigint {
    const bytes = this.#cluster / SUBCLUSTERS;
    shown.fill(0, Math.min(shown.length, 24 * bytes));
    return 0xff00000000555555n;
  }

  #compressed(at: number, stream: Uint8Array): void {
    const cluster = this.#cluster;
    let from = this.#packed;
    // A new host cluster unless the stream fits behind the last one, with all the sectors that it touches.
    if (!from || Math.ceil((from + stream.length) / 512) * 512 > this.#packedEnd) {
      from = this.#take(2);
      this.#packedEnd = from + 2 * cluster;
      this.#counts[from / cluster] = 0;
      this.#counts[from / cluster + 1] = 0;
    }
    const sectors = Math.floor((from + stream.length - 1) / 512) - Math.floor(from / 512);
    const end = (Math.floor(from / 512) + sectors + 1) * 512;
    for (let c = Math.floor(from / cluster); c <= Math.floor((end - 1) / cluster); c++) this.#counts[c]++;
    for (let i = 0; i < stream.length; i++) this.#clusters[Math.floor((from + i) / cluster)][(from + i) % cluster] = stream[i];
    const shift = BigInt(62 - (this.#recipe.clusterBits - 8));
    this.#put64(at, COMPRESSED | (BigInt(sectors) << shift) | BigInt(from));
    this.#packed = from + stream.length;
  }

  /** The refcount table, one cluster or as many as it needs, with its blocks. Returns where it is. */
  #refcounts(order: number): number {
    const perBlock = (this.#cluster * 8) >> order;
    let blocks = 1;
    let tables = 1;
    while (blocks * perBlock < this.#clusters.length + blocks + tables || tables * this.#cluster < blocks * 8) {
      if (tables * this.#cluster < blocks * 8) tables++;
      else blocks++;
    }
    const table = this.#take(tables);
    this.#tableClusters = tables;
    const first = this.#take(blocks);
    for (let i = 0; i < blocks; i++) this.#put64(table + i * 8, BigInt(first + i * this.#cluster));
    this.#counts.forEach((count, index) => this.#setCount(first, index, count, order));
    return table;
  }

  #setCount(first: number, index: number, count: number, order: number): void {
    const bit = index * 2 ** order;
    const at = first + Math.floor(bit / 8);
    const bytes = this.#clusters[Math.floor(at / this.#cluster)];
    const within = at % this.#cluster;
    if (order < 3) bytes[within] |= count << (bit % 8);
    else bytes[within + 2 ** (order - 3) - 1] = count;
  }
}

/** What an image shows over `below`, past whose end there are zeros. @throws when a table points past the file. */
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
    showCluster(h, file, view.getBigUint64(entryAt), h.extendedL2 ? view.getBigUint64(entryAt + 8) : undefined, shown);
  }
  return content;
}

const OFFSET_MASK = 0x00fffffffffffe00n;

function showCluster(h: Header, file: Uint8Array, entry: bigint, bitmap: bigint | undefined, shown: Uint8Array): void {
  const cluster = 2 ** h.clusterBits;
  if (entry & COMPRESSED) {
    const shift = BigInt(62 - (h.clusterBits - 8));
    const from = Number(entry & ((1n << shift) - 1n));
    const sectors = Number((entry & ~(COPIED | COMPRESSED)) >> shift) + 1;
    const bytes = inflateRawSync(file.subarray(from, from - (from % 512) + sectors * 512), { maxOutputLength: cluster });
    if (bytes.length !== cluster) throw new Error(`a compressed cluster inflates to ${bytes.length} bytes`);
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
