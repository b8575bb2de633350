/** Node's way to open things: files by path, bases also by http: and https: URL and by NBD URI. */
import { realpathSync } from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MillraceError } from '../api/errors.ts';
import type { Runtime } from '../api/runtime.ts';
import { localRuntime } from '../files/local-runtime.ts';
import type { Paths } from '../files/location.ts';
import { pathOf } from '../files/location.ts';
import { threadedTools } from '../threads/runtime-tools.ts';
import { fileError, nodeFiles } from './file.ts';
import { openHttp } from './http.ts';
import { inlineCodec, wasmZstdPath } from './inline-codec.ts';
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
      return realpathSync.native(path);
    } catch {
      return undefined;
    }
  },
};

/** The path that a location of a local file leads to. */
export function localPath(location: string): string {
  return pathOf(location, paths);
}

let engine: Promise<WebAssembly.Module> | undefined;

/** Bundlers do not know that it belongs to the program. */
async function readEngine(): Promise<Uint8Array<ArrayBuffer>> {
  const path = fileURLToPath(new URL('../engine.wasm', import.meta.url));
  try {
    return await readFile(path);
  } catch (error) {
    const cause = fileError('open the engine', path, error);
    throw new MillraceError(
      cause.code,
      `${cause.message}; a bundle leaves the package millrace out (external), gives 'wasm' (millrace/engine.wasm, compiled) to its calls, or brings that file there`,
      { cause },
    );
  }
}

const { codec, decompressors } = threadedTools(inlineCodec(), wasmZstdPath);

export const nodeRuntime: Runtime = {
  // Compiled by this thread, which takes a millisecond: threads in the background may be busy with
  // what fetch is made of.
  engine: () => (engine ??= readEngine().then((bytes) => new WebAssembly.Module(bytes))),
  codec,
  ...localRuntime({
    files: nodeFiles,
    paths,
    realName: (path) => realpath(path),
    writerAt,
    openHttp,
    openNbd,
    decompressors,
    temporary: tmpdir,
  }),
};
