/**
 * Gathers small writes in front of a file whose every call is dear (an OPFS write takes as long as
 * ten reads), and writes neighbours back as one. Reads see what is gathered. A flush writes
 * everything back first, so the order that barriers promise stays: it must never let a write from
 * after a barrier reach the file before one from before it.
 */
import type { BlockFile } from '../api/block.ts';

/** A file whose calls end before they return. */
export interface SyncFile {
  readonly name: string;
  readonly size: number;
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  flush(): void;
  truncate(size: number): void;
  close(): void;
}

/** Writes of this size and more go to the file at once: there is nothing to be saved. */
const SMALL_BYTES_MAX = 64 * 1024;
/** Writes are gathered in blocks of this size, each with one run of changed bytes. */
const BLOCK_BYTES = 16 * 1024;
/** All are written back when this many have been changed: 8 MiB, and what one small write adds. */
const BLOCKS_MAX = 512;
/** Neighbouring blocks are written back together up to this size. */
const RUN_BYTES_MAX = 1024 * 1024;
/**
 * A gathered write past the end of the file makes the file longer first, in these steps, so that
 * one that was accepted can never fail for want of room. What was taken too much is given back on
 * close.
 */
const GROWTH_BYTES = 1024 * 1024;

/** A block's changed bytes, `[from, to)` of it. */
interface Block {
  bytes: Uint8Array;
  from: number;
  to: number;
}

export class BatchedFile implements BlockFile {
  readonly #file: SyncFile;
  readonly #explain: (error: unknown) => Promise<Error>;
  readonly #blocks = new Map<number, Block>();
  readonly #spare: Uint8Array[] = [];
  #run: Uint8Array | undefined;
  #size: number;
  /** Settles when writing may go on. */
  #hold: Promise<void> | undefined;

  /** `explain` may take its time to turn an error of the file into a better one. */
  constructor(file: SyncFile, explain: (error: unknown) => Promise<Error>) {
    this.#file = file;
    this.#explain = explain;
    this.#size = file.size;
  }

  get name(): string {
    return this.#file.name;
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, into: Uint8Array): void {
    // The file itself is longer than or as long as what has been written, gathered writes included.
    this.#file.read(offset, into);
    if (this.#blocks.size === 0) return;
    for (const index of blocksOf(offset, into.length)) {
      const block = this.#blocks.get(index);
      if (!block) continue;
      const start = index * BLOCK_BYTES;
      const from = Math.max(offset, start + block.from);
      const to = Math.min(offset + into.length, start + block.to);
      if (from < to) into.set(block.bytes.subarray(from - start, to - start), from - offset);
    }
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.#attempt(() => {
      if (from.length < SMALL_BYTES_MAX) this.#gather(offset, from);
      else this.#through(offset, from);
      this.#size = Math.max(this.#size, offset + from.length);
    });
  }

  flush(): void | Promise<void> {
    return this.#attempt(() => {
      this.#writeBack();
      this.#file.flush();
    });
  }

  truncate(size: number): void | Promise<void> {
    return this.#attempt(() => {
      this.#writeBack();
      this.#file.truncate(size);
      this.#size = size;
    });
  }

  close(): void {
    try {
      this.#writeBack();
      if (this.#file.size !== this.#size) this.#file.truncate(this.#size);
    } finally {
      this.#file.close();
    }
  }

  /**
   * Runs `action` while nothing changes in the file: all that was written is in it, and later
   * writes and flushes wait.
   */
  async unchanged<T>(action: (file: SyncFile) => Promise<T>): Promise<T> {
    while (this.#hold) await this.#hold;
    let release = (): void => {};
    this.#hold = new Promise((resolve) => (release = resolve));
    try {
      this.#writeBack();
      return await action(this.#file);
    } finally {
      this.#hold = undefined;
      release();
    }
  }

  #attempt(action: () => void): void | Promise<void> {
    // Those that wait go on in the order in which they came.
    if (this.#hold) return this.#hold.then(() => this.#attempt(action));
    try {
      action();
    } catch (error) {
      return this.#explain(error).then((explained) => Promise.reject(explained));
    }
  }

  #gather(offset: number, from: Uint8Array): void {
    const end = offset + from.length;
    // Before more is taken: while it fails, nothing is.
    if (this.#blocks.size >= BLOCKS_MAX) this.#writeBack();
    if (end > this.#file.size) this.#grow(end);
    for (const index of blocksOf(offset, from.length)) {
      const start = index * BLOCK_BYTES;
      const first = Math.max(offset, start);
      const last = Math.min(end, start + BLOCK_BYTES);
      this.#put(index, first - start, from.subarray(first - offset, last - offset));
    }
  }

  #grow(end: number): void {
    try {
      this.#file.truncate(Math.ceil(end / GROWTH_BYTES) * GROWTH_BYTES);
    } catch {
      // Near the end of the quota, the step may not fit where the write itself does.
      this.#file.truncate(end);
    }
  }

  #put(index: number, at: number, bytes: Uint8Array): void {
    const to = at + bytes.length;
    let block = this.#blocks.get(index);
    if (!block) {
      block = { bytes: this.#spare.pop() ?? new Uint8Array(BLOCK_BYTES), from: at, to: at };
      this.#blocks.set(index, block);
    }
    // A gap between what is gathered and what comes is filled from the file: a read is far cheaper
    // than another write.
    if (at > block.to)
      this.#file.read(index * BLOCK_BYTES + block.to, block.bytes.subarray(block.to, at));
    if (to < block.from)
      this.#file.read(index * BLOCK_BYTES + to, block.bytes.subarray(to, block.from));
    block.bytes.set(bytes, at);
    block.from = Math.min(block.from, at);
    block.to = Math.max(block.to, to);
  }

  /**
   * Writes a large piece at once; what was gathered in its range before is older, and goes first.
   */
  #through(offset: number, from: Uint8Array): void {
    if (
      this.#blocks.size > 0 &&
      blocksOf(offset, from.length).some((index) => this.#blocks.has(index))
    )
      this.#writeBack();
    this.#file.write(offset, from);
  }

  /**
   * Writes all that is gathered, in order of position. What could not be written stays gathered.
   */
  #writeBack(): void {
    const indexes = [...this.#blocks.keys()].sort((a, b) => a - b);
    for (let i = 0; i < indexes.length; ) {
      const count = this.#neighbours(indexes, i);
      this.#writeRun(indexes.slice(i, i + count));
      for (const index of indexes.slice(i, i + count)) {
        this.#spare.push(this.#blocks.get(index)!.bytes);
        this.#blocks.delete(index);
      }
      i += count;
    }
  }

  /** How many blocks from the one at `first` on make one run of changed bytes without a gap. */
  #neighbours(indexes: number[], first: number): number {
    let count = 1;
    while (first + count < indexes.length && count < RUN_BYTES_MAX / BLOCK_BYTES) {
      const last = indexes[first + count - 1];
      const next = indexes[first + count];
      if (
        next !== last + 1 ||
        this.#blocks.get(last)!.to !== BLOCK_BYTES ||
        this.#blocks.get(next)!.from !== 0
      )
        break;
      count++;
    }
    return count;
  }

  #writeRun(indexes: number[]): void {
    const first = this.#blocks.get(indexes[0])!;
    const position = indexes[0] * BLOCK_BYTES + first.from;
    if (indexes.length === 1)
      return this.#file.write(position, first.bytes.subarray(first.from, first.to));
    this.#run ??= new Uint8Array(RUN_BYTES_MAX);
    let length = 0;
    for (const index of indexes) {
      const { bytes, from, to } = this.#blocks.get(index)!;
      this.#run.set(bytes.subarray(from, to), length);
      length += to - from;
    }
    this.#file.write(position, this.#run.subarray(0, length));
  }
}

/** Indexes of the blocks that a range touches. */
function blocksOf(offset: number, length: number): number[] {
  if (length === 0) return [];
  const first = Math.floor(offset / BLOCK_BYTES);
  const last = Math.floor((offset + length - 1) / BLOCK_BYTES);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
