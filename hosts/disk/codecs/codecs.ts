/**
 * Compressed clusters (qcow2 specification, "Compressed Clusters Descriptor"): one stream back into
 * the bytes of its cluster, all of them and nothing more; and a cluster into one stream. Each
 * runtime brings its quickest decoders; those that run everywhere are here. No stream, whatever it
 * claims, makes them allocate more than a few times the cluster.
 */
import type { Codec, Compression, Stream } from '../../api/codec.ts';
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

/** Compresses all of `from` into one stream. */
export type Encoder = (from: Uint8Array) => Uint8Array;

/** How to get the encoder of each method; asked when the first cluster is to be compressed. */
export type Encoders = Record<Compression, () => Encoder | Promise<Encoder>>;

/**
 * A codec that works in the calling thread: at once, when its decoder or encoder has been loaded.
 */
export function codecOf(decoders: Decoders, encoders?: Encoders): Codec {
  const decode = onceLoaded('a decoder', decoders);
  const inflate: Codec['inflate'] = (method, from, into) =>
    decode(method, (decoder) => inflateWith(decoder, method, from, into));
  if (encoders === undefined) return { inflate };
  const encode = onceLoaded('an encoder', encoders);
  return {
    inflate,
    deflate: (method, from) => encode(method, (encoder) => smaller(encoder(from), from)),
  };
}

/** Has a tool of a method used: at once, when it has been loaded. */
function onceLoaded<Tool>(
  what: string,
  tools: Record<Compression, () => Tool | Promise<Tool>>,
): <T>(method: Compression, use: (tool: Tool) => T) => T | Promise<T> {
  const loaded: Partial<Record<Compression, Tool>> = {};
  return (method, use) => {
    const tool = loaded[method];
    if (tool !== undefined) return use(tool);
    return load(what, tools, method).then((tool) => {
      loaded[method] = tool;
      return use(tool);
    });
  };
}

async function load<Tool>(
  what: string,
  tools: Record<Compression, () => Tool | Promise<Tool>>,
  method: Compression,
): Promise<Tool> {
  try {
    return await tools[method]();
  } catch (cause) {
    const message = `cannot load ${what} for compressed data (${method}): ${messageOf(cause)}`;
    throw new MillraceError('EUNSUPPORTED', message, { cause });
  }
}

/** A stream, if it is smaller than the cluster. */
function smaller(stream: Uint8Array, cluster: Uint8Array): Stream {
  return stream.length < cluster.length ? stream : undefined;
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
    const { compileZstd, decompressAtOnce, takeZstd } = await import('../../decoders/zstd.ts');
    const exports = takeZstd(await compileZstd());
    return (from, into) => decompressAtOnce(exports, from, into);
  },
};
