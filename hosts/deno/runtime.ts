/**
 * Deno's way to open things: files by path, bases also by http: and https: URL and by NBD URI. It
 * needs no permission beyond those of the files and hosts used.
 */
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as zlib from 'node:zlib';
import type { Runtime } from '../api/runtime.ts';
import { codecOf } from '../disk/codecs/codecs.ts';
import type { InflatingZlib, ZlibCompression, ZlibFunction } from '../disk/codecs/node-zlib.ts';
import {
  DEFLATE_OPTIONS,
  inflateDecoder,
  zlibDecoder,
  zlibEncoder,
} from '../disk/codecs/node-zlib.ts';
import { localRuntime } from '../files/local-runtime.ts';
import type { Paths } from '../files/location.ts';
import { pathOf } from '../files/location.ts';
import { threadedTools } from '../threads/runtime-tools.ts';
import engine from './engine.js';
import { denoFiles } from './file.ts';
import { openHttp } from './http.ts';
import { openNbd } from './nbd-base.ts';
import { writerAt } from './qemu-locks.ts';

const paths: Paths = {
  basename,
  dirname,
  isAbsolute,
  join,
  relative,
  resolve,
  fileURLToPath,
  realPath(path) {
    try {
      return Deno.realPathSync(path);
    } catch {
      return undefined;
    }
  },
};

/** The path that a location of a local file leads to. */
export function localPath(location: string): string {
  return pathOf(location, paths);
}

const { zstdDecompressSync } = zlib as unknown as { zstdDecompressSync: ZlibFunction };
const { deflateRawSync, zstdCompressSync } = zlib as unknown as Record<
  'deflateRawSync' | 'zstdCompressSync',
  ZlibCompression
>;

/** The asynchronous functions of node:zlib use this thread, too. */
const inlineCodec = codecOf(
  {
    zlib: () => inflateDecoder(zlib as unknown as InflatingZlib),
    zstd: () => zlibDecoder(zstdDecompressSync),
  },
  {
    zlib: () => zlibEncoder(deflateRawSync, DEFLATE_OPTIONS),
    zstd: () => zlibEncoder(zstdCompressSync),
  },
);

const { codec, decompressors } = threadedTools(inlineCodec);

export const denoRuntime: Runtime = {
  engine: () => Promise.resolve(engine),
  codec,
  ...localRuntime({
    files: denoFiles,
    paths,
    realName: (path) => Deno.realPath(path),
    writerAt,
    openHttp,
    openNbd,
    decompressors,
    temporary: () => Deno.env.get('TMPDIR') ?? '/tmp',
  }),
};
