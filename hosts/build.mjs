/**
 * Builds `dist` for the package: one bundle an entry, and the declarations of all of them in
 * `dist/types`.
 *
 * Bundles, not a file each: a program starts sooner, and what stands in `engine/` can be imported
 * without moving every path. Entries that are used together are built together, so that both see
 * the same class `MillraceError`. A bundle and its pieces lie in one folder, a level below
 * `engine.wasm`: modules look for that at `../engine.wasm`, wherever they end up.
 */
import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { servedPage } from '../web/served/build.mjs';

const HOSTS = fileURLToPath(new URL('.', import.meta.url));
const DIST = fileURLToPath(new URL('../dist/', import.meta.url));

/**
 * Copied as they are: each runtime has its own way to the engine, which no bundler may take for its
 * own.
 */
const COPIES = [
  'engine.wasm',
  'served.html',
  'deno/engine.js',
  'deno/engine.d.ts',
  'edge/engine.js',
  'edge/engine.d.ts',
];

/** @type {import('esbuild').Plugin} */
const engineApart = {
  name: 'engine apart',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/engine\.js$/ }, ({ path }) => ({ path, external: true }));
  },
};

/** @type {import('esbuild').BuildOptions} */
const common = {
  absWorkingDir: HOSTS,
  outbase: HOSTS,
  outdir: DIST,
  bundle: true,
  format: 'esm',
  target: 'es2022',
  logLevel: 'warning',
  plugins: [engineApart],
};

/**
 * Bundles a runtime's entries; dependencies are imported from where they are installed.
 * @param {string} folder
 * @param {string[]} entries
 */
function forRuntime(folder, entries) {
  return build({
    ...common,
    entryPoints: entries.map((entry) => `${folder}/${entry}.ts`),
    platform: 'node',
    packages: 'external',
    splitting: true,
    chunkNames: `${folder}/[name]-[hash]`,
  });
}

async function bundleAll() {
  await Promise.all([
    forRuntime('node', ['index', 'main', 'nbd']),
    forRuntime('deno', ['index', 'nbd']),
    forRuntime('edge', ['index']),
    // A page takes them as they are, without a bundler: with their dependencies.
    build({
      ...common,
      entryPoints: ['browser/index.ts', 'faces/v86/index.ts', 'faces/nbd/index.ts'],
      platform: 'browser',
      splitting: true,
      chunkNames: 'browser/[name]-[hash]',
    }),
    // One file: bundlers make a classic script of a worker, which cannot be split.
    build({ ...common, entryPoints: ['browser/worker.ts'], platform: 'browser' }),
  ]);
}

async function copyAll() {
  for (const file of COPIES) {
    await mkdir(dirname(join(DIST, file)), { recursive: true });
    await copyFile(join(HOSTS, file), join(DIST, file));
  }
}

function declareAll() {
  const tsc = createRequire(import.meta.url).resolve('typescript/package.json');
  const { status } = spawnSync(
    process.execPath,
    [join(dirname(tsc), 'bin/tsc'), '-p', join(HOSTS, 'tsconfig.build.json')],
    { stdio: 'inherit' },
  );
  if (status !== 0) process.exit(1);
}

// It lies where the sources look for it, too.
await writeFile(join(HOSTS, 'served.html'), await servedPage());
await rm(DIST, { recursive: true, force: true });
await Promise.all([bundleAll(), copyAll()]);
declareAll();
