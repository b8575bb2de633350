/** Compressed clusters under Node by the calling thread itself, as quickly as this version can. */
import { createRequire } from 'node:module';
import * as zlib from 'node:zlib';
import type { Codec } from '../api/codec.ts';
import type { Decoder, Encoder } from '../disk/codecs/codecs.ts';
import { codecOf, portableDecoders } from '../disk/codecs/codecs.ts';
import type { InflatingZlib, ZlibCompression, ZlibFunction } from '../disk/codecs/node-zlib.ts';
import {
  DEFLATE_OPTIONS,
  inflateDecoder,
  zlibDecoder,
  zlibEncoder,
} from '../disk/codecs/node-zlib.ts';

/** node:zlib has zstd from version 22.15 on. */
const { zstdDecompressSync, zstdCompressSync } = zlib as {
  zstdDecompressSync?: ZlibFunction;
  zstdCompressSync?: ZlibCompression;
};

/** A codec that works in this thread, as quickly as this version of Node can. */
export function inlineCodec(): Codec {
  return codecOf(
    {
      zlib: () => inflateDecoder(zlib as InflatingZlib),
      zstd: () => (zstdDecompressSync ? zlibDecoder(zstdDecompressSync) : wasmDecoder()),
    },
    {
      zlib: () => zlibEncoder(zlib.deflateRawSync as ZlibCompression, DEFLATE_OPTIONS),
      zstd: () => (zstdCompressSync ? zlibEncoder(zstdCompressSync) : wasmEncoder()),
    },
  );
}

/**
 * Twice as quick as what runs everywhere, which has to do in a bundle: this comes with a file that
 * bundlers do not know what to do with.
 */
async function wasmDecoder(): Promise<Decoder> {
  try {
    const { decompress } = await wasmZstd();
    return (from, into) => {
      const out = decompress(from, into.length);
      into.set(out);
      return out.length;
    };
  } catch {
    return portableDecoders.zstd();
  }
}

async function wasmEncoder(): Promise<Encoder> {
  const { compress } = await wasmZstd();
  return (from) => compress(from);
}

async function wasmZstd(): Promise<typeof import('@foxglove/wasm-zstd')> {
  const module = createRequire(import.meta.url)(
    wasmZstdPath(),
  ) as typeof import('@foxglove/wasm-zstd');
  await module.isLoaded;
  return module;
}

/** Where the module of zstd in wasm is; empty where it cannot be found. */
export function wasmZstdPath(): string {
  try {
    return createRequire(import.meta.url).resolve('@foxglove/wasm-zstd');
  } catch {
    // In a bundle it is not to be found by name; a thread that needs it ends, and the main thread
    // decodes.
    return '';
  }
}
