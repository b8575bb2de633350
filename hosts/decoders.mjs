/**
 * Writes what decodes, where it cannot be had from its package as it is: the decoder of xz, which
 * xz-decompress has within its script, as `xz.wasm` for runtimes that compile no WebAssembly at run
 * time (workerd) and as a module of text for all others; and the program of threads, as text.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const HOSTS = fileURLToPath(new URL('.', import.meta.url));

async function xz() {
  const script = await readFile(createRequire(import.meta.url).resolve('xz-decompress'), 'latin1');
  const found = [...script.matchAll(/data:application\/wasm;base64,([A-Za-z0-9+/]+=*)/g)];
  if (found.length !== 1)
    throw new Error(`xz-decompress has ${found.length} modules of WebAssembly: one is expected`);
  const bytes = Buffer.from(found[0][1], 'base64');
  await WebAssembly.compile(bytes);
  await writeFile(`${HOSTS}xz.wasm`, bytes);
  const packed = gzipSync(bytes, { level: constants.Z_BEST_COMPRESSION });
  await writeText('bases/containers/xz-wasm.js', packed);
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
 * @param {Uint8Array} packed
 */
async function writeText(path, packed) {
  const text = Buffer.from(packed).toString('base64');
  await writeFile(HOSTS + path, `/** Made by hosts/decoders.mjs. */\nexport default '${text}';\n`);
}

await xz();
await program();
