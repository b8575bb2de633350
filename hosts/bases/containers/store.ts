/**
 * What has passed of a source that comes in order only: kept until the source is closed, so that it
 * is never fetched again. The last of it stays in memory, where those who wait for it find it; what
 * is older goes to a file. Zeros take no room there.
 */
import type { BlockFile } from '../../api/block.ts';

const BLOCK_BYTES = 1024 * 1024;
/** In memory. The first of them is written while the last few are filled. */
const BLOCKS_MAX = 12;
const WRITTEN_FROM = 8;
/** Zeros of so many bytes are left out. */
const HOLE_BYTES = 64 * 1024;

/** Bytes that are written in order, and read anywhere before where they have come to. */
export class Store {
  readonly #makeFile: () => Promise<BlockFile>;
  #file: Promise<BlockFile> | undefined;
  /** Blocks that are in the file; those in memory follow them. */
  #written = 0;
  #blocks: Uint8Array[] = [];
  /** One that is used again. */
  #spare: Uint8Array | undefined;
  #writing: Promise<void> | undefined;
  #length = 0;

  constructor(makeFile: () => Promise<BlockFile>) {
    this.#makeFile = makeFile;
  }

  /** Bytes appended. */
  get length(): number {
    return this.#length;
  }

  async append(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const within = this.#length % BLOCK_BYTES;
      if (within === 0) await this.#nextBlock();
      const part = bytes.subarray(at, at + BLOCK_BYTES - within);
      this.#blocks[this.#blocks.length - 1].set(part, within);
      this.#length += part.length;
      at += part.length;
    }
  }

  /** `[offset, offset + into.length)` has been appended. */
  async read(offset: number, into: Uint8Array): Promise<void> {
    for (let at = 0; at < into.length; ) {
      const from = offset + at;
      const inMemory = this.#written * BLOCK_BYTES;
      const end = from < inMemory ? inMemory : (Math.floor(from / BLOCK_BYTES) + 1) * BLOCK_BYTES;
      const part = into.subarray(at, at + end - from);
      if (from < inMemory) await this.#readFile(from, part);
      else part.set(this.#inMemory(from, part.length));
      at += part.length;
    }
  }

  async close(): Promise<void> {
    await this.#writing?.catch(() => {});
    this.#blocks = [];
    this.#spare = undefined;
    await (await this.#file?.catch(() => undefined))?.close();
  }

  #inMemory(offset: number, length: number): Uint8Array {
    const block = this.#blocks[Math.floor(offset / BLOCK_BYTES) - this.#written];
    const within = offset % BLOCK_BYTES;
    return block.subarray(within, within + length);
  }

  async #readFile(offset: number, into: Uint8Array): Promise<void> {
    const file = await this.#file!;
    // What was left out at the end is not in the file.
    const present = Math.max(0, Math.min(into.length, file.size - offset));
    into.fill(0, present);
    if (present > 0) await file.read(offset, into.subarray(0, present));
  }

  async #nextBlock(): Promise<void> {
    if (this.#blocks.length >= WRITTEN_FROM && this.#writing === undefined) this.#beginWriting();
    while (this.#blocks.length >= BLOCKS_MAX) await (this.#writing ?? this.#beginWriting());
    this.#blocks.push(this.#spare ?? new Uint8Array(BLOCK_BYTES));
    this.#spare = undefined;
  }

  #beginWriting(): Promise<void> {
    const writing = this.#writeFirst().finally(() => {
      this.#writing = undefined;
    });
    // Whoever needs the room is told.
    writing.catch(() => {});
    return (this.#writing = writing);
  }

  async #writeFirst(): Promise<void> {
    const file = await (this.#file ??= this.#makeFile());
    const [block] = this.#blocks;
    const start = this.#written * BLOCK_BYTES;
    for (let at = 0; at < BLOCK_BYTES; ) {
      const end = endOfRun(block, at);
      if (!isZero(block.subarray(at, at + HOLE_BYTES)))
        await file.write(start + at, block.subarray(at, end));
      at = end;
    }
    this.#blocks.shift();
    this.#written++;
    this.#spare = block;
  }
}

/** Where the zeros, or the data, that begin at `at` end. */
function endOfRun(block: Uint8Array, at: number): number {
  const isHole = isZero(block.subarray(at, at + HOLE_BYTES));
  let end = at + HOLE_BYTES;
  while (end < block.length && isZero(block.subarray(end, end + HOLE_BYTES)) === isHole)
    end += HOLE_BYTES;
  return end;
}

function isZero(bytes: Uint8Array): boolean {
  const head = Math.min(bytes.length, -bytes.byteOffset & 3);
  const count = (bytes.length - head) >> 2;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + head, count);
  for (let at = 0; at < count; at++) if (words[at] !== 0) return false;
  const isRestZero = (from: number, to: number): boolean =>
    bytes.subarray(from, to).every((byte) => byte === 0);
  return isRestZero(0, head) && isRestZero(head + 4 * count, bytes.length);
}
