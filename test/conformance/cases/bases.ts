/** Bases of every format under an overlay, near and far. */
import { FIRST_PAGE_BYTES } from '../../../hosts/bases/http/http.ts';
import type { Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import {
  BASE_SIZE,
  baseContent,
  CLUSTER,
  guestData,
  KIB,
  MIB,
  TAIL_SIZE,
  tailContent,
  upperContent,
} from '../content.ts';
import { Remote } from '../remote.ts';
import { diskOver, newOverlay, reads, standsAlone, using } from '../support.ts';

const FORMATS = [
  'base.raw',
  'base.qcow2',
  'base-zlib.qcow2',
  'base-zstd.qcow2',
  'base-extended.qcow2',
  'base.vmdk',
  'base.vhd',
  'base.vhdx',
  'base.vdi',
  'base.qed',
  'base.hdd',
];

export const baseCases: readonly Case[] = [
  ...FORMATS.map(
    (fixture): Case => ({
      name: `${fixture}: read through the overlay, then streamed, then read without it`,
      run: (host) =>
        using(diskOver(host, fixture), async (disk) => {
          await reads(disk, baseContent(), 'through the overlay');
          await disk.stream();
          await standsAlone(disk);
          await reads(disk, baseContent(), 'streamed');
          equal((await disk.check()).corruptions, 0, 'corruptions');
        }),
    }),
  ),
  {
    name: 'an overlay takes its size from the base, in whole sectors',
    run: (host) =>
      using(diskOver(host, 'tail.raw'), async (disk) => {
        const content = new Uint8Array(Math.ceil(TAIL_SIZE / 512) * 512);
        content.set(tailContent());
        await reads(disk, content);
        await disk.stream();
        await reads(disk, content, 'streamed');
      }),
  },
  {
    name: 'a disk longer than its base reads as zeros past its end, a shorter one ends',
    async run(host) {
      for (const size of [3 * MIB, MIB]) {
        await using(diskOver(host, 'base.raw', { size }), async (disk) => {
          const content = new Uint8Array(size);
          content.set(baseContent().subarray(0, size));
          await reads(disk, content);
          await disk.stream();
          await standsAlone(disk);
          await reads(disk, content, 'streamed');
        });
      }
    },
  },
  {
    name: 'what was read once is not read from the base again',
    async run(host) {
      const remote = new Remote(host, 'base.raw');
      await using(
        host.createDisk({ overlay: newOverlay(host), base: remote.url }),
        async (disk) => {
          await disk.read(1024 * KIB, 256 * KIB);
          await disk.flush();
          await remote.behave({ refuseFrom: 0 });
          sameBytes(
            await disk.read(1024 * KIB, 256 * KIB),
            baseContent().subarray(1024 * KIB, 1280 * KIB),
            'read again',
          );
          ok((await disk.remaining()) < BASE_SIZE, 'some of it is in the overlay');
        },
      );
    },
  },
  {
    name: 'without copyOnRead, reads leave nothing in the overlay',
    run: (host) =>
      using(diskOver(host, 'base.qcow2', { copyOnRead: false }), async (disk) => {
        await reads(disk, baseContent());
        equal(await disk.remaining(), BASE_SIZE, 'bytes that remain');
      }),
  },
  {
    name: 'a streamed overlay opens and reads without its base',
    async run(host) {
      const overlay = newOverlay(host);
      const remote = new Remote(host, 'base-zstd.qcow2');
      await using(host.createDisk({ overlay, base: remote.url }), (disk) => disk.stream());
      await remote.behave({ refuseFrom: 0 });
      await using(host.openDisk({ overlay }), (disk) => reads(disk, baseContent()));
    },
  },
  {
    name: 'the chain of a base is followed only when asked for',
    async run(host) {
      await rejects(diskOver(host, 'upper.qcow2'), 'EUNSUPPORTED', /backing file.*followChain/);
      const overlay = newOverlay(host);
      await using(
        host.createDisk({ overlay, base: `${host.server}/upper.qcow2`, followChain: true }),
        async (disk) => {
          equal((await disk.images()).length, 3, 'images');
          await reads(disk, upperContent());
        },
      );
      await rejects(host.openDisk({ overlay }), 'EUNSUPPORTED', /followChain/);
      await using(host.openDisk({ overlay, followChain: true }), (disk) =>
        reads(disk, upperContent()),
      );
    },
  },
  {
    name: 'the images of a chain can be given one by one',
    async run(host) {
      const overlay = newOverlay(host);
      await using(
        host.createDisk({ overlay, base: `${host.server}/upper.qcow2`, followChain: true }),
        async () => {},
      );
      const base = [`${host.server}/upper.qcow2`, new URL(`${host.server}/base-zlib.qcow2`)];
      await using(
        host.openDisk({ overlay, base, baseFormat: ['qcow2', 'qcow2'] }),
        async (disk) => {
          await reads(disk, upperContent());
          await disk.stream();
          await standsAlone(disk);
        },
      );
    },
  },
  {
    name: 'a base can be streamed down to an image of its chain, which becomes the new base',
    async run(host) {
      const overlay = newOverlay(host);
      await using(
        host.createDisk({ overlay, base: `${host.server}/upper.qcow2`, followChain: true }),
        async (disk) => {
          await rejects(
            disk.stream({ base: 'no such image' }),
            'EINVAL',
            /'no such image': there is no such image in the chain below the overlay, which has '[^']*upper.qcow2', '[^']*base.qcow2'$/,
          );
          await disk.stream({ base: 2 });
          const names = (await disk.images()).map(({ name }) => name);
          equal(names.slice(1), [`${host.server}/base.qcow2`], 'images below the overlay');
          await reads(disk, upperContent());
        },
      );
      await using(host.openDisk({ overlay }), async (disk) => {
        equal((await disk.images()).length, 2, 'images');
        await reads(disk, upperContent());
      });
    },
  },
  {
    name: 'a format that is given is used: a qcow2 image as raw bytes',
    run: (host) =>
      using(diskOver(host, 'base-zlib.qcow2', { baseFormat: 'raw' }), async (disk) => {
        equal(new TextDecoder().decode(await disk.read(0, 3)), 'QFI', 'magic');
        equal((await disk.images())[1].format, 'raw', 'format');
      }),
  },
  {
    name: 'a base that has changed is ECHANGED at open',
    async run(host) {
      const overlay = newOverlay(host);
      const remote = new Remote(host, 'base.raw');
      await using(host.createDisk({ overlay, base: remote.url }), async (disk) => {
        equal((await disk.images())[0].backingFile, remote.url, 'recorded base');
        equal((await disk.images())[0].backingFormat, 'raw', 'recorded format');
      });
      await remote.behave({ etag: 'another' });
      await rejects(host.openDisk({ overlay }), 'ECHANGED', /not the base/);
      await remote.behave({});
      await using(host.openDisk({ overlay }), (disk) => reads(disk, baseContent()));
    },
  },
  {
    name: 'a base that changes while it is read is ECHANGED, and what was written stays',
    async run(host) {
      const overlay = newOverlay(host);
      const remote = new Remote(host, 'base.raw');
      await using(host.createDisk({ overlay, base: remote.url }), async (disk) => {
        await disk.write(0, guestData(CLUSTER));
        await remote.behave({ etag: 'another' });
        await rejects(disk.read(1024 * KIB, 4096), 'ECHANGED', /changed|not the one/);
        await rejects(disk.stream(), 'ECHANGED');
        sameBytes(await disk.read(0, CLUSTER), guestData(CLUSTER), 'what was written');
      });
    },
  },
  {
    name: 'a base that cannot be had is named: ENOENT, EACCES, EUNSUPPORTED',
    async run(host) {
      const overlay = newOverlay(host);
      await rejects(
        host.createDisk({ overlay, base: `${host.server}/missing.raw` }),
        'ENOENT',
        /missing\.raw/,
      );
      const refused = new Remote(host, 'base.raw');
      await refused.behave({ refuseFrom: 0 });
      await rejects(host.createDisk({ overlay, base: refused.url }), 'EACCES', /403/);
      await rejects(
        host.createDisk({ overlay, base: 'gopher://images.example/base.raw' }),
        'EUNSUPPORTED',
        /gopher/,
      );
      await rejects(host.openDisk({ overlay }), 'ENOENT');
    },
  },
  {
    name: 'images that are broken or need what is unknown are refused at open',
    async run(host) {
      await rejects(diskOver(host, 'corrupt.qcow2'), 'ECORRUPT', /corrupt\.qcow2.*L1 table/);
      await rejects(diskOver(host, 'unknown.qcow2'), 'EUNSUPPORTED', /unknown\.qcow2.*feature/);
      await rejects(diskOver(host, 'base.raw', { baseFormat: 'qcow2' }), 'ECORRUPT', /magic/);
      await rejects(
        diskOver(host, 'base.raw', { baseFormat: 'bochs' as 'raw' }),
        'EUNSUPPORTED',
        /bochs/,
      );
    },
  },
  {
    name: 'a base that is refused in the middle fails the read that needs it, and only that',
    async run(host) {
      const remote = new Remote(host, 'base.raw');
      await using(
        host.createDisk({ overlay: newOverlay(host), base: remote.url }),
        async (disk) => {
          await remote.behave({ refuseFrom: FIRST_PAGE_BYTES });
          await rejects(disk.read(1024 * KIB, 100), 'EACCES');
          sameBytes(
            await disk.read(0, 100),
            baseContent().subarray(0, 100),
            'what was fetched at open',
          );
          await remote.behave({});
          await reads(disk, baseContent());
        },
      );
    },
  },
];
