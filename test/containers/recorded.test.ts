/**
 * What an overlay records of a base in a container: QEMU knows no containers, and must refuse such
 * a base where it would take the container's bytes for the disk.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { millrace, withFolder } from '../cli/program.ts';
import type { Container } from '../fixtures/container-names.ts';
import { CONTAINER_PEERS, pack } from '../fixtures/containers.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { convertImage, createImage } from '../support/qemu.ts';
import { run } from '../support/run.ts';

const SIZE = 1024 * 1024;
const KINDS = ['xz', 'gz', 'zst', 'bz2', 'zip', 'tar'] as const satisfies Container[];

describeWithPeer(
  ['qemu-img', ...CONTAINER_PEERS],
  'an overlay over a raw disk in a container',
  () => {
    it.each(KINDS)('%s is refused by QEMU, read by us, and its base never written', (kind) =>
      withFolder(async (cwd) => {
        const content = makeContent('random', 1, SIZE);
        await writeFile(join(cwd, 'base.raw'), content);
        const base = await pack(join(cwd, 'base.raw'), kind);
        const packed = await readFile(base);
        expect(await millrace(['create', 'vm.qcow2', '--base', base], { cwd })).toMatchObject({
          exitCode: 0,
        });
        const convert = ['convert', '-O', 'raw', join(cwd, 'vm.qcow2'), join(cwd, 'theirs.raw')];
        const theirs = await run('qemu-img', convert, { exitCodes: [0, 1] });
        expect(theirs.stderr).toMatch(/Unknown driver '(xz|gzip|zstd|bzip2|zip|tar)'/);
        const chain = await millrace(['info', '--backing-chain', '--json', 'vm.qcow2'], { cwd });
        expect(JSON.parse(chain.stdout)).toHaveLength(2);
        expect(await millrace(['commit', 'vm.qcow2'], { cwd })).toMatchObject({
          exitCode: 1,
          stderr: expect.stringContaining('is only read, never written'),
        });
        for (const options of [['-u'], []])
          expect(
            await millrace(['rebase', ...options, 'vm.qcow2', '--base', base], { cwd }),
          ).toMatchObject({ exitCode: 0 });
        expect(await millrace(['convert', 'vm.qcow2', 'ours.raw'], { cwd })).toMatchObject({
          exitCode: 0,
        });
        expect(Buffer.compare(await readFile(join(cwd, 'ours.raw')), content)).toBe(0);
        expect(Buffer.compare(await readFile(base), packed)).toBe(0);
      }),
    );

    it('a Parallels disk, whose name has no room, is refused by QEMU and read by us', () =>
      withFolder(async (cwd) => {
        const content = makeContent('random', 3, SIZE);
        const disk = join(cwd, 'base.hds');
        await writeFile(join(cwd, 'base.raw'), content);
        await convertImage(join(cwd, 'base.raw'), disk, { from: 'raw', to: 'parallels' });
        const base = await pack(disk, 'gz');
        for (const args of [
          ['create', 'vm.qcow2', '--base', base],
          ['rebase', 'vm.qcow2', '--base', base],
        ]) {
          expect(await millrace(args, { cwd })).toMatchObject({ exitCode: 0 });
          const told = await run('qemu-img', ['map', join(cwd, 'vm.qcow2')], { exitCodes: [0, 1] });
          expect(told.stderr).toMatch(/Unknown driver 'parallel'/);
          const shown = await millrace(['convert', 'vm.qcow2', `${args[0]}.raw`], { cwd });
          expect(shown).toMatchObject({ exitCode: 0 });
          expect(Buffer.compare(await readFile(join(cwd, `${args[0]}.raw`)), content)).toBe(0);
        }
      }));

    it('that QEMU has recorded as raw is to us, too, what it is to QEMU: its bytes', () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), makeContent('random', 2, SIZE));
        const base = await pack(join(cwd, 'base.raw'), 'xz');
        const overlay = join(cwd, 'vm.qcow2');
        await createImage(overlay, { base, baseFormat: 'raw' });
        const shown = await millrace(['convert', 'vm.qcow2', 'ours.raw'], { cwd });
        expect(shown).toMatchObject({ exitCode: 0 });
        const packed = await readFile(base);
        const ours = await readFile(join(cwd, 'ours.raw'));
        expect(Buffer.compare(ours.subarray(0, packed.length), packed)).toBe(0);
      }));
  },
);
