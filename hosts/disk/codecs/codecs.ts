/**
 * Compressed clusters (qcow2 specification, "Compressed Clusters Descriptor"): one stream back into
 * the bytes of its cluster, all of them and nothing more. Each runtime brings its quickest
 * decoders; those that run everywhere are here. No stream, whatever it claims, makes them allocate
 * more than a few times the cluster.
 */
import type { Codec, Compression } from '../../api/codec.ts';
import { MillraceError, messageOf } from '../../api/errors.ts';
import { zstdFrame } from './zstd.ts';

/**
 * Decodes the stream at the start of `from` into `into` and returns how many bytes it gave: another
 * number than the right one, or an exception, when the stream is bad or gives more than `into`
 * holds. A stream of zstd is one frame with nothing behind it.
 */
export type Decoder = (from: Uint8Array, into: Uint8Array) => number;

/** How to get the decoder of each method; asked when the first stream of its kind comes. */
export type Decoders = Record<Compression, () => Decoder | Promise<Decoder>>;

/** A codec that decodes in the calling thread: at once, when its decoder has been loaded. */
export function codecOf(decoders: Decoders): Codec {
  const loaded: Partial<Record<Compression, Decoder>> = {};
  return {
    inflate(method, from, into) {
      const decoder = loaded[method];
      if (decoder !== undefined) return inflateWith(decoder, method, from, into);
      return load(decoders, method).then((decoder) => {
        loaded[method] = decoder;
        inflateWith(decoder, method, from, into);
      });
    },
  };
}

async function load(decoders: Decoders, method: Compression): Promise<Decoder> {
  try {
    return await decoders[method]();
  } catch (cause) {
    const message = `cannot load a decoder for compressed data (${method}): ${messageOf(cause)}`;
    throw new MillraceError('EUNSUPPORTED', message, { cause });
  }
}

function inflateWith(
  decoder: Decoder,
  method: Compression,
  from: Uint8Array,
  into: Uint8Array,
): void {
  if (method === 'zlib') {
    checkCount(method, decode(decoder, method, from, into), into.length);
    return;
  }
  // There may be several frames, one after another: QEMU's decoder takes them too.
  for (let rest = into; rest.length > 0; ) {
    const frame = zstdFrame(from, rest.length);
    const count = decode(decoder, method, from.subarray(0, frame.length), rest);
    // A frame that gives nothing is one that the decoder refused without a word.
    if (count === 0 || count > rest.length)
      throw badStream(method, 'it is damaged, or gives more bytes than it should');
    from = from.subarray(frame.length);
    rest = rest.subarray(count);
  }
}

function decode(decoder: Decoder, method: Compression, from: Uint8Array, into: Uint8Array): number {
  try {
    return decoder(from, into);
  } catch (cause) {
    throw badStream(method, messageOf(cause), cause);
  }
}

/** @throws MillraceError `ECORRUPT` unless a stream gave as many bytes as its cluster has. */
export function checkCount(method: Compression, count: number, expected: number): void {
  if (count === expected) return;
  throw badStream(
    method,
    `it gives ${count > expected ? `more than ${expected}` : `${count}`} bytes where ${expected} are expected`,
  );
}

/** A stream that is no good: `reason` completes "does not inflate: ...". */
export function badStream(method: Compression, reason: string, cause?: unknown): MillraceError {
  return new MillraceError('ECORRUPT', `compressed data (${method}) does not inflate: ${reason}`, {
    cause,
  });
}

/**
 * The decoders that run everywhere but where WebAssembly cannot be compiled at run time: there,
 * zstd needs `zlibDecoder`.
 */
export const portableDecoders: Decoders = {
  async zlib() {
    const { inflateSync } = await import('./fflate.ts');
    // One byte more than the cluster has tells a stream that gives too much from one that gives
    // just enough.
    let scratch = new Uint8Array(0);
    return (from, into) => {
      if (scratch.length !== into.length + 1) scratch = new Uint8Array(into.length + 1);
      const out = inflateSync(from, { out: scratch });
      if (out.length <= into.length) into.set(out);
      return out.length;
    };
  },
  async zstd() {
    const { ZSTDDecoder } = await import('zstddec');
    const decoder = new ZSTDDecoder();
    await decoder.init();
    return (from, into) => {
      const out = decoder.decode(from, into.length);
      into.set(out);
      return out.length;
    };
  },
};

/**
 * `inflateRawSync` or `zstdDecompressSync` of node:zlib, which Node, Deno, Bun and workerd have.
 */
export type ZlibFunction = (
  from: Uint8Array,
  options: { chunkSize: number; maxOutputLength: number },
) => Uint8Array;

/**
 * With room for more than the cluster, node:zlib knows after one pass that the stream has ended.
 */
const SPARE_BYTES = 64;

/** A decoder over node:zlib. */
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

/**
 * Gives the memory of a decoded cluster back now: the garbage collector lets 100 MB of them pile
 * up. Where a runtime cannot (`transfer` is ECMAScript 2024), it is left to it; so are pieces of a
 * larger buffer that others use too.
 */
function free(out: Uint8Array): void {
  const buffer = out.buffer as ArrayBuffer & { transfer?: (length: number) => ArrayBuffer };
  if (out.length > 0 && buffer.byteLength - out.length <= SPARE_BYTES) buffer.transfer?.(0);
}
