/** `millrace convert -B`: copies over a base, judged by qemu-img, which makes them beside it. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { convertDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { QemuExtent } from '../support/qemu.ts';
import { check, compare, createImage, info, map, qemuImg, qemuIo } from '../support/qemu.ts';
import { millrace, millraceHere, withFolder } from './program.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** No whole cluster, and less than the disks over it. */
const BASE_BYTES = MIB + 20 * KIB;

/** Data, zeros over the base and behind it, zeros as data, and parts of clusters. */
const STEPS = [
  'write -P 1 64k 64k',
  'write -z 256k 128k',
  'write -P 0 512k 64k',
  'write -P 4 900k 4k',
  'write -z 910k 20k',
  'write -P 3 1500k 4k',
  'write -z 1700k 64k',
  'write -P 5 2047k 1k',
];

/** A base, one that begins so and goes on, one that ends before, and disks over the first. */
async function makeScene(folder: string): Promise<(name: string) => string> {
  const at = (name: string): string => join(folder, name);
  const content = makeContent('random', 1, 3 * MIB);
  await writeFile(at('base'), content.subarray(0, BASE_BYTES));
  await writeFile(at('longer'), content);
  await writeFile(at('shorter'), content.subarray(0, 700 * KIB));
  for (const [name, cluster] of [
    ['over', 64 * KIB],
    ['fine', 4 * KIB],
  ] as const) {
    await createImage(at(name), {
      base: at('base'),
      baseFormat: 'raw',
      size: 2 * MIB,
      with: { cluster_size: cluster },
    });
    await qemuIo(at(name), STEPS);
  }
  await qemuImg(['convert', '-O', 'qcow2', at('over'), at('flat')]);
  await qemuImg(['convert', '-O', 'raw', at('over'), at('odd')]);
  await truncate(at('odd'), 2 * MIB - 300);
  return at;
}

/** What is told of data but for its place, neighbours together. */
function shapeOf(extents: QemuExtent[]): object[] {
  const shape: Omit<QemuExtent, 'offset'>[] = [];
  for (const { offset: _, ...extent } of extents) {
    const last = shape.at(-1);
    const isLike =
      last &&
      (['depth', 'zero', 'data', 'present'] as const).every(
        (field) => last[field] === extent[field],
      );
    if (isLike) last.length += extent.length;
    else shape.push(extent);
  }
  return shape;
}

describeWithPeer(['qemu-img', 'qemu-io'], 'convert -B', () => {
  it(
    'holds what the source itself holds, as qemu-img has it, and leaves the rest to the base',
    () =>
      withFolder(async (folder) => {
        const at = await makeScene(folder);
        for (const [source, how, isLikeQemus] of [
          ['over', '', true],
          // Of the cluster in which the base ends, it makes one of data.
          ['over', '-c', false],
          ['over', '-p -S 0', true],
          ['over', '-o cluster_size=4k', true],
          ['over', '-o cluster_size=2M', true],
          ['over', '-c -o cluster_size=512,compression_type=zstd', true],
          // Of a cluster that has some of each, QEMU fetches the rest from the new base.
          ['over', '-o extended_l2=on', false],
          ['fine', '', true],
          ['fine', '-c', false],
          ['fine', '-c -o cluster_size=2M', true],
          ['flat', '', true],
          ['odd', '', true],
          ['odd', '-c -S 0', true],
        ] as const) {
          const words = how.split(' ').filter((word) => word !== '');
          const args = [
            'convert',
            '-O',
            'qcow2',
            '-B',
            at('base'),
            '-F',
            'raw',
            ...words,
            at(source),
          ];
          const told = { source, how, ...(await millraceHere(...args, at('ours'))) };
          expect(told).toMatchObject({ exitCode: 0 });
          await qemuImg([...args, at('theirs')]);
          const found = {
            source,
            how,
            like: await compare(at('ours'), at('theirs')),
            check: (await check(at('ours'))).exitCode,
          };
          expect(found).toMatchObject({ like: { identical: true }, check: 0 });
          if (isLikeQemus)
            expect({ source, how, shape: shapeOf(await map(at('ours'))) }).toEqual({
              source,
              how,
              shape: shapeOf(await map(at('theirs'))),
            });
          await rm(at('ours'));
        }
      }),
    120_000,
  );

  it('shows what the source shows, also where the bases do not end at one place', () =>
    withFolder(async (folder) => {
      const at = await makeScene(folder);
      for (const source of ['over', 'fine', 'flat'])
        for (const base of ['longer', 'shorter'])
          for (const how of [[], ['-c'], ['-S', '0']]) {
            const args = ['convert', '-O', 'qcow2', '-B', at(base), '-F', 'raw', ...how];
            expect(await millraceHere(...args, at(source), at('ours'))).toMatchObject({
              exitCode: 0,
              stderr: '',
            });
            const told = { source, base, how, ...(await compare(at('ours'), at(source))) };
            expect(told).toMatchObject({ identical: true });
            await rm(at('ours'));
          }
    }));

  it('copies a snapshot over a base, and a chain of which only the first image is copied', () =>
    withFolder(async (folder) => {
      const at = await makeScene(folder);
      await qemuImg(['snapshot', '-c', 'then', at('over')]);
      await qemuImg(['convert', '-l', 'then', '-O', 'raw', at('over'), at('then')]);
      await qemuIo(at('over'), ['write -P 8 0 2M']);
      const onto = ['convert', '-O', 'qcow2', '-F', 'raw', '-B', at('base')];
      expect(await millraceHere(...onto, '-l', 'then', at('over'), at('ours'))).toMatchObject({
        exitCode: 0,
      });
      expect(await compare(at('ours'), at('then'), { formatB: 'raw' })).toMatchObject({
        identical: true,
      });
      expect((await map(at('ours'))).filter(({ depth }) => depth === 1)).not.toEqual([]);
      await createImage(at('top'), { base: at('fine'), baseFormat: 'qcow2' });
      await qemuIo(at('top'), ['write -P 9 300k 100k']);
      const options = { source: at('top'), target: at('copy'), format: 'qcow2' } as const;
      await expect(
        convertDisk({ ...options, base: at('fine'), baseFormat: 'qcow2' }),
      ).rejects.toMatchObject({ message: expect.stringContaining('followChain') });
      expect(existsSync(at('copy'))).toBe(false);
      await convertDisk({ ...options, base: at('fine'), followChain: true });
      expect(await compare(at('top'), at('copy'))).toMatchObject({ identical: true });
      expect(shapeOf(await map(at('copy')))).toEqual(shapeOf(await map(at('top'))));
    }));

  it('records the base as create does, and by which bytes it is known again', () =>
    withFolder(async (cwd) => {
      const at = await makeScene(cwd);
      await mkdir(at('disks'));
      const recordOf = async (name: string): Promise<object> => {
        const told = await info(at(name));
        const image = await readFile(at(name));
        return {
          name: told['backing-filename'],
          format: told['backing-filename-format'],
          identity: /\{"size":[^}]*\}/.exec(image.toString('latin1', 0, 4096))?.[0],
        };
      };
      const to = 'disks/made';
      for (const base of ['-B base', '-B base -F raw', '-o backing_file=base,backing_fmt=raw']) {
        await millrace(['create', to, ...base.replace('-B', '-b').split(' ')], { cwd });
        const made = await recordOf(to);
        await rm(at(to));
        const args = ['convert', '-O', 'qcow2', ...base.split(' '), 'over', to];
        expect(await millrace(args, { cwd })).toMatchObject({ exitCode: 0, stderr: '' });
        expect(await recordOf(to)).toEqual(made);
        expect(made).toMatchObject({ name: '../base', format: 'raw', identity: expect.anything() });
        await rm(at(to));
      }
      const elsewhere = ['-B', 'base', '--record-base', '/images/base'];
      await millrace(['convert', '-O', 'qcow2', ...elsewhere, 'over', to], { cwd });
      expect(await recordOf(to)).toMatchObject({ name: '/images/base' });
      await millrace(['convert', '-O', 'qcow2', '-B', 'base', 'over', 'copy'], { cwd });
      await utimes(at('base'), 1, 1);
      expect((await millrace(['map', 'copy'], { cwd })).stderr).toMatch(
        /base is not the base that copy was made on/,
      );
    }));

  it('refuses what cannot be, with what to use instead, and leaves nothing', () =>
    withFolder(async (folder) => {
      const at = await makeScene(folder);
      const there = await readFile(at('flat'));
      for (const [words, told] of [
        ['-O raw -B ./base ./over ./none', /a raw image has no base: only a qcow2 copy has/],
        ['-O qcow2 -B ./missing ./over ./none', /missing.*no such file/],
        ['-O qcow2 -F raw ./over ./none', /needs a base \(base, -B\)/],
        ['-O qcow2 -o size=3M -B ./base ./over ./none', /as large as its source: no size in -o/],
        ['-n -O qcow2 -B ./base ./over ./flat', /keeps the backing file.*a new image, without/],
        ['-O qcow2 -B ./base ./over ./flat', /flat.* (is there|exists)/],
        ['-O qcow2 -B ./none ./over ./none', /none.*no such file/],
      ] as const) {
        const args = words
          .split(' ')
          .map((word) => (word.startsWith('./') ? at(word.slice(2)) : word));
        const { exitCode, stdout, stderr } = await millraceHere('convert', ...args);
        expect({ words, exitCode, stdout }).toEqual({ words, exitCode: 1, stdout: '' });
        expect(stderr).toMatch(/^millrace: [^\n]+\n$/);
        expect(stderr).toMatch(told);
        expect(existsSync(at('none'))).toBe(false);
      }
      expect((await readFile(at('flat'))).equals(there)).toBe(true);
      const both = ['-B', at('base'), '-o', `backing_file=${at('base')}`];
      expect(
        (await millraceHere('convert', '-O', 'qcow2', ...both, at('over'), at('none'))).stderr,
      ).toMatch(/two bases/);
    }));
});
