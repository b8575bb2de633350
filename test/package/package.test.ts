/**
 * The package as npm would publish it, in a project of its own: what is in it, which of its entries
 * a bundler takes, and that a strict TypeScript accepts its types.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { build, transform } from 'esbuild';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { serveFile } from '../demo/file-server.ts';
import { makeContent } from '../fixtures/content.ts';
import { run } from '../support/run.ts';
import type { Manifest, Project } from './project.ts';
import { isBuilt, makeProject, ROOT } from './project.ts';

if (!isBuilt) console.warn('skipped: the package (it needs `npm run build`)');

const UNPACKED_BYTES_MAX = 1_200_000;

/** The files that a tree of export conditions names. */
function targets(exports: unknown): string[] {
  return typeof exports === 'string'
    ? [exports]
    : Object.values(exports as object).flatMap(targets);
}

describe.skipIf(!isBuilt)('the package', () => {
  let made: Project;
  let project: string;
  let manifest: Manifest;
  const installed = (path: string): string => made.installed(path);

  beforeAll(async () => {
    made = await makeProject();
    ({ folder: project, manifest } = made);
  });
  afterAll(() => made.remove());

  it('holds what it names and what its README leads to, and nothing of the repository besides', async () => {
    const readme = await readFile(installed('README.md'), 'utf8');
    const links = Array.from(
      readme.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g),
      ([, path]) => path,
    );
    expect(links).toContain('hosts/api/README.md');
    for (const path of links) expect(existsSync(join(ROOT, path)), path).toBe(true);
    for (const file of [...targets(manifest.exports), ...Object.values(manifest.bin)])
      expect(existsSync(installed(file)), file).toBe(true);
    const files = (await readdir(installed(''), { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => relative(installed(''), join(entry.parentPath, entry.name)));
    expect(files.filter((path) => !path.startsWith('dist/')).sort()).toEqual([
      'LICENSE',
      'README.md',
      'package.json',
    ]);
    const sizes = await Promise.all(files.map(async (path) => (await stat(installed(path))).size));
    expect(sizes.reduce((sum, size) => sum + size)).toBeLessThan(UNPACKED_BYTES_MAX);
  });

  it('is what publint and attw want a package to be', async () => {
    const tarball = new Uint8Array(await readFile(made.tarball)).buffer;
    const { messages, pkg } = await publint({ pack: { tarball }, strict: true });
    expect(messages.map((message) => formatMessage(message, pkg))).toEqual([]);
    const checked = await checkPackage(createPackageFromTarballData(new Uint8Array(tarball)), {
      excludeEntrypoints: ['./engine.wasm', './browser/worker.js', './package.json'],
    });
    expect(checked.types).toMatchObject({ kind: 'included' });
    const problems = 'problems' in checked ? checked.problems : [];
    // As `attw --profile esm-only`: it is for programs of ES modules.
    const others = ['node10', 'node16-cjs'];
    expect(
      problems.filter((problem) =>
        'resolutionKind' in problem ? !others.includes(problem.resolutionKind) : true,
      ),
    ).toEqual([]);
  });

  it.each([
    ['deno', "'millrace/deno' is for Deno: in Node, Bun and Deno, import 'millrace'"],
    ['edge', "'millrace/edge' is for edge runtimes"],
    ['browser', "'millrace/browser' is for pages and their workers"],
  ])('says so where millrace/%s is imported in Node', async (entry, message) => {
    await writeFile(
      join(project, 'elsewhere.js'),
      `import { createDisk } from 'millrace/${entry}';\nawait createDisk({ overlay: 'a', size: 512 });`,
    );
    const { stderr } = await run(process.execPath, ['elsewhere.js'], {
      cwd: project,
      exitCodes: [1],
    });
    expect(stderr).toContain(message);
  });

  it('runs as a program', async () => {
    const millrace = (...args: string[]): Promise<{ stdout: string }> =>
      run(process.execPath, [installed(manifest.bin.millrace), ...args], { cwd: project });
    await millrace('create', 'vm.qcow2', '--size', '1M');
    expect((await millrace('info', 'vm.qcow2')).stdout).toMatch(
      /^image: vm\.qcow2\nfile format: qcow2\n/,
    );
    // What `serve` answers to people is a file beside it.
    const server = spawn(
      process.execPath,
      [installed(manifest.bin.millrace), 'serve', 'vm.qcow2', '--listen', '0'],
      { cwd: project, stdio: ['ignore', 'ignore', 'pipe'] },
    );
    try {
      let told = '';
      for await (const text of server.stderr.setEncoding('utf8')) {
        told += text;
        if (/for people: \S+\n/.test(told)) break;
      }
      const page = await fetch(/for people: (\S+)/.exec(told)![1]);
      expect(await page.text()).toMatch(/^<!doctype html>[\s\S]*<script type="module">/);
    } finally {
      server.kill();
    }
  });

  it('loads neither TLS nor the streams of the terminal by itself', async () => {
    const program = "await import('millrace'); console.log(process.moduleLoadList.join());";
    const args = ['--input-type=module', '-e', program];
    const loaded = (await run(process.execPath, args, { cwd: project })).stdout.split(',');
    expect(loaded).toContain('NativeModule http');
    for (const name of ['tls', 'process', 'perf_hooks'])
      expect(loaded).not.toContain(`NativeModule ${name}`);
  });

  it('does what the README shows of it', async () => {
    const readme = await readFile(installed('README.md'), 'utf8');
    const [, example] =
      /<summary>Node and Bun<\/summary>\n\n```ts\n([\s\S]*?)```/.exec(readme) ?? [];
    await writeFile(join(project, 'base.raw'), makeContent('random', 1, 32 * 1024 * 1024));
    const server = await serveFile(join(project, 'base.raw'));
    try {
      const { code } = await transform(
        example.replaceAll(
          'https://images.example/debian.qcow2',
          `http://127.0.0.1:${server.port}/base.raw`,
        ),
        { loader: 'ts' },
      );
      await rm(join(project, 'vm.qcow2'), { force: true });
      await writeFile(join(project, 'example.js'), code);
      expect(await run(process.execPath, ['example.js'], { cwd: project })).toMatchObject({
        stdout: '',
        stderr: '',
      });
      expect(
        (
          await run(process.execPath, [installed(manifest.bin.millrace), 'check', 'vm.qcow2'], {
            cwd: project,
          })
        ).stdout,
      ).toMatch(/^No errors/);
      expect((await readdir(project)).filter((name) => name.endsWith('.lock'))).toEqual([]);
    } finally {
      await server.stop();
    }
  });

  it.each([
    ['Node', { platform: 'node' }, 'node'],
    ['a browser', { platform: 'browser' }, 'browser'],
    ['workerd', { conditions: ['workerd'] }, 'edge'],
    // As wrangler bundles, which takes packages made for browsers, too.
    ['Cloudflare', { platform: 'browser', conditions: ['workerd', 'worker', 'browser'] }, 'edge'],
    ['Deno', { conditions: ['deno', 'browser'] }, 'deno'],
  ] as const)('has its entry for %s', async (_, how, folder) => {
    const { metafile } = await build({
      stdin: { contents: "export * from 'millrace';", resolveDir: project },
      absWorkingDir: project,
      bundle: true,
      format: 'esm',
      write: false,
      metafile: true,
      logLevel: 'silent',
      packages: 'bundle',
      external: ['*.wasm', 'node:*', 'cloudflare:*'],
      ...how,
      conditions: [...('conditions' in how ? how.conditions : [])],
    });
    const entries = Object.keys(metafile.inputs).flatMap(
      (path) => /millrace\/dist\/(\w+)\/index\.js$/.exec(path)?.[1] ?? [],
    );
    expect(entries).toEqual([folder]);
  });

  it('says what a bundle lacks that has it without its engine', async () => {
    await writeFile(
      join(project, 'app.js'),
      `
      import { createDisk } from 'millrace';
      const disk = await createDisk({ overlay: 'bundled.qcow2', size: 512 });
      console.log(disk.size);
      await disk.close();
      `,
    );
    const outfile = join(project, 'out/app.js');
    await build({
      entryPoints: [join(project, 'app.js')],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      logLevel: 'silent',
    });
    const bundled = await run(process.execPath, [outfile], { cwd: project, exitCodes: [0, 1] });
    expect(bundled).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(
        /MillraceError: cannot open the engine '.*engine\.wasm': no such file .* or brings that file there/,
      ),
    });
    await copyFile(installed('dist/engine.wasm'), join(project, 'engine.wasm'));
    expect(await run(process.execPath, [outfile], { cwd: project })).toMatchObject({
      stdout: '512\n',
    });
  });

  it('is bundled by esbuild with its engine', async () => {
    await writeFile(
      join(project, 'whole.js'),
      `
      import { createDisk } from 'millrace';
      import engine from 'millrace/engine.wasm';
      const wasm = new WebAssembly.Module(engine);
      const disk = await createDisk({ overlay: 'whole.qcow2', size: 512, wasm });
      console.log(disk.size);
      await disk.close();
      `,
    );
    const outfile = join(project, 'whole/whole.js');
    await build({
      entryPoints: [join(project, 'whole.js')],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      loader: { '.wasm': 'binary' },
      logLevel: 'silent',
    });
    expect(await run(process.execPath, [outfile], { cwd: project })).toMatchObject({
      stdout: '512\n',
    });
  });

  it('is compiled by Bun into one program', async () => {
    await writeFile(
      join(project, 'compiled.js'),
      `
      import { createDisk } from 'millrace';
      import path from 'millrace/engine.wasm' with { type: 'file' };
      const wasm = await WebAssembly.compile(await Bun.file(path).arrayBuffer());
      const disk = await createDisk({ overlay: 'compiled.qcow2', size: 512, wasm });
      console.log(disk.size);
      await disk.close();
      `,
    );
    await run(
      join(ROOT, 'node_modules/.bin/bun'),
      ['build', '--compile', 'compiled.js', '--outfile', 'compiled'],
      { cwd: project },
    );
    // By itself: nothing of the package is to be found.
    const program = join(project, 'elsewhere-than-its-package');
    await rename(join(project, 'compiled'), program);
    await rename(installed(''), join(project, 'put-away'));
    try {
      expect(await run(program, [], { cwd: project })).toMatchObject({ stdout: '512\n' });
    } finally {
      await rename(join(project, 'put-away'), installed(''));
    }
  });

  it.each([
    [
      'Node',
      { lib: ['es2023'], types: ['node'] },
      `
      import { createDisk, openDisk, checkDisk, commitDisk, rebaseDisk } from 'millrace';
      import { createHandler, listen, nodeListener, openHttp, openFile } from 'millrace';
      import { Domain, JobStatus, MillraceError } from 'millrace';
      import type { BlockFile, BlockSource, Disk, Extent, StreamInfo } from 'millrace';
      const base = await openHttp('https://images.example/a.qcow2', { headers: { A: 'b' } });
      const disk: Disk = await createDisk({ overlay: 'vm.qcow2', base });
      const bytes: Uint8Array = await disk.read(0, 512);
      await disk.write(4096, bytes);
      const signal = AbortSignal.timeout(1000);
      const info: StreamInfo = await disk.stream({ onError: 'enospc', signal });
      const message = info.error?.message ?? '';
      if (info.status === JobStatus.FAILED) throw new MillraceError('EIO', message);
      for await (const extent of disk.map()) {
        const { state }: Extent = extent;
        console.log(state);
      }
      const vm = new Domain();
      vm.attach('vda', await openDisk({ overlay: 'vm.qcow2' }));
      vm.addEventListener('completed', (event) => console.log(event.detail.device));
      disk.addEventListener('progress', (event) => {
        const left: number = event.detail.remaining;
        console.log(left);
      });
      // @ts-expect-error There is no such event.
      disk.addEventListener('progres', () => {});
      // @ts-expect-error Nor is it one of a domain's.
      vm.addEventListener('complete', () => {});
      {
        await using again = await openDisk({ overlay: 'vm.qcow2', create: { size: 512 } });
        console.log(again.size);
      }
      await disk.readable({ offset: 0, length: 512 }).pipeTo(disk.writable());
      for await (const { offset, data } of disk.blocks()) console.log(offset, data.length);
      const handled = { disks: { vda: disk }, token: 'secret' };
      const handler: (request: Request) => Promise<Response> = createHandler(handled);
      const file: BlockFile = await openFile('vm.qcow2');
      const source: BlockSource = file;
      const { url }: { url: string } = await listen(handler, { port: 0 });
      console.log(url, nodeListener(handler), source, checkDisk, commitDisk, rebaseDisk);
    `,
    ],
    [
      'browsers',
      { lib: ['es2023', 'dom'], types: [], customConditions: ['browser'] },
      `
      import { createDisk, listDisks } from 'millrace';
      import { openDisk } from 'millrace/browser';
      import { attachDisk } from 'millrace/v86';
      const disk = await createDisk({ overlay: 'vm', base: new Blob(['base']) });
      await disk.stream({ nonblock: true });
      console.log(await disk.exportQcow2(), await listDisks(), openDisk, attachDisk(disk));
    `,
    ],
    [
      'edges',
      { lib: ['es2023', 'dom'], types: [] },
      `
      import { serveDisks } from 'millrace/edge';
      console.log(serveDisks);
    `,
    ],
  ])('has types for %s that a strict TypeScript accepts', async (_, options, program) => {
    const compilerOptions = {
      target: 'es2022',
      module: 'esnext',
      moduleResolution: 'bundler',
      strict: true,
      noUncheckedIndexedAccess: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
      ...options,
    };
    await writeFile(join(project, 'program.ts'), program);
    await writeFile(
      join(project, 'tsconfig.json'),
      JSON.stringify({ compilerOptions, files: ['program.ts'] }),
    );
    const { stdout } = await run(
      process.execPath,
      [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', project],
      { exitCodes: [0, 1, 2] },
    );
    expect(stdout).toBe('');
  });
});
