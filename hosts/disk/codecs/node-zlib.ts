/** Decoders and encoders over node:zlib, which Node, Deno, Bun and workerd have. */
import type { Decoder, Encoder } from './codecs.ts';

/** `inflateRawSync` or `zstdDecompressSync`. */
export type ZlibFunction = (
  from: Uint8Array,
  options: { chunkSize: number; maxOutputLength: number },
) => Uint8Array;

/** `deflateRawSync` or `zstdCompressSync`. */
export type ZlibCompression = (
  from: Uint8Array,
  options: { chunkSize: number; windowBits?: number; memLevel?: number },
) => Uint8Array;

/** What inflating takes of the module. */
export interface InflatingZlib {
  inflateRawSync: ZlibFunction;
  createInflateRaw(options: { chunkSize: number }): object;
  constants: { Z_FINISH: number };
}

/** The quickest decoder of raw deflate that the module has. */
export function inflateDecoder(zlib: InflatingZlib): Decoder {
  return reusedInflate(zlib) ?? zlibDecoder(zlib.inflateRawSync);
}

/**
 * With room for more than the cluster, node:zlib knows after one pass that the stream has ended.
 */
const SPARE_BYTES = 64;

/** A decoder over a function of node:zlib. */
export function zlibDecoder(decompress: ZlibFunction): Decoder {
  return (from, into) => {
    try {
      const out = decompress(from, {
        chunkSize: into.length + SPARE_BYTES,
        maxOutputLength: into.length,
      });
      const count = out.length;
      into.set(out);
      free(out);
      return count;
    } catch (error) {
      if ((error as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE') return into.length + 1;
      throw error;
    }
  };
}

/** As QEMU deflates; its inflating takes no larger window than one of 12 bits. */
export const DEFLATE_OPTIONS = { windowBits: 12, memLevel: 9 } as const;

/** An encoder over node:zlib, which takes one pass for a stream that is worth having. */
export function zlibEncoder(compress: ZlibCompression, options: object = {}): Encoder {
  return (from) => compress(from, { ...options, chunkSize: from.length });
}

/**
 * Gives the memory of a decoded cluster back now: the garbage collector lets 100 MB of them pile
 * up. Where a runtime cannot (`transfer` is ECMAScript 2024), it is left to it; so are pieces of a
 * larger buffer that others use too.
 */
function free(out: Uint8Array): void {
  const buffer = out.buffer as ArrayBuffer & { transfer?: (length: number) => ArrayBuffer };
  if (out.length > 0 && buffer.byteLength - out.length <= SPARE_BYTES) buffer.transfer?.(0);
}

/** What a stream of node:zlib works with, as far as it is used here. */
interface Handle {
  reset(): void;
  /** Leaves in the stream's state how much of `into` and of `from` was not used. */
  writeSync(
    flush: number,
    from: Uint8Array,
    fromAt: number,
    fromBytes: number,
    into: Uint8Array,
    at: number,
    room: number,
  ): void;
  onerror(message: string): void;
}

/**
 * Inflates with one handle again and again, straight into the cluster. `inflateRawSync` makes a
 * stream, a handle and a buffer for each: a third of the time that a cluster of 64 KiB takes. No
 * documented call does without, so what is used here is tried first; undefined where it does
 * anything else than it does in Node 20 to 26.
 */
function reusedInflate({ createInflateRaw, constants }: InflatingZlib): Decoder | undefined {
  try {
    const decoder = handleDecoder(
      () => createInflateRaw({ chunkSize: SPARE_BYTES }) as ZlibStream,
      constants.Z_FINISH,
    );
    return worksAsExpected(decoder) ? decoder : undefined;
  } catch {
    return undefined;
  }
}

interface ZlibStream {
  readonly _handle: Handle;
  readonly _writeState: Uint32Array;
}

function handleDecoder(begin: () => ZlibStream, finish: number): Decoder {
  let stream: ZlibStream | undefined;
  const beyond = new Uint8Array(1);
  return (from, into) => {
    // Kept as a whole: whatever collects the stream closes its handle.
    stream ??= begin();
    const { _handle: handle, _writeState: state } = stream;
    let failure: string | undefined;
    handle.onerror = (message) => (failure = message);
    handle.reset();
    handle.writeSync(finish, from, 0, from.length, into, 0, into.length);
    let count = into.length - state[0];
    if (failure === undefined && count === into.length) {
      // It is full: one byte more tells whether the stream has ended, goes on, or is cut off.
      handle.writeSync(finish, from, from.length - state[1], state[1], beyond, 0, 1);
      count += 1 - state[0];
    }
    if (failure === undefined) return count;
    stream = undefined;
    throw new Error(failure);
  };
}

/** Streams of one and two letters, and one that is cut off. */
const LETTER = Uint8Array.of(0x4b, 0x04, 0x00);
const LETTERS = Uint8Array.of(0x4b, 0x4c, 0x04, 0x00);
const CUT_OFF = Uint8Array.of(0x4b);
const CODE_OF_LETTER = 'a'.charCodeAt(0);

function worksAsExpected(decoder: Decoder): boolean {
  const into = new Uint8Array(1);
  const isRight = [decoder(LETTER, into), decoder(LETTERS, into)].join() === '1,2';
  if (!isRight || into[0] !== CODE_OF_LETTER) return false;
  try {
    decoder(CUT_OFF, into);
    return false;
  } catch {
    return decoder(LETTER, new Uint8Array(2)) === 1;
  }
}
