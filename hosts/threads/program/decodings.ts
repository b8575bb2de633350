/**
 * Decodings under way in this thread: what comes part by part is decoded by what would decode it in
 * any thread, and handed out piece by piece as it is asked for. So there is never more of one in
 * memory than a part, a piece and what the decoder itself keeps.
 */
import { messageOf } from '../../api/errors.ts';
import { bunzip2 } from '../../bases/containers/bzip2.ts';
import type { Decompress } from '../../bases/containers/decompress.ts';
import { zstdDecompressor } from '../../bases/containers/portable-zstd.ts';
import type { XzExports } from '../../bases/containers/xz-decoder.ts';
import { instanceOf, xzDecompressor } from '../../bases/containers/xz-decoder.ts';
import { Undecodable } from '../../decoders/undecodable.ts';
import type { DecodeAnswer, DecodeEnd, DecodeRequest, DecodingSetup } from '../messages.ts';

/** What one answer holds at most. */
const OUTPUT_BYTES = 1024 * 1024;

export class Decodings {
  readonly #answer: (answer: DecodeAnswer) => void;
  readonly #open = new Map<number, Decoding>();

  constructor(answer: (answer: DecodeAnswer) => void) {
    this.#answer = answer;
  }

  take(request: DecodeRequest | DecodeEnd): void {
    const { id } = request;
    if (request.kind === 'end') {
      this.#open.get(id)?.end();
      this.#open.delete(id);
      return;
    }
    if (request.setup !== undefined) {
      const decoding = new Decoding((answer) => {
        if (answer.state === 'over') this.#open.delete(id);
        this.#answer({ kind: 'decode', id, ...answer });
      });
      this.#open.set(id, decoding);
      void decoding.run(request.setup);
    }
    this.#open.get(id)?.take(request);
  }
}

class Ended extends Error {}

class Decoding {
  readonly #answer: (answer: Omit<DecodeAnswer, 'kind' | 'id'>) => void;
  #request: DecodeRequest | undefined;
  #arrived: (() => void) | undefined;
  #isEnded = false;
  #output = new Uint8Array(0);
  #filled = 0;

  constructor(answer: (answer: Omit<DecodeAnswer, 'kind' | 'id'>) => void) {
    this.#answer = answer;
  }

  take(request: DecodeRequest): void {
    this.#request = request;
    this.#arrived?.();
  }

  end(): void {
    this.#isEnded = true;
    this.#arrived?.();
  }

  /** Never rejects. */
  async run(setup: DecodingSetup): Promise<void> {
    try {
      const decompress = await decompressorOf(setup);
      for await (const piece of decompress(this.#parts())) await this.#put(piece);
      this.#give('over');
    } catch (error) {
      if (error instanceof Ended) return;
      const isUnsupported = error instanceof Undecodable && error.isUnsupported;
      // What came before it is good.
      this.#give('over', { message: messageOf(error), isUnsupported });
    }
  }

  async *#parts(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const { part } = await this.#asked();
      if (part === null || part === undefined) return;
      yield part;
      this.#give('hungry');
    }
  }

  async #put(piece: Uint8Array): Promise<void> {
    for (let rest = piece; rest.length > 0; ) {
      if (this.#filled === OUTPUT_BYTES) {
        this.#give('more');
        await this.#asked();
      }
      if (this.#isEnded) throw new Ended();
      if (this.#output.length === 0) this.#output = new Uint8Array(OUTPUT_BYTES);
      const part = rest.subarray(0, OUTPUT_BYTES - this.#filled);
      this.#output.set(part, this.#filled);
      this.#filled += part.length;
      rest = rest.subarray(part.length);
    }
  }

  /** The next request. */
  async #asked(): Promise<DecodeRequest> {
    while (this.#request === undefined) {
      if (this.#isEnded) throw new Ended();
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
    const request = this.#request;
    this.#request = undefined;
    return request;
  }

  #give(state: DecodeAnswer['state'], failure?: DecodeAnswer['failure']): void {
    const isWhole = this.#filled === OUTPUT_BYTES;
    const output = isWhole ? this.#output : this.#output.slice(0, this.#filled);
    if (isWhole) this.#output = new Uint8Array(0);
    this.#filled = 0;
    this.#answer({ output, state, failure });
  }
}

async function decompressorOf({ format, wasm }: DecodingSetup): Promise<Decompress> {
  switch (format) {
    case 'xz':
      return (input) => unxz(wasm!, input);
    case 'bzip2':
      return bunzip2;
    case 'zstd':
      return zstdDecompressor(wasm!);
  }
}

/** Memory of WebAssembly never shrinks: what a large dictionary took goes with its decoding. */
const SPARE_BYTES_MAX = 8 * 1024 * 1024;
/** The last one that was done with, if it is small: each new one takes time and address space. */
let spare: XzExports | undefined;

async function* unxz(
  module: WebAssembly.Module,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const exports = spare ?? instanceOf(module);
  spare = undefined;
  try {
    yield* xzDecompressor(exports)(input);
  } finally {
    if (exports.memory.buffer.byteLength <= SPARE_BYTES_MAX) spare = exports;
  }
}
