/** `millrace convert -l`: internal snapshots, judged by qemu-img, which copies them beside it. */
import { existsSync } from 'node:fs';
import { copyFile, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { convertDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, createImage, info, map, qemuImg, qemuIo } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { millraceHere, withFolder } from './program.ts';

const MIB = 1024 * 1024;
/** In the header, and in an entry of the snapshot table. */
const SNAPSHOTS_OFFSET_AT = 64;
const L1_OFFSET = 0;
const L1_ENTRIES = 8;
const DISK_SIZE = 48;

/** An overlay of 8 MiB over a base with the snapshots `one` and `1`, and changes after each. */
async function makeImage(folder: string, options: Record<string, string | number>): Promise<void> {
  const at = (name: string): string => join(folder, name);
  await writeFile(at('base.raw'), makeContent('text', 1, 3 * MIB));
  await createImage(at('image'), {
    base: at('base.raw'),
    baseFormat: 'raw',
    size: 8 * MIB,
    with: options,
  });
  await qemuIo(at('image'), ['write -P 1 100k 700k', 'write -c -P 2 2M 64k', 'write -P 0 4M 1M']);
  await qemuImg(['snapshot', '-c', 'one', at('image')]);
  await qemuIo(at('image'), ['write -P 3 0 1M', 'write -P 4 5M 2M']);
  // Called as the first is numbered.
  await qemuImg(['snapshot', '-c', '1', at('image')]);
  await qemuIo(at('image'), ['write -P 5 0 8M']);
}

describeWithPeer(['qemu-img', 'qemu-io'], 'convert -l', () => {
  it.each<[string, Record<string, string | number>]>([
    ['clusters of 64 KiB', {}],
    ['clusters of 4 KiB', { cluster_size: 4096 }],
    ['extended L2 entries', { extended_l2: 'on' }],
    ['version 2', { compat: '0.10' }],
    ['zstd', { compression_type: 'zstd' }],
  ])(
    'copies what a snapshot shows, as qemu-img does: %s',
    (_, options) =>
      withFolder(async (folder) => {
        const at = (name: string): string => join(folder, name);
        await makeImage(folder, options);
        for (const [wanted, ...hows] of [
          ['one', 'raw', 'qcow2', 'qcow2 -c', 'qcow2 -S 0'],
          ['1', 'raw', 'qcow2'],
          ['2', 'qcow2 -c'],
          ['snapshot.name=1', 'raw'],
          ['snapshot.id=1,snapshot.name=one', 'raw'],
        ])
          for (const how of hows.map((words) => words.split(' '))) {
            const args = ['convert', '-q', '-l', wanted, '-O', ...how, at('image')];
            const told = { args, ...(await millraceHere(...args, at('ours'))) };
            expect(told).toEqual({ args, exitCode: 0, stdout: '', stderr: '' });
            await qemuImg([...args, at('theirs')]);
            const format = how[0] as 'raw' | 'qcow2';
            expect(
              await compare(at('ours'), at('theirs'), { formatA: format, formatB: format }),
              args.join(' '),
            ).toMatchObject({ identical: true });
            if (format === 'qcow2') expect((await check(at('ours'))).exitCode).toBe(0);
            if (how.includes('-S'))
              expect((await map(at('ours'))).every(({ data }) => data)).toBe(true);
            await rm(at('ours'));
          }
      }),
    120_000,
  );

  it('copies over what is there with -n, and by convertDisk', () =>
    withFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await makeImage(folder, {});
      await qemuImg(['convert', '-l', 'one', '-O', 'raw', at('image'), at('theirs')]);
      await createImage(at('there'), { size: 8 * MIB });
      await qemuIo(at('there'), ['write -P 7 0 8M']);
      const args = ['convert', '-n', '-l', 'one', '-O', 'qcow2', at('image'), at('there')];
      expect(await millraceHere(...args)).toMatchObject({ exitCode: 0, stderr: '' });
      const how = { source: at('image'), target: at('copy'), snapshot: { name: 'one' } } as const;
      expect(await convertDisk(how)).toEqual({ size: 8 * MIB });
      for (const [name, format] of [
        ['there', 'qcow2'],
        ['copy', 'raw'],
      ] as const)
        expect(
          await compare(at(name), at('theirs'), { formatA: format, formatB: 'raw' }),
        ).toMatchObject({ identical: true });
      await expect(convertDisk({ ...how, target: at('no'), snapshot: {} })).rejects.toMatchObject({
        code: 'EINVAL',
      });
      expect(existsSync(at('no'))).toBe(false);
    }));

  it('has the size of the disk then, which qemu-img gives to a snapshot that is applied', () =>
    withFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await createImage(at('image'), { size: 4 * MIB });
      await qemuIo(at('image'), ['write -P 1 3M 1M']);
      await qemuImg(['snapshot', '-c', 'small', at('image')]);
      // Beyond what the L1 table of the small disk maps.
      await qemuImg(['resize', '-q', at('image'), '600M']);
      await qemuIo(at('image'), ['write -P 2 599M 1M']);
      await qemuImg(['snapshot', '-c', 'large', at('image')]);
      await qemuImg(['resize', '-q', '--shrink', at('image'), '5M']);
      for (const [name, size] of [
        ['small', 4 * MIB],
        ['large', 600 * MIB],
      ] as const) {
        await copyFile(at('image'), at('applied'));
        await qemuImg(['snapshot', '-a', name, at('applied')]);
        expect(await info(at('applied'))).toMatchObject({ 'virtual-size': size });
        for (const how of [[], ['-c']]) {
          const args = ['convert', '-q', '-l', name, '-O', 'qcow2', ...how, at('image')];
          expect(await millraceHere(...args, at('copy'))).toMatchObject({ exitCode: 0 });
          expect(await info(at('copy'))).toMatchObject({ 'virtual-size': size });
          const told = { name, how, ...(await compare(at('copy'), at('applied'))) };
          expect(told).toMatchObject({ identical: true });
          await rm(at('copy'));
        }
      }
    }));

  it('refuses what is not there, as qemu-img does, and leaves nothing', () =>
    withFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await makeImage(folder, {});
      for (const [wanted, image, told] of [
        ['three', 'image', /cannot find the snapshot 'three' in \S+image: 'millrace snapshot -l/],
        ['', 'image', /cannot find the snapshot ''/],
        ['snapshot.id=1,snapshot.name=1', 'image', /cannot find the snapshot of id '1' named '1'/],
        ['snapshot.id=', 'image', /cannot find the snapshot of id ''/],
        ['snapshot.tag=1', 'image', /'snapshot\.tag=1' is invalid\. It is an id or a name/],
        ['snapshot.id=1,one', 'image', /is invalid\. It is an id or a name/],
        ['one', 'base.raw', /base\.raw is raw data: only qcow2 images have internal snapshots/],
      ] as const)
        for (const format of ['raw', 'qcow2']) {
          const args = ['convert', '-l', wanted, '-O', format, at(image), at('none')];
          const { exitCode, stdout, stderr } = await millraceHere(...args);
          const { exitCode: theirs } = await run('qemu-img', args, { exitCodes: [0, 1] });
          expect({ wanted, exitCode, stdout }).toEqual({ wanted, exitCode: theirs, stdout: '' });
          expect(exitCode).toBe(1);
          expect(stderr).toMatch(/^millrace: [^\n]+\n$/);
          expect(stderr).toMatch(told);
          expect(existsSync(at('none'))).toBe(false);
        }
    }));

  it('refuses tables that lead elsewhere, in one line', () =>
    withFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await makeImage(folder, {});
      const sound = at('image');
      const hostile = at('hostile');
      for (const [what, value, told] of [
        [L1_OFFSET, 1n << 40n, /not aligned to clusters or lies outside the file/],
        [L1_OFFSET, 0n, /not aligned to clusters or lies outside the file/],
        [L1_OFFSET, 65536n + 512n, /not aligned to clusters or lies outside the file/],
        [L1_ENTRIES, 0n, /too small for the disk, or larger than 32 MiB/],
        [L1_ENTRIES, (5n << 20n) << 32n, /too small for the disk, or larger than 32 MiB/],
        [DISK_SIZE, 1n << 40n, /too small for the disk/],
        [DISK_SIZE, 1n << 60n, /the disk is larger than 2\^53 - 1 bytes/],
      ] as const) {
        await copyFile(sound, hostile);
        await changeFirstSnapshot(hostile, what, value);
        for (const format of ['raw', 'qcow2']) {
          const args = ['convert', '-l', 'snapshot.id=1', '-O', format, hostile, at('none')];
          const { exitCode, stderr } = await millraceHere(...args);
          expect({ what, value, exitCode }).toEqual({ what, value, exitCode: 1 });
          expect(stderr).toMatch(/^millrace: the snapshot of id '1': cannot open [^\n]+\n$/);
          expect(stderr).toMatch(told);
          expect(existsSync(at('none'))).toBe(false);
        }
      }
    }));
});

/** Changes a word of the first entry; of the numbers of entries, only those of the L1 table. */
async function changeFirstSnapshot(path: string, word: number, value: bigint): Promise<void> {
  const file = await open(path, 'r+');
  const bytes = Buffer.alloc(8);
  await file.read(bytes, 0, 8, SNAPSHOTS_OFFSET_AT);
  const place = Number(bytes.readBigUInt64BE()) + word;
  await file.read(bytes, 0, 8, place);
  const kept = word === L1_ENTRIES ? bytes.readBigUInt64BE() & 0xffffffffn : 0n;
  bytes.writeBigUInt64BE(value | kept);
  await file.write(bytes, 0, 8, place);
  await file.close();
}
