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
import type { Browser } from 'playwright-core';
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
import { haltedImage } from '../web/site.ts';

const EXAMPLES = fileURLToPath(new URL('.', import.meta.url));
const BOOT_MS_MAX = 120_000;
/** Says READY on the first serial port, and answers each letter with the same in the other case. */
const ECHO = [
  [0xba, 0xf8, 0x03], // mov dx, 0x3f8
  ...[...'READY'].map((letter) => [0xb0, letter.charCodeAt(0), 0xee]), // mov al, LETTER; out dx, al
  [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb], // wait until a byte has come
  [0xba, 0xf8, 0x03, 0xec, 0x34, 0x20, 0xee], // in al, dx; xor al, 32; out dx, al
  [0xeb, 0xef], // again
].flat();
const CONTENT = makeContent('random', 3, 2 * 1024 * 1024);

let project: Project;
let base: Awaited<ReturnType<typeof serveFile>>;
const at = (path: string): string => join(project.folder, path);
const baseUrl = (): string => `http://127.0.0.1:${base.port}/base.raw`;

beforeAll(async () => {
  expect(isBuilt, 'npm run build').toBe(true);
  project = await makeProject();
  await cp(EXAMPLES, at('examples'), { recursive: true });
  for (const name of ['@types/deno', 'v86', 'vite']) await project.link(name);
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

/** How Deno runs an example, with an overlay. */
function underDeno(name: string, overlay: string): [program: string, ...args: string[]] {
  const { folder } = project;
  const may = [`read=${folder},${ROOT}`, `write=${folder}`, 'net=127.0.0.1'];
  return [
    join(ROOT, 'node_modules/deno/deno'),
    ...['run', '--node-modules-dir=manual', '--no-prompt', ...may.map((one) => `--allow-${one}`)],
    ...[`examples/${name}`, overlay, baseUrl()],
  ];
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
    [
      'Node',
      ['script.ts', 'source.ts', 'fetch-node.ts', 'nbd.ts'],
      { types: ['node'], lib: ['es2023'] },
    ],
    ['Deno', ['script-deno.ts', 'fetch-deno.ts'], { types: ['deno'], lib: ['es2023', 'dom'] }],
    ['the edge', ['edge/worker.ts'], { types: [], lib: ['es2023', 'dom'] }],
    ['pages', ['vite/main.ts'], { types: [], lib: ['es2023', 'dom'] }],
    ['v86', ['v86/main.ts'], { types: ['vite/client'], lib: ['es2023', 'dom'] }],
  ])('for %s are what strict TypeScript accepts', async (name, files, options) => {
    const config = at(`examples/tsconfig.${name.replaceAll(' ', '-')}.json`);
    const compilerOptions = {
      target: 'es2022',
      module: 'esnext',
      moduleResolution: 'bundler',
      strict: true,
      noUncheckedIndexedAccess: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: name === 'Deno' || name === 'v86',
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

  it('source.ts', async () => {
    const args = [await compiled('source'), 'source.qcow2'];
    const told = await run(process.execPath, args, { cwd: project.folder });
    expect(told.stdout).toBe('1048576 bytes, of which one is 7\n');
  });

  it('fetch-node.ts', async () => {
    const server = await compiled('fetch-node');
    await withServer(process.execPath, [server, 'node.qcow2', baseUrl()], showsBase);
  });

  it('script-deno.ts', async () => {
    const [deno, ...args] = underDeno('script-deno.ts', 'script-deno.qcow2');
    expect(await run(deno, args, { cwd: project.folder })).toMatchObject({
      stdout: `${CONTENT.length} bytes, 0 of them elsewhere\n`,
      stderr: '',
    });
  });

  it('fetch-deno.ts', async () => {
    const [deno, ...args] = underDeno('fetch-deno.ts', 'deno.qcow2');
    await withServer(deno, args, showsBase);
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

describeWithPeer(['chromium', 'seabios'], 'the examples for pages', () => {
  let site: Awaited<ReturnType<typeof serveSite>>;
  let browser: Browser;

  beforeAll(async () => {
    await mkdir(at('site'));
    await cp(at('examples/page'), at('site/page'), { recursive: true });
    await cp(project.installed('dist'), at('site/millrace'), { recursive: true });
    await writeFile(at('site/base.raw'), CONTENT);
    await writeFile(at('site/guest.raw'), haltedImage(ECHO));
    for (const name of ['bios.bin', 'vgabios-stdvga.bin'])
      await cp(join(process.env.SEABIOS ?? '/usr/share/seabios', name), at(`site/${name}`));
    for (const name of ['vite', 'v86'])
      await viteBuild({
        root: at(`examples/${name}`),
        base: './',
        configFile: false,
        logLevel: 'silent',
        build: { outDir: at(`site/${name}`), target: 'es2022' },
      });
    site = await serveSite(at('site'));
    browser = await chromium.launch({
      executablePath: peerPath('chromium'),
      args: [...CHROMIUM_FLAGS],
      chromiumSandbox: false,
    });
  }, BOOT_MS_MAX);
  afterAll(async () => {
    await browser?.close();
    await site?.stop();
  });

  it.each(['page', 'vite'])('%s/', async (name) => {
    const page = await browser.newPage();
    await page.goto(`${site.origin}/${name}/index.html`);
    const complete = `document.title.startsWith('${CONTENT.length} bytes, complete')`;
    await page.waitForFunction(complete);
    await page.close();
  });

  it(
    'v86/ boots the image beside it, takes keys to its serial port, and keeps the disk',
    async () => {
      const page = await browser.newPage();
      const complaints: string[] = [];
      page.on('pageerror', (error) => complaints.push(String(error.stack)));
      const shows = (text: string): Promise<unknown> =>
        page.waitForFunction((text) => document.body.textContent!.includes(text), text, {
          timeout: BOOT_MS_MAX,
        });
      await page.goto(`${site.origin}/v86/index.html`);
      await shows('READY');
      await page.keyboard.type('typed');
      await shows('TYPED');
      const kept = await page.evaluate(async () => {
        const root = await navigator.storage.getDirectory();
        const disks = await root.getDirectoryHandle('millrace');
        return (await disks.getFileHandle('vm.qcow2')).kind;
      });
      expect(kept).toBe('file');
      expect(complaints).toEqual([]);
    },
    BOOT_MS_MAX,
  );
});
