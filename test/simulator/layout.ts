/**
 * The file of an image that is being laid out: its clusters, how often each is used, and the
 * refcounts that say so.
 */
import type { Odd } from './odd.ts';

/**
 * What a cluster holds that nothing refers to, and what lies behind the end of the disk: it must
 * never show.
 */
export const STALE = 0xee;
/** One in so many clusters is followed by one that is leaked, or free. */
const GAP_ONE_IN = 8;
/** Room for the refcount table where it comes first: enough for most images. */
const FIRST_TABLE_CLUSTERS = 4;
/** The largest gap that is worth making for a hole in the refcount table. */
const HOLE_BYTES_MAX = 1 << 20;

export class Layout {
  readonly cluster: number;
  readonly counts: number[] = [];
  readonly #clusters: Uint8Array[] = [];
  readonly #order: number;
  readonly #odd: Odd;
  #firstTable = 0;
  /** Where the refcount block of each area is that has one. */
  readonly #blocks: Map<number, number> = new Map();
  /** Set once by refcounts. */
  tableAt = 0;
  tableClusters = 0;

  constructor(clusterBits: number, refcountOrder: number, odd: Odd) {
    this.cluster = 2 ** clusterBits;
    this.#order = refcountOrder;
    this.#odd = odd;
    this.#push(1);
    if (odd.is('refcount table first')) this.#firstTable = this.#push(FIRST_TABLE_CLUSTERS);
    if (
      odd.is('holes in the refcount table') &&
      2 * this.#perBlock * this.cluster <= HOLE_BYTES_MAX
    )
      this.#push(2 * this.#perBlock, 0, STALE);
  }

  get #perBlock(): number {
    return (this.cluster * 8) >> this.#order;
  }

  get #countMax(): number {
    return this.#order < 3 ? 2 ** (2 ** this.#order) - 1 : 255;
  }

  /** Takes clusters in a row; returns where the first is. */
  take(count: number): number {
    if (this.#odd.now('leaks', GAP_ONE_IN))
      this.#push(1, this.#odd.random.between(1, Math.min(3, this.#countMax)), STALE);
    if (this.#odd.now('free clusters', GAP_ONE_IN))
      this.#push(this.#odd.random.between(1, 3), 0, STALE);
    return this.#push(count);
  }

  bytesAt(at: number): Uint8Array {
    return this.#clusters[Math.floor(at / this.cluster)].subarray(at % this.cluster);
  }

  put(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const room = this.bytesAt(at + done);
      room.set(bytes.subarray(done, done + room.length));
      done += room.length;
    }
  }

  put64(at: number, value: bigint): void {
    const bytes = this.bytesAt(at);
    new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, value);
  }

  /** Whether one more may refer to a cluster. */
  mayShare(at: number): boolean {
    return this.counts[at / this.cluster] < this.#countMax;
  }

  countAt(at: number): number {
    return this.counts[at / this.cluster];
  }

  /**
   * Lays out the refcount table and its blocks, the last of all but of `more` clusters that are
   * taken later.
   */
  refcounts(more: number): void {
    const skips = this.#odd.is('holes in the refcount table');
    const perBlock = this.#perBlock;
    const spare = this.#odd.is('large refcount table') ? this.#odd.random.between(1, 3) : 0;
    let tables = this.#firstTable ? 0 : 1;
    let areas: number[] = [];
    let total = 0;
    for (let blocks = 1; ; ) {
      total = this.#clusters.length + blocks + tables + spare + more;
      const known = this.counts.length;
      areas = Array.from({ length: Math.ceil(total / perBlock) }, (_, area) => area).filter(
        (area) =>
          !skips ||
          (area + 1) * perBlock > known ||
          this.counts.slice(area * perBlock, (area + 1) * perBlock).some((count) => count > 0),
      );
      const room = (tables || FIRST_TABLE_CLUSTERS) * this.cluster;
      if (room < Math.ceil(total / perBlock) * 8) tables++;
      else if (areas.length > blocks) blocks++;
      else break;
    }
    this.#takeTable(tables, spare);
    for (const area of areas) this.#blocks.set(area, this.#push(1));
    if (this.#odd.is('counts behind the end')) this.#countBehindEnd(total);
    for (const [area, block] of this.#blocks) this.put64(this.tableAt + area * 8, BigInt(block));
  }

  #takeTable(tables: number, spare: number): void {
    if (this.#firstTable && tables)
      for (let i = 0; i < FIRST_TABLE_CLUSTERS; i++)
        this.counts[this.#firstTable / this.cluster + i] = 0;
    this.tableAt = tables ? this.#push(tables + spare) : this.#firstTable;
    this.tableClusters = tables ? tables + spare : FIRST_TABLE_CLUSTERS;
  }

  /**
   * Counts of clusters that the file does not have: in the last block, which goes on behind the
   * file's end, and in one far behind.
   */
  #countBehindEnd(total: number): void {
    const { random } = this.#odd;
    const perBlock = this.#perBlock;
    const last = Math.ceil(total / perBlock) - 1;
    const far = last + random.between(2, 4);
    if ((far + 1) * 8 <= this.tableClusters * this.cluster && total + 1 <= (last + 1) * perBlock) {
      this.#blocks.set(far, this.#push(1));
      total++;
      this.#setCount(far * perBlock + random.between(0, perBlock - 1), 1);
    }
    for (let i = 0; i < 3; i++) {
      const index = total + random.between(0, perBlock);
      if (index < (last + 1) * perBlock) this.#setCount(index, 1);
    }
  }

  /** The file, all of whose refcounts are written now. */
  file(): Uint8Array {
    const dirty = this.#odd.is('dirty');
    for (const [index, count] of this.counts.entries())
      this.#setCount(
        index,
        dirty && this.#odd.random.between(0, 3) === 0
          ? this.#odd.random.between(0, Math.min(2, this.#countMax))
          : count,
      );
    if (dirty && this.#odd.random.between(0, 3) === 0) this.#loseBlock();
    const file = new Uint8Array(this.#clusters.length * this.cluster);
    for (const [index, bytes] of this.#clusters.entries()) file.set(bytes, index * this.cluster);
    return file;
  }

  /** A block that was not brought to disk before the image was left. */
  #loseBlock(): void {
    const areas = [...this.#blocks.keys()];
    this.put64(this.tableAt + areas[this.#odd.random.between(0, areas.length - 1)] * 8, 0n);
  }

  /** The next cluster, right behind the last. */
  #push(clusters: number, count: number = 1, fill: number = 0): number {
    const at = this.#clusters.length * this.cluster;
    for (let i = 0; i < clusters; i++) {
      this.#clusters.push(
        fill ? new Uint8Array(this.cluster).fill(fill) : new Uint8Array(this.cluster),
      );
      this.counts.push(count);
    }
    return at;
  }

  /** The last cluster of the file. */
  takeLast(): number {
    return this.#push(1);
  }

  #setCount(index: number, count: number): void {
    const block = this.#blocks.get(Math.floor(index / this.#perBlock));
    if (block === undefined) return;
    const bit = (index % this.#perBlock) * 2 ** this.#order;
    const bytes = this.bytesAt(block);
    const at = Math.floor(bit / 8);
    if (this.#order < 3)
      bytes[at] = (bytes[at] & ~(this.#countMax << (bit % 8))) | (count << (bit % 8));
    else bytes[at + 2 ** (this.#order - 3) - 1] = count;
  }
}
