/** Bases in compressed files and archives: what is in them is the disk. */
import { CONTAINERS } from '../../fixtures/container-names.ts';
import type { Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import { baseContent, KIB, MIB } from '../content.ts';
import { diskOver, newOverlay, reads, standsAlone, using } from '../support.ts';

export const containerCases: readonly Case[] = [
  ...['base.raw', 'base.qcow2'].flatMap((image) =>
    CONTAINERS.map(
      (container): Case => ({
        name: `${image}.${container}: read in front, then streamed, then read without it`,
        run: (host) =>
          using(diskOver(host, `${image}.${container}`), async (disk) => {
            const content = baseContent();
            const at = MIB + 100 * KIB;
            sameBytes(await disk.read(at, 4 * KIB), content.subarray(at, at + 4 * KIB), 'in front');
            const [, base] = await disk.images();
            ok(base.container !== undefined, 'the container is told');
            await disk.stream();
            await standsAlone(disk);
            await reads(disk, content, 'streamed');
            equal((await disk.check()).corruptions, 0, 'corruptions');
          }),
      }),
    ),
  ),
  {
    name: 'the disk of an OVA is the one that its descriptor names',
    run: (host) =>
      using(diskOver(host, 'machine.ova'), async (disk) => {
        equal((await disk.images())[1].container?.member, 'base.qcow2', 'member');
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'a file of an archive is taken by its name, which the overlay records',
    async run(host) {
      const overlay = newOverlay(host);
      const base = `${host.server}/two.zip`;
      await rejects(host.createDisk({ overlay, base }), 'EUNSUPPORTED', /#NAME'/);
      await rejects(host.createDisk({ overlay, base: `${base}#no.raw` }), 'ENOENT', /no\.raw/);
      await using(host.createDisk({ overlay, base: `${base}#base.raw` }), (disk) =>
        reads(disk, baseContent()),
      );
      await using(host.openDisk({ overlay }), async (disk) => {
        equal((await disk.images())[0].backingFile, `${base}#base.raw`, 'as recorded');
        await disk.stream();
        await standsAlone(disk);
        await reads(disk, baseContent(), 'streamed');
      });
    },
  },
  {
    name: 'a container is what its overlay records: unpacked when opened again, as it is where that was asked for',
    async run(host) {
      for (const unpack of [undefined, false]) {
        const overlay = newOverlay(host);
        const base = `${host.server}/base.raw.gz`;
        const how = unpack === false ? { unpack, baseFormat: 'raw' as const } : {};
        const made = await host.createDisk({ overlay, base, ...how });
        const first = await made.read(0, 512);
        await made.close();
        equal(first[0] === 0x1f && first[1] === 0x8b, unpack === false, 'gzip bytes are seen');
        await using(host.openDisk({ overlay }), async (disk) =>
          sameBytes(await disk.read(0, 512), first, 'opened again'),
        );
      }
    },
  },
  {
    name: 'damage in a container is an error, and its base is kept',
    async run(host) {
      for (const fixture of ['flipped.xz', 'flipped.gz', 'cut.gz', 'flipped.zst', 'flipped.bz2']) {
        await using(diskOver(host, fixture, { size: 2 * MIB }), async (disk) => {
          await rejects(disk.stream(), 'ECORRUPT', /damaged/);
          ok((await disk.images()).length === 2, `${fixture}: the base is kept`);
        });
      }
    },
  },
];
