/**
 * bzip2, block by block as they come, by the decoder of `unbzip2-stream`, which compares the check
 * sum of each block and of each stream.
 */

/** What the package's modules are: they come without types. */
interface Library {
  header(bits: BitReader): number;
  decompress(
    bits: BitReader,
    put: (byte: number) => void,
    scratch: Int32Array,
    blockBytes: number,
    streamSum: number,
  ): number | null;
}
interface BitReader {
  (bits: number | null): number;
  bytesRead: number;
}
type MakeBitReader = (next: () => Uint8Array) => BitReader;

const LEVEL_BYTES = 100_000;
/** More than a block takes that cannot be compressed, with what begins and ends a stream. */
const INPUT_SPARE_BYTES = 64 * 1024;
const OUTPUT_BYTES = 256 * 1024;
const MAGIC = [0x42, 0x5a, 0x68];

async function load(): Promise<{ library: Library; makeReader: MakeBitReader }> {
  const [library, makeReader] = await Promise.all([
    // biome-ignore lint/suspicious/noTsIgnore: Deno finds types in it, others none
    // @ts-ignore: without types
    import('unbzip2-stream/lib/bzip2.js'),
    // biome-ignore lint/suspicious/noTsIgnore: Deno finds types in it, others none
    // @ts-ignore: without types
    import('unbzip2-stream/lib/bit_iterator.js'),
  ]);
  return {
    library: library.default as unknown as Library,
    makeReader: makeReader.default as unknown as MakeBitReader,
  };
}

/** All streams, one after another; what follows them and is none is left out, as bzip2 does. */
export async function* bunzip2(input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const { library, makeReader } = await load();
  const streams = new Streams(library, makeReader);
  for await (const bytes of input) {
    streams.add(bytes);
    while (streams.hasBlock) {
      yield* streams.decode();
      if (streams.isOver) return;
    }
  }
  while (!streams.isOver) yield* streams.decode();
}

class Streams {
  readonly #library: Library;
  readonly #bits: BitReader;
  /** The piece that is being read, and those that follow it. */
  #pieces: Uint8Array[] = [];
  #added = 0;
  /** Bytes of the pieces before the first one here. */
  #before = 0;
  #level = 0;
  #sum = 0;
  #scratch = new Int32Array(0);
  #streams = 0;
  isOver = false;

  constructor(library: Library, makeReader: MakeBitReader) {
    this.#library = library;
    let isFirst = true;
    const start = makeReader(() => {
      // It asks once before there is anything.
      if (isFirst) {
        isFirst = false;
        return new Uint8Array(0);
      }
      return this.#next();
    });
    this.#bits = start;
    this.#pieces = [new Uint8Array(0)];
  }

  add(bytes: Uint8Array): void {
    this.#pieces.push(bytes);
    this.#added += bytes.length;
  }

  /** Whether there is enough for a block, whatever it holds. */
  get hasBlock(): boolean {
    return (
      this.#added - this.#bits.bytesRead >= (this.#level || 9) * LEVEL_BYTES + INPUT_SPARE_BYTES
    );
  }

  /** The next block. @throws Error where it is damaged, or not there whole. */
  decode(): Uint8Array[] {
    if (this.#level === 0) {
      if (this.#streams > 0 && !this.#startsAnother()) {
        this.isOver = true;
        return [];
      }
      this.#level = this.#library.header(this.#bits);
      if (this.#scratch.length < this.#level * LEVEL_BYTES)
        this.#scratch = new Int32Array(this.#level * LEVEL_BYTES);
      this.#sum = 0;
    }
    const pieces: Uint8Array[] = [];
    let piece = new Uint8Array(OUTPUT_BYTES);
    let filled = 0;
    const put = (byte: number): void => {
      if (filled === OUTPUT_BYTES) {
        pieces.push(piece);
        piece = new Uint8Array(OUTPUT_BYTES);
        filled = 0;
      }
      piece[filled++] = byte;
    };
    const bytes = this.#level * LEVEL_BYTES;
    const sum = this.#library.decompress(this.#bits, put, this.#scratch, bytes, this.#sum);
    if (sum === null) {
      this.#level = 0;
      this.#streams++;
    } else this.#sum = sum;
    if (filled > 0) pieces.push(piece.subarray(0, filled));
    return pieces;
  }

  #next(): Uint8Array {
    do {
      this.#before += this.#pieces.shift()?.length ?? 0;
      if (this.#pieces.length === 0) throw new Error('it is cut off');
    } while (this.#pieces[0].length === 0);
    return this.#pieces[0];
  }

  #startsAnother(): boolean {
    let at = this.#bits.bytesRead - this.#before;
    const start: number[] = [];
    for (const piece of this.#pieces) {
      for (; at < piece.length && start.length < MAGIC.length; at++) start.push(piece[at]);
      at = Math.max(0, at - piece.length);
    }
    return MAGIC.every((byte, index) => byte === start[index]);
  }
}
