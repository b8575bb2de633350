/** QEMU and Millrace keep each other from writing one image: by locks of open file descriptions, or by what /proc/locks tells. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { guardImage, writerOf } from '../../hosts/files/qemu-locks.ts';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { writerAt } from '../../hosts/node/qemu-locks.ts';
import { millrace } from '../cli/program.ts';
import { DENO, denoArgs } from '../deno/program.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { run } from '../support/run.ts';

const MIB = 1024 * 1024;

let folder: string;
let path: string;
let qemu: ChildProcess | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-locks-'));
  path = join(folder, 'vm.qcow2');
  await writeFile(join(folder, 'base.raw'), new Uint8Array(MIB).fill(7));
  await (await createDisk({ overlay: path, base: join(folder, 'base.raw') })).close();
});

afterEach(async () => {
  qemu?.stdin?.end();
  if (qemu && qemu.exitCode === null) await new Promise((resolve) => qemu!.once('exit', resolve));
  qemu = undefined;
  await rm(folder, { recursive: true });
});

/** A QEMU that has the image open for writing, until its standard input ends. */
async function openByQemu(): Promise<void> {
  qemu = spawn('qemu-io', ['-f', 'qcow2', path], { stdio: ['pipe', 'ignore', 'ignore'] });
  while (writerAt(path) === undefined) await setTimeout(20);
}

describeWithPeer(['qemu-img', 'qemu-io'], 'locks between QEMU and Millrace', () => {
  it('refuses to open what QEMU has open, and names its process', async () => {
    await openByQemu();
    await expect(openDisk({ overlay: path })).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining(`qemu-io (pid ${qemu!.pid})`),
    });
    const disk = await openDisk({ overlay: path, readOnly: true });
    expect((await disk.read(0, 1))[0]).toBe(7);
    await disk.close();
  });

  it('keeps QEMU from writing what it has open, and lets it after the closing', async () => {
    const disk = await openDisk({ overlay: path });
    const refused = await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 64k', path], {
      exitCodes: [0, 1],
    });
    expect(refused).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/Failed to get .*"write" lock/),
    });
    await disk.close();
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 64k', path]);
  });

  it('sees by /proc/locks, without system calls of its own, who writes', async () => {
    const { readFileSync, readdirSync } = await import('node:fs');
    const proc = {
      readText: (name: string): string => readFileSync(name, 'utf8'),
      list: (name: string): string[] => readdirSync(name),
    };
    const blind = {
      readText: (): string => {
        throw new Error('no /proc here');
      },
      list: (): string[] => [],
    };
    const file = await stat(path, { bigint: true });
    expect(guardImage('vm', file, proc, undefined)).toBe('looked');
    expect(guardImage('vm', file, proc, () => -1)).toBe('looked');
    expect(guardImage('vm', file, blind, undefined)).toBe('blind');
    await openByQemu();
    expect(() => guardImage('vm', file, proc, undefined)).toThrow(`qemu-io (pid ${qemu!.pid})`);
    const other = await stat(join(folder, 'base.raw'), { bigint: true });
    expect(writerOf(other, proc)).toBeUndefined();
  });

  it('warns those who only look, once, and not with -U', async () => {
    await openByQemu();
    for (const command of ['info', 'map', 'check']) {
      const warned = await millrace([command, path], { cwd: folder });
      expect(warned.stderr.match(/is open for writing by qemu-io/g), command).toHaveLength(1);
      const shared = await millrace([command, '-U', path], { cwd: folder });
      expect(shared.stderr, command).not.toContain('open for writing');
    }
  });

  it('holds under Deno with all permissions, and is told to be blind without', async () => {
    await openByQemu();
    for (const permission of ['--allow-ffi', '--allow-all']) {
      const folderOnly = permission === '--allow-all' ? [] : [permission];
      const args = denoArgs(folder, 'hosts/deno/main.ts', ...folderOnly);
      const all = args.filter((arg) => !arg.startsWith('--allow-')).toSpliced(1, 0, '-A');
      const { stderr, exitCode } = await run(
        DENO,
        [...(permission === '--allow-all' ? all : args), 'stream', path],
        { cwd: folder, exitCodes: [0, 1], env: { NO_COLOR: '1' } },
      );
      // Without a look at /proc nobody can tell, and that is said.
      if (permission === '--allow-all') {
        expect(exitCode, stderr).toBe(1);
        expect(stderr).toContain('open for writing by qemu-io');
      } else expect(stderr).toContain('the locks of other programs cannot be seen here');
    }
  });
});
