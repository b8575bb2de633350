/**
 * Hostile images: a sound one, written in any shape, in which a few things are made wrong where it
 * hurts (fields of the header, table entries, refcounts, descriptors of compressed clusters,
 * subcluster bitmaps, extensions, the file's length). All from one seed.
 */
import { Random } from '../fixtures/content.ts';
import { makeImage } from '../simulator/images.ts';
import type { ImagePlan } from '../simulator/plan.ts';
import { planOf } from '../simulator/plan.ts';
import type { Header } from '../simulator/qcow2.ts';
import { AT, readHeader } from '../simulator/qcow2.ts';

export interface Hostile {
  file: Uint8Array;
  plan: ImagePlan;
  /** What was done to it. */
  mutations: string[];
}

const DISK_BYTES_MAX = 128 << 10;
const CLUSTER_BITS_MAX = 14;
const MUTATIONS_MAX = 4;

/** A sound image, and the same one with 0 to 4 mutations. */
export function hostileImage(seed: number, backing?: { name: string; format: string }): Hostile {
  const random = new Random(seed);
  const { overlay } = planOf(random.next());
  // Every other image is laid out as ours are.
  const odd = seed & 1 ? [] : overlay.odd;
  const plan = {
    ...overlay,
    odd,
    clusterBits: Math.min(overlay.clusterBits, CLUSTER_BITS_MAX),
    size: Math.min(overlay.size, DISK_BYTES_MAX),
  };
  const image = new Mutator(
    makeImage(plan, random, random.between(0, 2) ? backing : undefined),
    random,
  );
  const count = random.between(0, 20) === 0 ? 0 : random.between(1, MUTATIONS_MAX);
  for (let i = 0; i < count; i++) image.mutate();
  return { file: image.file, plan, mutations: image.mutations };
}

/** 32-bit fields, and 64-bit ones. */
const WORDS = [
  'magic',
  'version',
  'backingBytes',
  'clusterBits',
  'cryptMethod',
  'l1Size',
  'refcountTableClusters',
  'snapshots',
  'refcountOrder',
  'headerLength',
  'compression',
] as const;
const LONGS = [
  'backingOffset',
  'size',
  'l1Offset',
  'refcountTableOffset',
  'snapshotsOffset',
  'incompatible',
  'compatible',
  'autoclear',
] as const;

class Mutator {
  file: Uint8Array;
  readonly mutations: string[] = [];
  readonly #random: Random;
  readonly #header: Header;
  #view: DataView;

  constructor(file: Uint8Array, random: Random) {
    this.file = file;
    this.#view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    this.#random = random;
    this.#header = readHeader(file);
  }

  mutate(): void {
    const kinds = [
      this.#word,
      this.#long,
      this.#l1,
      this.#l2,
      this.#l2,
      this.#bitmap,
      this.#refcountTable,
      this.#refcounts,
      this.#extension,
      this.#length,
      this.#bytes,
      this.#alias,
    ];
    kinds[this.#random.between(0, kinds.length - 1)].call(this);
  }

  #note(text: string): void {
    this.mutations.push(text);
  }

  #pick<T>(...choices: T[]): T {
    return choices[this.#random.between(0, choices.length - 1)];
  }

  /** A number that is likely to be at an edge of something. */
  #number(): number {
    const { clusterBits, l1Offset, refcountTableOffset } = this.#header;
    const cluster = 2 ** clusterBits;
    const edge = this.#pick(
      0,
      1,
      8,
      72,
      104,
      512,
      cluster,
      l1Offset,
      refcountTableOffset,
      this.file.length,
      2 ** 31,
      2 ** 32,
      2 ** 53,
      2 ** 56,
    );
    return Math.max(0, edge + this.#pick(0, 0, 0, -1, 1, -8, 8, -cluster, cluster, -512, 512));
  }

  #long64(): bigint {
    const value = BigInt(this.#number());
    return BigInt.asUintN(
      64,
      this.#pick(
        value,
        value,
        value | (1n << 63n),
        value | (1n << 62n),
        value | 1n,
        ~value,
        1n << BigInt(this.#random.between(0, 63)),
      ),
    );
  }

  #put32(at: number, value: number, what: string): void {
    if (at < 0 || at + 4 > this.file.length) return;
    this.#view.setUint32(at, value >>> 0);
    this.#note(`${what} (32 bits at ${at}) = ${value >>> 0}`);
  }

  #put64(at: number, value: bigint, what: string): void {
    if (at < 0 || at + 8 > this.file.length) return;
    this.#view.setBigUint64(at, value);
    this.#note(`${what} (64 bits at ${at}) = 0x${value.toString(16)}`);
  }

  #word(): void {
    const name = this.#pick(...WORDS);
    const old = this.#view.getUint32(AT[name]);
    this.#put32(
      AT[name],
      this.#pick(
        0,
        old + 1,
        old - 1,
        old * 2,
        old ^ (1 << this.#random.between(0, 31)),
        this.#number(),
      ),
      name,
    );
  }

  #long(): void {
    const name = this.#pick(...LONGS);
    const old = this.#view.getBigUint64(AT[name]);
    const flipped = old ^ (1n << BigInt(this.#random.between(0, 63)));
    this.#put64(
      AT[name],
      this.#pick(
        flipped,
        flipped,
        BigInt.asUintN(64, old + 1n),
        (old * 2n) % (1n << 64n),
        this.#long64(),
      ),
      name,
    );
  }

  #entry(at: number, what: string): void {
    if (at + 8 > this.file.length) return;
    const old = this.#view.getBigUint64(at);
    const cluster = 2n ** BigInt(this.#header.clusterBits);
    this.#put64(
      at,
      this.#pick(
        old ^ (1n << BigInt(this.#random.between(0, 63))),
        BigInt.asUintN(64, old + cluster),
        this.#long64(),
        0n,
      ),
      what,
    );
  }

  #l1At(): number {
    return (
      this.#header.l1Offset + 8 * this.#random.between(0, Math.max(0, this.#header.l1Size - 1))
    );
  }

  #l1(): void {
    this.#entry(this.#l1At(), 'an L1 entry');
  }

  /** Where an L2 entry is; 0 if there is none. */
  #l2At(): number {
    for (let tries = 0; tries < 8; tries++) {
      const at = this.#l1At();
      if (at + 8 > this.file.length) continue;
      const table = Number(this.#view.getBigUint64(at) & 0x00fffffffffffe00n);
      const step = this.#header.extendedL2 ? 16 : 8;
      const entries = 2 ** this.#header.clusterBits / step;
      const used = Math.ceil(this.#header.size / 2 ** this.#header.clusterBits);
      if (table && table < this.file.length)
        return table + step * this.#random.between(0, Math.min(entries, used) - 1);
    }
    return 0;
  }

  #l2(): void {
    const at = this.#l2At();
    if (at) this.#entry(at, 'an L2 entry');
  }

  #bitmap(): void {
    const at = this.#l2At();
    if (!at || !this.#header.extendedL2) return this.#l2();
    this.#entry(at + 8, 'a subcluster bitmap');
  }

  /** Two entries that point to the same place, or one that points to a table. */
  #alias(): void {
    const at = this.#l2At();
    if (!at || at + 8 > this.file.length) return;
    const other = this.#pick(this.#l2At(), this.#l1At(), this.#header.refcountTableOffset);
    const value = other + 8 <= this.file.length ? this.#view.getBigUint64(other) : 0n;
    this.#put64(
      at,
      this.#pick(value, BigInt(other - (other % 512)) | (1n << 63n)),
      'an L2 entry, as another,',
    );
  }

  #refcountTable(): void {
    this.#entry(
      this.#header.refcountTableOffset + 8 * this.#pick(0, 0, 1, this.#random.between(0, 63)),
      'a refcount table entry',
    );
  }

  #refcounts(): void {
    const { refcountTableOffset } = this.#header;
    if (refcountTableOffset + 8 > this.file.length) return;
    const block = Number(this.#view.getBigUint64(refcountTableOffset));
    const at = block + this.#random.between(0, 63);
    if (block && at < this.file.length) {
      this.file[at] = this.#pick(0, 1, 2, 255, this.file[at] + 1);
      this.#note(`a refcount byte at ${at} = ${this.file[at]}`);
    }
  }

  #extension(): void {
    const at = this.#header.headerLength + 8 * this.#random.between(0, 3);
    this.#put32(
      at,
      this.#pick(0, 0xe2792aca, 0x6803f857, 0x23852875, 0x44415441, 0x4d494c52, 0x12345678),
      'the type of an extension',
    );
    this.#put32(
      at + 4,
      this.#pick(0, 1, 5, 24, 0x7fffffff, 0xffffffff, this.#number()),
      'the length of an extension',
    );
  }

  #length(): void {
    const size = this.#pick(
      this.#random.between(0, this.file.length),
      this.file.length - 1,
      Math.min(this.#number(), this.file.length),
      this.file.length + 4096,
    );
    const file = new Uint8Array(Math.max(0, size));
    file.set(this.file.subarray(0, size));
    this.file = file;
    this.#view = new DataView(file.buffer);
    this.#note(`the file has ${file.length} bytes`);
    // What follows mutates what is left: too little of it is no image to be mutated.
    if (file.length < 2 ** 9) this.mutate = () => {};
  }

  #bytes(): void {
    const at = this.#random.between(0, this.file.length - 1);
    const count = Math.min(this.#random.between(1, 16), this.file.length - at);
    for (let i = 0; i < count; i++) this.file[at + i] = this.#random.next();
    this.#note(
      `${count} bytes at ${at} = ${Buffer.from(this.file.subarray(at, at + count)).toString('hex')}`,
    );
  }
}
