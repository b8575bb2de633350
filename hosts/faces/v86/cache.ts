/**
 * What the guest has read, and what it is about to read, in memory: v86 is answered from here at
 * once. Every other read lets the guest wait for a message to the disk's worker and back, and a
 * boot loader reads a kernel in hundreds of small pieces. It must never give bytes that are older
 * than the guest's last write.
 */

/** What is fetched at a time: four clusters, little beside a round trip. */
const BLOCK_BYTES = 256 * 1024;
/** 16 MiB: guests keep what they read themselves, but of a block they seldom read all at once. */
const BLOCKS_MAX = 64;
/** A larger read is not kept: it would push out all else, and its own beginning too. */
const KEPT_BYTES_MAX = (BLOCKS_MAX / 4) * BLOCK_BYTES;
/** A guest that reads on where it stopped finds so many blocks more. */
const AHEAD_BLOCKS = 2;
/**
 * A read that starts so far behind the end of the last one still goes on from it: file systems
 * skip.
 */
const SKIP_BYTES_MAX = 64 * 1024;

export class ReadCache {
  readonly #size: number;
  readonly #fetch: (offset: number, length: number) => Promise<Uint8Array>;
  /** The one that was used last is the last. */
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #coming = new Map<number, Promise<void>>();
  /** Where the last read ended. */
  #expected = 0;

  /**
   * `size` is the disk's; `fetch` gets bytes of it, as they are when all writes before have been
   * taken.
   */
  constructor(size: number, fetch: (offset: number, length: number) => Promise<Uint8Array>) {
    this.#size = size;
    this.#fetch = fetch;
  }

  /** The bytes, if all of them are here. They are not the caller's: it must copy what it keeps. */
  look(offset: number, length: number): Uint8Array | undefined {
    const [first, last] = blocksOf(offset, length);
    for (let index = first; index <= last; index++) if (!this.#blocks.has(index)) return undefined;
    const at = offset - first * BLOCK_BYTES;
    if (first === last) return this.#use(first).subarray(at, at + length);
    const bytes = new Uint8Array(length);
    for (let index = first, done = 0; index <= last; index++) {
      const piece =
        index === first
          ? this.#use(index).subarray(at)
          : this.#use(index).subarray(0, length - done);
      bytes.set(piece, done);
      done += piece.length;
    }
    return bytes;
  }

  /** The bytes, as soon as they are here. @throws what `fetch` throws. */
  async get(offset: number, length: number): Promise<Uint8Array> {
    if (length > KEPT_BYTES_MAX) return this.#fetch(offset, length);
    while (true) {
      const bytes = this.look(offset, length);
      if (bytes) return bytes;
      const [first, last] = blocksOf(offset, length);
      const coming: Promise<void>[] = [];
      for (let index = first; index <= last; index++)
        if (!this.#blocks.has(index)) coming.push(this.#bring(index));
      await Promise.all(coming);
    }
  }

  /** To be called for each read of the guest: fetches what comes next when it reads on. */
  readAhead(offset: number, length: number): void {
    const goesOn = offset >= this.#expected && offset <= this.#expected + SKIP_BYTES_MAX;
    this.#expected = offset + length;
    if (!goesOn) return;
    const [, last] = blocksOf(offset, length);
    for (
      let index = last + 1;
      index <= last + AHEAD_BLOCKS && index * BLOCK_BYTES < this.#size;
      index++
    ) {
      // Whoever needs a block that could not be had asks for it again, and is told why.
      if (!this.#blocks.has(index)) this.#bring(index).catch(() => {});
    }
  }

  /**
   * The guest has written: what is here changes with it, and what was asked for before is not
   * waited for.
   */
  wrote(offset: number, bytes: Uint8Array): void {
    const [first, last] = blocksOf(offset, bytes.length);
    for (let index = first; index <= last; index++) {
      this.#coming.delete(index);
      const start = index * BLOCK_BYTES;
      const from = Math.max(offset, start);
      this.#blocks
        .get(index)
        ?.set(bytes.subarray(from - offset, start + BLOCK_BYTES - offset), from - start);
    }
  }

  clear(): void {
    this.#blocks.clear();
    this.#coming.clear();
  }

  #bring(index: number): Promise<void> {
    const under = this.#coming.get(index);
    if (under) return under;
    const start = index * BLOCK_BYTES;
    const coming = this.#fetch(start, Math.min(BLOCK_BYTES, this.#size - start))
      .then((bytes) => {
        if (this.#coming.get(index) === coming) this.#keep(index, bytes);
      })
      .finally(() => {
        if (this.#coming.get(index) === coming) this.#coming.delete(index);
      });
    this.#coming.set(index, coming);
    return coming;
  }

  #keep(index: number, bytes: Uint8Array): void {
    this.#blocks.set(index, bytes);
    if (this.#blocks.size <= BLOCKS_MAX) return;
    // The first block stays: v86 asks for it without waiting.
    for (const oldest of this.#blocks.keys())
      if (oldest > 0) return void this.#blocks.delete(oldest);
  }

  #use(index: number): Uint8Array {
    const block = this.#blocks.get(index)!;
    this.#blocks.delete(index);
    this.#blocks.set(index, block);
    return block;
  }
}

/** The first and the last block of a range that is not empty. */
function blocksOf(offset: number, length: number): [number, number] {
  return [Math.floor(offset / BLOCK_BYTES), Math.floor((offset + length - 1) / BLOCK_BYTES)];
}
