/**
 * Drives libzstd, as the package `zstddec` has it (WebAssembly): clusters at once, and frames of
 * any size as they come, which the package's own interface does not do piece by piece. Of the
 * package, the module alone is taken (hosts/decoders.mjs). Check sums of frames are compared.
 */
import { Undecodable } from './undecodable.ts';
import { compiledOnce } from './wasm.ts';

/** What the module exports, of zstd.h. Addresses and sizes are numbers of 32 bits. */
export interface ZstdExports {
  readonly memory: WebAssembly.Memory;
  malloc(bytes: number): number;
  free(address: number): void;
  ZSTD_decompress(to: number, room: number, from: number, bytes: number): number;
  ZSTD_createDCtx(): number;
  ZSTD_freeDCtx(context: number): number;
  ZSTD_DStreamInSize(): number;
  ZSTD_DStreamOutSize(): number;
  ZSTD_decompressStream(context: number, output: number, input: number): number;
}

/** Words of `ZSTD_inBuffer` and `ZSTD_outBuffer`, one after the other. */
const Word = { input: 0, inputSize: 1, inputAt: 2, output: 3, outputSize: 4, outputAt: 5 } as const;
const BUFFER_WORDS = 3;
const WORDS = 6;
/** `enum ZSTD_ErrorCode`: a failure is its number, negated. */
const FAILURES: Readonly<Record<number, string>> = {
  10: 'it does not begin like zstd',
  14: 'it needs what is not supported',
  16: 'its window is larger than 128 MiB',
  20: 'the data is damaged',
  22: 'its check sum is wrong',
  30: 'it needs a dictionary',
  32: 'it needs a dictionary',
  64: 'there is no memory to decode it',
  70: 'it holds more than it should',
  72: 'it is cut off or damaged',
};
/** What is no damage. */
const UNSUPPORTED: readonly number[] = [14, 16, 30, 32, 64];
const NO_MEMORY = 64;
const CUT_OFF = 72;
const CODE_MAX = 120;

function failure(code: number): Undecodable {
  const message = FAILURES[code] ?? `the decoder failed (${code})`;
  return new Undecodable(message, UNSUPPORTED.includes(code));
}

/** The result of a function. @throws Undecodable */
function checked(result: number): number {
  // As an unsigned number it would be more than there is memory.
  const code = -(result | 0);
  if (code > 0 && code < CODE_MAX) throw failure(code);
  return result >>> 0;
}

/** The decoder, compiled when it is first needed. @throws MillraceError `EUNSUPPORTED` */
export const compileZstd: () => Promise<WebAssembly.Module> = compiledOnce(
  'zstd',
  () => import('./zstd-wasm.js'),
);

/** Memory of WebAssembly never shrinks: what a large window took goes with its decoder. */
const SPARE_BYTES_MAX = 16 * 1024 * 1024;
/** The last one that was done with, if it is small: each new one takes time and address space. */
let spare: ZstdExports | undefined;

/** A decoder of the module, which is given back to be used again. */
export function takeZstd(module: WebAssembly.Module): ZstdExports {
  const exports = spare ?? instanceOf(module);
  spare = undefined;
  return exports;
}

export function giveZstd(exports: ZstdExports): void {
  if (exports.memory.buffer.byteLength <= SPARE_BYTES_MAX) spare = exports;
}

function instanceOf(module: WebAssembly.Module): ZstdExports {
  // Views of the memory are made when they are needed.
  const env = { emscripten_notify_memory_growth: () => {} };
  return new WebAssembly.Instance(module, { env }).exports as unknown as ZstdExports;
}

/**
 * Decodes what is there as a whole; gives the number of bytes.
 * @throws Undecodable where it is damaged, or is more than `into` has room for
 */
export function decompressAtOnce(
  { memory, malloc, free, ZSTD_decompress }: ZstdExports,
  from: Uint8Array,
  into: Uint8Array,
): number {
  const source = allocated(malloc, from.length);
  try {
    new Uint8Array(memory.buffer).set(from, source);
    const target = allocated(malloc, into.length);
    try {
      const count = checked(ZSTD_decompress(target, into.length, source, from.length));
      into.set(new Uint8Array(memory.buffer, target, count));
      return count;
    } finally {
      free(target);
    }
  } finally {
    free(source);
  }
}

function allocated(malloc: ZstdExports['malloc'], bytes: number): number {
  const address = malloc(bytes) >>> 0;
  if (address === 0 && bytes > 0) throw failure(NO_MEMORY);
  return address;
}

/** One frame, or several, as they come. */
export class ZstdStream {
  readonly #exports: ZstdExports;
  readonly #context: number;
  readonly #inputRoom: number;
  readonly #outputRoom: number;
  /** The two records, and behind them their bytes. */
  readonly #records: number;
  #isInFrame = false;

  constructor(exports: ZstdExports) {
    this.#exports = exports;
    this.#inputRoom = exports.ZSTD_DStreamInSize();
    this.#outputRoom = exports.ZSTD_DStreamOutSize();
    const bytes = WORDS * Uint32Array.BYTES_PER_ELEMENT;
    this.#records = allocated(exports.malloc, bytes + this.#inputRoom + this.#outputRoom);
    this.#context = exports.ZSTD_createDCtx();
    const words = this.#words();
    words[Word.output] = this.#records + bytes;
    words[Word.outputSize] = this.#outputRoom;
    words[Word.input] = words[Word.output] + this.#outputRoom;
  }

  /**
   * What `input` decodes to, in pieces that are good until the next one is asked for.
   * @throws Undecodable
   */
  *decode(input: Uint8Array): Generator<Uint8Array> {
    for (let at = 0; at < input.length; at += this.#inputRoom) {
      const part = input.subarray(at, at + this.#inputRoom);
      let words = this.#words();
      new Uint8Array(this.#exports.memory.buffer).set(part, words[Word.input]);
      words[Word.inputSize] = part.length;
      words[Word.inputAt] = 0;
      for (let goesOn = true; goesOn; ) {
        words[Word.outputAt] = 0;
        this.#next();
        // It may have taken memory, which detaches views of it.
        words = this.#words();
        const count = words[Word.outputAt];
        // What there is room for has come: the rest of the input, or more of the output.
        const isFull = this.#isInFrame && count === this.#outputRoom;
        goesOn = isFull || words[Word.inputAt] < part.length;
        if (count > 0) yield new Uint8Array(this.#exports.memory.buffer, words[Word.output], count);
        words = this.#words();
      }
    }
  }

  /** No more comes. @throws Undecodable where more would have to */
  end(): void {
    if (this.#isInFrame) throw failure(CUT_OFF);
  }

  /** Gives its memory back. */
  close(): void {
    this.#exports.ZSTD_freeDCtx(this.#context);
    this.#exports.free(this.#records);
  }

  #next(): void {
    const output = this.#records + BUFFER_WORDS * Uint32Array.BYTES_PER_ELEMENT;
    const { ZSTD_decompressStream } = this.#exports;
    // Zero where a frame has ended, and all of it has been given.
    this.#isInFrame = checked(ZSTD_decompressStream(this.#context, output, this.#records)) !== 0;
  }

  #words(): Uint32Array {
    return new Uint32Array(this.#exports.memory.buffer, this.#records, WORDS);
  }
}
