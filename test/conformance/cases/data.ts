/** Reading and writing as the guest does it. */
import type { Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import { baseContent, CLUSTER, guestData, KIB, MIB } from '../content.ts';
import { diskOver, newOverlay, reads, using } from '../support.ts';

export const dataCases: readonly Case[] = [
  {
    name: 'a new disk without a base reads as zeros',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: MIB }), async (disk) => {
        equal([disk.size, disk.clusterSize], [MIB, CLUSTER], 'size and cluster size');
        await reads(disk, new Uint8Array(MIB));
      }),
  },
  {
    name: 'what is written is read, at any offset and length',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: MIB }), async (disk) => {
        const content = new Uint8Array(MIB);
        for (const [index, [offset, length]] of [
          [0, 1],
          [511, 2],
          [CLUSTER - 3, 7],
          [CLUSTER * 2, CLUSTER],
          [300_001, 200_003],
          [MIB - 5, 5],
        ].entries()) {
          const data = guestData(length, index);
          await disk.write(offset, data);
          content.set(data, offset);
          sameBytes(await disk.read(offset, length), data, `${length} bytes at ${offset}`);
        }
        await reads(disk, content);
      }),
  },
  {
    name: 'writes into parts of clusters keep the rest from the base',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const content = baseContent();
        for (const offset of [1000, 600 * KIB + 1, 1100 * KIB]) {
          content.set(guestData(3000, offset), offset);
          await disk.write(offset, guestData(3000, offset));
        }
        await reads(disk, content);
      }),
  },
  {
    name: 'many writes and reads at once',
    run: (host) =>
      using(diskOver(host, 'base.qcow2'), async (disk) => {
        const content = baseContent();
        const places = Array.from({ length: 40 }, (_, index) => index * 50_021);
        for (const at of places) content.set(guestData(9000, at), at);
        await Promise.all(
          places.flatMap((at) => [disk.write(at, guestData(9000, at)), disk.read(at, 9000)]),
        );
        await reads(disk, content);
      }),
  },
  {
    name: 'the data of a write may be used again as soon as it has resolved, and belongs to the caller still',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: MIB }), async (disk) => {
        const data = guestData(2 * CLUSTER);
        await disk.write(CLUSTER, data);
        sameBytes(data, guestData(2 * CLUSTER), "the caller's bytes");
        data.fill(0);
        sameBytes(await disk.read(CLUSTER, data.length), guestData(2 * CLUSTER), 'the disk');
      }),
  },
  {
    name: 'reads and writes of nothing are no error',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        equal((await disk.read(disk.size, 0)).length, 0, 'bytes');
        await disk.write(0, new Uint8Array(0));
        await disk.discard(0, 0);
        await disk.writeZeroes(disk.size, 0);
      }),
  },
  {
    name: 'what lies outside the disk is EINVAL and changes nothing',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        for (const [offset, length] of [
          [-1, 1],
          [disk.size, 1],
          [disk.size - 1, 2],
          [0.5, 1],
          [NaN, 1],
          [2 ** 60, 1],
        ]) {
          await rejects(disk.read(offset, length), 'EINVAL', /bytes/);
          await rejects(disk.write(offset, new Uint8Array(length)), 'EINVAL');
          await rejects(disk.discard(offset, length), 'EINVAL');
          await rejects(disk.writeZeroes(offset, length), 'EINVAL');
          await rejects(disk.remaining(offset, length), 'EINVAL');
        }
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'writeZeroes makes zeros of any range, over data and over the base',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const content = baseContent();
        await disk.write(CLUSTER, guestData(CLUSTER));
        content.set(guestData(CLUSTER), CLUSTER);
        for (const [offset, length] of [
          [100, 200],
          [CLUSTER + 7, 3 * CLUSTER],
          [1024 * KIB, 256 * KIB],
          [disk.size - 700, 700],
        ]) {
          await disk.writeZeroes(offset, length);
          content.fill(0, offset, offset + length);
        }
        await reads(disk, content);
      }),
  },
  {
    name: 'discard makes whole clusters read as zeros and leaves parts of clusters alone',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const content = baseContent();
        await disk.discard(100, 3 * CLUSTER);
        content.fill(0, CLUSTER, 3 * CLUSTER);
        await reads(disk, content);
      }),
  },
  {
    name: 'flush resolves, with and without something to write',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: MIB }), async (disk) => {
        await disk.flush();
        await disk.write(0, guestData(100));
        await Promise.all([disk.flush(), disk.flush()]);
      }),
  },
  {
    name: 'resize grows with zeros, and shrinks only when asked to',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const content = baseContent();
        const grown = 3 * MIB;
        await disk.resize(grown);
        const larger = new Uint8Array(grown);
        larger.set(content);
        await reads(disk, larger);
        await rejects(disk.resize(MIB), 'EINVAL', /explicitly/);
        equal(disk.size, grown, 'size');
        await disk.resize(MIB, { shrink: true });
        await reads(disk, content.subarray(0, MIB));
        await disk.resize(2 * MIB);
        const again = new Uint8Array(2 * MIB);
        again.set(content.subarray(0, MIB));
        await reads(disk, again);
      }),
  },
  ...[512, 4 * KIB, 2 * MIB].map(
    (clusterSize): Case => ({
      name: `clusters of ${clusterSize} bytes`,
      run: (host) =>
        using(diskOver(host, 'base.qcow2', { clusterSize }), async (disk) => {
          equal(disk.clusterSize, clusterSize, 'cluster size');
          const content = baseContent();
          content.set(guestData(10_000), 70_001);
          await disk.write(70_001, guestData(10_000));
          await disk.stream({ length: 300 * KIB });
          await reads(disk, content);
          equal((await disk.check()).corruptions, 0, 'corruptions');
        }),
    }),
  ),
  {
    name: 'an overlay with extended L2 entries, and one with refcounts of 1 bit',
    async run(host) {
      for (const shape of [{ extendedL2: true }, { refcountBits: 1 }]) {
        await using(diskOver(host, 'base-extended.qcow2', shape), async (disk) => {
          const content = baseContent();
          content.set(guestData(5000), 30_000);
          await disk.write(30_000, guestData(5000));
          await reads(disk, content);
          const [image] = await disk.images();
          equal(
            [image.extendedL2, image.refcountBits],
            [shape.extendedL2 ?? false, shape.refcountBits ?? 16],
            'extended L2, refcount bits',
          );
          ok((await disk.check()).corruptions === 0, 'it is sound');
        });
      }
    },
  },
];
