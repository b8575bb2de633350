/** Commands that write an image warn of the overlays beside it that stand on it. */
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { millraceUnderDeno } from '../deno/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { createImage } from '../support/qemu.ts';
import { millrace, withFolder } from './program.ts';

const MIB = 1024 * 1024;

/** `one` and `two` stand on `mid`, which stands on a raw base; so does `beside`. */
async function inScene(use: (folder: string) => Promise<void>): Promise<void> {
  await withFolder(async (cwd) => {
    await writeFile(join(cwd, 'base.raw'), makeContent('random', 1, MIB));
    await mkdir(join(cwd, 'sub'));
    await symlink('mid.qcow2', join(cwd, 'link.qcow2'));
    for (const name of ['mid.qcow2', 'beside.qcow2'])
      await millrace(['create', name, '--base', 'base.raw'], { cwd });
    await millrace(['create', 'one.qcow2', '--base', 'link.qcow2', '--follow-chain'], { cwd });
    await createImage(join(cwd, 'two.qcow2'), { base: join(cwd, 'mid.qcow2') });
    await use(cwd);
  });
}

function overlaysIn(stderr: string): string[] {
  return [...stderr.matchAll(/'[^']*?([a-z]+)\.qcow2' is made over/g)]
    .map(([, name]) => name)
    .sort();
}

describeWithPeer(['qemu-img'], 'a command that writes an image', () => {
  it('stream warns of the overlays over it, and the command that it names helps', () =>
    inScene(async (cwd) => {
      const { exitCode, stderr } = await millrace(['stream', 'mid.qcow2', '--length', '64K'], {
        cwd,
      });
      expect(exitCode).toBe(0);
      expect(overlaysIn(stderr)).toEqual(['one', 'two']);
      const map = ['map', 'one.qcow2', '--follow-chain'];
      expect(await millrace(map, { cwd })).toMatchObject({ exitCode: 1 });
      const command = /'millrace (rebase -u \S*one\.qcow2 --base \S+)'/.exec(stderr)![1];
      expect(await millrace(command.split(' '), { cwd })).toMatchObject({ exitCode: 0 });
      expect(await millrace(map, { cwd })).toMatchObject({ exitCode: 0, stderr: '' });
    }));

  it('commit warns of those over the base that it wrote, and over the overlay that it emptied', () =>
    inScene(async (cwd) => {
      await millrace(['stream', 'mid.qcow2', '--length', '64K'], { cwd });
      const { exitCode, stderr } = await millrace(['commit', 'mid.qcow2'], { cwd });
      expect(exitCode).toBe(0);
      expect(overlaysIn(stderr)).toEqual(['beside', 'one', 'two']);
      expect(stderr).toMatch(
        /beside\.qcow2' is made over \S*base\.raw, which shows something else/,
      );
    }));

  it('says nothing where nothing is copied, or nothing stands on it; Deno says the same', () =>
    inScene(async (cwd) => {
      expect((await millrace(['stream', 'beside.qcow2'], { cwd })).stderr).toBe('');
      const stream = ['stream', 'mid.qcow2', '--length', '64K'];
      expect(overlaysIn((await millraceUnderDeno(cwd, stream)).stderr)).toEqual(['one', 'two']);
      expect((await millrace(stream, { cwd })).stderr).toBe('');
    }));
});
