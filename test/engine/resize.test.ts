/**
 * Disks that become larger and smaller: what their tables show then, when it fails, and beside
 * reads.
 */
import { expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import { Random } from '../fixtures/content.ts';
import { writeImage } from '../simulator/writer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const MIB = 1 << 20;

it.each([64 * 1024, 128 * 1024, 2 * MIB])(
  'a table in the place of the old L1 table shows nothing of it (clusters of %i)',
  async (clusterSize) => {
    const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
    const span = (clusterSize / 8) * clusterSize;
    runtime.add('b', new Uint8Array(MIB).fill(5));
    const disk = await runtime.create({ overlay: 'o', base: 'b', size: span / 2, clusterSize });
    await disk.write(0, new Uint8Array(4096).fill(7));
    await disk.flush();
    await disk.resize(span * 3);
    await disk.flush();
    await disk.flush();
    await disk.writeZeroes(span, clusterSize);
    for (const at of [5, 6]) await disk.write(clusterSize * at, new Uint8Array(4096).fill(9));
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
    const again = await runtime.open({ overlay: 'o' });
    expect(again.size).toBe(span * 3);
    expect([...(await again.read(0, 2)), ...(await again.read(clusterSize * 5, 2))]).toEqual([
      7, 7, 9, 9,
    ]);
    await again.close();
  },
  20_000,
);

it.each([
  ['data', 'other bytes', []],
  ['compressed', 'other bytes', []],
  ['data', 'the end of the file', ['ends with the disk']],
] as const)(
  'zeros follow the old end, where its cluster (%s) has %s behind it',
  async (fill, _, odd) => {
    const runtime = new MemoryRuntime();
    const content = new Uint8Array(96 * 1024).fill(7);
    runtime.add(
      'o',
      writeImage({
        version: 3,
        clusterBits: 16,
        refcountOrder: 4,
        extendedL2: false,
        content,
        fills: [fill, fill],
        odd,
      }),
    );
    const disk = await runtime.open({ overlay: 'o' });
    await disk.resize(MIB);
    const shown = new Uint8Array(MIB);
    shown.set(content);
    expect(Buffer.compare(await disk.read(0, MIB), shown)).toBe(0);
    expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
  },
);

it('zeros follow the old end where subclusters of its cluster are data and the others zeros', async () => {
  const runtime = new MemoryRuntime();
  const content = new Uint8Array(40 * 1024).fill(7);
  const image = writeImage({
    version: 3,
    clusterBits: 16,
    refcountOrder: 4,
    extendedL2: true,
    content,
    fills: ['data'],
  });
  // The first half are zeros; the disk ends within the others, which are data.
  const l2 = 2 * 65536;
  new DataView(image.buffer).setBigUint64(l2 + 8, 0x0000ffff_ffff0000n);
  runtime.add('o', image);
  const disk = await runtime.open({ overlay: 'o' });
  await disk.resize(MIB);
  const shown = new Uint8Array(MIB);
  shown.fill(7, 32 * 1024, 40 * 1024);
  expect(Buffer.compare(await disk.read(0, MIB), shown)).toBe(0);
  await disk.close();
});

it.each([16 * MIB, 128 * MIB])(
  'one that fails leaves the size as it was, on the disk too (to %i)',
  async (target) => {
    const runtime = new MemoryRuntime();
    const disk = await runtime.create({ overlay: 'o', size: 64 * MIB });
    await disk.write(32 * MIB, new Uint8Array(65536).fill(8));
    await disk.flush();
    let failures = 1;
    runtime.plan = (operation, perform) => {
      if (operation.kind === 'write' && operation.offset === 0 && failures-- > 0)
        throw new MillraceError('EIO', 'the header is not written');
      return perform();
    };
    await expect(disk.resize(target, { shrink: true })).rejects.toThrow(
      'the header is not written',
    );
    expect(disk.size).toBe(64 * MIB);
    await disk.write(40 * MIB, new Uint8Array(4096).fill(9));
    await disk.flush();
    runtime.files.set('copy', runtime.add('copy', runtime.file('o').bytes.slice()));
    const copy = await runtime.open({ overlay: 'copy' });
    expect(copy.size).toBe(64 * MIB);
    expect([(await copy.read(32 * MIB, 1))[0], (await copy.read(40 * MIB, 1))[0]]).toEqual([8, 9]);
    expect((await copy.check()).corruptions).toBe(0);
    await copy.close();
    await disk.close();
  },
);

it('a disk becomes smaller while what is read ahead waits behind its end', async () => {
  for (let seed = 40; seed < 60; seed++) await shrinkBesideReads(seed);
}, 60_000);

/**
 * The base answers after so many turns as the seed says; in one of these, a read-ahead came to a
 * disk that ends where it begins.
 */
async function shrinkBesideReads(seed: number): Promise<void> {
  const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
  runtime.add('b', new Uint8Array(16 * MIB).fill(5));
  runtime.remote = { chunk: MIB, depth: 4 };
  const disk = await runtime.create({ overlay: 'o', base: 'b' });
  const random = new Random(seed);
  runtime.plan = async (_, perform) => {
    for (let turns = random.between(0, 3); turns > 0; turns--) await undefined;
    await perform();
  };
  const target = random.between(1, 4) * MIB;
  const reading = (async () => {
    for (let at = 0; at < 16 * MIB; at += 128 * 1024) await disk.read(at, 128 * 1024);
  })().catch((error: MillraceError) => error.message);
  for (let turns = random.between(0, 199); turns > 0; turns--) await undefined;
  await disk.resize(target, { shrink: true });
  expect(await reading, `seed ${seed}`).toMatch(
    /the disk has \d+ bytes|does not lie inside the disk/,
  );
  expect(disk.size).toBe(target);
  await disk.close();
}

it('gives back all that it has lost, be their refcounts more than the cache holds at once', async () => {
  const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
  const disk = await runtime.create({
    overlay: 'o',
    size: 32 * MIB,
    clusterSize: 512,
    memory: 8 * MIB,
  });
  // Scattered over the file: neighbours have their refcounts in different blocks.
  for (let i = 0; i < 512; i++)
    await disk.write(((i * 37) % 512) * 65536, new Uint8Array(65536).fill(1));
  await disk.resize(MIB, { shrink: true });
  await disk.close();
  const again = await runtime.open({ overlay: 'o', readOnly: true });
  expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  await again.close();
}, 20_000);

it('finds a place for a larger L1 table behind more gaps than can be noted, each too small for it', async () => {
  const cluster = 512;
  const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
  const disk = await runtime.create({ overlay: 'o', size: 4 * MIB, clusterSize: cluster });
  await disk.write(0, new Uint8Array(4 * MIB).fill(7));
  for (let at = 0; at < 4 * MIB; at += 2 * cluster) await disk.discard(at, cluster);
  // What the first has written, the second counts as free.
  for (let flushes = 0; flushes < 8; flushes++) await disk.flush();
  await disk.resize(8 * MIB);
  await disk.write(6 * MIB, new Uint8Array(cluster).fill(9));
  expect([...(await disk.read(cluster - 1, 2)), ...(await disk.read(6 * MIB, 1))]).toEqual([
    0, 7, 9,
  ]);
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  await disk.close();
}, 20_000);

it('several at once are done one after another, in their order', async () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = new Random(seed);
    const runtime = new MemoryRuntime();
    const disk = await runtime.create({ overlay: 'o', size: MIB });
    const pause = async (turns: number): Promise<void> => {
      while (turns-- > 0) await null;
    };
    runtime.plan = (_, perform) => pause(random.between(0, 5)).then(() => perform());
    const sizes = Array.from({ length: 4 }, () => 512 * (1 + random.between(0, 8191)));
    const resizes: Promise<void>[] = [];
    for (const size of sizes) {
      resizes.push(disk.resize(size, { shrink: true }));
      await pause(random.between(0, 29));
    }
    await Promise.all(resizes);
    expect(disk.size, `seed ${seed}`).toBe(sizes.at(-1));
    await disk.close();
  }
});
