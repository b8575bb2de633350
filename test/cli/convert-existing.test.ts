/** `millrace convert` onto what is there already: a raw file with -n, a block device. */
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
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

  it('refuses what is missing, too small, of the chain, or would be qcow2; without -n, what is there', () =>
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
        [['-n', '-O', 'qcow2', 'vm.qcow2', 'large.raw'], /raw copies only/],
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
