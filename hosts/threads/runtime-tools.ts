/** What runtimes with `node:worker_threads` make of the threads of the process. */
import * as zlib from 'node:zlib';
import type { Codec } from '../api/codec.ts';
import { portableDecompressors } from '../bases/containers/portable.ts';
import type { Decompressors, NodeZlib } from '../bases/containers/unpack.ts';
import { nodeDecompressors } from '../bases/containers/unpack.ts';
import { compileXz } from '../bases/containers/xz-decoder.ts';
import { compileZstd } from '../decoders/zstd.ts';
import { ThreadedCodec } from './codec.ts';
import { ThreadedDecoders } from './decoders.ts';
import { Threads } from './threads.ts';

export interface ThreadedTools {
  codec: Codec;
  decompressors: Decompressors;
}

/**
 * One pool for all disks of the process. `here` is the codec of the calling thread, `zstdPath`
 * finds `@foxglove/wasm-zstd`.
 */
export function threadedTools(here: Codec, zstdPath?: () => string): ThreadedTools {
  const threads = new Threads(undefined, zstdPath);
  const decoders = new ThreadedDecoders(threads);
  return {
    codec: new ThreadedCodec(threads, here),
    // What node:zlib has works in threads of its own.
    decompressors: nodeDecompressors(zlib as unknown as NodeZlib, {
      ...portableDecompressors,
      xz: decoders.decompressor('xz', portableDecompressors.xz, compileXz),
      bzip2: decoders.decompressor('bzip2', portableDecompressors.bzip2),
      zstd: decoders.decompressor('zstd', portableDecompressors.zstd, compileZstd),
    }),
  };
}
