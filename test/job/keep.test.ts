/**
 * Jobs that keep compressed clusters: byte for byte, in an overlay of the base's size that QEMU
 * finds sound, whatever the shape of either; and what becomes of such an overlay afterwards.
 */
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { CreateOptions, Disk } from '../../hosts/node/index.ts';
import { checkDisk, commitDisk, createDisk, openDisk, rebaseDisk } from '../../hosts/node/index.ts';
import { readCompressed } from '../codecs/clusters.ts';
import { Random } from '../fixtures/content.ts';
import { baseKind } from '../fixtures/images.ts';
import type { Region } from '../fixtures/layout.ts';
import { makeRegions, writeRaw } from '../fixtures/layout.ts';
import { expectReads, expectShows, expectSound, guestWrites, Model } from '../peers/model.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { compare, convertImage, createImage, info, qemuImg } from '../support/qemu.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 12 * MIB;
/** The most that an overlay takes of its base's bytes. */
const SHARE_MAX = 1.03;

interface Shape {
  cluster: number;
  method?: 'zlib' | 'zstd';
  base?: Record<string, string | number>;
  overlay?: Partial<CreateOptions>;
}

describeWithPeer(['qemu-img', 'qemu-io'], 'clusters kept compressed', () => {
  let dir: string;
  let source: string;
  const base = (): string => join(dir, 'base.qcow2');
  const overlay = (): string => join(dir, 'overlay.qcow2');

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-keep-'));
    source = join(dir, 'source.raw');
    await writeRaw(source, SIZE, regions());
  });
  afterEach(() => rm(dir, { recursive: true }));

  async function makeBase({ cluster, method = 'zlib', base: more }: Shape): Promise<void> {
    const version2 = more?.compat === '0.10';
    await convertImage(source, base(), {
      from: 'raw',
      compress: true,
      with: {
        cluster_size: cluster,
        ...(version2 ? {} : { compression_type: method }),
        ...more,
      },
    });
  }

  const create = ({ cluster, overlay: more }: Shape): Promise<Disk> =>
    createDisk({ overlay: overlay(), base: base(), clusterSize: cluster, ...more });

  async function looksLikeItsSource(): Promise<void> {
    await expectSound(overlay());
    const { identical, message } = await compare(overlay(), source, {
      formatA: 'qcow2',
      formatB: 'raw',
    });
    expect(identical, message).toBe(true);
  }

  const shareOf = async (uncounted = 0): Promise<number> =>
    ((await stat(overlay())).size - uncounted) / (await stat(base())).size;

  it.each<[string, Shape]>([
    ['zlib, 64 KiB', { cluster: 64 * KIB }],
    ['zstd, 64 KiB', { cluster: 64 * KIB, method: 'zstd' }],
    ['zlib, 512 bytes', { cluster: 512 }],
    ['zstd, 4 KiB', { cluster: 4 * KIB, method: 'zstd' }],
    ['zlib, 1 MiB', { cluster: MIB }],
    ['zstd, 2 MiB', { cluster: 2 * MIB, method: 'zstd' }],
    ['zlib, 256 KiB, in little memory', { cluster: 256 * KIB, overlay: { memory: 8 * MIB } }],
    ['version 2 below', { cluster: 64 * KIB, base: { compat: '0.10' } }],
    ['subclusters above', { cluster: 64 * KIB, overlay: { extendedL2: true } }],
    ['subclusters below', { cluster: 32 * KIB, base: { extended_l2: 'on' } }],
    ['refcounts of 64 bits', { cluster: 4 * KIB, overlay: { refcountBits: 64 } }],
    ['refcounts of 8 bits', { cluster: 64 * KIB, overlay: { refcountBits: 8 } }],
  ])(
    'stand in the overlay as in the base: %s',
    async (_, shape) => {
      await makeBase(shape);
      const disk = await create(shape);
      const ended = await disk.stream({ compressed: 'keep' });
      const report = await disk.check({ data: true });
      await disk.close();
      const extended = shape.base?.extended_l2 !== undefined || shape.overlay?.extendedL2;
      const kept = report.compressedClusters;
      expect(ended.kept).toBe(kept * shape.cluster);
      expect(report).toMatchObject({ corruptions: 0, leaks: 0, damagedBytes: 0, damages: [] });
      await looksLikeItsSource();
      // Of small files with large clusters, the last one may be the difference.
      expect(await shareOf(shape.cluster)).toBeLessThan(SHARE_MAX);
      expect(kept).toBe((await checkDisk({ overlay: base() }))?.compressedClusters);
      expect((await info(overlay()))['backing-filename']).toBeUndefined();
      if (!extended) expectSameStreams(base(), overlay());
    },
    60_000,
  );

  it.each([1, 2])(
    'have clusters of their own where refcounts have %d bits',
    async (bits) => {
      const shape = { cluster: 4 * KIB, overlay: { refcountBits: bits } } as const;
      await makeBase(shape);
      const disk = await create(shape);
      await disk.stream({ compressed: 'keep' });
      await disk.close();
      await looksLikeItsSource();
    },
    60_000,
  );

  it('are inflated in an overlay that has other ones, or clusters of another size', async () => {
    await makeBase({ cluster: 64 * KIB, method: 'zstd' });
    const odd = await create({ cluster: 32 * KIB });
    expect(await odd.stream({ compressed: 'keep' })).toMatchObject({ kept: 0, remaining: 0 });
    await odd.close();
    await looksLikeItsSource();
    await rm(overlay());
    // Its first compressed cluster is deflated, and so all of them are.
    const first = join(dir, 'first.raw');
    await writeRaw(first, SIZE, [{ offset: 0, length: MIB, kind: 'text', seed: 5 }]);
    await qemuImg([
      ...['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-B', base(), '-F', 'qcow2'],
      ...[first, overlay()],
    ]);
    const model = await Model.of(overlay(), join(dir, 'expected.raw'));
    const mixed = await openDisk({ overlay: overlay() });
    expect(await mixed.stream({ compressed: 'keep' })).toMatchObject({ kept: 0, remaining: 0 });
    await mixed.close();
    await expectSound(overlay());
    await expectShows(overlay(), model);
    await model.close();
    expect(await compressionOf(overlay())).toBe('zlib');
  }, 60_000);

  it('give an overlay that has none their method, in both directions and not in version 2', async () => {
    for (const [below, above] of [
      ['zstd', 'zlib'],
      ['zlib', 'zstd'],
    ] as const) {
      await makeBase({ cluster: 64 * KIB, method: below });
      await createImage(overlay(), {
        base: base(),
        baseFormat: 'qcow2',
        with: { compression_type: above },
      });
      const disk = await openDisk({ overlay: overlay() });
      expect((await disk.stream({ compressed: 'keep' })).kept).toBeGreaterThan(0);
      await disk.close();
      expect(await compressionOf(overlay())).toBe(below);
      await looksLikeItsSource();
      await rm(overlay());
    }
    await makeBase({ cluster: 64 * KIB, method: 'zstd' });
    await createImage(overlay(), {
      base: base(),
      baseFormat: 'qcow2',
      with: { compat: '0.10' },
    });
    const disk = await openDisk({ overlay: overlay() });
    expect((await disk.stream({ compressed: 'keep' })).kept).toBe(0);
    await disk.close();
    await looksLikeItsSource();
  }, 60_000);

  it.each(['zlib-mixed', 'zlib-backwards', 'extended-l2-zlib-mixed', 'zstd-mixed'])(
    'are kept among whatever else there is: %s',
    async (kind) => {
      const below = await baseKind(kind).make(dir);
      const disk = await createDisk({ overlay: overlay(), base: below.path });
      const model = await Model.of(below.path, join(dir, 'expected.raw'));
      // A guest has some of it before.
      await guestWrites(disk, model, new Random(3), 6);
      const ended = await disk.stream({ compressed: 'keep' });
      expect(ended.kept).toBeGreaterThan(0);
      await expectReads(disk, model, new Random(4), 20);
      await disk.close();
      await expectSound(overlay());
      await expectShows(overlay(), model);
      await model.close();
    },
    60_000,
  );

  it('become ordinary ones when a guest writes, and go with what else a disk can do', async () => {
    await makeBase({ cluster: 64 * KIB });
    const disk = await create({ cluster: 64 * KIB });
    await disk.stream({ compressed: 'keep' });
    const model = await Model.of(base(), join(dir, 'expected.raw'));
    const random = new Random(6);
    for (let round = 0; round < 4; round++) {
      await guestWrites(disk, model, random, 8);
      await expectReads(disk, model, random, 8);
      // What is written over gives its clusters back, those beside it stay.
      expect(await disk.check({ data: true })).toMatchObject({ corruptions: 0, damagedBytes: 0 });
    }
    await disk.close();
    await expectSound(overlay());
    await expectShows(overlay(), model);
    await model.close();
    const again = await openDisk({ overlay: overlay() });
    expect((await again.check()).compressedClusters).toBeGreaterThan(0);
    for await (const { state, offset, length } of again.map())
      if (state === 'compressed') await again.discard(offset, length);
    await again.flush();
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 0 });
    await again.resize(5 * MIB + 512, { shrink: true });
    await again.resize(SIZE);
    await again.close();
    await expectSound(overlay());
  }, 60_000);

  it('are committed and taken to another base as what they show', async () => {
    await makeBase({ cluster: 64 * KIB });
    const disk = await create({ cluster: 64 * KIB });
    await disk.stream({ compressed: 'keep', keepBase: true });
    const model = await Model.of(base(), join(dir, 'expected.raw'));
    await guestWrites(disk, model, new Random(8), 6);
    await disk.close();
    const other = join(dir, 'other.qcow2');
    await qemuImg(['convert', '-O', 'qcow2', base(), other]);
    await rebaseDisk({ overlay: overlay(), base: other });
    await expectSound(overlay());
    await expectShows(overlay(), model);
    expect((await checkDisk({ overlay: overlay() }))?.compressedClusters).toBeGreaterThan(0);
    await commitDisk({ overlay: overlay() });
    await expectSound(overlay());
    await expectSound(other);
    await expectShows(other, model);
    await model.close();
  }, 60_000);

  it('are counted once more by an internal snapshot', async () => {
    await makeBase({ cluster: 64 * KIB });
    const disk = await create({ cluster: 64 * KIB });
    const { kept } = await disk.stream({ compressed: 'keep' });
    await disk.close();
    await qemuImg(['snapshot', '-c', 'one', overlay()]);
    for (const repair of [undefined, 'all'] as const)
      expect(await checkDisk({ overlay: overlay(), data: true, repair })).toMatchObject({
        corruptions: 0,
        leaks: 0,
        corruptionsFixed: 0,
        leaksFixed: 0,
        damagedBytes: 0,
        compressedClusters: (kept ?? 0) / (64 * KIB),
      });
    await expectSound(overlay());
  }, 60_000);

  it('damaged ones are what keeping does not look at, and a check of the data finds', async () => {
    await makeBase({ cluster: 64 * KIB });
    const { clusters } = readCompressed(base());
    const hit = clusters[7];
    const at = await placeOf(base(), hit.from);
    const file = await open(base(), 'r+');
    // No block of a deflate stream has this type.
    await file.write(Buffer.from([7]), 0, 1, at);
    await file.close();
    const disk = await create({ cluster: 64 * KIB });
    await disk.stream({ compressed: 'keep' });
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    const found = await disk.check({ data: true });
    expect(found).toMatchObject({
      corruptions: 0,
      damagedBytes: 64 * KIB,
      damages: [
        { offset: hit.offset, message: expect.stringMatching(/overlay\.qcow2: .*not inflate/) },
      ],
    });
    await disk.close();
    await expectSound(overlay());
    expect((await checkDisk({ overlay: overlay(), data: true }))?.damagedBytes).toBe(64 * KIB);
    expect(await checkDisk({ overlay: overlay() })).not.toHaveProperty('damages');
  }, 60_000);

  it('go with a job that is stopped and started again', async () => {
    await makeBase({ cluster: 64 * KIB });
    const disk = await create({ cluster: 64 * KIB });
    await disk.stream({ compressed: 'keep', offset: MIB + 5, length: 3 * MIB });
    await disk.stream({ compressed: 'keep', nonblock: true, speed: 4 * MIB });
    await disk.abort();
    await disk.close();
    await expectSound(overlay());
    const again = await openDisk({ overlay: overlay() });
    expect(await again.stream({ compressed: 'keep' })).toMatchObject({ remaining: 0 });
    await again.close();
    await looksLikeItsSource();
    expect(await shareOf()).toBeLessThan(SHARE_MAX);
  }, 60_000);

  it('are not for a job that is to take all space, nor under another name', async () => {
    await makeBase({ cluster: 64 * KIB });
    const disk = await create({ cluster: 64 * KIB });
    await expect(disk.stream({ compressed: 'keep', allocate: 'full' })).rejects.toMatchObject({
      code: 'EINVAL',
    });
    await expect(disk.stream({ compressed: 'yes' as 'keep' })).rejects.toMatchObject({
      code: 'EINVAL',
      message: "cannot stream: compressed is inflate or keep, not 'yes'",
    });
    await disk.close();
  });
});

/** Text, a little that does not compress, and holes. */
function regions(): Region[] {
  const text = makeRegions(SIZE, 64 * KIB, 11, ['text']);
  const dense: Region[] = [
    { offset: MIB, length: 6 * MIB, kind: 'text', seed: 1 },
    { offset: 7 * MIB + 512 * KIB, length: 512 * KIB, kind: 'random', seed: 2 },
    { offset: 8 * MIB, length: 3 * MIB, kind: 'text', seed: 3 },
    { offset: 9 * MIB, length: 64 * KIB, kind: 'random', seed: 4 },
  ];
  return [...text, ...dense];
}

/** The streams of two images, of which one may claim a sector more behind them than the other. */
function expectSameStreams(one: string, other: string): void {
  const [was, is] = [readCompressed(one), readCompressed(other)];
  expect(is.clusters.length).toBe(was.clusters.length);
  for (const [i, { offset, from }] of is.clusters.entries()) {
    const wanted = was.clusters[i];
    expect(offset).toBe(wanted.offset);
    // What follows a stream in its last sector is another's.
    expect(from.length).toBe(wanted.from.length);
    const sure = from.length - 512;
    expect(Buffer.compare(from.subarray(0, sure), wanted.from.subarray(0, sure))).toBe(0);
  }
}

async function placeOf(path: string, stream: Uint8Array): Promise<number> {
  return (await readFile(path)).indexOf(stream.subarray(0, 64));
}

async function compressionOf(path: string): Promise<string> {
  const text = await qemuImg(['info', '--output=json', path]);
  return JSON.parse(text)['format-specific'].data['compression-type'];
}
