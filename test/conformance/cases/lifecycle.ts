/** Overlays over time: made once, opened again, kept from a second writer, closed. */
import type { Disk } from '../../../hosts/api/disk.ts';
import type { StreamOptions } from '../../../hosts/api/job.ts';
import type { OpenOptions } from '../../../hosts/api/open.ts';
import type { Case } from '../adapter.ts';
import { equal, rejects } from '../assert.ts';
import { BASE_SIZE, baseContent, guestData, KIB, MIB } from '../content.ts';
import { diskOver, newOverlay, reads, standsAlone, using } from '../support.ts';

export const lifecycleCases: readonly Case[] = [
  {
    name: 'what was written is there when the overlay is opened again',
    async run(host) {
      const overlay = newOverlay(host);
      const content = baseContent();
      content.set(guestData(100_000), 200_001);
      content.fill(0, MIB, MIB + 128 * KIB);
      await using(host.createDisk({ overlay, base: `${host.server}/base.raw` }), async (disk) => {
        await disk.write(200_001, guestData(100_000));
        await disk.writeZeroes(MIB, 128 * KIB);
      });
      await using(host.openDisk({ overlay }), async (disk) => {
        await reads(disk, content);
        await disk.resize(3 * MIB);
      });
      await using(host.openDisk({ overlay }), async (disk) => {
        equal(disk.size, 3 * MIB, 'size');
        equal(
          (await disk.check()).corruptions + (await disk.check()).leaks,
          0,
          'corruptions and leaks',
        );
      });
    },
  },
  {
    name: "the cache mode 'unsafe' changes nothing of what is read; an edge has none",
    async run(host) {
      const overlay = newOverlay(host);
      const create = (): Promise<Disk> =>
        host.createDisk({ overlay, base: `${host.server}/base.raw`, cache: 'unsafe' });
      if (host.name === 'workerd') {
        await rejects(create(), 'EUNSUPPORTED', /cache mode 'unsafe'/);
        await rejects(host.openDisk({ overlay }), 'ENOENT');
        return;
      }
      const content = baseContent();
      content.set(guestData(100_000), 200_001);
      await using(create(), async (disk) => {
        await disk.write(200_001, guestData(100_000));
        await disk.flush();
      });
      await using(host.openDisk({ overlay, cache: 'unsafe' }), async (disk) => {
        await reads(disk, content);
        await disk.stream();
        await standsAlone(disk);
      });
      await using(host.openDisk({ overlay, cache: 'writeback' }), async (disk) => {
        await reads(disk, content, 'streamed');
        equal(
          (await disk.check()).corruptions + (await disk.check()).leaks,
          0,
          'corruptions and leaks',
        );
      });
      await rejects(
        host.openDisk({ overlay, cache: 'directsync' as 'unsafe' }),
        'EINVAL',
        /writeback or unsafe/,
      );
    },
  },
  {
    name: 'a second opener for writing gets EBUSY until the first has closed',
    async run(host) {
      const overlay = newOverlay(host);
      await using(host.createDisk({ overlay, size: MIB }), async (disk) => {
        await rejects(host.openDisk({ overlay }), 'EBUSY');
        await disk.write(0, guestData(10));
      });
      await using(host.openDisk({ overlay }), (disk) => disk.write(5, guestData(10)));
    },
  },
  {
    name: 'creating where there is an overlay is EEXIST and leaves it as it is',
    async run(host) {
      const overlay = newOverlay(host);
      await using(host.createDisk({ overlay, size: MIB }), (disk) =>
        disk.write(0, guestData(1000)),
      );
      await rejects(host.createDisk({ overlay, size: 2 * MIB }), 'EEXIST');
      await using(host.openDisk({ overlay }), async (disk) => {
        equal(disk.size, MIB, 'size');
        equal((await disk.read(0, 1000)).join(), guestData(1000).join(), 'data');
      });
    },
  },
  {
    name: 'opening what is not there is ENOENT and makes nothing',
    async run(host) {
      const overlay = newOverlay(host);
      await rejects(host.openDisk({ overlay }), 'ENOENT');
      await rejects(host.openDisk({ overlay, readOnly: true }), 'ENOENT');
      await using(host.createDisk({ overlay, size: MIB }), async () => {});
    },
  },
  {
    name: 'a disk that cannot be created leaves nothing behind',
    async run(host) {
      const overlay = newOverlay(host);
      const base = `${host.server}/base.raw`;
      await rejects(host.createDisk({ overlay }), 'EINVAL', /size/);
      await rejects(host.createDisk({ overlay, size: 1000 }), 'EINVAL', /512/);
      await rejects(
        host.createDisk({ overlay, base, clusterSize: 1000 }),
        'EINVAL',
        /cluster size/,
      );
      await rejects(host.createDisk({ overlay, base, refcountBits: 3 }), 'EINVAL', /refcount/);
      await rejects(
        host.createDisk({ overlay, base, clusterSize: 4096, extendedL2: true }),
        'EINVAL',
        /extended/i,
      );
      await rejects(host.createDisk({ overlay, base, memory: 1 }), 'EINVAL', /memory/);
      await rejects(
        host.createDisk({ overlay, base, recordBase: 'x'.repeat(5000) }),
        'EINVAL',
        /too long/,
      );
      await rejects(host.openDisk({ overlay }), 'ENOENT');
    },
  },
  {
    name: 'an option that does not exist is refused, with the one that was meant',
    async run(host) {
      const overlay = newOverlay(host);
      const wrong = { overlay, size: MIB, bas: `${host.server}/base.raw` };
      await rejects(host.createDisk(wrong), 'EINVAL', /no option 'bas'.*'base'/);
      await rejects(host.openDisk({ overlay }), 'ENOENT');
      await using(host.createDisk({ overlay, size: MIB }), async (disk) => {
        const job = { onerror: 'stop' } as StreamOptions;
        await rejects(disk.stream(job), 'EINVAL', /no option 'onerror'.*'onError'/);
      });
      const open = { overlay, readonly: true } as OpenOptions;
      await rejects(host.openDisk(open), 'EINVAL', /no option 'readonly'.*'readOnly'/);
    },
  },
  {
    name: 'a read-only disk reads, and refuses every change by name',
    async run(host) {
      const overlay = newOverlay(host);
      await using(host.createDisk({ overlay, base: `${host.server}/base.raw` }), (disk) =>
        disk.stream({ length: MIB }),
      );
      await using(host.openDisk({ overlay, readOnly: true }), async (disk) => {
        await reads(disk, baseContent());
        equal(await disk.remaining(), BASE_SIZE - MIB, 'remaining');
        await rejects(disk.write(0, guestData(1)), 'EROFS', /read-only/);
        await rejects(disk.writeZeroes(0, 1), 'EROFS');
        await rejects(disk.discard(0, 1), 'EROFS');
        await rejects(disk.resize(MIB), 'EROFS');
        await rejects(disk.stream(), 'EROFS');
        await rejects(disk.check({ repair: 'all' }), 'EROFS');
        await disk.flush();
      });
    },
  },
  {
    name: 'a closed disk is ECLOSED, and closing it again is no error',
    async run(host) {
      const disk = await diskOver(host, 'base.raw');
      await Promise.all([disk.close(), disk.close()]);
      await disk.close();
      await rejects(disk.read(0, 1), 'ECLOSED');
      await rejects(disk.write(0, guestData(1)), 'ECLOSED');
      await rejects(disk.flush(), 'ECLOSED');
      await rejects(disk.stream(), 'ECLOSED');
      await rejects(disk.info(), 'ECLOSED');
      await rejects(disk.remaining(), 'ECLOSED');
      await rejects(disk.check(), 'ECLOSED');
      await rejects(disk.images(), 'ECLOSED');
    },
  },
];
