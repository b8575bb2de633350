/**
 * Deno's way to open things: files by path, bases also by http: and https: URL and by NBD URI. It
 * needs no permission beyond those of the files and hosts used.
 */
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as zlib from 'node:zlib';
import type { Runtime } from '../api/runtime.ts';
import { portableDecompressors } from '../bases/containers/portable.ts';
import type { NodeZlib, UnpackTools } from '../bases/containers/unpack.ts';
import { nodeDecompressors, ROOM_DEFAULT, unpackWith } from '../bases/containers/unpack.ts';
import { isNbdUri } from '../bases/nbd/uri.ts';
import type { ZlibCompression, ZlibFunction } from '../disk/codecs/codecs.ts';
import { codecOf, DEFLATE_OPTIONS, zlibDecoder, zlibEncoder } from '../disk/codecs/codecs.ts';
import type { Paths } from '../files/location.ts';
import { isHttpUrl, isRemote, pathOf, recordedBase, resolveBacking } from '../files/location.ts';
import { scratchFile } from '../files/scratch.ts';
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

const { inflateRawSync, zstdDecompressSync } = zlib as unknown as Record<
  'inflateRawSync' | 'zstdDecompressSync',
  ZlibFunction
>;
const { deflateRawSync, zstdCompressSync } = zlib as unknown as Record<
  'deflateRawSync' | 'zstdCompressSync',
  ZlibCompression
>;

const unpackTools: UnpackTools = {
  decompressors: nodeDecompressors(zlib as unknown as NodeZlib, portableDecompressors),
  scratch: (beside) =>
    scratchFile(denoFiles, {
      beside: beside && localPath(beside),
      temporary: Deno.env.get('TMPDIR') ?? '/tmp',
    }),
  room: ROOM_DEFAULT,
};

export const denoRuntime: Runtime = {
  engine: () => Promise.resolve(engine),
  // The asynchronous functions of node:zlib use this thread, too.
  codec: codecOf(
    {
      zlib: () => zlibDecoder(inflateRawSync),
      zstd: () => zlibDecoder(zstdDecompressSync),
    },
    {
      zlib: () => zlibEncoder(deflateRawSync, DEFLATE_OPTIONS),
      zstd: () => zlibEncoder(zstdCompressSync),
    },
  ),
  openOverlay: async (path, { create, ...mode }) =>
    create ? denoFiles.makeFile(localPath(path), mode) : denoFiles.openFile(localPath(path), mode),
  async openSource(location, as, how) {
    if (isHttpUrl(String(location))) return openHttp(location, how);
    if (isNbdUri(String(location))) return openNbd(location);
    const path = localPath(String(location));
    return as === undefined
      ? denoFiles.openFile(path, { readOnly: true })
      : denoFiles.openFileSource(path, { shared: as === 'shared' });
  },
  unpack: (source, options) => unpackWith(unpackTools, source, options),
  resolve: (name, from) => resolveBacking(name, from, paths),
  record: (base, overlay) => recordedBase(base, overlay, paths),
  realName: async (location) =>
    isRemote(location) ? location : Deno.realPath(localPath(location)),
  isBlockDevice: (location) => denoFiles.isBlockDevice(localPath(location)),
  writerOf: (location) => (isRemote(location) ? undefined : writerAt(localPath(location))),
};
