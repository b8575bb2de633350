/**
 * A checker of qcow2 files that shares nothing with the engine: it reads a whole image from memory,
 * follows every table (QEMU's docs/interop/qcow2.txt), and says what is wrong. It repairs nothing.
 */

import type { Header } from './qcow2.ts';
import { EXTENSION_IDENTITY, extensionsOf, readHeader } from './qcow2.ts';

export interface Finding {
  /** What can lose or mix data; a valid image has none at any moment. */
  corruptions: string[];
  /** Clusters that are counted as used, and are not. */
  leaks: number;
  dirty: boolean;
  /**
   * Bits of features that tell of the disk as it was before a program wrote to it that does not
   * know them.
   */
  autoclear: bigint;
  /** The base that the header names. */
  backing: string;
  /** What it tells the base by, beside its name; undefined where it tells nothing. */
  identity: string | undefined;
  size: number;
}

const OFFSET = 0x00fffffffffffe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const L1_RESERVED = 0x7f000000000001ffn;
const L2_RESERVED = 0x3f000000000001fen;
const ZERO = 1n;
/** Enough to tell what happened. */
const CORRUPTIONS_TOLD = 8;

/**
 * With `lazy`, refcounts may be wrong, as in an image that says so and has not been repaired yet.
 */
export function checkImage(file: Uint8Array, { lazy = false }: { lazy?: boolean } = {}): Finding {
  return new Check(file, lazy).run();
}

class Check {
  readonly #file: Uint8Array;
  readonly #view: DataView;
  readonly #header: Header;
  readonly #corruptions: string[] = [];
  /** References to every cluster of the file, as the tables have them. */
  readonly #references: Uint32Array;
  /** Clusters that hold tables: nothing else may refer to these, however high they are counted. */
  readonly #isTable: Uint8Array;
  readonly #cluster: number;

  readonly #lazy: boolean;

  constructor(file: Uint8Array, lazy: boolean) {
    this.#file = file;
    this.#lazy = lazy;
    this.#view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    this.#header = readHeader(file);
    this.#cluster = 2 ** this.#header.clusterBits;
    this.#references = new Uint32Array(Math.ceil(file.length / this.#cluster));
    this.#isTable = new Uint8Array(this.#references.length);
  }

  run(): Finding {
    const h = this.#header;
    this.#refer(0, 1, 'the header', true);
    this.#refer(h.l1Offset, Math.ceil((h.l1Size * 8) / this.#cluster), 'the L1 table', true);
    this.#refer(h.refcountTableOffset, h.refcountTableClusters, 'the refcount table', true);
    this.#blocks();
    this.#tables();
    const leaks = this.#corruptions.length ? 0 : this.#compare();
    const backing = h.backingOffset
      ? new TextDecoder().decode(
          this.#file.subarray(h.backingOffset, h.backingOffset + h.backingBytes),
        )
      : '';
    const identity = extensionsOf(this.#file).get(EXTENSION_IDENTITY);
    const told = identity && new TextDecoder().decode(identity).replace(/\0+$/, '');
    return {
      corruptions: this.#corruptions,
      leaks,
      dirty: (h.incompatible & 1n) !== 0n,
      autoclear: h.autoclear,
      backing,
      identity: told,
      size: h.size,
    };
  }

  #wrong(message: string): void {
    if (this.#corruptions.length < CORRUPTIONS_TOLD) this.#corruptions.push(message);
  }

  #word(offset: number): bigint {
    return offset + 8 <= this.#file.length ? this.#view.getBigUint64(offset) : 0n;
  }

  #refer(offset: number, clusters: number, what: string, isTable = false): boolean {
    if (offset % this.#cluster) {
      this.#wrong(`${what} at ${offset} is not aligned`);
      return false;
    }
    for (let i = 0; i < clusters; i++) {
      const index = offset / this.#cluster + i;
      if (index >= this.#references.length) {
        // The last clusters of a table need not have been written yet, if they are zeros; anything
        // else must be in the file.
        this.#wrong(`${what} at ${offset} lies past the end of the file (${this.#file.length})`);
        return false;
      }
      this.#references[index]++;
      if (isTable) this.#isTable[index] = 1;
    }
    return true;
  }

  #blocks(): void {
    const { refcountTableOffset, refcountTableClusters } = this.#header;
    for (
      let at = refcountTableOffset;
      at < refcountTableOffset + refcountTableClusters * this.#cluster;
      at += 8
    ) {
      const block = this.#word(at);
      if (block) this.#refer(Number(block), 1, `the refcount block of the entry at ${at}`, true);
    }
  }

  #tables(): void {
    const h = this.#header;
    for (let i = 0; i < h.l1Size; i++) {
      const entry = this.#word(h.l1Offset + i * 8);
      if (entry & L1_RESERVED) this.#wrong(`L1 entry ${i} has reserved bits`);
      const table = Number(entry & OFFSET);
      if (!table) continue;
      if (!this.#refer(table, 1, `the L2 table of L1 entry ${i}`, true)) continue;
      if (this.#isFlagWrong(entry, table)) this.#wrong(`the COPIED flag of L1 entry ${i} is wrong`);
      this.#table(table);
    }
  }

  #table(table: number): void {
    const step = this.#header.extendedL2 ? 16 : 8;
    for (let at = table; at < table + this.#cluster; at += step) {
      const entry = this.#word(at);
      const bitmap = step === 16 ? this.#word(at + 8) : 0n;
      if (entry === 0n && bitmap === 0n) continue;
      if (entry & COMPRESSED && bitmap)
        this.#wrong(`the compressed entry at ${at} has subclusters`);
      else if (entry & COMPRESSED) this.#compressed(entry, at);
      else this.#standard(entry, bitmap, at);
    }
  }

  #compressed(entry: bigint, at: number): void {
    const shift = BigInt(62 - (this.#header.clusterBits - 8));
    const from = Number(entry & ((1n << shift) - 1n));
    const sectors = Number((entry & ~(COPIED | COMPRESSED)) >> shift) + 1;
    const to = from - (from % 512) + sectors * 512;
    if (entry & COPIED) this.#wrong(`the compressed entry at ${at} has the COPIED flag`);
    for (let c = Math.floor(from / this.#cluster); c <= Math.floor((to - 1) / this.#cluster); c++) {
      // The last sectors that a stream may take need not be in the file.
      if (c * this.#cluster < Math.max(this.#file.length, from + 1))
        this.#refer(c * this.#cluster, 1, `the compressed cluster of the entry at ${at}`);
    }
  }

  #standard(entry: bigint, bitmap: bigint, at: number): void {
    const h = this.#header;
    const reserved = h.extendedL2 || h.version === 2 ? L2_RESERVED | ZERO : L2_RESERVED;
    if (entry & reserved) this.#wrong(`the L2 entry at ${at} has reserved bits`);
    if (h.extendedL2 && bitmap & (bitmap >> 32n) & 0xffffffffn)
      this.#wrong(`the L2 entry at ${at} has subclusters that are both data and zeros`);
    const host = Number(entry & OFFSET);
    if (!host) {
      if (h.extendedL2 && bitmap & 0xffffffffn)
        this.#wrong(`the L2 entry at ${at} has data and no place`);
      return;
    }
    if (!this.#refer(host, 1, `the cluster of the L2 entry at ${at}`)) return;
    if (this.#isFlagWrong(entry, host))
      this.#wrong(`the COPIED flag of the L2 entry at ${at} is wrong`);
  }

  #isFlagWrong(entry: bigint, place: number): boolean {
    return (
      !this.#lazy && ((entry & COPIED) !== 0n) !== (this.#refcount(place / this.#cluster) === 1)
    );
  }

  #refcount(cluster: number): number {
    const perBlock = this.#perBlock();
    return this.#countIn(this.#blockAt(Math.floor(cluster / perBlock)), cluster % perBlock);
  }

  #perBlock(): number {
    return (this.#cluster * 8) / 2 ** this.#header.refcountOrder;
  }

  /** Where a refcount block is; 0 if there is none in the file. */
  #blockAt(index: number): number {
    const { refcountTableOffset, refcountTableClusters } = this.#header;
    if (index * 8 >= refcountTableClusters * this.#cluster) return 0;
    const block = Number(this.#word(refcountTableOffset + index * 8));
    return block < this.#file.length ? block : 0;
  }

  #countIn(block: number, index: number): number {
    const { refcountOrder } = this.#header;
    const bit = index * 2 ** refcountOrder;
    const at = block + Math.floor(bit / 8);
    if (!block || at + 2 ** Math.max(0, refcountOrder - 3) > this.#file.length) return 0;
    if (refcountOrder < 3) return (this.#file[at] >> (bit % 8)) & ((1 << (1 << refcountOrder)) - 1);
    if (refcountOrder === 3) return this.#file[at];
    if (refcountOrder === 4) return this.#view.getUint16(at);
    return refcountOrder === 5 ? this.#view.getUint32(at) : Number(this.#view.getBigUint64(at));
  }

  /**
   * Compares every count with the references, those of clusters that the file does not reach too.
   * Returns the number of leaks.
   */
  #compare(): number {
    const perBlock = this.#perBlock();
    const blocks = Math.max(
      Math.ceil(this.#references.length / perBlock),
      (this.#header.refcountTableClusters * this.#cluster) / 8,
    );
    let leaks = 0;
    for (let index = 0; index < blocks; index++) {
      const block = this.#blockAt(index);
      const first = index * perBlock;
      if (!block && first >= this.#references.length) continue;
      const used = block ? this.#lastCounted(block) : 0;
      for (let i = 0; i < perBlock && (i < used || first + i < this.#references.length); i++) {
        const count = this.#countIn(block, i);
        const references = this.#references[first + i] ?? 0;
        if (references > 1 && this.#isTable[first + i])
          this.#wrong(`cluster ${first + i} is a table and used ${references} times`);
        else if (count < references && !this.#lazy)
          this.#wrong(
            `cluster ${first + i} is used ${references} times and counted ${count} times`,
          );
        else if (count > references) leaks++;
      }
    }
    return leaks;
  }

  /** Behind the last count of a block that is not zero. */
  #lastCounted(block: number): number {
    const bytes = this.#file.subarray(block, block + this.#cluster);
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] === 0) end--;
    return Math.ceil((end * 8) / 2 ** this.#header.refcountOrder);
  }
}
