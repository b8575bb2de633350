/**
 * `millrace/browser` as pages get it: by each bundler without configuration, without one, and under
 * strict policies. Each page is opened in Chromium, and streams a disk.
 */
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, stat, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import nodeResolve from '@rollup/plugin-node-resolve';
import { build as esbuild } from 'esbuild';
import { rollup } from 'rollup';
import * as vite8 from 'vite';
import * as vite5 from 'vite5';
import * as vite7 from 'vite7';
import { afterAll, beforeAll, expect, it } from 'vitest';
import webpack from 'webpack';
import type { BrowserUnderTest } from '../browser/browsers.ts';
import { startChromium } from '../browser/browsers.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Project } from './project.ts';
import { isBuilt, makeProject } from './project.ts';

const APP = `
import { createDisk, importDisk } from 'millrace/browser';

async function use(options = {}) {
  try {
    const base = new Blob([new Uint8Array(1024 * 1024).fill(7)]);
    const disk = await createDisk({ overlay: crypto.randomUUID(), base, ...options });
    const { status, remaining } = await disk.stream();
    const [byte] = await disk.read(1024 * 1024 - 1, 1);
    await disk.close();
    return { status, remaining, byte };
  } catch ({ code, reason, message }) {
    return { code, reason, message };
  }
}
globalThis.tools = { use, importDisk };
`;
const USED = { status: 0, remaining: 0, byte: 7 };
const html = (head: string): string =>
  `<!doctype html><title>App</title><link rel="icon" href="data:,">${head}`;

/** What stands in the pages. */
interface App {
  use(options?: object): Promise<object>;
}

interface Listening {
  url: string;
  stop(): Promise<void>;
}

const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.wasm': 'application/wasm',
};

/** Serves a folder's files, all with these headers. */
async function serveFolder(folder: string, headers: Record<string, string>): Promise<Listening> {
  const server = createHttpServer(async (request, response) => {
    const path = join(folder, decodeURIComponent(new URL(request.url!, 'http://a').pathname));
    const file = await stat(path).catch(() => undefined);
    if (!file?.isFile()) return void response.writeHead(404).end();
    const type = TYPES[extname(path)] ?? 'application/octet-stream';
    response.writeHead(200, { 'Content-Type': type, ...headers });
    createReadStream(path).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** The little of Vite's interface that is the same in all versions. */
interface Vite {
  build(options: object): Promise<unknown>;
  createServer(options: object): Promise<ViteServer & { listen(): Promise<unknown> }>;
  preview(options: object): Promise<ViteServer>;
}

interface ViteServer {
  resolvedUrls: { local: string[] } | null;
  close(): Promise<void>;
}

describeWithPeer(['chromium'], 'the package in a page', () => {
  let project: Project;
  let browser: BrowserUnderTest;
  let site: Listening;

  beforeAll(async () => {
    expect(isBuilt, 'npm run build').toBe(true);
    project = await makeProject();
    await writeFile(join(project.folder, 'app.js'), APP);
    await writeFile(
      join(project.folder, 'index.html'),
      html('<script type="module" src="/app.js"></script>'),
    );
    [browser, site] = await Promise.all([startChromium(), serveFolder(project.folder, {})]);
  });
  afterAll(async () => {
    await browser?.close();
    await site?.stop();
    await project?.remove();
  });

  const useIn = async (url: string, options: object = {}): Promise<unknown> => {
    const tab = await browser.open(url);
    try {
      return await tab.run((tools, options) => (tools as unknown as App).use(options), options);
    } finally {
      await tab.close();
    }
  };

  it.each([
    ['5', vite5],
    ['7', vite7],
    ['8', vite8],
  ])('Vite %s: dev, build, preview', async (version, module) => {
    const vite = module as unknown as Vite;
    const common = {
      root: project.folder,
      configFile: false,
      logLevel: 'silent',
      cacheDir: `.vite${version}`,
      build: { outDir: `vite${version}` },
    };
    const dev = await vite.createServer({ ...common, server: { host: '127.0.0.1', port: 0 } });
    await dev.listen();
    expect(await useIn(dev.resolvedUrls!.local[0])).toEqual(USED);
    await dev.close();
    await vite.build(common);
    const built = await vite.preview({ ...common, preview: { host: '127.0.0.1', port: 0 } });
    expect(await useIn(built.resolvedUrls!.local[0])).toEqual(USED);
    await built.close();
  });

  const page = async (folder: string, head: string): Promise<string> => {
    await mkdir(join(project.folder, folder), { recursive: true });
    await writeFile(join(project.folder, folder, 'index.html'), html(head));
    return `${site.url}/${folder}/index.html`;
  };

  it('webpack 5', async () => {
    const compiler = webpack({
      context: project.folder,
      entry: './app.js',
      output: { path: join(project.folder, 'webpack') },
      mode: 'production',
    });
    const stats = await new Promise<webpack.Stats | undefined>((resolve, reject) =>
      compiler!.run((error, stats) => (error ? reject(error) : resolve(stats))),
    );
    expect(stats?.toJson({ errors: true }).errors).toEqual([]);
    const url = await page('webpack', '<script defer src="main.js"></script>');
    expect(await useIn(url)).toEqual(USED);
  });

  it.each([
    ['esm', '<script type="module" src="app.js"></script>'],
    ['iife', '<script defer src="app.js"></script>'],
  ] as const)('esbuild, as %s', async (format, script) => {
    const { warnings } = await esbuild({
      entryPoints: [join(project.folder, 'app.js')],
      outfile: join(project.folder, `esbuild-${format}/app.js`),
      bundle: true,
      format,
      logLevel: 'silent',
    });
    expect(warnings).toEqual([]);
    expect(await useIn(await page(`esbuild-${format}`, script))).toEqual(USED);
  });

  it('Rollup with node-resolve', async () => {
    const bundle = await rollup({
      input: join(project.folder, 'app.js'),
      plugins: [(nodeResolve as unknown as typeof nodeResolve.default)()],
      onwarn: (warning) => {
        throw new Error(warning.message);
      },
    });
    await bundle.write({ dir: join(project.folder, 'rollup') });
    await bundle.close();
    const url = await page('rollup', '<script type="module" src="app.js"></script>');
    expect(await useIn(url)).toEqual(USED);
  });

  const IMPORT_MAP = `<script type="importmap">{ "imports": { "millrace/browser": "/node_modules/millrace/dist/browser/index.js" } }</script>
    <script type="module" src="/app.js"></script>`;

  it('no bundler, by an import map', async () => {
    expect(await useIn(await page('plain', IMPORT_MAP))).toEqual(USED);
  });

  /** As its guide says. */
  const bundleWorker = (folder: string): Promise<unknown> =>
    esbuild({
      entryPoints: [project.installed('dist/browser/worker.js')],
      outfile: join(project.folder, folder, 'worker.js'),
      bundle: true,
      format: 'esm',
      logLevel: 'silent',
    });

  it('the worker and the engine by addresses of the page', async () => {
    const url = await page('own', IMPORT_MAP);
    await bundleWorker('own');
    await copyFile(project.installed('dist/engine.wasm'), join(project.folder, 'own/engine.wasm'));
    expect(await useIn(url, { workerUrl: 'worker.js', wasmUrl: 'engine.wasm' })).toEqual(USED);
    // The package's own, without a bundler, needs its folder beside it.
    const workerUrl = '/node_modules/millrace/dist/browser/worker.js';
    expect(await useIn(url, { workerUrl })).toEqual(USED);
    expect(await useIn(url, { wasmUrl: 'gone.wasm' })).toMatchObject({
      code: 'EIO',
      message: expect.stringMatching(/gone\.wasm answered 404; serve engine\.wasm there/),
    });
    expect(await useIn(url, { workerUrl: 'gone.js' })).toMatchObject({
      code: 'EIO',
      message: expect.stringContaining('see that its script is served'),
    });
    expect(await useIn(url, { wasm: 'engine.wasm' })).toMatchObject({ code: 'EINVAL' });
  });

  const STRICT = "default-src 'self'; script-src 'self' 'nonce-a' 'wasm-unsafe-eval'";
  const under = async (policy: string, options: object = {}): Promise<unknown> => {
    await page('strict', IMPORT_MAP.replace('<script type="importmap"', '$& nonce="a"'));
    await bundleWorker('strict');
    const strict = await serveFolder(project.folder, { 'Content-Security-Policy': policy });
    try {
      return await useIn(`${strict.url}/strict/index.html`, options);
    } finally {
      await strict.stop();
    }
  };

  it('a strict policy, with what it has to allow', async () => {
    expect(await under(`${STRICT}; worker-src blob:`)).toEqual(USED);
    expect(await under(STRICT, { workerUrl: 'worker.js' })).toEqual(USED);
    const typed = `${STRICT}; worker-src blob:; require-trusted-types-for 'script'; trusted-types millrace`;
    expect(await under(typed)).toEqual(USED);
  });

  it.each([
    [
      'workers',
      STRICT,
      {},
      /may not run: .* \(worker-src\); allow worker-src blob:, or .*workerUrl/,
    ],
    [
      'WebAssembly',
      "default-src 'self'; script-src 'self' 'nonce-a'; worker-src blob:",
      {},
      /allow script-src 'wasm-unsafe-eval'/,
    ],
    [
      'untrusted types',
      `${STRICT}; worker-src blob:; require-trusted-types-for 'script'; trusted-types none`,
      {},
      /allow trusted-types millrace/,
    ],
    [
      'the base',
      `${STRICT}; worker-src blob:`,
      { base: 'http://127.0.0.1:1/base.raw' },
      /the page's Content-Security-Policy forbids it \(connect-src\); allow connect-src http:\/\/127\.0\.0\.1:1/,
    ],
  ])('a policy that forbids %s is told with what to allow', async (_, policy, options, message) => {
    expect(await under(policy, options)).toMatchObject({
      code: 'EACCES',
      reason: 'policy',
      message: expect.stringMatching(message),
    });
  });
});
