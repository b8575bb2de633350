/**
 * Writes `xz.wasm`: the decoder of xz, which the package xz-decompress has within its script.
 * Runtimes that compile no WebAssembly at run time (workerd) import it as a module.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

const script = await readFile(createRequire(import.meta.url).resolve('xz-decompress'), 'latin1');
const found = [...script.matchAll(/data:application\/wasm;base64,([A-Za-z0-9+/]+=*)/g)];
if (found.length !== 1)
  throw new Error(`xz-decompress has ${found.length} modules of WebAssembly: one is expected`);
const bytes = Buffer.from(found[0][1], 'base64');
await WebAssembly.compile(bytes);
await writeFile(new URL('xz.wasm', import.meta.url), bytes);
