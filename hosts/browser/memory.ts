/**
 * An overlay in memory, for pages that the browser gives no storage. It is sparse, so that a large
 * disk takes only what was written, and it ends with the worker: it must never be mistaken for one
 * that lasts.
 */
import type { BlockFile } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';

const CHUNK_BYTES = 1024 * 1024;

export class MemoryFile implements BlockFile {
  readonly name: string;
  readonly #chunks = new Map<number, Uint8Array>();
  #size = 0;

  constructor(name: string) {
    this.name = name;
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, into: Uint8Array): void {
    for (const [index, at, from, length] of pieces(offset, into.length)) {
      const chunk = this.#chunks.get(index);
      if (chunk) into.set(chunk.subarray(from, from + length), at);
      else into.fill(0, at, at + length);
    }
  }

  write(offset: number, bytes: Uint8Array): void {
    for (const [index, at, from, length] of pieces(offset, bytes.length)) {
      let chunk = this.#chunks.get(index);
      if (!chunk) this.#chunks.set(index, (chunk = this.#allocate()));
      chunk.set(bytes.subarray(at, at + length), from);
    }
    this.#size = Math.max(this.#size, offset + bytes.length);
  }

  #allocate(): Uint8Array {
    try {
      return new Uint8Array(CHUNK_BYTES);
    } catch (cause) {
      throw new MillraceError(
        'ENOSPC',
        `no memory is left for disk '${this.name}', which the browser gives no storage`,
        { cause },
      );
    }
  }

  flush(): void {}

  truncate(size: number): void {
    for (const [index, chunk] of this.#chunks) {
      const kept = size - index * CHUNK_BYTES;
      if (kept <= 0) this.#chunks.delete(index);
      else if (kept < CHUNK_BYTES) chunk.fill(0, kept);
    }
    this.#size = size;
  }

  /** Whole chunks inside the range give their memory back. */
  discard(offset: number, length: number): void {
    for (const [index, , , bytes] of pieces(offset, length))
      if (bytes === CHUNK_BYTES) this.#chunks.delete(index);
  }

  close(): void {
    this.#chunks.clear();
  }
}

/** The chunks that a range touches: index, position in the range, position in the chunk, length. */
function* pieces(offset: number, length: number): Generator<[number, number, number, number]> {
  for (let at = 0; at < length; ) {
    const index = Math.floor((offset + at) / CHUNK_BYTES);
    const from = offset + at - index * CHUNK_BYTES;
    const bytes = Math.min(length - at, CHUNK_BYTES - from);
    yield [index, at, from, bytes];
    at += bytes;
  }
}
