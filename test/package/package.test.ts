/**
 * The package as npm would publish it, in a project of its own: what is in it, which of its entries
 * a bundler takes, and that a strict TypeScript accepts its types.
 */
import { existsSync } from 'node:fs';
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, transform } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { serveFile } from '../demo/file-server.ts';
import { makeContent } from '../fixtures/content.ts';
import { run } from '../support/run.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const built =
  existsSync(join(ROOT, 'dist/engine.wasm')) && existsSync(join(ROOT, 'dist/browser/worker.js'));
if (!built) console.warn('skipped: the package (it needs `npm run build`)');

interface Manifest {
  bin: Record<string, string>;
  exports: Record<string, unknown>;
  dependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
}

/** The files that a tree of export conditions names. */
function targets(exports: unknown): string[] {
  return typeof exports === 'string'
    ? [exports]
    : Object.values(exports as object).flatMap(targets);
}

describe.skipIf(!built)('the package', () => {
  let project: string;
  let manifest: Manifest;
  const installed = (path: string): string => join(project, 'node_modules/millrace', path);
  const link = async (name: string): Promise<void> => {
    const place = join(project, 'node_modules', name);
    await mkdir(dirname(place), { recursive: true });
    await symlink(join(ROOT, 'node_modules', name), place);
  };

  beforeAll(async () => {
    project = await realpath(await mkdtemp(join(tmpdir(), 'millrace-package-')));
    await run('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', project], {
      cwd: ROOT,
    });
    const [tarball] = await readdir(project);
    await mkdir(installed(''), { recursive: true });
    await run('tar', ['-xzf', join(project, tarball), '--strip-components=1', '-C', installed('')]);
    await writeFile(join(project, 'package.json'), '{ "type": "module", "private": true }');
    manifest = JSON.parse(await readFile(installed('package.json'), 'utf8')) as Manifest;
    // What it does not declare is not there, except for what the project itself brings.
    for (const name of [
      ...Object.keys(manifest.dependencies),
      ...Object.keys(manifest.optionalDependencies),
      '@types/node',
    ]) {
      if (existsSync(join(ROOT, 'node_modules', name))) await link(name);
    }
  });
  afterAll(() => rm(project, { recursive: true, force: true }));

  it('holds what it names and what its README leads to, and nothing of the repository besides', async () => {
    const readme = await readFile(installed('README.md'), 'utf8');
    const links = Array.from(
      readme.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g),
      ([, path]) => path,
    );
    expect(links).toContain('hosts/api/disk.ts');
    for (const file of [
      ...targets(manifest.exports),
      ...Object.values(manifest.bin),
      'README.md',
      'LICENSE',
      ...links,
    ]) {
      expect(existsSync(installed(file)), file).toBe(true);
    }
    const besides = (await readdir(installed(''), { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => relative(installed(''), join(entry.parentPath, entry.name)));
    expect(besides.filter((path) => !path.startsWith('dist/')).sort()).toEqual(
      [...new Set(['README.md', 'package.json', ...links])].sort(),
    );
  });

  it('runs as a program', async () => {
    const millrace = (...args: string[]): Promise<{ stdout: string }> =>
      run(process.execPath, [installed(manifest.bin.millrace), ...args], { cwd: project });
    await millrace('create', 'vm.qcow2', '--size', '1M');
    expect((await millrace('info', 'vm.qcow2')).stdout).toMatch(
      /^image: vm\.qcow2\nfile format: qcow2\n/,
    );
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
      external: ['*.wasm', 'koffi', 'node:*', 'cloudflare:*'],
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
      "import { createDisk } from 'millrace';\nconst disk = await createDisk({ overlay: 'bundled.qcow2', size: 512 });\nconsole.log(disk.size);\nawait disk.close();",
    );
    const outfile = join(project, 'out/app.js');
    await build({
      entryPoints: [join(project, 'app.js')],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      external: ['koffi'],
      logLevel: 'silent',
    });
    const bundled = await run(process.execPath, [outfile], { cwd: project, exitCodes: [0, 1] });
    expect(bundled).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(
        /MillraceError: cannot open the engine '.*engine\.wasm': no such file .* bring its dist\/engine\.wasm there/,
      ),
    });
    await copyFile(installed('dist/engine.wasm'), join(project, 'engine.wasm'));
    expect(await run(process.execPath, [outfile], { cwd: project })).toMatchObject({
      stdout: '512\n',
    });
  });

  it.each([
    [
      'Node',
      { lib: ['es2023'], types: ['node'] },
      `
      import { createDisk, openDisk, checkDisk, commitDisk, rebaseDisk, createHandler, openHttp, openFile, Domain, JobStatus, MillraceError } from 'millrace';
      import type { BlockFile, BlockSource, Disk, Extent, StreamInfo } from 'millrace';
      const disk: Disk = await createDisk({ overlay: 'vm.qcow2', base: await openHttp('https://images.example/debian.qcow2', { headers: { A: 'b' } }) });
      const bytes: Uint8Array = await disk.read(0, 512);
      await disk.write(4096, bytes);
      const info: StreamInfo = await disk.stream({ onError: 'enospc', signal: AbortSignal.timeout(1000) });
      if (info.status === JobStatus.FAILED) throw new MillraceError('EIO', info.error?.message ?? '');
      for await (const extent of disk.map()) { const { state }: Extent = extent; console.log(state); }
      const vm = new Domain();
      vm.attach('vda', await openDisk({ overlay: 'vm.qcow2' }));
      vm.addEventListener('completed', (event) => console.log((event as CustomEvent).detail));
      const handler: (request: Request) => Promise<Response> = createHandler({ disks: { vda: disk }, token: 'secret' });
      const file: BlockFile = await openFile('vm.qcow2');
      const source: BlockSource = file;
      console.log(handler, source, checkDisk, commitDisk, rebaseDisk);
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
