/**
 * Drives the xz decoder of the package `xz-decompress` (XZ Embedded as WebAssembly). The package's
 * own stream decodes one file at a time, and all others wait: here each has a context of its own.
 * Of the package, the module alone is taken (hosts/decoders.mjs).
 */

import { Undecodable } from '../../decoders/undecodable.ts';
import { compiledOnce } from '../../decoders/wasm.ts';
import type { Decompress } from './decompress.ts';
import { copiesInTurns } from './turn.ts';

/** What the module exports. A context is a record of 32-bit words, followed by its two buffers. */
export interface XzExports {
  readonly memory: WebAssembly.Memory;
  create_context(): number;
  destroy_context(context: number): void;
  supply_input(context: number, bytes: number): void;
  get_next_output(context: number): number;
}

/** Words of a context. */
const Word = {
  bufferBytes: 0,
  input: 1,
  inputAt: 2,
  inputEnd: 3,
  output: 4,
  outputEnd: 5,
} as const;
const STREAM_END = 1;
/** Decoded between two turns of the event loop: some 10 ms. */
const SLICE_BYTES = 512 * 1024;
export const WRONG = 'the data or its check sum is wrong';
const CUT_OFF = 8;
/** By the result's number (`enum xz_ret` of XZ Embedded). */
const FAILURES: Readonly<Record<number, string>> = {
  2: 'its check is of a kind that is not supported',
  3: 'there is no memory to decode it',
  4: 'it needs a dictionary of more than 64 MiB',
  5: 'it does not begin like xz',
  6: 'it uses a filter or check that is not supported (only LZMA2, with CRC-32, CRC-64 or SHA-256)',
  7: WRONG,
  8: 'it is cut off or damaged',
};
/** What is no damage. */
const UNSUPPORTED: readonly number[] = [2, 4, 6];

function failure(result: number): Undecodable {
  const message = FAILURES[result] ?? `the decoder failed (${result})`;
  return new Undecodable(message, UNSUPPORTED.includes(result));
}

let exports: XzExports | undefined;

/** The decoder, compiled when it is first needed. @throws MillraceError `EUNSUPPORTED` */
export const compileXz: () => Promise<WebAssembly.Module> = compiledOnce(
  'xz',
  () => import('./xz-wasm.js'),
);

/** The decoder of this thread. */
export async function loadXz(): Promise<XzExports> {
  return (exports ??= instanceOf(await compileXz()));
}

export function instanceOf(module: WebAssembly.Module): XzExports {
  return new WebAssembly.Instance(module).exports as unknown as XzExports;
}

/** Decodes by these exports: one stream, or several with padding between them. */
export function xzDecompressor(exports: XzExports): Decompress {
  return (input) => unxz(exports, input);
}

async function* unxz(
  exports: XzExports,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const context = new XzContext(exports);
  try {
    for await (const bytes of input) yield* copiesInTurns(context.decode(bytes), SLICE_BYTES);
    context.end();
  } finally {
    context.close();
  }
}

class XzContext {
  readonly #exports: XzExports;
  readonly #context: number;
  #words = new Uint32Array(0);

  constructor(exports: XzExports) {
    this.#exports = exports;
    this.#context = exports.create_context();
  }

  /**
   * What `input` decodes to, in pieces that are good until the next one is asked for. It ends when
   * more is needed.
   * @throws Undecodable
   */
  *decode(input: Uint8Array): Generator<Uint8Array> {
    const size = this.#word(Word.bufferBytes);
    for (let at = 0; at < input.length; at += size) {
      const part = input.subarray(at, at + size);
      this.#bytes().set(part, this.#word(Word.input));
      this.#exports.supply_input(this.#context, part.length);
      let goesOn = true;
      while (goesOn) {
        this.#next();
        const count = this.#word(Word.outputEnd);
        // What there is room for has come: the rest of the input, or more of the output.
        goesOn =
          count === this.#word(Word.bufferBytes) ||
          this.#word(Word.inputAt) < this.#word(Word.inputEnd);
        const from = this.#word(Word.output);
        if (count > 0) yield this.#bytes().subarray(from, from + count);
        this.#setWord(Word.outputEnd, 0);
      }
    }
  }

  /** No more comes. @throws Undecodable where more would have to, or a check sum is wrong. */
  end(): void {
    this.#exports.supply_input(this.#context, 0);
    if (this.#next() !== STREAM_END) throw failure(CUT_OFF);
  }

  /** Gives the context's memory back. */
  close(): void {
    this.#exports.destroy_context(this.#context);
  }

  #next(): number {
    const result = this.#exports.get_next_output(this.#context);
    if (result > STREAM_END) throw failure(result);
    return result;
  }

  #bytes(): Uint8Array {
    return new Uint8Array(this.#exports.memory.buffer);
  }

  #word(index: number): number {
    return this.#refreshed()[index];
  }

  #setWord(index: number, value: number): void {
    this.#refreshed()[index] = value;
  }

  /** The memory grows, which detaches views of it. */
  #refreshed(): Uint32Array {
    if (this.#words.buffer !== this.#exports.memory.buffer)
      this.#words = new Uint32Array(this.#exports.memory.buffer, this.#context);
    return this.#words;
  }
}
