/**
 * A file on a disk that can lose power. What was written but not flushed may, after a cut, be
 * there, be lost, or be there in part, one sector of 512 bytes at a time and in any order. It never
 * loses what a flush has covered.
 */
import type { Random } from '../fixtures/content.ts';

/** Storage writes a sector whole or not at all. */
export const SECTOR = 512;

/** What is lost when the power goes. */
export const CUTS = ['killed', 'random', 'nothing kept', 'all kept', 'sectors'] as const;
export type Cut = (typeof CUTS)[number];

interface Change {
  offset: number;
  /** A truncation has none. */
  data?: Uint8Array;
  size?: number;
}

export class Storage {
  bytes: Uint8Array;
  size: number;
  #durable: Uint8Array;
  #durableSize: number;
  /** Not yet covered by a flush, in the order of their ends. */
  #changes: Change[] = [];
  /** Changes ever made, those flushed included. */
  #count = 0;

  constructor(content: Uint8Array = new Uint8Array(0)) {
    this.size = content.length;
    this.#durableSize = content.length;
    this.bytes = new Uint8Array(content);
    this.#durable = new Uint8Array(content);
  }

  /** Bytes past the end are zeros. */
  read(offset: number, into: Uint8Array): void {
    const present = Math.max(0, Math.min(into.length, this.size - offset));
    if (present) into.set(this.bytes.subarray(offset, offset + present));
    into.fill(0, present);
  }

  write(offset: number, from: Uint8Array): void {
    this.#apply({ offset, data: from.slice() });
  }

  truncate(size: number): void {
    this.#apply({ offset: 0, size });
  }

  /** What a flush that begins now will cover. */
  mark(): number {
    return this.#count;
  }

  /** A flush that began at `mark` has ended well. */
  flushed(mark: number): void {
    const keep = this.#count - mark;
    const done = this.#changes.splice(0, Math.max(0, this.#changes.length - keep));
    for (const change of done) this.#durably(change);
  }

  /**
   * The power goes, while `inFlight` writes are on their way: each of their sectors may be there or
   * not.
   */
  cut(cut: Cut, inFlight: { offset: number; data: Uint8Array }[], random: Random): void {
    for (const change of this.#changes) this.#keep(change, cut, random);
    for (const { offset, data } of inFlight) {
      if (cut === 'all kept') this.#durably({ offset, data });
      else if (cut !== 'nothing kept') this.#tear({ offset, data }, random);
    }
    this.#changes = [];
    this.bytes = new Uint8Array(this.#durable);
    this.size = this.#durableSize;
  }

  /** A write that failed: some of its sectors may have been written. */
  writeSome(offset: number, from: Uint8Array, random: Random): void {
    for (const [at, end] of sectors(offset, from.length)) {
      if (random.next() & 1) this.write(at, from.subarray(at - offset, end - offset));
    }
  }

  #keep(change: Change, cut: Cut, random: Random): void {
    if (cut === 'killed' || cut === 'all kept') return this.#durably(change);
    if (cut === 'nothing kept') return;
    const fate = cut === 'sectors' ? 2 : random.next() % 3;
    if (fate === 0) this.#durably(change);
    else if (fate === 2) this.#tear(change, random);
  }

  #tear(change: Change, random: Random): void {
    if (!change.data) {
      if (random.next() & 1) this.#durably(change);
      return;
    }
    for (const [at, end] of sectors(change.offset, change.data.length)) {
      if (random.next() & 1)
        this.#durably({
          offset: at,
          data: change.data.subarray(at - change.offset, end - change.offset),
        });
    }
  }

  #apply(change: Change): void {
    this.#changes.push(change);
    this.#count++;
    if (change.data) {
      const end = change.offset + change.data.length;
      this.bytes = grown(this.bytes, end);
      this.bytes.set(change.data, change.offset);
      this.size = Math.max(this.size, end);
    } else {
      this.bytes = grown(this.bytes, change.size!);
      if (change.size! < this.size) this.bytes.fill(0, change.size!, this.size);
      this.size = change.size!;
    }
  }

  #durably(change: Change): void {
    if (change.data) {
      const end = change.offset + change.data.length;
      this.#durable = grown(this.#durable, end);
      this.#durable.set(change.data, change.offset);
      this.#durableSize = Math.max(this.#durableSize, end);
    } else {
      this.#durable = grown(this.#durable, change.size!);
      if (change.size! < this.#durableSize) this.#durable.fill(0, change.size!, this.#durableSize);
      this.#durableSize = change.size!;
    }
  }
}

/** The pieces of a range that lie in one sector each. */
function* sectors(offset: number, length: number): Generator<[number, number]> {
  const end = offset + length;
  for (let at = offset; at < end; ) {
    const next = Math.min(end, (Math.floor(at / SECTOR) + 1) * SECTOR);
    yield [at, next];
    at = next;
  }
}

/** Room for `size` bytes; what is new is zeros. */
function grown(bytes: Uint8Array, size: number): Uint8Array {
  if (size <= bytes.length) return bytes;
  const more = new Uint8Array(Math.max(size, bytes.length + (bytes.length >> 1)));
  more.set(bytes);
  return more;
}
