/**
 * A writer of qcow2 images that lays out any mix of data, zero, compressed and absent clusters,
 * also as other programs may do it.
 */
import { deflateRawSync } from 'node:zlib';
import { Random } from '../fixtures/content.ts';
import { Layout, STALE } from './layout.ts';
import type { Oddity } from './odd.ts';
import { Odd } from './odd.ts';
import {
  AT,
  COMPRESSED,
  COPIED,
  EXTENSION_UNKNOWN,
  HEADER_V2_BYTES,
  HEADER_V3_BYTES,
  INCOMPATIBLE_DIRTY,
  INCOMPATIBLE_EXTENDED_L2,
  MAGIC,
  SUBCLUSTERS,
} from './qcow2.ts';

const HEADER_SHORT_BYTES = 104;
const COMPATIBLE_LAZY_REFCOUNTS = 1n;
const UNKNOWN_COMPATIBLE = 1n << 17n;
const UNKNOWN_AUTOCLEAR = 1n << 40n;
const EXTENSION_FEATURE_NAMES = 0x6803f857;
const FEATURE_NAMES_BYTES = 8 * 48;
const EXTENSION_FORMAT = 0xe2792aca;
const ALL_DATA = 0xffffffffn;
const ALL_ZERO = 0xffffffffn << 32n;

/** What a cluster of an image is to be; `subclusters`: any mix of what each of them can be. */
export type Fill = 'data' | 'zero' | 'zero with place' | 'compressed' | 'absent' | 'subclusters';

const FILLS_BEHIND_END: Fill[] = [
  'data',
  'absent',
  'zero',
  'zero with place',
  'compressed',
  'subclusters',
];

export interface Recipe {
  version: 2 | 3;
  clusterBits: number;
  refcountOrder: number;
  extendedL2: boolean;
  /**
   * What the disk shows where the image has something of its own; where a cluster is absent it does
   * not matter.
   */
  content: Uint8Array;
  /** What each cluster is. */
  fills: Fill[];
  backing?: { name: string; format: string };
  lazyRefcounts?: boolean;
  odd?: readonly Oddity[];
  /** Decides on what nothing else does. */
  seed?: number;
}

/**
 * Lays out an image; where it shows zeros, or what another cluster has, `content` is changed to
 * that.
 */
export function writeImage(recipe: Recipe): Uint8Array {
  return new Writer(recipe).run();
}

/** An L2 table: its clusters have their flags once it is known how often each is used. */
interface Table {
  at: number;
  entries: BigUint64Array;
}

class Writer {
  readonly #recipe: Recipe;
  readonly #cluster: number;
  readonly #odd: Odd;
  readonly #layout: Layout;
  readonly #fills: Fill[];
  /** Words of an L2 entry. */
  readonly #words: number;
  /** Compressed streams are packed: where the next one may begin. */
  #packed = 0;
  #packedEnd = 0;
  /**
   * What others may share: the last stream, the last cluster of data, and which clusters of the
   * disk these are.
   */
  #lastStream: { entry: bigint; index: number; hosts: number[] } | undefined;
  #lastData: { host: number; index: number } | undefined;
  /** The entry of the cluster that comes last in the file. */
  #last: { table: Table; word: number; bytes: Uint8Array; shown: number } | undefined;

  constructor(recipe: Recipe) {
    this.#recipe = recipe;
    this.#cluster = 2 ** recipe.clusterBits;
    this.#words = recipe.extendedL2 ? 2 : 1;
    this.#odd = new Odd(recipe.odd ?? [], new Random(recipe.seed ?? 1));
    this.#layout = new Layout(recipe.clusterBits, recipe.refcountOrder, this.#odd);
    this.#fills = [...recipe.fills];
    if (this.#odd.is('entries behind the end')) this.#fillBehindEnd();
  }

  run(): Uint8Array {
    const layout = this.#layout;
    const perTable = this.#cluster / 8 / this.#words;
    const l1Size =
      Math.ceil(this.#fills.length / perTable) +
      (this.#odd.is('more L1 entries') ? this.#odd.random.between(1, 200) : 0);
    const l1Clusters = Math.max(1, Math.ceil((l1Size * 8) / this.#cluster));
    let l1 = this.#odd.now('tables behind data', 2) ? 0 : layout.take(l1Clusters);
    const tables = this.#tables(perTable);
    l1 ||= layout.take(l1Clusters);
    layout.refcounts(this.#last ? 1 : 0);
    this.#placeLast();
    for (const [index, table] of tables.entries())
      if (table) this.#writeTable(table, l1 + index * 8);
    this.#writeHeader(l1, l1Size);
    return this.#end(layout.file());
  }

  /**
   * Of what stands behind the disk's end, some is mapped by the table of its last cluster, some by
   * others.
   */
  #fillBehindEnd(): void {
    const { version, refcountOrder, extendedL2 } = this.#recipe;
    const { random } = this.#odd;
    const perTable = this.#cluster / 8 / this.#words;
    const fits = FILLS_BEHIND_END.filter((fill) => {
      if (fill === 'zero' || fill === 'zero with place') return version > 2;
      return fill === 'compressed' ? refcountOrder > 3 : fill !== 'subclusters' || extendedL2;
    });
    const more = random.between(0, 1)
      ? random.between(1, 20)
      : Math.min(random.between(1, 3) * perTable, 200);
    for (let i = 0; i < more; i++) this.#fills.push(fits[random.between(0, fits.length - 1)]);
  }

  #tables(perTable: number): (Table | undefined)[] {
    return Array.from({ length: Math.ceil(this.#fills.length / perTable) }, (_, i) => {
      const part = this.#fills.slice(i * perTable, (i + 1) * perTable);
      if (part.every((fill) => fill === 'absent')) return undefined;
      const table: Table = {
        at: this.#odd.now('tables behind data', 2) ? 0 : this.#layout.take(1),
        entries: new BigUint64Array(this.#cluster / 8),
      };
      for (const [index, fill] of part.entries())
        this.#entry(table, index * this.#words, i * perTable + index, fill);
      table.at ||= this.#layout.take(1);
      return table;
    });
  }

  #writeTable(table: Table, l1: number): void {
    const layout = this.#layout;
    table.entries.forEach((entry, word) => {
      const isEntry = this.#words === 1 || word % 2 === 0;
      const host = isEntry && !(entry & COMPRESSED) ? Number(entry & ~1n) : 0;
      layout.put64(table.at + word * 8, host ? entry | this.#flag(host) : entry);
    });
    layout.put64(l1, BigInt(table.at) | this.#flag(table.at));
  }

  #flag(host: number): bigint {
    return (this.#layout.countAt(host) === 1) !== this.#odd.now('wrong flags', 4) ? COPIED : 0n;
  }

  /** One cluster of the disk: its entry stands at `word` of the table. */
  #entry(table: Table, word: number, index: number, fill: Fill): void {
    if (fill === 'absent') return;
    const { content, extendedL2 } = this.#recipe;
    const shown = content.subarray(index * this.#cluster, (index + 1) * this.#cluster);
    const bytes = new Uint8Array(this.#cluster).fill(STALE);
    bytes.set(shown);
    if (fill === 'compressed') {
      table.entries[word] = this.#compressed(bytes, shown, index);
      if (table.entries[word]) return;
    }
    const zeros = fill === 'zero' || fill === 'zero with place';
    if (zeros) shown.fill(0);
    const bitmap = zeros ? ALL_ZERO : fill === 'subclusters' ? this.#subclusters(shown) : ALL_DATA;
    if (extendedL2) table.entries[word + 1] = bitmap;
    else if (zeros) table.entries[word] = 1n;
    const needsPlace = !zeros && (bitmap & ALL_DATA) !== 0n;
    if (
      !needsPlace &&
      fill !== 'zero with place' &&
      (fill === 'zero' || this.#odd.random.between(0, 1))
    )
      return;
    if (fill === 'data' && this.#isLast(index))
      this.#last = { table, word, bytes, shown: shown.length };
    else
      table.entries[word] |= BigInt(this.#place(bytes, fill === 'data' ? shown : undefined, index));
  }

  /**
   * A cluster's place; whole data may be where that of another cluster is, and shows the same then.
   */
  #place(bytes: Uint8Array, shown: Uint8Array | undefined, index: number): number {
    const layout = this.#layout;
    const last = this.#lastData;
    if (
      shown?.length === this.#cluster &&
      last &&
      layout.mayShare(last.host) &&
      this.#odd.now('shared clusters', 3)
    ) {
      shown.set(this.#clusterOf(last.index));
      layout.counts[last.host / this.#cluster]++;
      return last.host;
    }
    const host = layout.take(1);
    layout.put(host, bytes);
    if (shown?.length === this.#cluster) this.#lastData = { host, index };
    return host;
  }

  #clusterOf(index: number): Uint8Array {
    return this.#recipe.content.subarray(index * this.#cluster, (index + 1) * this.#cluster);
  }

  /** Whether the file is to end with this cluster, where the disk ends. */
  #isLast(index: number): boolean {
    return (
      this.#odd.is('ends with the disk') &&
      this.#recipe.content.length % this.#cluster > 0 &&
      index === this.#recipe.fills.length - 1
    );
  }

  #placeLast(): void {
    if (!this.#last) return;
    const { table, word, bytes } = this.#last;
    const host = this.#layout.takeLast();
    this.#layout.put(host, bytes);
    table.entries[word] = BigInt(host);
  }

  /**
   * Makes the subclusters of what is shown data, zeros or absent, alone or in runs. Returns the
   * bitmap.
   */
  #subclusters(shown: Uint8Array): bigint {
    const { random } = this.#odd;
    const bytes = this.#cluster / SUBCLUSTERS;
    const states = [
      ['data', 'zero', 'absent'],
      ['data', 'zero'],
      ['zero', 'absent'],
      ['data', 'absent'],
      ['absent'],
    ][random.between(0, 4)];
    const stays = random.between(0, 8);
    let state = states[0];
    let bitmap = 0n;
    for (let i = 0; i < SUBCLUSTERS; i++) {
      if (i === 0 || random.between(0, 8) >= stays)
        state = states[random.between(0, states.length - 1)];
      if (state === 'data') bitmap |= 1n << BigInt(i);
      if (state !== 'zero') continue;
      bitmap |= 1n << BigInt(i + SUBCLUSTERS);
      shown.fill(0, Math.min(shown.length, i * bytes), Math.min(shown.length, (i + 1) * bytes));
    }
    return bitmap;
  }

  /** The entry of a compressed cluster; 0 if it is not worth it. */
  #compressed(bytes: Uint8Array, shown: Uint8Array, index: number): bigint {
    const cluster = this.#cluster;
    const { counts } = this.#layout;
    const last = this.#lastStream;
    if (
      last &&
      shown.length === cluster &&
      this.#odd.now('shared streams', 3) &&
      last.hosts.every((host) => counts[host] < 100)
    ) {
      shown.set(this.#clusterOf(last.index));
      for (const host of last.hosts) counts[host]++;
      return last.entry;
    }
    const stream = deflateRawSync(bytes, { windowBits: 12 });
    if (stream.length >= cluster - 512) return 0n;
    const from = this.#pack(stream);
    const sectors = this.#sectors(from, stream.length);
    const hosts: number[] = [];
    const end = (Math.floor(from / 512) + sectors + 1) * 512;
    for (let host = Math.floor(from / cluster); host <= Math.floor((end - 1) / cluster); host++)
      hosts.push(host);
    for (const host of hosts) counts[host]++;
    const shift = BigInt(62 - (this.#recipe.clusterBits - 8));
    const entry = COMPRESSED | (BigInt(sectors) << shift) | BigInt(from);
    if (shown.length === cluster) this.#lastStream = { entry, index, hosts };
    return entry;
  }

  /**
   * Puts a stream behind the last one, or where that has no room for all the sectors that it
   * touches, into new clusters.
   */
  #pack(stream: Uint8Array): number {
    const layout = this.#layout;
    let from = this.#packed;
    if (!from || Math.ceil((from + stream.length) / 512) * 512 > this.#packedEnd) {
      from = layout.take(2);
      this.#packedEnd = from + 2 * this.#cluster;
      for (const i of [0, 1]) layout.counts[from / this.#cluster + i] = 0;
    }
    layout.put(from, stream);
    this.#packed = from + stream.length;
    return from;
  }

  /** Sectors behind the first that a stream takes; an entry may claim more than it needs. */
  #sectors(from: number, bytes: number): number {
    const needed = Math.floor((from + bytes - 1) / 512) - Math.floor(from / 512);
    const most = Math.min(
      2 ** (this.#recipe.clusterBits - 8) - 1,
      this.#packedEnd / 512 - Math.floor(from / 512) - 1,
    );
    return this.#odd.now('long streams', 2) ? this.#odd.random.between(needed, most) : needed;
  }

  /** The file, as far as it goes. */
  #end(file: Uint8Array): Uint8Array {
    if (this.#last) return file.slice(0, file.length - this.#cluster + this.#last.shown);
    if (this.#odd.is('last cluster cut short')) {
      // What is read of it is zeros, behind the file's end too.
      let end = file.length;
      while (end > file.length - this.#cluster + 512 && file[end - 1] === 0) end--;
      return file.slice(0, Math.ceil(end / 512) * 512);
    }
    if (!this.#odd.is('bytes behind the last cluster')) return file;
    const longer = new Uint8Array(
      file.length + this.#odd.random.between(1, this.#cluster - 1),
    ).fill(STALE);
    longer.set(file);
    return longer;
  }

  #writeHeader(l1: number, l1Size: number): void {
    const { version, clusterBits, content } = this.#recipe;
    const { tableAt, tableClusters } = this.#layout;
    const first = this.#layout.bytesAt(0);
    const header = new DataView(first.buffer, first.byteOffset);
    header.setUint32(AT.magic, MAGIC);
    header.setUint32(AT.version, version);
    header.setUint32(AT.clusterBits, clusterBits);
    header.setBigUint64(AT.size, BigInt(content.length));
    header.setUint32(AT.l1Size, l1Size);
    header.setBigUint64(AT.l1Offset, BigInt(l1));
    header.setBigUint64(AT.refcountTableOffset, BigInt(tableAt));
    header.setUint32(AT.refcountTableClusters, tableClusters);
    this.#writeExtensions(header, version === 3 ? this.#writeVersion3(header) : HEADER_V2_BYTES);
  }

  /** Returns where the header ends. */
  #writeVersion3(header: DataView): number {
    const { refcountOrder, extendedL2, lazyRefcounts } = this.#recipe;
    const odd = this.#odd;
    const dirty = odd.is('dirty');
    const long = odd.is('long header') ? odd.random.between(1, 12) * 8 : 0;
    const length = odd.is('short header') ? HEADER_SHORT_BYTES : HEADER_V3_BYTES + long;
    header.setBigUint64(
      AT.incompatible,
      (extendedL2 ? INCOMPATIBLE_EXTENDED_L2 : 0n) | (dirty ? INCOMPATIBLE_DIRTY : 0n),
    );
    header.setBigUint64(
      AT.compatible,
      (lazyRefcounts || dirty ? COMPATIBLE_LAZY_REFCOUNTS : 0n) |
        (odd.is('unknown features') ? UNKNOWN_COMPATIBLE : 0n),
    );
    header.setBigUint64(AT.autoclear, odd.is('unknown features') ? UNKNOWN_AUTOCLEAR : 0n);
    header.setUint32(AT.refcountOrder, refcountOrder);
    header.setUint32(AT.headerLength, length);
    for (let at = HEADER_V3_BYTES; at < length; at++)
      header.setUint8(at, odd.random.between(0, 255));
    return length;
  }

  #writeExtensions(header: DataView, from: number): void {
    const { version, backing } = this.#recipe;
    const odd = this.#odd;
    let at = from;
    const extend = (type: number, bytes: Uint8Array): void => {
      header.setUint32(at, type);
      header.setUint32(at + 4, bytes.length);
      this.#layout.put(at + 8, bytes);
      at += 8 + Math.ceil(bytes.length / 8) * 8;
    };
    if (odd.is('unknown extension'))
      extend(EXTENSION_UNKNOWN, new Uint8Array(odd.random.between(0, 40)).fill(7));
    if (backing) extend(EXTENSION_FORMAT, new TextEncoder().encode(backing.format));
    // As QEMU does, where there is room for it: the extensions reach over the first sector then.
    if (version === 3 && this.#cluster >= 4096)
      extend(EXTENSION_FEATURE_NAMES, new Uint8Array(FEATURE_NAMES_BYTES));
    at += 8;
    if (!backing) return;
    const name = new TextEncoder().encode(backing.name);
    header.setBigUint64(AT.backingOffset, BigInt(at));
    header.setUint32(AT.backingBytes, name.length);
    this.#layout.put(at, name);
  }
}
