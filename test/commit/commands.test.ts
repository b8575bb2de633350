/** `millrace commit` and `millrace rebase`, as a user runs them. */
import { copyFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { millrace, withFolder } from '../cli/program.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { compare, createImage, info, qemuImg, qemuIo } from '../support/qemu.ts';

async function makePair(cwd: string): Promise<(name: string) => string> {
  const at = (name: string): string => join(cwd, name);
  await createImage(at('base.qcow2'), { size: 4 * 1024 * 1024 });
  await qemuIo(at('base.qcow2'), ['write -P 1 0 2M']);
  await createImage(at('vm.qcow2'), { size: 4 * 1024 * 1024, base: at('base.qcow2') });
  await qemuIo(at('vm.qcow2'), ['write -P 2 1M 2M']);
  await qemuImg(['convert', '-O', 'raw', at('vm.qcow2'), at('expected')]);
  return at;
}

describeWithPeer(['qemu-img', 'qemu-io'], 'the commands', () => {
  it('commit writes the overlay into its base and says so', () =>
    withFolder(async (cwd) => {
      const at = await makePair(cwd);
      const { exitCode, stdout } = await millrace(['commit', 'vm.qcow2', '--json'], { cwd });
      expect(exitCode).toBe(0);
      expect(JSON.parse(stdout)).toEqual({
        filename: 'vm.qcow2',
        base: at('base.qcow2'),
        bytes: 2 * 1024 * 1024,
        emptied: true,
      });
      expect(
        await compare(at('base.qcow2'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
      ).toMatchObject({ identical: true });
      expect(await millrace(['commit', 'vm.qcow2', '--keep'], { cwd })).toMatchObject({
        exitCode: 0,
        stdout: expect.stringContaining('written from vm.qcow2\n'),
      });
    }));

  it('rebase moves the overlay onto another base, or none', () =>
    withFolder(async (cwd) => {
      const at = await makePair(cwd);
      await copyFile(at('base.qcow2'), at('moved.qcow2'));
      expect(
        await millrace(['rebase', 'vm.qcow2', '--base', 'moved.qcow2', '--unsafe'], { cwd }),
      ).toMatchObject({
        exitCode: 0,
        stdout: expect.stringContaining('its base is moved.qcow2 (qcow2) now'),
      });
      await rm(at('base.qcow2'));
      expect(
        await compare(at('vm.qcow2'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
      ).toMatchObject({ identical: true });
      expect(await millrace(['rebase', 'vm.qcow2', '--no-base'], { cwd })).toMatchObject({
        exitCode: 0,
        stdout: expect.stringContaining('has no base now'),
      });
      expect((await info(at('vm.qcow2')))['backing-filename']).toBeUndefined();
      expect(
        await compare(at('vm.qcow2'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
      ).toMatchObject({ identical: true });
      expect(await millrace(['rebase', 'vm.qcow2'], { cwd })).toMatchObject({
        exitCode: 1,
        stderr: expect.stringContaining('--no-base'),
      });
    }));
});
