/** Deno's way to open things: files by path, bases also by http: and https: URL and by NBD URI. It needs no permission beyond those of the files and hosts used. */
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as zlib from 'node:zlib';
import type { Runtime } from '../api/runtime.ts';
import { isNbdUri } from '../bases/nbd/uri.ts';
import type { ZlibFunction } from '../disk/codecs/codecs.ts';
import { codecOf, zlibDecoder } from '../disk/codecs/codecs.ts';
import type { Paths } from '../files/location.ts';
import { isHttpUrl, isRemote, pathOf, recordedBase, resolveBacking } from '../files/location.ts';
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

export const denoRuntime: Runtime = {
  engine: () => Promise.resolve(engine),
  codec: codecOf({
    zlib: () => zlibDecoder(inflateRawSync),
    zstd: () => zlibDecoder(zstdDecompressSync),
  }),
  openOverlay: async (path, { create, ...mode }) =>
    create ? denoFiles.makeFile(localPath(path), mode) : denoFiles.openFile(localPath(path), mode),
  async openSource(location, as) {
    if (isHttpUrl(String(location))) return openHttp(location);
    if (isNbdUri(String(location))) return openNbd(location);
    const path = localPath(String(location));
    return as === undefined
      ? denoFiles.openFile(path, { readOnly: true })
      : denoFiles.openFileSource(path, { shared: as === 'shared' });
  },
  resolve: (name, from) => resolveBacking(name, from, paths),
  record: (base, overlay) => recordedBase(base, overlay, paths),
  realName: async (location) =>
    isRemote(location) ? location : Deno.realPath(localPath(location)),
  isBlockDevice: (location) => denoFiles.isBlockDevice(localPath(location)),
  writerOf: (location) => (isRemote(location) ? undefined : writerAt(localPath(location))),
};
