/**
 * The ways of use beside plain streaming, each held against QEMU: the base kept, streaming down to
 * an image of the chain, images passed by the caller, full allocation, read-only use, resizing over
 * a longer base, and overlays that never had a base.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { Random } from '../fixtures/content.ts';
import type { MadeImage } from '../fixtures/images.ts';
import { baseKind, overlayKind } from '../fixtures/images.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { createImage, info, map, qemuImg, qemuIo, recordBase } from '../support/qemu.ts';
import { expectReads, expectShows, expectSound, guestWrites, Model } from './model.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

describeWithPeer(['qemu-img', 'qemu-io'], 'ways of use', () => {
  let dir: string;
  let random: Random;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-ways-'));
    random = new Random(7);
  });
  afterEach(() => rm(dir, { recursive: true }));

  /** A base, an overlay of QEMU's over it, and what it shows. */
  async function made(
    base: string,
    overlay: string,
  ): Promise<{ base: MadeImage; overlay: MadeImage; model: Model }> {
    const below = await baseKind(base).make(dir);
    const above = await overlayKind(overlay).make(dir, { location: below.path, ...below });
    return {
      base: below,
      overlay: above,
      model: await Model.of(above.path, join(dir, 'expected.raw')),
    };
  }

  it.each(['overlay-v3-64k', 'overlay-v2-4k', 'overlay-extended-l2-64k'])(
    'keeps the base when told to: %s',
    async (kind) => {
      const { base, overlay, model } = await made('zlib-mixed', kind);
      const disk = await openDisk({ overlay: overlay.path });
      expect(await disk.stream({ keepBase: true })).toMatchObject({ status: 0, remaining: 0 });
      expect(await disk.images()).toHaveLength(2);
      expect(await disk.remaining()).toBe(0);
      await disk.close();
      await expectSound(overlay.path);
      expect(await info(overlay.path)).toMatchObject({
        'backing-filename': base.path,
        'backing-filename-format': 'qcow2',
      });
      const bytes = (await stat(overlay.path)).size;
      // What has been populated is not populated again: only the reference goes.
      const again = await openDisk({ overlay: overlay.path });
      expect(await again.stream()).toMatchObject({ status: 0, remaining: 0 });
      await again.close();
      expect((await stat(overlay.path)).size).toBe(bytes);
      await rename(base.path, `${base.path}.away`);
      await expectSound(overlay.path);
      await expectShows(overlay.path, model);
      await model.close();
    },
  );

  const DOWN: [name: string, chain: string, overlay: string, depth: number][] = [
    ['to the middle', 'chain-of-three', 'overlay-v3-64k', 2],
    ['to the raw bottom', 'chain-of-three', 'overlay-v3-4k', 3],
    ['to the nearest, which is nothing to do', 'chain-of-three', 'overlay-v3-64k', 1],
    ['past a waist', 'chain-of-three-waist', 'overlay-v3-64k', 2],
    ['past a waist to the bottom', 'chain-of-three-waist', 'overlay-written-extended-l2', 3],
    ['over mixed clusters', 'chain-of-three-mixed-clusters', 'overlay-v2-64k', 3],
    [
      'over mixed clusters, short of the bottom',
      'chain-of-three-mixed-clusters',
      'overlay-longer',
      2,
    ],
    ['of a longer disk', 'chain-of-two-shorter-below', 'overlay-longer', 2],
    ['from a shorter disk', 'chain-of-two-longer-below', 'overlay-shorter', 2],
    ['of an overlay that was written', 'chain-of-two-over-compressed', 'overlay-written-2m', 2],
  ];
  it.each(DOWN)('streams down %s: %s, %s, depth %i', async (_, chain, kind, depth) => {
    const { base, overlay, model } = await made(chain, kind);
    const images = [base.path, ...base.chain!];
    const disk = await openDisk({ overlay: overlay.path, followChain: true });
    await guestWrites(disk, model, random, 2);
    const [done] = await Promise.all([
      disk.stream({ base: depth }),
      expectReads(disk, model, random, 20),
    ]);
    expect(done).toMatchObject({ status: 0, remaining: 0 });
    expect((await disk.images()).map(({ name }) => name)).toEqual([
      overlay.path,
      ...images.slice(depth - 1),
    ]);
    await expectReads(disk, model, random, 10);
    await guestWrites(disk, model, random, 2);
    await disk.close();
    for (const above of images.slice(0, depth - 1)) await rename(above, `${above}.away`);
    await expectSound(overlay.path);
    await expectShows(overlay.path, model);
    const below = images[depth - 1];
    expect(await info(overlay.path)).toMatchObject({
      'full-backing-filename': below,
      'backing-filename-format': (await info(below)).format,
    });
    // And on from there, with the base that is recorded now.
    const again = await openDisk({ overlay: overlay.path, followChain: true });
    await again.stream();
    await again.close();
    expect((await info(overlay.path))['backing-filename']).toBeUndefined();
    await expectSound(overlay.path);
    await expectShows(overlay.path, model);
    await model.close();
  });

  it('names a new base by its name, and records it relative to an overlay that was opened by a relative path', async () => {
    const { base, overlay, model } = await made('chain-of-three', 'overlay-v3-64k');
    await recordBase(overlay.path, basename(base.path));
    const disk = await openDisk({
      overlay: relative(process.cwd(), overlay.path),
      followChain: true,
    });
    const bottom = (await disk.images()).at(-1)!;
    expect(await disk.stream({ base: bottom.name })).toMatchObject({ status: 0, remaining: 0 });
    await disk.close();
    expect(await info(overlay.path)).toMatchObject({
      'backing-filename': basename(base.chain!.at(-1)!),
      'backing-filename-format': 'raw',
    });
    await expectShows(overlay.path, model);
    await model.close();
  });

  it.each(['overlay-v3-64k', 'overlay-v2-64k', 'overlay-v3-512', 'overlay-extended-l2-64k'])(
    'allocates in full when told to: %s',
    async (kind) => {
      const { overlay, model } = await made('qcow2-v3-4k', kind);
      const disk = await openDisk({ overlay: overlay.path });
      expect(await disk.stream({ allocate: 'full' })).toMatchObject({ status: 0, remaining: 0 });
      await disk.close();
      await expectSound(overlay.path);
      await expectShows(overlay.path, model);
      const extents = await map(overlay.path);
      // A zero cluster would have no place in the file.
      expect(extents.filter(({ offset, depth }) => offset === undefined || depth > 0)).toEqual([]);
      await model.close();
    },
  );

  it('takes images passed by the caller, whatever is recorded', async () => {
    const { base, overlay, model } = await made('chain-of-three', 'overlay-v3-64k');
    await recordBase(overlay.path, 'elsewhere.qcow2');
    const images = [base.path, ...base.chain!];
    const disk = await openDisk({
      overlay: overlay.path,
      base: images,
      baseFormat: ['qcow2', 'qcow2', 'raw'],
    });
    await expectReads(disk, model, random, 10);
    await disk.stream();
    await disk.close();
    await expectSound(overlay.path);
    await expectShows(overlay.path, model);
    await model.close();
  });

  it.each(['zstd-mixed', 'extended-l2-zlib-mixed', 'chain-of-two-extended-l2'])(
    'reads without a trace when read-only, or without copy-on-read: %s',
    async (kind) => {
      const { overlay, model } = await made(kind, 'overlay-written-4k');
      const fingerprint = async (): Promise<string> =>
        createHash('sha256')
          .update(await readFile(overlay.path))
          .digest('hex');
      const before = await fingerprint();
      for (const use of [{ readOnly: true }, { copyOnRead: false }]) {
        const disk = await openDisk({ overlay: overlay.path, followChain: true, ...use });
        await expectReads(disk, model, random, 20);
        if (use.readOnly) {
          await expect(disk.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'EROFS' });
          await expect(disk.stream()).rejects.toMatchObject({ code: 'EROFS' });
        }
        await disk.close();
        expect(await fingerprint()).toBe(before);
      }
      await model.close();
    },
  );

  it.each([
    'overlay-shorter',
    'overlay-v2-4k',
    'overlay-v3-512',
    'overlay-extended-l2-16k',
    'overlay-written-2m',
    'overlay-written-512',
  ])('hides the longer base from what a grown disk gains: %s', async (kind) => {
    const base = await baseKind('qcow2-whole-clusters').make(dir);
    const overlay = await overlayKind(kind).make(dir, {
      location: base.path,
      ...base,
      virtualSize: 3 * MIB + 5 * 512,
    });
    let model = await Model.of(overlay.path, join(dir, 'expected.raw'));
    const disk = await openDisk({ overlay: overlay.path });
    await expectReads(disk, model, random, 4);
    const sizes = [
      overlay.virtualSize + 512,
      overlay.virtualSize + 100 * KIB,
      7 * MIB - 512,
      30 * MIB + 512,
    ];
    for (const size of sizes) {
      await disk.resize(size);
      expect(disk.size).toBe(size);
      model = await model.grow(size);
      await expectReads(disk, model, random, 20);
      await disk.flush();
    }
    await guestWrites(disk, model, random, 4);
    await disk.close();
    await expectSound(overlay.path);
    await expectShows(overlay.path, model);
    const again = await openDisk({ overlay: overlay.path });
    await again.stream();
    await again.close();
    await expectSound(overlay.path);
    await expectShows(overlay.path, model);
    await model.close();
  });

  it.each(['overlay-v3-64k', 'overlay-v2-4k', 'overlay-extended-l2-64k', 'overlay-written-512'])(
    'shrinks, and grows with zeros again: %s',
    async (kind) => {
      const { overlay, model } = await made('zlib-64k', kind);
      const disk = await openDisk({ overlay: overlay.path });
      const short = 2 * MIB + 3 * 512;
      await expect(disk.resize(short)).rejects.toMatchObject({ code: 'EINVAL' });
      await disk.resize(short, { shrink: true });
      await model.writeZeroes(short, model.size - short);
      await disk.resize(overlay.virtualSize);
      await expectReads(disk, model, random, 20);
      await disk.stream();
      await disk.close();
      await expectSound(overlay.path);
      await expectShows(overlay.path, model);
      await model.close();
    },
  );

  it('counts a part right that begins and ends in clusters of which some subclusters are there', async () => {
    const { overlay, model } = await made('raw', 'overlay-extended-l2-64k');
    await qemuIo(overlay.path, [
      'write -P 1 0 4k',
      'write -P 2 8k 2k',
      'write -P 3 192k 6k',
      'write -z 250k 4k',
    ]);
    const disk = await openDisk({ overlay: overlay.path });
    const [offset, length] = [40 * KIB + 7, 200 * KIB];
    const missing = await disk.remaining(offset, length);
    expect(missing).toBe(length - 6 * KIB);
    expect(await disk.stream({ offset, length })).toMatchObject({ status: 0, remaining: 0 });
    expect(await disk.remaining(offset, length)).toBe(0);
    await disk.close();
    await model.close();
  });

  it('streams nothing over nothing: a disk without a base is complete', async () => {
    const overlay = join(dir, 'alone.qcow2');
    const disk = await createDisk({ overlay, size: 5 * MIB });
    await disk.write(MIB + 7, new Uint8Array(MIB).fill(9));
    expect(await disk.stream()).toMatchObject({ status: 0, remaining: 0, length: 5 * MIB });
    await disk.close();
    await expectSound(overlay);
    expect((await info(overlay))['backing-filename']).toBeUndefined();
  });

  it('reads through an overlay that QEMU filled with compressed clusters, and writes over them', async () => {
    const { overlay: base, model } = await made('raw', 'overlay-v3-64k');
    const overlay = join(dir, 'compressed.qcow2');
    await qemuImg([
      'convert',
      '-c',
      '-O',
      'qcow2',
      '-o',
      `backing_file=${base.path},backing_fmt=qcow2`,
      base.path,
      overlay,
    ]);
    const disk = await openDisk({ overlay, followChain: true });
    await guestWrites(disk, model, random, 20);
    await disk.stream();
    await guestWrites(disk, model, random, 20);
    await disk.close();
    await expectSound(overlay);
    await expectShows(overlay, model);
    await model.close();
  });

  it('leaves an overlay as it was whose header cluster has no room for the new name', async () => {
    const { base, model } = await made('chain-of-two-over-raw', 'overlay-v3-512');
    const overlay = join(dir, 'short.qcow2');
    await symlink(base.path, join(dir, 'b'));
    const long = join(dir, 'long-'.repeat(40), `${'long-'.repeat(40)}.raw`);
    await mkdir(dirname(long));
    await rename(base.chain![0], long);
    await recordBase(base.path, long, 'raw');
    await createImage(overlay, { base: 'b', with: { cluster_size: 512 } });
    const disk = await openDisk({ overlay, followChain: true });
    const missing = await disk.remaining();
    await expect(disk.stream({ base: 2 })).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
      message: expect.stringContaining('shorter name'),
    });
    await expect(disk.info()).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await disk.remaining()).toBe(missing);
    await disk.close();
    await expectSound(overlay);
    await expectShows(overlay, model);
    expect(await info(overlay)).toMatchObject({ 'backing-filename': 'b' });
    await model.close();
  });
});
