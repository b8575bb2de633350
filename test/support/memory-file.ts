/**
 * A file in memory: an overlay or base that answers at once, for tests that make thousands of them.
 * It keeps everything that was written to it; losing what was not flushed is the simulator's work.
 */
import type { BlockFile } from '../../hosts/api/block.ts';

/**
 * Least room that is taken at once; a file that grows on doubles it, so that it is not copied with
 * each write.
 */
const GROWTH_BYTES = 1 << 20;

export class MemoryFile implements BlockFile {
  readonly name: string;
  /** How often each of the calls that leave no trace in the bytes was made. */
  flushes = 0;
  flushIsDear = false;
  /** Bytes that were discarded, all calls together. */
  discarded = 0;
  #bytes: Uint8Array;
  #size: number;

  constructor(name: string, bytes: Uint8Array = new Uint8Array(0)) {
    this.name = name;
    this.#bytes = bytes.slice();
    this.#size = bytes.length;
  }

  get size(): number {
    return this.#size;
  }

  /** What the file holds now; a view, good until the next write. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  read(offset: number, into: Uint8Array): void {
    if (offset + into.length > this.#size)
      throw new RangeError(`${this.name}: read of ${into.length} bytes at ${offset}, past the end`);
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    this.#reserve(offset + from.length);
    this.#bytes.set(from, offset);
    this.#size = Math.max(this.#size, offset + from.length);
  }

  flush(): void {
    this.flushes++;
  }

  truncate(size: number): void {
    this.#reserve(size);
    if (size < this.#size) this.#bytes.fill(0, size, this.#size);
    this.#size = size;
  }

  discard(offset: number, length: number): void {
    this.discarded += length;
    this.#bytes.fill(0, offset, Math.min(offset + length, this.#size));
  }

  close(): void {}

  #reserve(size: number): void {
    if (size <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(size, GROWTH_BYTES, this.#bytes.length * 2));
    grown.set(this.bytes);
    this.#bytes = grown;
  }
}
