/** What a disk tells about itself: its extents, what remains, its soundness, its images. */
import type { Case } from '../adapter.ts';
import { equal, ok, rejects } from '../assert.ts';
import { BASE_RUNS, BASE_SIZE, CLUSTER, guestData, KIB, MIB } from '../content.ts';
import { diskOver, extents, layout, newOverlay, using } from '../support.ts';

export const mapCases: readonly Case[] = [
  {
    name: 'map tells data, zeros and what is absent, through the chain and for the overlay alone',
    run: (host) =>
      using(diskOver(host, 'base.qcow2', { copyOnRead: false }), async (disk) => {
        await disk.write(0, guestData(CLUSTER));
        await disk.writeZeroes(2 * CLUSTER, CLUSTER);
        equal(
          await layout(disk.map()),
          [
            `0+${CLUSTER} data@0`,
            `${CLUSTER}+${CLUSTER} data@1`,
            `${2 * CLUSTER}+${CLUSTER} zero@0`,
            `${3 * CLUSTER}+${CLUSTER} data@1`,
            `${256 * KIB}+${256 * KIB} absent@1`,
            `${512 * KIB}+${256 * KIB} data@1`,
            `${768 * KIB}+${256 * KIB} absent@1`,
            `${MIB}+${512 * KIB} data@1`,
            `${1536 * KIB}+${448 * KIB} absent@1`,
            `${1984 * KIB}+${BASE_SIZE - 1984 * KIB} data@1`,
          ],
          'the chain',
        );
        equal(
          await layout(disk.map(0, disk.size, { depth: 1 })),
          [
            `0+${CLUSTER} data@0`,
            `${CLUSTER}+${CLUSTER} absent@0`,
            `${2 * CLUSTER}+${CLUSTER} zero@0`,
            `${3 * CLUSTER}+${BASE_SIZE - 3 * CLUSTER} absent@0`,
          ],
          'the overlay',
        );
      }),
  },
  {
    name: 'map of a range begins and ends with it, and covers it without gaps',
    run: (host) =>
      using(diskOver(host, 'base-zlib.qcow2'), async (disk) => {
        const list = await extents(disk.map(1000, MIB));
        equal(
          [list[0].offset, list.at(-1)!.offset + list.at(-1)!.length],
          [1000, MIB + 1000],
          'begin and end',
        );
        for (let at = 1; at < list.length; at++)
          equal(list[at].offset, list[at - 1].offset + list[at - 1].length, `extent ${at}`);
        ok(
          list.some(({ state }) => state === 'compressed'),
          'there is a compressed extent',
        );
        await rejects(extents(disk.map(0, disk.size + 1)), 'EINVAL');
      }),
  },
  {
    name: 'remaining counts what is not populated, of the disk and of a range',
    run: (host) =>
      using(diskOver(host, 'base.raw', { copyOnRead: false }), async (disk) => {
        equal(await disk.remaining(), BASE_SIZE, 'of a new disk');
        await disk.stream({ length: 512 * KIB });
        equal(await disk.remaining(), BASE_SIZE - 512 * KIB, 'after half a MiB');
        equal(
          [
            await disk.remaining(0, MIB),
            await disk.remaining(0, 1000),
            await disk.remaining(MIB, 1000),
          ],
          [512 * KIB, 0, 1000],
          'of ranges',
        );
        await disk.writeZeroes(MIB, CLUSTER);
        await disk.discard(MIB + CLUSTER, CLUSTER);
        equal(await disk.remaining(MIB, 2 * CLUSTER), 0, 'zeroed and discarded');
      }),
  },
  {
    name: 'check finds nothing wrong at any stage',
    run: (host) =>
      using(diskOver(host, 'base-zstd.qcow2'), async (disk) => {
        const sound = async (): Promise<void> => {
          const { corruptions, leaks } = await disk.check();
          equal([corruptions, leaks], [0, 0], 'corruptions and leaks');
        };
        await sound();
        await disk.write(100, guestData(300_000));
        await sound();
        await disk.stream({ length: MIB });
        await disk.discard(0, 256 * KIB);
        await sound();
        await disk.stream();
        await sound();
        equal((await disk.check({ repair: 'all' })).leaksFixed, 0, 'leaks fixed');
      }),
  },
  {
    name: 'images tells each image of the chain',
    async run(host) {
      const overlay = newOverlay(host);
      await using(
        host.createDisk({ overlay, base: `${host.server}/base-zstd.qcow2`, clusterSize: 4096 }),
        async (disk) => {
          const [top, below] = await disk.images();
          equal(
            [
              top.format,
              top.version,
              top.clusterSize,
              top.virtualSize,
              top.backingFile,
              top.backingFormat,
            ],
            ['qcow2', 3, 4096, BASE_SIZE, `${host.server}/base-zstd.qcow2`, 'qcow2'],
            'the overlay',
          );
          equal(
            [below.format, below.clusterSize, below.compressionType, below.virtualSize],
            ['qcow2', CLUSTER, 'zstd', BASE_SIZE],
            'the base',
          );
          equal(below.name, `${host.server}/base-zstd.qcow2`, 'the name of the base');
          ok(
            below.fileSize > 0 &&
              below.fileSize < BASE_RUNS.reduce((sum, { length }) => sum + length, 0),
            'the base is compressed',
          );
        },
      );
    },
  },
];
