/**
 * Writes what decodes, where it cannot be had from its package as it is: the decoders of xz and
 * zstd, which xz-decompress and zstddec have within their scripts, as modules of text (that of xz
 * also as `xz.wasm`, for runtimes that compile no WebAssembly at run time: workerd); and the program
 * of threads, as text.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const HOSTS = fileURLToPath(new URL('.', import.meta.url));

async function xz() {
  const script = createRequire(import.meta.url).resolve('xz-decompress');
  const bytes = await wasmIn(script, /data:application\/wasm;base64,([A-Za-z0-9+/]+=*)/g);
  await writeFile(`${HOSTS}xz.wasm`, bytes);
  await writeWasm('bases/containers/xz-wasm.js', bytes);
}

async function zstd() {
  const script = fileURLToPath(import.meta.resolve('zstddec/stream'));
  await writeWasm('decoders/zstd-wasm.js', await wasmIn(script, /"(AGFzbQ[A-Za-z0-9+/]+=*)"/g));
}

/**
 * @param {string} script
 * @param {RegExp} pattern
 */
async function wasmIn(script, pattern) {
  const found = [...(await readFile(script, 'latin1')).matchAll(pattern)];
  if (found.length !== 1)
    throw new Error(`${script} has ${found.length} modules of WebAssembly: one is expected`);
  const bytes = Buffer.from(found[0][1], 'base64');
  await WebAssembly.compile(bytes);
  return bytes;
}

async function program() {
  const { outputFiles } = await build({
    absWorkingDir: HOSTS,
    entryPoints: ['threads/program/main.ts'],
    bundle: true,
    minify: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    mainFields: ['module', 'main'],
    legalComments: 'none',
    logLevel: 'warning',
    write: false,
  });
  await writeText('threads/program.js', brotliCompressSync(outputFiles[0].contents));
}

/**
 * @param {string} path
 * @param {Uint8Array} bytes
 */
function writeWasm(path, bytes) {
  return writeText(path, gzipSync(bytes, { level: constants.Z_BEST_COMPRESSION }));
}

/**
 * @param {string} path
 * @param {Uint8Array} packed
 */
async function writeText(path, packed) {
  const text = Buffer.from(packed).toString('base64');
  await writeFile(HOSTS + path, `/** Made by hosts/decoders.mjs. */\nexport default '${text}';\n`);
}

await xz();
await zstd();
await program();
