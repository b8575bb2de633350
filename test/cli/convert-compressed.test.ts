/** `millrace convert -c`, judged by qemu-img, which makes the same copy beside it. */
import { open, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { DENO, denoArgs } from '../deno/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, convertImage, info, qemuImg } from '../support/qemu.ts';
import type { RunResult } from '../support/run.ts';
import { run } from '../support/run.ts';
import { millrace, withFolder } from './program.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const bin = (name: string): string => join(ROOT, 'node_modules/.bin', name);
/** No multiple of any cluster, and of more sectors than there are in whole clusters. */
const SIZE = 9 * MIB + 3 * 512;
/** How much larger than QEMU's a copy may be: zlib is not the same in each runtime. */
const LARGER_PER_CENT_MAX = 7;
/** What the tables may take beyond QEMU's, which has fewer refcounts: clusters. */
const CLUSTERS_MORE_MAX = 6;

/** Text, what does not compress, zeros, small holes, and data up to an odd end. */
async function makeSource(path: string): Promise<void> {
  const file = await open(path, 'w');
  await file.truncate(SIZE);
  const put = (bytes: Uint8Array, at: number) => file.write(bytes, 0, bytes.length, at);
  await put(makeContent('text', 1, 3 * MIB), 0);
  await put(makeContent('random', 2, 700_000), 4 * MIB + 4096);
  for (let i = 0; i < 40; i++) await put(makeContent('text', i, 5000), 5 * MIB + i * 20 * KIB);
  await put(Buffer.alloc(MIB), 6 * MIB);
  await put(makeContent('text', 3, SIZE - 8 * MIB - 100), 8 * MIB + 100);
  await file.close();
}

async function expectAsQemus(
  cwd: string,
  creation: Record<string, string>,
  convert: (...args: string[]) => Promise<RunResult>,
): Promise<void> {
  const [source, ours, theirs] = ['source.raw', 'ours', 'theirs'].map((name) => join(cwd, name));
  const list = Object.entries(creation).map(([name, value]) => `${name}=${value}`);
  const o = list.length ? ['-o', list.join()] : [];
  expect(await convert('convert', '-c', '-O', 'qcow2', ...o, source, ours)).toMatchObject({
    exitCode: 0,
    stderr: '',
  });
  await convertImage(source, theirs, { from: 'raw', compress: true, with: creation });
  const told = { creation, ...(await check(ours)) };
  expect(told).toMatchObject({ exitCode: 0, messages: '' });
  expect(await compare(source, ours, { formatA: 'raw' })).toMatchObject({ identical: true });
  const [their, image] = [(await check(theirs)).report!, (await info(ours))['format-specific']];
  expect(image?.data).toMatchObject((await info(theirs))['format-specific']!.data as object);
  const few = 1 + their['total-clusters']! / 100;
  for (const count of ['allocated-clusters', 'compressed-clusters'] as const)
    expect(Math.abs(told.report![count]! - their[count]!), count).toBeLessThan(few);
  const most =
    (await stat(theirs)).size * (1 + LARGER_PER_CENT_MAX / 100) +
    CLUSTERS_MORE_MAX * (await info(theirs))['cluster-size']!;
  expect((await stat(ours)).size, JSON.stringify(creation)).toBeLessThan(most);
  for (const path of [ours, theirs]) await rm(path);
}

describeWithPeer(['qemu-img'], 'convert -c', () => {
  it(
    'packs as qemu-img packs, whatever the clusters and tables are like',
    () =>
      withFolder(async (cwd) => {
        await makeSource(join(cwd, 'source.raw'));
        const [zlib, zstd] = ['zlib', 'zstd'].map((compression_type) => ({ compression_type }));
        for (const creation of [
          {},
          zstd,
          { ...zlib, cluster_size: '512' },
          { ...zstd, cluster_size: '4096' },
          { ...zlib, cluster_size: '2097152' },
          { ...zlib, refcount_bits: '1' },
          { ...zstd, refcount_bits: '64', cluster_size: '8192' },
          { ...zlib, extended_l2: 'on', cluster_size: '16384' },
        ] as Record<string, string>[])
          await expectAsQemus(cwd, creation, (...args) => millrace(args, { cwd }));
      }),
    120_000,
  );

  for (const [runtime, start] of [
    ['Bun', () => [bin('bun'), join(ROOT, 'hosts/node/main.ts')]],
    ['Deno', (cwd: string) => [DENO, ...denoArgs(cwd, 'hosts/deno/main.ts')]],
  ] as const)
    it(
      `packs so under ${runtime}`,
      () =>
        withFolder(async (cwd) => {
          await makeSource(join(cwd, 'source.raw'));
          const [program, ...rest] = start(cwd);
          for (const compression_type of ['zlib', 'zstd'])
            await expectAsQemus(cwd, { compression_type }, (...args) =>
              run(program, [...rest, ...args], { cwd }),
            );
        }),
      60_000,
    );

  it('copies what a chain shows, and what was compressed already', () =>
    withFolder(async (cwd) => {
      const at = (name: string): string => join(cwd, name);
      await makeSource(at('source.raw'));
      await convertImage(at('source.raw'), at('base'), { from: 'raw', compress: true });
      await qemuImg(['create', '-q', '-f', 'qcow2', '-b', at('base'), '-F', 'qcow2', at('over')]);
      await run('qemu-io', ['-c', 'write -P 7 3M 100k', '-c', 'write -z 0 1M', at('over')]);
      const args = ['-c', '-O', 'qcow2', '-o', 'compression_type=zstd', '--follow-chain'];
      expect(await millrace(['convert', ...args, 'over', 'copy'], { cwd })).toMatchObject({
        exitCode: 0,
      });
      expect((await check(at('copy'))).exitCode).toBe(0);
      expect((await info(at('copy')))['backing-filename']).toBeUndefined();
      expect(await compare(at('over'), at('copy'))).toMatchObject({ identical: true });
      // Written to afterwards, it is as sound as any image.
      await run('qemu-io', ['-c', 'write -P 9 1000k 300k', at('copy')]);
      expect(await millrace(['check', '--data', 'copy'], { cwd })).toMatchObject({ exitCode: 0 });
      expect((await check(at('copy'))).exitCode).toBe(0);
    }));

  it('tells how far it is, and with -S 0 compresses zeros, too', () =>
    withFolder(async (cwd) => {
      await makeSource(join(cwd, 'source.raw'));
      const told = await millrace(
        ['convert', '-c', '-p', '-S', '0', '-O', 'qcow2', 'source.raw', 'copy'],
        { cwd },
      );
      expect(told).toMatchObject({ exitCode: 0 });
      expect(told.stderr).toMatch(/^( {4}\(\d+\.00\/100%\)\r)+ {4}\(100\.00\/100%\)\n$/);
      const { report } = await check(join(cwd, 'copy'));
      expect(report!['allocated-clusters']).toBe(report!['total-clusters']);
      expect(await compare(join(cwd, 'source.raw'), join(cwd, 'copy'))).toMatchObject({
        identical: true,
      });
    }));
});

describe('convert -c', () => {
  it('is refused where nothing can be compressed', () =>
    withFolder(async (cwd) => {
      await makeSource(join(cwd, 'source.raw'));
      await millrace(['create', 'there.qcow2', String(SIZE)], { cwd });
      for (const [args, reason] of [
        [['source.raw', 'copy'], /a raw image is not compressed: only a qcow2 copy is/],
        [
          ['-n', '-O', 'qcow2', 'source.raw', 'there.qcow2'],
          /a compressed copy is a new image, without 'existing' \(-n\)/,
        ],
        [
          ['-O', 'qcow2', '-o', 'compression_type=lzma', 'source.raw', 'copy'],
          /a compression type of lzma: it is zlib or zstd/,
        ],
      ] as const) {
        const { exitCode, stderr } = await millrace(['convert', '-c', ...args], { cwd });
        expect({ args, exitCode, stderr }).toMatchObject({
          exitCode: 1,
          stderr: expect.stringMatching(reason),
        });
      }
      await expect(stat(join(cwd, 'copy'))).rejects.toMatchObject({ code: 'ENOENT' });
    }));
});
