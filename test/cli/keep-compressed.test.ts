/** `--keep-compressed` and `check --data`, as a user runs them. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readCompressed } from '../codecs/clusters.ts';
import { writeRaw } from '../fixtures/layout.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, convertImage } from '../support/qemu.ts';
import { millraceHere, withFolder } from './program.ts';

const MIB = 1024 * 1024;

describeWithPeer(['qemu-img', 'qemu-io'], 'clusters kept compressed', () => {
  it(
    'are told at the end of a stream, and looked at by check --data',
    () =>
      withFolder(async (folder) => {
        const [raw, base, overlay] = ['base.raw', 'base.qcow2', 'vm.qcow2'].map((name) =>
          join(folder, name),
        );
        await writeRaw(raw, 2 * MIB, [{ offset: 0, length: MIB, kind: 'text', seed: 1 }]);
        await convertImage(raw, base, { from: 'raw', compress: true });
        const { clusters } = readCompressed(base);
        await millraceHere('create', '--base', base, overlay);
        const streamed = await millraceHere('stream', '--keep-compressed', overlay);
        expect(streamed).toMatchObject({
          exitCode: 0,
          stdout: expect.stringMatching(/2 MiB complete, .*, 1 MiB kept compressed\n$/),
        });
        expect((await stat(overlay)).size).toBeLessThan((await stat(base)).size * 1.03 + 65536);
        expect((await check(overlay)).exitCode).toBe(0);
        expect((await compare(overlay, raw, { formatA: 'qcow2', formatB: 'raw' })).identical).toBe(
          true,
        );
        expect(await millraceHere('check', '--data', overlay)).toMatchObject({
          exitCode: 0,
          stdout: expect.stringContaining('All data was read, and is whole.\n'),
        });
        const bytes = await readFile(overlay);
        bytes[bytes.indexOf(clusters[3].from.subarray(0, 64))] = 7;
        await writeFile(overlay, bytes);
        expect((await millraceHere('check', overlay)).exitCode).toBe(0);
        expect(await millraceHere('check', '--data', overlay)).toMatchObject({
          exitCode: 2,
          stdout: expect.stringMatching(
            /^No errors were .*\nDamaged data: 65536 bytes .*\n {2}at 196608: .*not inflate/,
          ),
        });
        const json = JSON.parse((await millraceHere('check', '--data', '--json', overlay)).stdout);
        expect(json).toMatchObject({ 'damaged-bytes': 65536, damages: [{ offset: 196608 }] });
      }),
    60_000,
  );

  it('are told not to be there where nothing suits', () =>
    withFolder(async (folder) => {
      const [raw, overlay] = ['base.raw', 'vm.qcow2'].map((name) => join(folder, name));
      await writeRaw(raw, MIB, [{ offset: 0, length: MIB, kind: 'text', seed: 1 }]);
      await millraceHere('create', '--base', raw, overlay);
      expect(await millraceHere('stream', '--keep-compressed', overlay)).toMatchObject({
        exitCode: 0,
        stdout: expect.stringContaining('nothing kept compressed: no cluster had the size'),
      });
    }));

  it('go with the stream of serve only, and not with full allocation', () =>
    withFolder(async (folder) => {
      const overlay = join(folder, 'vm.qcow2');
      await millraceHere('create', '--size', '1M', overlay);
      expect(
        await millraceHere('serve', '--nbd', 'unix:/nowhere', '--keep-compressed', overlay),
      ).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('goes with --stream only') });
      expect(
        await millraceHere('stream', '--keep-compressed', '--allocate', 'full', overlay),
      ).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("'keep' saves the space") });
    }));
});
