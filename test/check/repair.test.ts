import { createHash } from 'node:crypto';
import { copyFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkDisk, MillraceError, openDisk } from '../../hosts/node/index.ts';
import { Random } from '../fixtures/content.ts';
import { baseKind } from '../fixtures/images.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, createImage, info, qemuImg, qemuIo } from '../support/qemu.ts';
import { expectSameAsQemu, ourNumbers, qemuNumbers } from './compare.ts';
import { damages, Patient, spoil } from './damage.ts';
import { makeLarge, SpoiledImages } from './spoiled.ts';

const MIB = 1024 * 1024;

/**
 * Damages that touch no entry that leads to data: a repair undoes them, and the disk shows what it
 * showed before.
 */
const HARMLESS = [
  'a refcount too high',
  'a refcount of 0',
  'the header without a refcount',
  'a leaked cluster',
  'a refcount block full of refcounts',
  'a refcount block of noise',
  'a refcount block of zeros',
  'a data entry with the other flag',
  'an empty entry with a flag',
  'an L1 entry with the other flag',
  'a refcount table entry lost',
  'a refcount table entry behind the end',
  'a refcount table entry between two clusters',
  'a refcount table entry with reserved bits',
  'a refcount table entry in a data cluster',
  'a second refcount table entry for a block',
  'a refcount table entry of noise',
  'a refcount table of zeros',
  'a header that seeks the refcount table elsewhere',
  'a file with more behind it',
];

async function digest(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

describeWithPeer(['qemu-img', 'qemu-io'], 'a repair', () => {
  let images: SpoiledImages;

  beforeAll(async () => {
    images = await SpoiledImages.make();
  }, 120_000);
  afterAll(() => images.remove());

  for (const name of HARMLESS) {
    it(`undoes ${name}`, async () => {
      for await (const { sound, path, label } of images.spoiledBy(name, 2)) {
        const before = (await checkDisk({ overlay: path }))!;
        const found = (await checkDisk({ overlay: path, repair: 'all' }))!;
        expect(found, label).toMatchObject({ corruptions: 0, leaks: 0 });
        expect(found.corruptionsFixed + found.leaksFixed > 0, label).toBe(
          before.corruptions + before.leaks > 0,
        );
        const after = await check(path);
        expect(after.exitCode, `${label}\n${after.messages}`).toBe(0);
        expect(
          await compare(sound, path, { formatA: 'qcow2', formatB: 'qcow2' }),
          label,
        ).toMatchObject({ identical: true });
      }
    }, 120_000);
  }

  for (const name of Object.keys(damages)) {
    it(`of ${name} tells truly what is left, or changes nothing`, async () => {
      for await (const { path, label } of images.spoiledBy(name, 1)) {
        const before = await digest(path);
        let found: Awaited<ReturnType<typeof checkDisk>>;
        try {
          found = await checkDisk({ overlay: path, repair: 'all' });
        } catch (error) {
          expect(error, label).toBeInstanceOf(MillraceError);
          expect(await digest(path), label).toBe(before);
          continue;
        }
        const after = await check(path);
        if (after.report !== undefined)
          expect(ourNumbers(found!), `${label}\n${after.messages}`).toEqual(qemuNumbers(after));
      }
    }, 120_000);

    it(`of leaks beside ${name} gives back what QEMU does`, async () => {
      for await (const { path, label } of images.spoiledBy(name, 1)) {
        const theirs = `${path}.theirs`;
        await copyFile(path, theirs);
        const qemu = await check(theirs, { repair: 'leaks' });
        const found = await checkDisk({ overlay: path, repair: 'leaks' }).catch(
          (error: MillraceError) => error,
        );
        if (found instanceof Error)
          expect(['ECORRUPT', 'EUNSUPPORTED'], label).toContain(found.code);
        // Where refcounts are missing altogether, QEMU gives up; leaks can be told all the same.
        else if (qemu.exitCode === 1 || qemu.report === undefined)
          expect(found?.leaks, label).toBe(0);
        else expect(ourNumbers(found!), `${label}\n${qemu.messages}`).toEqual(qemuNumbers(qemu));
        await rm(theirs);
      }
    });
  }

  it('puts two clusters that share one place right, as QEMU does', async () => {
    const path = join(images.dir, 'shared.qcow2');
    const { path: sound } = await baseKind('qcow2-whole-clusters').make(images.dir);
    await copyFile(sound, path);
    await spoil(path, damages['a data entry of another'], new Random(3));
    const theirs = join(images.dir, 'shared-theirs.qcow2');
    await copyFile(path, theirs);
    const qemu = await check(theirs, { repair: 'all' });
    expect(await checkDisk({ overlay: path, repair: 'all' })).toMatchObject({
      corruptions: 0,
      leaks: 0,
      corruptionsFixed: qemu.report!['corruptions-fixed'],
      leaksFixed: qemu.report!['leaks-fixed'] ?? 0,
    });
    expect((await check(path)).exitCode).toBe(0);
    expect(await compare(path, theirs, { formatA: 'qcow2', formatB: 'qcow2' })).toMatchObject({
      identical: true,
    });
  });

  it('never takes data for a refcount block, even where a refcount cannot tell that two refer to it', async () => {
    const { path: sound } = await baseKind('qcow2-refcount-1').make(images.dir);
    for (const repair of ['all', 'leaks'] as const) {
      for (let seed = 0; seed < 4; seed++) {
        const path = join(images.dir, 'narrow.qcow2');
        await copyFile(sound, path);
        await spoil(path, damages['a refcount table entry in a data cluster'], new Random(seed));
        const found = await checkDisk({ overlay: path, repair }).catch(
          (error: MillraceError) => error,
        );
        if (repair === 'all') expect(found).toMatchObject({ corruptions: 0, leaks: 0 });
        // Leaks cannot be given back before the refcount table is mended; without any, there is
        // nothing to do.
        else if (found instanceof Error) expect(found).toMatchObject({ code: 'ECORRUPT' });
        else expect(found).toMatchObject({ leaks: 0, leaksFixed: 0 });
        expect(await compare(sound, path, { formatA: 'qcow2', formatB: 'qcow2' })).toMatchObject({
          identical: true,
        });
      }
    }
  });

  it('rebuilds the refcounts of an image larger than what is counted at once', async () => {
    const path = join(images.dir, 'large.qcow2');
    await makeLarge(path);
    expect(await checkDisk({ overlay: path, repair: 'all', memory: 8 * MIB })).toMatchObject({
      corruptions: 0,
      leaks: 0,
      leaksFixed: 1,
    });
    expect((await check(path)).exitCode).toBe(0);
    await qemuIo(path, ['read -q -P 0x41 0 1M', 'read -q -P 0 1M 15M'], { readOnly: true });
  });

  it('takes the mark off an image that was marked corrupt, once it is sound', async () => {
    const path = join(images.dir, 'marked.qcow2');
    const { path: sound } = await baseKind('qcow2-v3-4k').make(images.dir);
    await copyFile(sound, path);
    await spoil(path, damages['a refcount of 0'], new Random(3));
    await spoil(path, async (patient: Patient) => patient.put64(72, 2n), new Random(1));
    await expect(openDisk({ overlay: path })).rejects.toThrow(
      /marked corrupt.*millrace check --repair all/,
    );
    expect(await checkDisk({ overlay: path, repair: 'all' })).toMatchObject({ corruptions: 0 });
    expect((await info(path, { format: 'qcow2' }))['format-specific']?.data).toMatchObject({
      corrupt: false,
    });
    await (await openDisk({ overlay: path })).close();
  });

  /** An image of which two snapshots hold most of the clusters, and a leak beside them. */
  async function withSnapshots(name: string, compat: string): Promise<string> {
    const path = join(images.dir, name);
    await createImage(path, { size: MIB, with: { compat } });
    for (const snapshot of ['a', 'b']) {
      await qemuIo(path, ['write -q -P 1 0 1M']);
      await qemuImg(['snapshot', '-c', snapshot, path]);
    }
    await qemuIo(path, ['write -q -P 2 0 1M']);
    await spoil(path, damages['a leaked cluster'], new Random(1));
    return path;
  }

  const UNREADABLE_SNAPSHOTS: Record<string, (patient: Patient) => Promise<void>> = {
    'more extra data than is taken': (patient) =>
      patient.put32(patient.snapshotsOffset + 36, 65536),
    'an L1 table behind the end of the file': (patient) =>
      patient.put64(patient.snapshotsOffset, 1n << 40n),
    'an L1 table at the end of the file': (patient) =>
      patient.put64(patient.snapshotsOffset, BigInt((patient.clusters + 1) * patient.cluster)),
    'an L1 table between two clusters': (patient) =>
      patient.put64(patient.snapshotsOffset, BigInt(patient.l1Offset + 512)),
    'an L1 table that is too large': (patient) =>
      patient.put32(patient.snapshotsOffset + 8, 0x7fffffff),
    'an L1 table of no entries': (patient) => patient.put32(patient.snapshotsOffset + 8, 0),
    'nothing but zeros': (patient) =>
      patient.file.write(Buffer.alloc(40), 0, 40, patient.snapshotsOffset).then(() => {}),
    'an L1 entry that leads nowhere': async (patient) => {
      const offset = Buffer.alloc(8);
      await patient.file.read(offset, 0, 8, patient.snapshotsOffset);
      await patient.put64(Number(offset.readBigUInt64BE()), 1n << 40n);
    },
  };

  for (const compat of ['0.10', '1.1'])
    for (const [name, damage] of Object.entries(UNREADABLE_SNAPSHOTS))
      it(`gives nothing back beside a snapshot with ${name}, of compat ${compat}`, async () => {
        const path = await withSnapshots('snapshots.qcow2', compat);
        await spoil(path, damage, new Random(1));
        const before = await digest(path);
        for (const repair of ['leaks', 'all'] as const)
          await expect(checkDisk({ overlay: path, repair })).rejects.toMatchObject({
            code: 'ECORRUPT',
            message: expect.stringMatching(/cannot be followed.*nothing is freed or rewritten/),
          });
        expect(await digest(path)).toBe(before);
      });

  it('gives nothing back that a header extension or autoclear bit may use which is not known', async () => {
    const marks: ((patient: Patient) => Promise<void>)[] = [
      (patient) => patient.put64(88, 1n << 40n),
      // In front of the extension that QEMU wrote there stands its end marker's room: the table of
      // feature names is renamed.
      (patient) => patient.put32(112, 0x41424344),
    ];
    for (const mark of marks)
      for (const repair of ['leaks', 'all', 'open'] as const) {
        const path = join(images.dir, 'foreign.qcow2');
        await createImage(path, { size: MIB });
        await spoil(path, damages['a leaked cluster'], new Random(1));
        await spoil(path, mark, new Random(1));
        if (repair === 'open') await (await openDisk({ overlay: path })).close();
        else
          expect(await checkDisk({ overlay: path, repair })).toMatchObject({
            corruptions: 0,
            leaks: 1,
            leaksFixed: 0,
          });
        expect((await check(path)).report).toMatchObject({ leaks: 1 });
      }
  });

  /**
   * The first snapshot's entry with extra data of so many bytes: what it had, cut off or with more
   * behind it.
   */
  async function setExtraBytes(path: string, extra: number): Promise<void> {
    await spoil(
      path,
      async (patient: Patient) => {
        const table = Buffer.alloc(4096);
        await patient.file.read(table, 0, table.length, patient.snapshotsOffset);
        const kept = Buffer.alloc(extra, 0xee);
        table.copy(kept, 0, 40, 40 + Math.min(24, extra));
        const texts = table.readUInt16BE(12) + table.readUInt16BE(14);
        table.writeUInt32BE(extra, 36);
        const first = Buffer.concat([table.subarray(0, 40), kept, table.subarray(64, 64 + texts)]);
        const room = Buffer.alloc((first.length + 7) & ~7);
        first.copy(room);
        const rest = table.subarray((64 + texts + 7) & ~7, 1024);
        await patient.file.write(
          Buffer.concat([room, rest]),
          0,
          undefined,
          patient.snapshotsOffset,
        );
      },
      new Random(1),
    );
  }

  const EXTRA_BYTES = { '0.10': [1025, 2000], '1.1': [0, 8, 12, 15, 1025, 2000] } as const;
  for (const [compat, lengths] of Object.entries(EXTRA_BYTES))
    for (const extra of lengths)
      it(`mends a snapshot with ${extra} bytes of extra data as QEMU does, of compat ${compat}`, async () => {
        const [ours, theirs] = ['ours.qcow2', 'theirs.qcow2'].map((name) => join(images.dir, name));
        await createImage(ours, { size: MIB, with: { compat } });
        for (const [index, name] of ['a', 'second'].entries()) {
          await qemuIo(ours, [`write -q -P ${index + 1} 0 1M`]);
          await qemuImg(['snapshot', '-c', name, ours]);
        }
        await setExtraBytes(ours, extra);
        await copyFile(ours, theirs);
        const before = await digest(ours);
        expect((await checkDisk({ overlay: ours }))!.corruptions).toBe(1);
        expect((await checkDisk({ overlay: ours, repair: 'leaks' }))!.corruptions).toBe(1);
        expect(await digest(ours)).toBe(before);
        expect(await checkDisk({ overlay: ours, repair: 'all' })).toMatchObject({
          corruptions: 0,
          leaks: 0,
          corruptionsFixed: 1,
        });
        await qemuImg(['check', '-q', '-r', 'all', theirs]);
        expect((await check(ours)).exitCode).toBe(0);
        const told = async (path: string): Promise<string> =>
          (await qemuImg(['snapshot', '-l', path])).trim();
        expect(await told(ours)).toBe(await told(theirs));
        for (const [index, name] of ['a', 'second'].entries()) {
          const copy = join(images.dir, 'copy.raw');
          await qemuImg(['convert', '-l', `snapshot.name=${name}`, '-O', 'raw', ours, copy]);
          expect(new Set(await readFile(copy))).toEqual(new Set([index + 1]));
        }
      });

  const EXTRA_COUNTS = [
    ['0.10', 2, 1],
    ['1.1', 1, 1],
    ['1.1', 2, 3000],
  ] as const;
  for (const [compat, snapshots, more] of EXTRA_COUNTS)
    it(`mends a header that counts ${more} more than ${snapshots} snapshots, of compat ${compat}`, async () => {
      const path = join(images.dir, 'counted.qcow2');
      await createImage(path, { size: MIB, with: { compat } });
      const names = ['a', 'second'].slice(0, snapshots);
      for (const [index, name] of names.entries()) {
        await qemuIo(path, [`write -q -P ${index + 1} 0 1M`]);
        await qemuImg(['snapshot', '-c', name, path]);
      }
      await spoil(path, (patient) => patient.put32(60, snapshots + more), new Random(1));
      expect((await checkDisk({ overlay: path }))!.corruptions).toBe(more);
      const repaired = await checkDisk({ overlay: path, repair: 'all' });
      expect(repaired).toMatchObject({ corruptions: 0, leaks: 0, corruptionsFixed: more });
      expect((await check(path)).exitCode).toBe(0);
      const told = (await qemuImg(['snapshot', '-l', path])).trim().split('\n');
      expect(told).toHaveLength(snapshots + 2);
      for (const [index, name] of names.entries()) {
        const copy = join(images.dir, 'copy.raw');
        await qemuImg(['convert', '-l', `snapshot.name=${name}`, '-O', 'raw', path, copy]);
        expect(new Set(await readFile(copy))).toEqual(new Set([index + 1]));
      }
    });

  it('gives nothing back beside an empty entry of a snapshot, whose clusters may be that', async () => {
    for (const compat of ['0.10', '1.1'] as const) {
      const path = await withSnapshots('empty.qcow2', compat);
      await spoil(path, (patient) => patient.put32(60, 3), new Random(1));
      const before = await digest(path);
      for (const repair of ['leaks', 'all'] as const)
        expect(await checkDisk({ overlay: path, repair })).toMatchObject({
          leaks: 1,
          leaksFixed: 0,
          corruptions: 1,
          corruptionsFixed: 0,
        });
      expect(await digest(path)).toBe(before);
    }
  });

  it('gives nothing back where a snapshot has too much extra data, for that may be what was missed', async () => {
    const path = await withSnapshots('long.qcow2', '1.1');
    await setExtraBytes(path, 1025);
    const before = await digest(path);
    for (const repair of ['leaks', 'all'] as const) {
      const found = (await checkDisk({ overlay: path, repair }))!;
      expect(found).toMatchObject({ leaks: 1, leaksFixed: 0, corruptions: 1, corruptionsFixed: 0 });
    }
    expect(await digest(path)).toBe(before);
  });

  it('takes what refcounts are missing for, and nothing refers to, as used by what is not known', async () => {
    for (const way of ['open', 'all'] as const) {
      const path = join(images.dir, 'foreign.qcow2');
      const cluster = 512;
      await createImage(path, { size: MIB, with: { cluster_size: cluster, lazy_refcounts: 'on' } });
      await qemuIo(path, ['write -q -P 1 0 256k']);
      // What the unknown extension uses: in front of the end of the file, and behind it.
      const hidden = Buffer.alloc(8 * cluster, 'unknown');
      const at = Math.ceil((await readFile(path)).length / cluster) * cluster;
      await spoil(
        path,
        async (patient: Patient) => {
          await patient.file.write(hidden, 0, hidden.length, at);
          await patient.put32(112, 0x41424344);
          await patient.put64(72, 1n);
          await patient.put64(patient.usedBlocks.at(-1)!.at, 0n);
        },
        new Random(1),
      );
      if (way === 'all') await checkDisk({ overlay: path, repair: 'all' });
      const disk = await openDisk({ overlay: path });
      await disk.write(256 * 1024, new Uint8Array(512 * 1024).fill(2));
      await disk.close();
      const after = await readFile(path);
      expect(hidden.equals(after.subarray(at, at + hidden.length)), way).toBe(true);
      const { report } = await check(path);
      expect(report).toMatchObject({ leaks: expect.any(Number) });
      expect(report).not.toHaveProperty('corruptions');
      await qemuIo(path, ['read -q -P 1 0 256k', 'read -q -P 2 256k 512k'], { readOnly: true });
    }
  });

  it('does not call an image sound whose bitmaps extension QEMU refuses', async () => {
    const path = join(images.dir, 'extension.qcow2');
    await createImage(path, { size: MIB });
    await qemuImg(['bitmap', '--add', '-f', 'qcow2', path, 'changes']);
    const header = await readFile(path);
    const at = header.indexOf(Buffer.from('23852875', 'hex'));
    await spoil(path, (patient: Patient) => patient.put32(at + 8, 0), new Random(1));
    expect((await check(path)).exitCode).toBe(1);
    await expect(checkDisk({ overlay: path })).rejects.toMatchObject({ code: 'ECORRUPT' });
  });

  it('makes the refcounts anew of an image without a refcount table', async () => {
    for (const placed of [true, false])
      for (const compat of ['0.10', '1.1']) {
        const path = join(images.dir, 'no-table.qcow2');
        await createImage(path, { size: 4 * MIB, with: { compat } });
        await qemuIo(path, ['write -q -P 5 0 1M']);
        await spoil(path, (patient: Patient) => patient.put32(56, 0), new Random(1));
        if (!placed) await spoil(path, (patient: Patient) => patient.put64(48, 0n), new Random(1));
        await expectSameAsQemu(path);
        await expect(openDisk({ overlay: path, readOnly: true })).rejects.toThrow(/refcount table/);
        await checkDisk({ overlay: path, repair: 'leaks' }).catch(() => {});
        expect(await checkDisk({ overlay: path, repair: 'all' })).toMatchObject({
          corruptions: 0,
          leaks: 0,
        });
        expect((await check(path)).exitCode).toBe(0);
        await qemuIo(path, ['read -q -P 5 0 1M', 'read -q -P 0 1M 3M'], { readOnly: true });
      }
  });

  it('leaves persistent bitmaps alone', async () => {
    const path = join(images.dir, 'bitmaps.qcow2');
    await createImage(path, { size: 4 * MIB });
    await qemuImg(['bitmap', '--add', '-f', 'qcow2', path, 'changes']);
    await spoil(path, damages['a leaked cluster'], new Random(1));
    expect(await checkDisk({ overlay: path })).toMatchObject({ corruptions: 0, leaks: 1 });
    await expect(checkDisk({ overlay: path, repair: 'leaks' })).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
    });
  });
});
