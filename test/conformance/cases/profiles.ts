/** Boot profiles: recorded on a host, and replayed on it. */
import type { Adapter, Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import { BASE_SIZE, baseContent, CLUSTER, KIB } from '../content.ts';
import { Remote } from '../remote.ts';
import { newOverlay, standsAlone, using } from '../support.ts';

/** Where a guest reads, in its order. */
const PLACES = [9, 2, 14, 5].map((place) => place * CLUSTER);

/** The profile of a boot from a fixture. */
function recorded(host: Adapter, base: string): Promise<Uint8Array> {
  return using(host.createDisk({ overlay: newOverlay(host), base, record: true }), async (disk) => {
    for (const place of PLACES) await disk.read(place + 100, 4 * KIB);
    const { data, ranges, bytes, reads, ended } = await disk.profile();
    equal([ranges, bytes, reads, ended], [4, 4 * 8 * KIB, 4, 'told'], 'what was recorded');
    return data;
  });
}

/** The places of a profile are in the overlay: the base is not asked for them any more. */
async function needsNoBase(
  remote: Remote,
  disk: { read(offset: number, length: number): Promise<Uint8Array> },
): Promise<void> {
  await remote.behave({ refuseFrom: 0 });
  for (const place of PLACES)
    sameBytes(
      await disk.read(place, CLUSTER),
      baseContent().subarray(place, place + CLUSTER),
      `fetched ahead at ${place}`,
    );
}

export const profileCases: readonly Case[] = [
  ...['base.raw', 'base.qcow2', 'base-zlib.qcow2', 'base.vmdk'].map(
    (fixture): Case => ({
      name: `${fixture}: what one boot read is fetched ahead for the next`,
      async run(host) {
        const profile = await recorded(host, `${host.server}/${fixture}`);
        const remote = new Remote(host, fixture);
        await using(
          host.createDisk({ overlay: newOverlay(host), base: remote.url, profile }),
          async (disk) => {
            const { outcome, fetched } = await disk.replay();
            equal(outcome, 'done', 'outcome');
            ok(fetched >= PLACES.length * CLUSTER, 'something was fetched');
            await needsNoBase(remote, disk);
          },
        );
      },
    }),
  ),
  {
    name: 'a profile beside the base is found, and asked for once',
    async run(host) {
      const remote = new Remote(host, 'base.qcow2');
      await remote.putBeside('.profile', await recorded(host, remote.url));
      await using(
        host.createDisk({ overlay: newOverlay(host), base: remote.url, profile: 'auto' }),
        async (disk) => {
          const { outcome, source } = await disk.replay();
          equal(outcome, 'done', 'outcome');
          ok(source?.endsWith('base.qcow2.profile') ?? false, `source: ${source}`);
          await needsNoBase(remote, disk);
        },
      );
    },
  },
  {
    name: 'without a profile beside the base nothing is said, and nothing is different',
    async run(host) {
      const remote = new Remote(host, 'base.raw');
      await using(
        host.createDisk({ overlay: newOverlay(host), base: remote.url, profile: 'auto' }),
        async (disk) => {
          equal((await disk.replay()).outcome, 'none', 'outcome');
          equal(await disk.remaining(), BASE_SIZE, 'bytes that remain');
          await disk.stream({ order: 'profile' });
          await standsAlone(disk);
        },
      );
    },
  },
  {
    name: 'a profile of another base, or of an older one, is not used',
    async run(host) {
      const profile = await recorded(host, `${host.server}/base.raw`);
      const remote = new Remote(host, 'base.raw');
      await remote.behave({ etag: 'changed' });
      for (const base of [remote.url, `${host.server}/base.qcow2`])
        await using(host.createDisk({ overlay: newOverlay(host), base, profile }), async (disk) => {
          const { outcome, fetched, message } = await disk.replay();
          equal([outcome, fetched], ['unusable', 0], 'outcome');
          ok(/another base/.test(message ?? ''), `message: ${message}`);
          equal(await disk.remaining(), BASE_SIZE, 'bytes that remain');
        });
    },
  },
  {
    name: 'what is no profile, or a damaged one, is refused before anything is made',
    async run(host) {
      const good = await recorded(host, `${host.server}/base.raw`);
      const damaged = good.slice();
      damaged[damaged.length - 1] ^= 1;
      const base = `${host.server}/base.raw`;
      const overlay = newOverlay(host);
      for (const [profile, code] of [
        [new Uint8Array(64), 'EINVAL'],
        [damaged, 'ECORRUPT'],
        [`${host.server}/missing`, 'ENOENT'],
        [base, 'EINVAL'],
      ] as const)
        await rejects(host.createDisk({ overlay, base, profile }), code);
      await rejects(host.openDisk({ overlay }), 'ENOENT');
    },
  },
  {
    name: 'a job copies what a profile tells first, and then the rest',
    async run(host) {
      const remote = new Remote(host, 'base.raw');
      const profile = await recorded(host, remote.url);
      await using(
        host.createDisk({ overlay: newOverlay(host), base: remote.url }),
        async (disk) => {
          await disk.stream({ order: profile });
          await standsAlone(disk);
          sameBytes(await disk.read(0, disk.size), baseContent(), 'streamed');
          await rejects(disk.stream({ order: new Uint8Array(3) }), 'EINVAL');
        },
      );
    },
  },
  {
    name: 'an overlay that openDisk makes records and replays as it is opened',
    async run(host) {
      const create = { base: `${host.server}/base.raw` };
      const open = (how: { record?: boolean; profile?: Uint8Array }) =>
        host.openDisk({ overlay: newOverlay(host), create, ...how });
      const profile = await using(open({ record: true }), async (disk) => {
        await disk.read(PLACES[0], 512);
        return (await disk.profile()).data;
      });
      await using(open({ profile }), async (disk) => {
        equal((await disk.replay()).outcome, 'done', 'outcome');
      });
    },
  },
  {
    name: 'an overlay that is opened again records and replays, too',
    async run(host) {
      const base = `${host.server}/base.qcow2`;
      const overlay = newOverlay(host);
      await using(host.createDisk({ overlay, base }), (disk) => disk.read(0, 512));
      const profile = await using(host.openDisk({ overlay, record: true }), async (disk) => {
        await disk.read(PLACES[0], 512);
        return (await disk.profile({})).data;
      });
      await using(host.openDisk({ overlay, profile }), async (disk) => {
        equal((await disk.replay()).outcome, 'done', 'outcome');
        await rejects(disk.profile(), 'ENOENT');
      });
    },
  },
];
