/**
 * What only Deno has: permissions, locks that Node heeds and the other way round, the command line,
 * and its package.
 */

import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, open, realpath, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { run } from '../support/run.ts';
import { serveAndStall } from '../support/stalling-server.ts';
import { DENO, denoArgs, millraceUnderDeno, ROOT } from './program.ts';

const MIB = 1024 * 1024;
let folder: string;
beforeEach(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'millrace-deno-')));
});
afterEach(() => rm(folder, { recursive: true }));

/** Starts a Deno program that has the overlay open. */
async function hold(overlay: string): Promise<ChildProcess> {
  const child = spawn(DENO, [...denoArgs(folder, 'test/deno/holder.ts'), overlay], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(child.stdout!, 'data');
  return child;
}

async function newOverlay(): Promise<string> {
  const overlay = join(folder, 'vm.qcow2');
  await (await createDisk({ overlay, size: MIB })).close();
  return overlay;
}

describe('an overlay that Deno has open', () => {
  it('is EBUSY for Node and for Deno until it is closed', async () => {
    const overlay = await newOverlay();
    const holder = await hold(overlay);
    await expect(openDisk({ overlay })).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringMatching(/holder\.ts \(pid \d+/),
    });
    expect(await millraceUnderDeno(folder, ['stream', overlay])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/open for writing by holder\.ts/),
    });
    holder.stdin!.end();
    await once(holder, 'close');
    expect(existsSync(`${overlay}.lock`)).toBe(false);
    await (await openDisk({ overlay })).close();
  });

  it('is taken over by Deno when its holder was killed', async () => {
    const overlay = await newOverlay();
    const holder = await hold(overlay);
    holder.kill('SIGKILL');
    await once(holder, 'close');
    expect(existsSync(`${overlay}.lock`)).toBe(true);
    await expect(openDisk({ overlay })).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringMatching(/if that program is gone, remove/),
    });
    expect(await millraceUnderDeno(folder, ['stream', overlay])).toMatchObject({ exitCode: 0 });
    expect(existsSync(`${overlay}.lock`)).toBe(false);
  });
});

describe('an overlay that Node has open', () => {
  it('is EBUSY for Deno', async () => {
    const disk = await createDisk({ overlay: join(folder, 'vm.qcow2'), size: MIB });
    expect(await millraceUnderDeno(folder, ['stream', 'vm.qcow2'])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/is open for writing by/),
    });
    await disk.close();
    expect(await millraceUnderDeno(folder, ['stream', 'vm.qcow2'])).toMatchObject({ exitCode: 0 });
  });
});

describe('the command line under Deno', () => {
  it('makes, streams and looks at an overlay that Node made none of, and Node opens it', async () => {
    const content = makeContent('random', 5, 700_000);
    await writeFile(join(folder, 'base.raw'), content);
    expect(
      await millraceUnderDeno(folder, ['create', 'vm.qcow2', '--base', 'base.raw']),
    ).toMatchObject({ exitCode: 0 });
    const disk = await openDisk({ overlay: join(folder, 'vm.qcow2') });
    expect((await disk.images())[0].backingFile).toBe('base.raw');
    await disk.close();
    expect(await millraceUnderDeno(folder, ['stream', 'vm.qcow2'])).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/complete/),
    });
    expect(await millraceUnderDeno(folder, ['check', 'vm.qcow2'])).toMatchObject({ exitCode: 0 });
    await rm(join(folder, 'base.raw'));
    const alone = await openDisk({ overlay: join(folder, 'vm.qcow2') });
    expect(Buffer.from(await alone.read(0, content.length)).equals(content)).toBe(true);
    await alone.close();
  });

  it('opens overlays that Node made over a local base, whose identity both tell alike', async () => {
    await writeFile(join(folder, 'base.raw'), makeContent('text', 6, 300_032));
    await (
      await createDisk({ overlay: join(folder, 'vm.qcow2'), base: join(folder, 'base.raw') })
    ).close();
    expect(await millraceUnderDeno(folder, ['stream', 'vm.qcow2'])).toMatchObject({ exitCode: 0 });
  });

  it('tells why a copy failed whose target is gone again', async () => {
    await writeFile(join(folder, 'base.raw'), makeContent('text', 6, 300_032));
    const failed = await millraceUnderDeno(folder, [
      'convert',
      `${folder}${'/.'.repeat(600)}/base.raw`,
      'copy',
      '-O',
      'qcow2',
    ]);
    expect(failed).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/^millrace: the name of the base is too long/),
    });
    expect(existsSync(join(folder, 'copy'))).toBe(false);
  });

  it('ends at Ctrl-C, and gives its lock back', async () => {
    const overlay = await newOverlay();
    const server = await serveAndStall(new Uint8Array(0), 0);
    const command = spawn(
      DENO,
      [
        ...denoArgs(folder, 'hosts/deno/main.ts', '--allow-net=127.0.0.1'),
        'rebase',
        overlay,
        '--base',
        server.url,
      ],
      { cwd: folder, stdio: 'ignore' },
    );
    await server.asked;
    command.kill('SIGINT');
    expect(await once(command, 'close')).toEqual([130, null]);
    expect(existsSync(`${overlay}.lock`)).toBe(false);
    server.stop();
  }, 60_000);

  it('tells its help without any permission, and names the permission that is missing', async () => {
    expect(
      await run(DENO, [
        'run',
        '--no-prompt',
        '--quiet',
        '--cached-only',
        'hosts/deno/main.ts',
        '--help',
      ]),
    ).toMatchObject({ stdout: expect.stringMatching(/millrace create/) });
    const elsewhere = await millraceUnderDeno(folder, [
      'create',
      '/nowhere/vm.qcow2',
      '--size',
      '1M',
    ]);
    expect(elsewhere).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/--allow-read and --allow-write of its folder/),
    });
    const unreachable = await millraceUnderDeno(folder, [
      'create',
      'vm.qcow2',
      '--base',
      'http://127.0.0.1:7999/base.raw',
    ]);
    expect(unreachable).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/--allow-net/),
    });
  }, 120_000);
});

describe('millrace serve under Deno', () => {
  it('serves on loopback with the permission for its address, and refuses other addresses without a token', async () => {
    const content = makeContent('random', 8, 200_000);
    await writeFile(join(folder, 'base.raw'), content);
    const server = spawn(
      DENO,
      [
        ...denoArgs(folder, 'hosts/deno/main.ts', '--allow-net=127.0.0.1'),
        'serve',
        'base.raw',
        '--read-only',
        '--listen',
        '0',
        '--json',
      ],
      { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const ended = once(server, 'close');
    let said = '';
    server.stderr!.on('data', (text) => (said += text));
    const { vda } = JSON.parse(String(await once(server.stdout!, 'data'))) as { vda: string };
    const part = await fetch(`${vda}/data`, { headers: { Range: 'bytes=100-2099' } });
    expect([
      part.status,
      Buffer.from(await part.arrayBuffer()).equals(content.subarray(100, 2100)),
    ]).toEqual([206, true]);
    expect((await fetch(`${vda}/data`, { headers: { Range: 'bytes=300000-' } })).status).toBe(416);
    expect(await millraceUnderDeno(folder, ['abort', vda], '--allow-net=127.0.0.1')).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/no job/),
    });
    // Events have no end: who listens to them must not keep it from ending.
    const events = (await fetch(`${vda}/events`)).body!.getReader();
    await events.read();
    server.kill('SIGTERM');
    expect(await ended).toEqual([143, null]);
    expect(said).toBe('');
    await events.cancel().catch(() => {});
    const open = await millraceUnderDeno(
      folder,
      ['serve', 'base.raw', '--read-only', '--listen', '0.0.0.0:0'],
      '--allow-net',
    );
    expect(open).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/without a token/) });
  }, 60_000);
});

describe('the built package under Deno', () => {
  it("streams, without the repository's own deno.json", async () => {
    await writeFile(join(folder, 'base.raw'), makeContent('random', 9, 200_000));
    const dist = fileURLToPath(new URL('../../dist', import.meta.url));
    const program = fileURLToPath(new URL('../bench/stream-program.mjs', import.meta.url));
    const permissions = [`--allow-read=${folder},${dist}`, `--allow-write=${folder}`];
    const { stdout } = await run(DENO, [
      'run',
      '--no-config',
      '--no-prompt',
      '--quiet',
      ...permissions,
      program,
      join(dist, 'deno/index.js'),
      join(folder, 'vm.qcow2'),
      join(folder, 'base.raw'),
    ]);
    expect(JSON.parse(stdout).seconds).toBeGreaterThan(0);
    const disk = await openDisk({ overlay: join(folder, 'vm.qcow2') });
    expect((await disk.images())[0].backingFile).toBeUndefined();
    await disk.close();
  }, 60_000);
});

describe('holes of a raw file', () => {
  it('are told where Deno may call lseek, and are looked for by reading where it may not', async () => {
    // Of 4 MiB, the second is data, and the third zeros that were written.
    const path = join(folder, 'sparse.raw');
    await writeFile(path, '');
    await truncate(path, 4 * MIB);
    const file = await open(path, 'r+');
    await file.write(makeContent('random', 1, MIB), 0, MIB, MIB);
    await file.write(new Uint8Array(MIB), 0, MIB, 2 * MIB);
    await file.close();
    const dataUnder = async (...permissions: string[]): Promise<number[][]> => {
      const { stdout } = await run(DENO, [
        'run',
        '--no-prompt',
        '--quiet',
        '--cached-only',
        '--config',
        join(ROOT, 'deno.json'),
        ...permissions,
        join(ROOT, 'hosts/deno/main.ts'),
        'map',
        '--json',
        path,
      ]);
      return (JSON.parse(stdout) as { start: number; length: number; data: boolean }[])
        .filter(({ data }) => data)
        .map(({ start, length }) => [start, length]);
    };
    expect(await dataUnder('--allow-all')).toEqual([[MIB, 2 * MIB]]);
    expect(await dataUnder('--allow-read')).toEqual([[MIB, MIB]]);
    expect(await dataUnder('--allow-read', '--allow-ffi')).toEqual([[MIB, MIB]]);
  }, 60_000);
});

describe('deno task', () => {
  it('check finds nothing wrong', async () => {
    expect(await run(DENO, ['task', '--quiet', 'check'], { cwd: ROOT })).toMatchObject({
      exitCode: 0,
    });
  }, 120_000);

  it('test finds that the host keeps to its permissions, and names its errors', async () => {
    const { stdout } = await run(DENO, ['task', '--quiet', 'test'], {
      cwd: ROOT,
      env: { NO_COLOR: '1' },
    });
    expect(stdout).toMatch(/ok \| \d+ passed \| 0 failed/);
  }, 120_000);
});

describe('deno publish', () => {
  it('would publish the package to JSR as it is', async () => {
    const { stderr } = await run(DENO, ['publish', '--dry-run', '--allow-dirty'], {
      cwd: ROOT,
      env: { NO_COLOR: '1' },
    });
    expect(stderr).toMatch(/Dry run complete/);
  }, 120_000);
});
