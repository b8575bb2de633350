/** `millrace convert` onto what is there already: a raw file with -n, a block device. */
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { CreateImageOptions } from '../support/qemu.ts';
import { check, compare, createImage, info, qemuIo } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { millrace, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const isRoot = process.getuid?.() === 0;

describe('convert -n', () => {
  it('writes all of the disk, its zeros too, and leaves what is behind', () =>
    withFolder(async (cwd) => {
      const source = Buffer.concat([
        makeContent('random', 1, MIB),
        Buffer.alloc(MIB),
        makeContent('text', 2, MIB),
      ]);
      await writeFile(join(cwd, 'source.raw'), source);
      await writeFile(join(cwd, 'target.raw'), Buffer.alloc(4 * MIB, 9));
      const { exitCode, stderr } = await millrace(['convert', '-n', 'source.raw', 'target.raw'], {
        cwd,
      });
      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
      const target = await readFile(join(cwd, 'target.raw'));
      expect(target.equals(Buffer.concat([source, Buffer.alloc(MIB, 9)]))).toBe(true);
    }));

  it('refuses what is missing, too small, of the chain, or raw where it is to be qcow2; without -n, what is there', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), makeContent('text', 1, MIB));
      await millrace(['create', 'vm.qcow2', '--base', 'base.raw'], { cwd });
      await writeFile(join(cwd, 'small.raw'), Buffer.alloc(MIB - 512, 9));
      await writeFile(join(cwd, 'large.raw'), Buffer.alloc(2 * MIB, 9));
      for (const [args, reason] of [
        [['-n', 'vm.qcow2', 'missing.raw'], /missing\.raw.*no such file/],
        [['-n', 'vm.qcow2', 'small.raw'], /would not hold the copy/],
        [['-n', 'vm.qcow2', 'base.raw'], /is an image that is to be copied from/],
        [['-n', 'vm.qcow2', 'vm.qcow2'], /is an image that is to be copied from/],
        [['-n', '-O', 'qcow2', 'vm.qcow2', 'large.raw'], /an overlay is a qcow2 image/],
        [['vm.qcow2', 'large.raw'], /large\.raw/],
      ] as const) {
        const { exitCode, stderr } = await millrace(['convert', ...args], { cwd });
        expect({ args, exitCode }).toEqual({ args, exitCode: 1 });
        expect(stderr).toMatch(reason);
      }
      expect((await readFile(join(cwd, 'base.raw'))).equals(makeContent('text', 1, MIB))).toBe(
        true,
      );
      expect((await readFile(join(cwd, 'large.raw'))).every((byte) => byte === 9)).toBe(true);
    }));

  if (!isRoot) console.warn('skipped: writes onto a block device (needs root)');
  it.skipIf(!isRoot)('writes onto a block device', () =>
    withFolder(async (cwd) => {
      const content = makeContent('random', 3, MIB);
      await writeFile(join(cwd, 'disk.raw'), content);
      await writeFile(join(cwd, 'device.img'), '');
      await truncate(join(cwd, 'device.img'), 2 * MIB);
      const { stdout } = await run('losetup', ['-f', '--show', join(cwd, 'device.img')]);
      const device = stdout.trim();
      try {
        const { exitCode, stderr } = await millrace(['convert', 'disk.raw', device], { cwd });
        expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
        expect((await readFile(device)).subarray(0, MIB).equals(content)).toBe(true);
      } finally {
        await run('losetup', ['-d', device]);
      }
    }),
  );
});

describeWithPeer(['qemu-img', 'qemu-io'], 'convert -n -O qcow2', () => {
  /** A source with data, holes in between, and an end within a cluster. */
  async function makeSource(cwd: string): Promise<void> {
    const source = Buffer.alloc(MIB + 512);
    source.set(makeContent('random', 1, 100_000), 0);
    source.set(makeContent('text', 2, 70_000), 500_000);
    source[MIB + 511] = 5;
    await writeFile(join(cwd, 'source.raw'), source);
    await writeFile(join(cwd, 'base.raw'), makeContent('text', 3, 2 * MIB));
  }

  /** Ours and QEMU's copies onto images made by the same steps. */
  async function bothOnto(
    cwd: string,
    options: CreateImageOptions,
    steps: string[],
  ): Promise<void> {
    for (const name of ['ours.qcow2', 'theirs.qcow2']) {
      await createImage(join(cwd, name), options);
      if (steps.length) await qemuIo(join(cwd, name), steps);
    }
    const args = ['convert', '-n', '-f', 'raw', '-O', 'qcow2', 'source.raw'];
    await run('qemu-img', [...args, 'theirs.qcow2'], { cwd });
    expect(await millrace([...args, 'ours.qcow2'], { cwd })).toMatchObject({
      exitCode: 0,
      stderr: '',
    });
    const [ours, theirs] = [join(cwd, 'ours.qcow2'), join(cwd, 'theirs.qcow2')];
    expect(await compare(ours, theirs)).toMatchObject({ identical: true });
    expect((await check(ours)).exitCode).toBe(0);
    expect((await info(ours))['backing-filename']).toBe((await info(theirs))['backing-filename']);
    expect((await info(ours))['virtual-size']).toBe((await info(theirs))['virtual-size']);
  }

  for (const [what, options] of Object.entries<CreateImageOptions>({
    'an image that stands alone': { size: 2 * MIB },
    'an overlay': { base: 'base.raw', baseFormat: 'raw' },
    'an overlay of version 2': { base: 'base.raw', baseFormat: 'raw', with: { compat: '0.10' } },
    'an image of small clusters': { size: 2 * MIB, with: { cluster_size: 4096 } },
    'an image of extended L2 entries': { size: 2 * MIB, with: { extended_l2: 'on' } },
  }))
    it(`writes over ${what} as QEMU does`, () =>
      withFolder(async (cwd) => {
        await makeSource(cwd);
        await bothOnto(cwd, options, ['write -P 9 0 300k', 'write -P 8 1500k 100k']);
      }));

  it('refuses what is smaller, is read, or has snapshots, and leaves it as it is', () =>
    withFolder(async (cwd) => {
      await makeSource(cwd);
      await createImage(join(cwd, 'small.qcow2'), { size: MIB });
      await createImage(join(cwd, 'taken.qcow2'), { size: 2 * MIB });
      await run('qemu-img', ['snapshot', '-c', 'one', 'taken.qcow2'], { cwd });
      await createImage(join(cwd, 'over.qcow2'), { base: 'taken.qcow2', baseFormat: 'qcow2' });
      for (const [args, reason] of [
        [['source.raw', 'small.qcow2'], /small\.qcow2 is a disk of 1048576 bytes.*millrace resize/],
        [['source.raw', 'taken.qcow2'], /snapshot/],
        [['over.qcow2', 'taken.qcow2'], /taken\.qcow2 is an image that is to be copied from/],
        [['source.raw', 'missing.qcow2'], /missing\.qcow2.*no such file/],
        [
          ['--cluster-size', '4K', 'source.raw', 'small.qcow2'],
          /what they are like cannot be said with 'existing' \(-n\)/,
        ],
      ] as const) {
        const result = await millrace(['convert', '-n', '-O', 'qcow2', ...args], { cwd });
        expect({ args, exitCode: result.exitCode }).toEqual({ args, exitCode: 1 });
        expect(result.stderr).toMatch(reason);
      }
      for (const name of ['small.qcow2', 'taken.qcow2'])
        expect(await qemuIo(join(cwd, name), ['read -P 0 0 1M'])).not.toContain('failed');
    }));
});
