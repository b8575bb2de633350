/**
 * Builds `dist` for the package: one bundle an entry, and the declarations of all of them in
 * `dist/types`.
 *
 * Bundles, not a file each: a program starts sooner, and what stands in `engine/` can be imported
 * without moving every path. Entries that are used together are built together, so that both see
 * the same class `MillraceError`. A bundle and its pieces lie a level below `engine.wasm`: modules
 * look for that at `../engine.wasm`, wherever they end up.
 */
import { spawnSync } from 'node:child_process';
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { constants, gzipSync } from 'node:zlib';
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
  'served.html.gz',
  'xz.wasm',
  'deno/engine.js',
  'deno/engine.d.ts',
  'edge/engine.js',
  'edge/engine.d.ts',
];

const Z85 = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#';
const Z85_PLACES = [85 ** 4, 85 ** 3, 85 ** 2, 85, 1];

/**
 * Of deno and edge: as seen from their own folders and from `shared`.
 * @type {import('esbuild').Plugin}
 */
const engineApart = {
  name: 'engine apart',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/engine\.js$/ }, ({ path, importer }) => ({
      path: `../${basename(dirname(importer))}/${path.slice(2)}`,
      external: true,
    }));
  },
};

/**
 * The page's program with the worker and the engine in it, as modules of text.
 * @param {Record<string, string>} packed
 * @returns {import('esbuild').Plugin}
 */
function withPacked(packed) {
  return {
    name: 'packed',
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^\.\/program\.ts$/ }, () => ({
        path: join(HOSTS, 'browser/packed.ts'),
      }));
      onResolve({ filter: /^millrace:/ }, ({ path }) => ({ path, namespace: 'packed' }));
      onLoad({ filter: /./, namespace: 'packed' }, ({ path }) => ({ contents: packed[path] }));
    },
  };
}

/**
 * Minified: as it is, it would be twice as much to fetch, and to read at each start.
 * @type {import('esbuild').BuildOptions}
 */
const common = {
  absWorkingDir: HOSTS,
  outbase: HOSTS,
  outdir: DIST,
  bundle: true,
  format: 'esm',
  target: 'es2022',
  logLevel: 'warning',
  legalComments: 'none',
  minify: true,
  plugins: [engineApart],
};

/** Not bundled: what Node brings, what is native, and what comes with a file of its own. */
const INSTALLED = ['node:*', 'cloudflare:*', '@foxglove/wasm-zstd', 'koffi'];

/**
 * CommonJS modules of the command line, and what of them is used. They are required: where they are
 * imported, Node reads each of their files once more beforehand, to find what it exports, which is
 * a tenth of what a command takes to begin.
 */
const REQUIRED = {
  commander:
    'export const { Argument, Command, CommanderError, InvalidArgumentError, Option } = module;',
  'cli-progress': 'export default module;',
};

/** @type {import('esbuild').Plugin} */
const requiring = {
  name: 'requiring',
  setup({ onResolve, onLoad }) {
    const filter = new RegExp(`^(${Object.keys(REQUIRED).join('|')})$`);
    onResolve({ filter }, ({ path }) => ({ path, namespace: 'required' }));
    onLoad({ filter, namespace: 'required' }, ({ path }) => ({
      contents: `
        import { createRequire } from 'node:module';
        const module = createRequire(import.meta.url)('${path}');
        ${REQUIRED[/** @type {keyof typeof REQUIRED} */ (path)]}
      `,
    }));
  },
};

/** All of them together, so that what they share is there once: the worker, too. */
async function bundleForServers() {
  const { metafile } = await build({
    ...common,
    entryPoints: [
      'node/index.ts',
      'node/main.ts',
      'node/nbd.ts',
      'deno/index.ts',
      'deno/nbd.ts',
      'edge/index.ts',
      'browser/worker.ts',
    ],
    // Of libraries, what runs everywhere.
    platform: 'browser',
    plugins: [...common.plugins, requiring],
    external: INSTALLED,
    splitting: true,
    chunkNames: 'shared/[name]-[hash]',
    metafile: true,
  });
  for (const [path, { exports }] of Object.entries(metafile.outputs)) {
    const [, name] = /(deno|edge)\/index\.js$/.exec(path) ?? [];
    if (name) await writeFile(await madeRoom(`elsewhere/${name}.js`), elsewhere(name, exports));
  }
}

const RUNTIMES = { deno: 'Deno', edge: 'edge runtimes (workerd)' };

/**
 * What another runtime finds under an entry's name. It has the names that are imported, so that the
 * program comes as far as the error.
 * @param {string} name
 * @param {string[]} names
 */
function elsewhere(name, names) {
  const message = `'millrace/${name}' is for ${RUNTIMES[name]}: in Node, Bun and Deno, import 'millrace'; in a page, 'millrace/browser'`;
  return `throw new Error(${JSON.stringify(message)});\nexport let ${names.join(', ')};\n`;
}

/**
 * A place in dist, with its folder.
 * @param {string} file
 */
async function madeRoom(file) {
  await mkdir(dirname(join(DIST, file)), { recursive: true });
  return join(DIST, file);
}

/** With their dependencies: a page takes them as they are, without a bundler. */
async function bundleForPages() {
  const how = { ...common, platform: /** @type {const} */ ('browser') };
  const worker = await build({ ...how, entryPoints: ['browser/worker.ts'], write: false });
  const packed = {
    'millrace:worker': pack(worker.outputFiles[0].contents),
    'millrace:engine': pack(await readFile(join(HOSTS, 'engine.wasm'))),
  };
  await build({
    ...how,
    entryPoints: [
      'browser/index.ts',
      'faces/adapters/index.ts',
      'faces/nbd/index.ts',
      'faces/v86/index.ts',
    ],
    splitting: true,
    chunkNames: 'browser/[name]-[hash]',
    plugins: [withPacked(packed)],
  });
}

/**
 * A module that exports a file as text.
 * @param {Uint8Array} contents
 */
function pack(contents) {
  const bytes = gzipSync(contents, { level: constants.Z_BEST_COMPRESSION });
  return `export default '${z85(bytes)}';`;
}

/**
 * Text of five characters for four bytes (Z85, ZeroMQ's RFC 32), a sixteenth less than base64;
 * before it, how many zeros stand at the end to make it so.
 * @param {Buffer} bytes
 */
function z85(bytes) {
  const whole = Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
  let text = '';
  for (let at = 0; at < whole.length; at += 4)
    for (const place of Z85_PLACES)
      text += Z85[Math.floor(whole.readUInt32BE(at) / place) % Z85.length];
  return `${whole.length - bytes.length}${text}`;
}

async function copyAll() {
  for (const file of COPIES) {
    await copyFile(join(HOSTS, file), await madeRoom(file));
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

/** `export … from` and `import … from` lead to other declarations; the first to public ones. */
const EXPORT = /^export\b[^;]*?\bfrom\s*["'](\.[^"']+)["']/gm;
const ANY = /(?:from|import\()\s*["'](\.[^"']+)["']/g;

/**
 * All declarations that some lead to.
 * @param {string[]} entries
 * @param {RegExp} link
 */
async function reachedFrom(entries, link) {
  const reached = new Set(entries);
  for (const path of reached) {
    for (const [, to] of (await readFile(path, 'utf8')).matchAll(link))
      reached.add(join(dirname(path), to.replace(/(?<!\.d)\.[jt]s$/, '.d.ts')));
  }
  return reached;
}

/**
 * Leaves out the declarations that nothing leads to from what package.json exports, and the
 * comments that no user sees, and indents by tabs: so they are a tenth smaller.
 */
async function keepPublicDeclarations() {
  const { exports } = JSON.parse(await readFile(join(DIST, '../package.json'), 'utf8'));
  const entries = (JSON.stringify(exports).match(/\.\/dist\/types\/[^"]+/g) ?? []).map((path) =>
    join(DIST, '..', path),
  );
  const [reached, seen] = [await reachedFrom(entries, ANY), await reachedFrom(entries, EXPORT)];
  for (const name of await readdir(join(DIST, 'types'), { recursive: true })) {
    const path = join(DIST, 'types', name);
    if (!name.endsWith('.ts')) continue;
    if (!reached.has(path)) {
      await rm(path);
      continue;
    }
    const text = await readFile(path, 'utf8');
    const told = seen.has(path) ? text : text.replace(/^\s*\/\*\*[\s\S]*?\*\/\n/gm, '');
    const bare = basename(path) === 'index.d.ts' ? told : told.replace(HEADER, '');
    await writeFile(path, bare.replace(INDENTED, tabs));
  }
}

/** What is said of a file, and not of what it declares first: no editor shows it. */
const HEADER = /^\/\*\*[\s\S]*?\*\/\n(?=import |\/\*\*)/;
/** As the compiler indents. */
const INDENTED = /^(?: {4})+/gm;

/** @param {string} spaces */
function tabs(spaces) {
  return '\t'.repeat(spaces.length / 4);
}

// It lies where the sources look for it, too.
await writeFile(
  join(HOSTS, 'served.html.gz'),
  gzipSync(await servedPage(), { level: constants.Z_BEST_COMPRESSION }),
);
await rm(DIST, { recursive: true, force: true });
await Promise.all([bundleForServers(), bundleForPages(), copyAll()]);
declareAll();
await keepPublicDeclarations();
