/**
 * QEMU and Millrace keep each other from writing one image: by locks of open file descriptions, or
 * by what /proc/locks tells.
 */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { guardImage, writerOf } from '../../hosts/files/qemu-locks.ts';
import { commitDisk, createDisk, openDisk } from '../../hosts/node/index.ts';
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

/** A QEMU that has an image open for writing, until its standard input ends. */
async function openByQemu(image = path, format = 'qcow2'): Promise<void> {
  qemu = spawn('qemu-io', ['-f', format, image], { stdio: ['pipe', 'ignore', 'ignore'] });
  while (writerAt(image) === undefined) await setTimeout(20);
}

async function leaveToUs(): Promise<void> {
  qemu!.stdin!.end();
  await new Promise((resolve) => qemu!.once('exit', resolve));
  qemu = undefined;
}

/** Whether QEMU may write an image; else the error says that its lock could not be had. */
async function qemuMayWrite(image: string, format: string): Promise<boolean> {
  const { exitCode, stderr } = await run('qemu-io', ['-f', format, '-c', 'length', image], {
    exitCodes: [0, 1],
  });
  if (exitCode) expect(stderr).toMatch(/Failed to get .*"write" lock/);
  return exitCode === 0;
}

/** Below `top` a qcow2 image, and below that the raw one. */
async function makeChain(): Promise<{ top: string; mid: string; base: string }> {
  const [top, mid, base] = ['top.qcow2', 'vm.qcow2', 'base.raw'].map((name) => join(folder, name));
  await (await createDisk({ overlay: top, base: mid, followChain: true })).close();
  return { top, mid, base };
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
    for (const access of ['write', 'base'] as const) {
      expect(guardImage('vm', file, access, proc, undefined).guard).toBe('looked');
      expect(guardImage('vm', file, access, proc, () => -1).guard).toBe('looked');
      expect(guardImage('vm', file, access, blind, undefined).guard).toBe('blind');
    }
    await openByQemu();
    for (const access of ['write', 'base'] as const)
      expect(() => guardImage('vm', file, access, proc, undefined)).toThrow(
        `qemu-io (pid ${qemu!.pid})`,
      );
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

  it('refuses a base that QEMU has open for writing, unless it is told to take it', async () => {
    const { top, mid, base } = await makeChain();
    for (const [image, format] of [
      [base, 'raw'],
      [mid, 'qcow2'],
    ]) {
      await openByQemu(image, format);
      const named = `'${image}' is open for writing by qemu-io (pid ${qemu!.pid})`;
      for (const readOnly of [false, true])
        await expect(openDisk({ overlay: top, followChain: true, readOnly })).rejects.toMatchObject(
          { code: 'EBUSY', message: expect.stringContaining(named) },
        );
      const other = join(folder, 'other.qcow2');
      await expect(
        createDisk({ overlay: other, base: image, followChain: true }),
      ).rejects.toMatchObject({ code: 'EBUSY' });
      const disk = await openDisk({ overlay: top, followChain: true, forceShare: true });
      expect((await disk.read(0, 1))[0]).toBe(7);
      await disk.close();
      await leaveToUs();
    }
  });

  it('lets the command line stream over such a base with -U only, and warns where it reads', async () => {
    const { top, base } = await makeChain();
    await openByQemu(base, 'raw');
    const refused = await millrace(['stream', '--follow-chain', top], { cwd: folder });
    expect(refused).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/base.raw' is open for writing by qemu-io .*-U/),
    });
    for (const [command, ...more] of [['map'], ['convert', join(folder, 'copy.raw')]]) {
      const args = ['--follow-chain', top, ...more];
      const warned = await millrace([command, ...args], { cwd: folder });
      expect(warned.stderr.match(/is open for writing by qemu-io/g), command).toHaveLength(1);
      expect(warned.exitCode, command).toBe(0);
      if (more.length) await rm(more[0]);
      const quiet = await millrace([command, '-U', ...args], { cwd: folder });
      expect(quiet.stderr, command).not.toContain('open for writing');
    }
    const streamed = await millrace(['stream', '-U', '--follow-chain', top], { cwd: folder });
    expect(streamed).toMatchObject({ exitCode: 0 });
  });

  it('keeps QEMU from writing the bases of a disk, but not from reading them', async () => {
    const { top, mid, base } = await makeChain();
    const disk = await openDisk({ overlay: top, followChain: true, readOnly: true });
    expect(await qemuMayWrite(base, 'raw')).toBe(false);
    expect(await qemuMayWrite(mid, 'qcow2')).toBe(false);
    await run('qemu-io', ['-r', '-f', 'qcow2', '-c', 'read -P 7 0 64k', mid]);
    await expect(openDisk({ overlay: mid })).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('in use by this program'),
    });
    await disk.close();
    expect(await qemuMayWrite(mid, 'qcow2')).toBe(true);
    expect(await qemuMayWrite(base, 'raw')).toBe(true);
  });

  it('leaves a base that QEMU reads to it', async () => {
    const { top, mid } = await makeChain();
    const command = ['-r', '-f', 'qcow2', top];
    do {
      // Whoever looks for its lock at the moment it takes it makes it give up.
      if (!qemu || qemu.exitCode !== null)
        qemu = spawn('qemu-io', command, { stdio: ['pipe', 'ignore', 'ignore'] });
      await setTimeout(20);
    } while (await qemuMayWrite(mid, 'qcow2'));
    await expect(openDisk({ overlay: mid })).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining(`in use by qemu-io (pid ${qemu.pid})`),
    });
    // It is only read.
    expect(writerAt(mid)).toBeUndefined();
    await (await openDisk({ overlay: top, followChain: true, readOnly: true })).close();
  });

  it('holds for bases under Deno, too', async () => {
    const { top, base } = await makeChain();
    await openByQemu(base, 'raw');
    const refused = await underDeno('stream', '--follow-chain', top);
    expect(refused).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("base.raw' is open for writing by qemu-io"),
    });
    await leaveToUs();
    const slow = ['stream', '--follow-chain', '--speed', '1K', top];
    const holder = spawn(DENO, [...withAll(), ...slow], { cwd: folder, stdio: 'ignore' });
    while (holder.exitCode === null && (await qemuMayWrite(base, 'raw'))) await setTimeout(50);
    expect(holder.exitCode).toBe(null);
    holder.kill('SIGTERM');
    await new Promise((resolve) => holder.once('exit', resolve));
    expect(await qemuMayWrite(base, 'raw')).toBe(true);
  });

  it('commits into a base that it has locked itself', async () => {
    const { top, mid } = await makeChain();
    const disk = await openDisk({ overlay: top, followChain: true });
    await disk.write(0, new Uint8Array(512).fill(9));
    await disk.close();
    await commitDisk({ overlay: top, followChain: true });
    expect((await run('qemu-io', ['-r', '-c', 'read -P 9 0 512', mid])).stdout).not.toContain(
      'failed',
    );
  });
});

function withAll(): string[] {
  const args = denoArgs(folder, 'hosts/deno/main.ts');
  return args.filter((arg) => !arg.startsWith('--allow-')).toSpliced(1, 0, '-A');
}

function underDeno(...args: string[]): ReturnType<typeof run> {
  return run(DENO, [...withAll(), ...args], {
    cwd: folder,
    exitCodes: [0, 1],
    env: { NO_COLOR: '1' },
  });
}
