/**
 * The examples, by the package as npm publishes it: strict TypeScript accepts them, and each does
 * what it is for.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { Miniflare } from 'miniflare';
import { chromium } from 'playwright-core';
import { build as viteBuild } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHROMIUM_FLAGS } from '../browser/browsers.ts';
import { serveSite } from '../browser/site.ts';
import { serveFile } from '../demo/file-server.ts';
import { makeContent } from '../fixtures/content.ts';
import type { Project } from '../package/project.ts';
import { isBuilt, makeProject, ROOT } from '../package/project.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';

const EXAMPLES = fileURLToPath(new URL('.', import.meta.url));
const CONTENT = makeContent('random', 3, 2 * 1024 * 1024);

let project: Project;
let base: Awaited<ReturnType<typeof serveFile>>;
const at = (path: string): string => join(project.folder, path);
const baseUrl = (): string => `http://127.0.0.1:${base.port}/base.raw`;

beforeAll(async () => {
  expect(isBuilt, 'npm run build').toBe(true);
  project = await makeProject();
  await cp(EXAMPLES, at('examples'), { recursive: true });
  await project.link('@types/deno');
  await writeFile(at('base.raw'), CONTENT);
  base = await serveFile(at('base.raw'));
});
afterAll(async () => {
  await base?.stop();
  await project?.remove();
});

/** A TypeScript file as Node 20 runs it. */
async function compiled(name: string): Promise<string> {
  const outfile = at(`${name}.mjs`);
  await build({
    entryPoints: [at(`examples/${name}.ts`)],
    outfile,
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    target: 'node20',
    logLevel: 'silent',
  });
  return outfile;
}

/** Runs a server until `use` is done with what its first line says. */
async function withServer(
  program: string,
  args: readonly string[],
  use: (line: string) => Promise<void>,
): Promise<void> {
  const child = spawn(program, args, { cwd: project.folder, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'close');
  try {
    const [line] = await once(child.stdout.setEncoding('utf8'), 'data');
    await use(String(line).trim());
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
  expect(child.exitCode).toBe(0);
}

/** A disk that is served shows the base. */
async function showsBase(url: string): Promise<void> {
  const headers = { Authorization: 'Bearer secret', Range: 'bytes=1048576-1052671' };
  const response = await fetch(`${url}/data`, { headers });
  expect(response.status).toBe(206);
  const bytes = Buffer.from(await response.arrayBuffer());
  expect(Buffer.compare(bytes, CONTENT.subarray(1048576, 1052672))).toBe(0);
}

describe('the examples', () => {
  it.each([
    ['Node', ['script.ts', 'fetch-node.ts', 'nbd.ts'], { types: ['node'], lib: ['es2023'] }],
    ['Deno', ['fetch-deno.ts'], { types: ['deno'], lib: ['es2023', 'dom'] }],
    ['the edge', ['edge/worker.ts'], { types: [], lib: ['es2023', 'dom'] }],
    ['pages', ['vite/main.ts'], { types: [], lib: ['es2023', 'dom'] }],
  ])('for %s are what strict TypeScript accepts', async (name, files, options) => {
    const config = at(`examples/tsconfig.${name.replaceAll(' ', '-')}.json`);
    const compilerOptions = {
      target: 'es2022',
      module: 'esnext',
      moduleResolution: 'bundler',
      strict: true,
      noUncheckedIndexedAccess: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: name === 'Deno',
      noEmit: true,
      ...options,
    };
    await writeFile(config, JSON.stringify({ compilerOptions, files }));
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
    const { stdout } = await run(process.execPath, [tsc, '-p', config], { exitCodes: [0, 1, 2] });
    expect(stdout).toBe('');
  });

  it('script.ts', async () => {
    const script = await compiled('script');
    const told = await run(process.execPath, [script, 'script.qcow2', baseUrl()], {
      cwd: project.folder,
    });
    expect(told.stdout).toBe(`${CONTENT.length} bytes, 0 of them elsewhere\n`);
    expect(told.stderr).toMatch(/0 bytes left\n$/);
  });

  it('fetch-node.ts', async () => {
    const server = await compiled('fetch-node');
    await withServer(process.execPath, [server, 'node.qcow2', baseUrl()], showsBase);
  });

  it('fetch-deno.ts', async () => {
    const deno = join(ROOT, 'node_modules/deno/deno');
    const folder = project.folder;
    await withServer(
      deno,
      [
        'run',
        '--node-modules-dir=manual',
        '--no-prompt',
        `--allow-read=${folder},${ROOT}`,
        `--allow-write=${folder}`,
        '--allow-net=127.0.0.1',
        'examples/fetch-deno.ts',
        'deno.qcow2',
        baseUrl(),
      ],
      showsBase,
    );
  });

  it('edge/', async () => {
    const text = await readFile(at('examples/edge/wrangler.jsonc'), 'utf8');
    const config = JSON.parse(text.replace(/^\s*\/\/.*$/gm, '')) as {
      compatibility_date: string;
      compatibility_flags: string[];
      durable_objects: { bindings: { name: string; class_name: string }[] };
      migrations: { new_sqlite_classes: string[] }[];
    };
    const [{ name, class_name: className }] = config.durable_objects.bindings;
    expect(config.migrations[0].new_sqlite_classes).toEqual([className]);
    const { outputFiles } = await build({
      entryPoints: [at('examples/edge/worker.ts')],
      bundle: true,
      format: 'esm',
      write: false,
      conditions: ['workerd'],
      external: ['*.wasm', 'node:*'],
      logLevel: 'silent',
    });
    const wasm = ['engine.wasm', 'xz.wasm'].map(async (file) => ({
      type: 'CompiledWasm' as const,
      path: `dist/${file}`,
      contents: await readFile(project.installed(`dist/${file}`)),
    }));
    const worker = new Miniflare({
      modules: [
        { type: 'ESModule', path: 'dist/edge/worker.js', contents: outputFiles[0].text },
        ...(await Promise.all(wasm)),
      ],
      compatibilityDate: config.compatibility_date,
      compatibilityFlags: config.compatibility_flags,
      durableObjects: { [name]: { className, useSQLite: true } },
      bindings: { BASE: baseUrl(), TOKEN: 'secret' },
    });
    try {
      await showsBase(`${(await worker.ready).origin}/disks/vda`);
    } finally {
      await worker.dispose();
    }
  });
});

describeWithPeer(['qemu-img'], 'the example for NBD', () => {
  it('shows the base to qemu-img', async () => {
    const server = await compiled('nbd');
    await withServer(
      process.execPath,
      [server, at('vm.sock'), 'nbd.qcow2', baseUrl()],
      async (uri) => {
        const { stdout } = await run('qemu-img', [
          'compare',
          '-f',
          'raw',
          '-F',
          'raw',
          uri,
          at('base.raw'),
        ]);
        expect(stdout).toBe('Images are identical.\n');
      },
    );
  });
});

describeWithPeer(['chromium'], 'the examples for pages', () => {
  it('page/ and vite/', async () => {
    await mkdir(at('site'));
    await Promise.all([
      cp(at('examples/page'), at('site/page'), { recursive: true }),
      cp(project.installed('dist'), at('site/millrace'), { recursive: true }),
      writeFile(at('site/base.raw'), CONTENT),
      viteBuild({
        root: at('examples/vite'),
        base: './',
        configFile: false,
        logLevel: 'silent',
        build: { outDir: at('site/vite') },
      }),
    ]);
    const site = await serveSite(at('site'));
    const browser = await chromium.launch({
      executablePath: peerPath('chromium'),
      args: [...CHROMIUM_FLAGS],
      chromiumSandbox: false,
    });
    try {
      for (const name of ['page', 'vite']) {
        const page = await browser.newPage();
        await page.goto(`${site.origin}/${name}/index.html`);
        await page.waitForFunction(`document.title === '${CONTENT.length} bytes, complete'`);
        await page.close();
      }
    } finally {
      await browser.close();
      await site.stop();
    }
  });
});
