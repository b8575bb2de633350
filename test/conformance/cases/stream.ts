/** The job: stream, abort, info, and what goes with them. */

import type { Disk } from '../../../hosts/api/disk.ts';
import { JobStatus } from '../../../hosts/api/job.ts';
import { FIRST_PAGE_BYTES } from '../../../hosts/bases/http/http.ts';
import type { Adapter, Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import { BASE_RUNS, BASE_SIZE, baseContent, CLUSTER, guestData, KIB, MIB } from '../content.ts';
import { Remote } from '../remote.ts';
import {
  diskOver,
  extents,
  newOverlay,
  nextEvent,
  reads,
  record,
  standsAlone,
  using,
  wholeInfo,
} from '../support.ts';

/** Where the base has text. */
const KEPT_RUNS = [
  [0, 256 * KIB],
  [1024 * KIB, 512 * KIB],
];

/** A disk whose base gives nothing behind the first page until it is told to. */
async function withHeldBase(
  host: Adapter,
  body: (disk: Disk, remote: Remote) => Promise<void>,
): Promise<void> {
  const remote = new Remote(host, 'base.raw');
  await using(host.createDisk({ overlay: newOverlay(host), base: remote.url }), async (disk) => {
    await remote.behave({ holdFrom: FIRST_PAGE_BYTES });
    try {
      await body(disk, remote);
    } finally {
      await remote.behave({});
    }
  });
}

export const streamCases: readonly Case[] = [
  {
    name: 'a job keeps compressed clusters that suit the overlay, and gives it their method',
    async run(host) {
      for (const fixture of ['base-zlib.qcow2', 'base-zstd.qcow2']) {
        await using(diskOver(host, fixture), async (disk) => {
          const { kept } = await disk.stream({ compressed: 'keep' });
          // The text, but for what is random and stands as it is.
          equal(kept, 768 * KIB, 'bytes kept compressed');
          await standsAlone(disk);
          const compressed = (await extents(disk.map())).filter(
            ({ state }) => state === 'compressed',
          );
          equal(
            compressed.map(({ offset, length }) => [offset, length]),
            KEPT_RUNS,
            'compressed',
          );
          const report = await disk.check({ data: true });
          equal([report.corruptions, report.leaks, report.damagedBytes], [0, 0, 0], 'check');
          await disk.write(5, guestData(10));
          const content = baseContent();
          content.set(guestData(10), 5);
          await reads(disk, content);
        });
      }
    },
  },
  {
    name: 'stream without a range takes the whole disk and resolves with how it ended',
    run: (host) =>
      using(diskOver(host, 'base.qcow2'), async (disk) => {
        wholeInfo(await disk.stream(), JobStatus.COMPLETED, 0);
        wholeInfo(await disk.info(), JobStatus.COMPLETED, 0);
        await standsAlone(disk);
      }),
  },
  {
    name: 'a range is populated in whole clusters, and the base is kept',
    run: (host) =>
      using(diskOver(host, 'base.raw', { copyOnRead: false }), async (disk) => {
        const info = await disk.stream({ offset: 2 * CLUSTER + 5, length: CLUSTER });
        equal(
          [info.status, info.remaining, info.offset, info.length],
          [JobStatus.COMPLETED, 0, 2 * CLUSTER + 5, CLUSTER],
          'info',
        );
        equal(
          await disk.remaining(2 * CLUSTER, 2 * CLUSTER),
          0,
          'remaining in the clusters it touches',
        );
        equal(await disk.remaining(), BASE_SIZE - 2 * CLUSTER, 'remaining of the disk');
        equal((await disk.images()).length, 2, 'images');
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'a job that makes the disk whole removes the base, whatever its range',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        await disk.stream({ offset: MIB, length: BASE_SIZE - MIB });
        equal((await disk.images()).length, 2, 'images');
        await disk.stream({ offset: 0, length: MIB });
        await standsAlone(disk);
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'what is populated already completes at once and moves nothing',
    async run(host) {
      const remote = new Remote(host, 'base.raw');
      await using(
        host.createDisk({ overlay: newOverlay(host), base: remote.url }),
        async (disk) => {
          await disk.stream({ length: MIB });
          const { requests } = await remote.traffic();
          equal((await disk.stream({ length: MIB })).remaining, 0, 'remaining');
          equal((await remote.traffic()).requests, requests, 'requests');
        },
      );
    },
  },
  {
    name: 'without a base, a stream makes zeros and completes',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: MIB }), async (disk) => {
        equal((await disk.stream()).status, JobStatus.COMPLETED, 'status');
        await reads(disk, new Uint8Array(MIB));
      }),
  },
  {
    name: 'bad ranges and options are EINVAL, and no job is left',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        await rejects(disk.stream({ offset: 0, length: disk.size + 1 }), 'EINVAL', /the disk has/);
        await rejects(disk.stream({ offset: disk.size + 1, length: 1 }), 'EINVAL');
        await rejects(disk.stream({ offset: -1, length: 1 }), 'EINVAL');
        await rejects(disk.stream({ offset: 1.5, length: 1 }), 'EINVAL');
        await rejects(disk.stream({ speed: -1 }), 'EINVAL', /speed/);
        await rejects(disk.stream({ onError: 'panic' as 'stop' }), 'EINVAL', /onError.*panic/);
        await rejects(disk.stream({ allocate: 'some' as 'full' }), 'EINVAL', /allocate/);
        await rejects(disk.stream({ order: 7 as unknown as 'sequential' }), 'EINVAL', /profile/);
        await rejects(disk.info(), 'ENOENT', /no job/);
        equal(await disk.remaining(), BASE_SIZE, 'remaining');
      }),
  },
  {
    name: 'before any job, info, abort, pause, resume and setSpeed are ENOENT',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        await rejects(disk.info(), 'ENOENT');
        await rejects(disk.abort(), 'ENOENT');
        await rejects(disk.pause(), 'ENOENT');
        await rejects(disk.resume(), 'ENOENT');
        await rejects(disk.setSpeed(1), 'ENOENT');
      }),
  },
  {
    name: 'nonblock returns while the job is active; info, then one completed event, tell how it stands',
    run: (host) =>
      withHeldBase(host, async (disk, remote) => {
        const events = record(disk);
        const started = await disk.stream({ nonblock: true });
        equal(started.status, JobStatus.ACTIVE, 'status at the start');
        await remote.held();
        const info = await disk.info();
        equal(
          [info.status, info.paused, info.length],
          [JobStatus.ACTIVE, false, BASE_SIZE],
          'status, paused, length',
        );
        ok(info.remaining > 0 && info.remaining <= BASE_SIZE, 'something remains');
        const completed = nextEvent(disk, 'completed');
        await remote.behave({});
        wholeInfo(await completed, JobStatus.COMPLETED, 0);
        wholeInfo(await disk.info(), JobStatus.COMPLETED, 0);
        equal(
          events.filter(({ type }) => type === 'completed' || type === 'failed').length,
          1,
          'final events',
        );
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'a second job on a disk is EBUSY, and so is shrinking it; jobs on other disks are not',
    run: (host) =>
      withHeldBase(host, async (disk, remote) => {
        await disk.stream({ nonblock: true });
        await rejects(disk.stream(), 'EBUSY', /job/);
        await rejects(disk.resize(MIB, { shrink: true }), 'EBUSY', /job/);
        await using(diskOver(host, 'base.raw'), (other) => other.stream());
        const completed = nextEvent(disk, 'completed');
        await remote.behave({});
        await completed;
        equal((await disk.stream()).remaining, 0, 'remaining of the next job');
      }),
  },
  {
    name: 'a disk grows while its job runs',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        await disk.stream({ nonblock: true, speed: 1 });
        await disk.resize(3 * MIB);
        const completed = nextEvent(disk, 'completed');
        await disk.setSpeed(0);
        equal((await completed).length, BASE_SIZE, 'length of the job');
        const content = new Uint8Array(3 * MIB);
        content.set(baseContent());
        await reads(disk, content);
      }),
  },
  {
    name: 'abort ends a nonblock job; what was copied stays, and the job can be taken up again',
    run: (host) =>
      withHeldBase(host, async (disk, remote) => {
        await disk.stream({ nonblock: true });
        await remote.held();
        const failed = nextEvent(disk, 'failed');
        await disk.abort();
        const info = await disk.info();
        equal(
          [info.status, info.reason, info.paused],
          [JobStatus.FAILED, 'aborted', false],
          'status and reason',
        );
        equal(info.remaining, await disk.remaining(), 'remaining');
        equal((await failed).reason, 'aborted', 'reason of the event');
        await rejects(disk.abort(), 'ENOENT');
        await remote.behave({});
        await disk.stream();
        await standsAlone(disk);
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'a blocking job is not for abort, but for its signal',
    run: (host) =>
      withHeldBase(host, async (disk, remote) => {
        const controller = new AbortController();
        const job = disk.stream({ signal: controller.signal });
        const rejected = rejects(job, 'ABORTED', /abort/);
        await remote.held();
        await rejects(disk.abort(), 'ENOENT', /nonblock/);
        controller.abort();
        await rejected;
        equal((await disk.info()).reason, 'aborted', 'reason');
        await rejects(disk.stream({ signal: controller.signal }), 'ABORTED', /before/);
      }),
  },
  {
    name: 'a paused job moves nothing until it is resumed',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const events = record(disk);
        await disk.stream({ nonblock: true, speed: 1 });
        await Promise.all([disk.pause(), disk.pause()]);
        const info = await disk.info();
        equal([info.status, info.paused], [JobStatus.ACTIVE, true], 'status and paused');
        await disk.setSpeed(0);
        await disk.flush();
        equal((await disk.info()).remaining, info.remaining, 'remaining while paused');
        const completed = nextEvent(disk, 'completed');
        await disk.resume();
        await completed;
        equal(
          events.filter(({ type }) => type !== 'progress').map(({ type }) => type),
          ['paused', 'resumed', 'completed'],
          'events',
        );
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'a paused job can be aborted',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        await disk.stream({ nonblock: true, speed: 1 });
        await disk.pause();
        await disk.abort();
        const info = await disk.info();
        equal(
          [info.status, info.reason, info.paused],
          [JobStatus.FAILED, 'aborted', false],
          'status, reason and paused',
        );
      }),
  },
  {
    name: 'speed holds a job back and can be changed while it runs',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        await disk.stream({ nonblock: true, speed: 1 });
        equal((await disk.info()).speed, 1, 'speed');
        await rejects(disk.setSpeed(NaN), 'EINVAL');
        const completed = nextEvent(disk, 'completed');
        await disk.setSpeed(0);
        wholeInfo(await completed, JobStatus.COMPLETED, 0);
        equal((await disk.info()).speed, 0, 'speed');
      }),
  },
  {
    name: 'keepBase leaves the reference to the base',
    run: (host) =>
      using(diskOver(host, 'base-zlib.qcow2'), async (disk) => {
        await disk.stream({ keepBase: true });
        equal(
          [await disk.remaining(), (await disk.images()).length],
          [0, 2],
          'remaining and images',
        );
        await disk.stream();
        await standsAlone(disk);
      }),
  },
  {
    name: 'zeros of the base take no space, unless allocate is full',
    async run(host) {
      const sizes: number[] = [];
      for (const allocate of ['sparse', 'full'] as const) {
        await using(diskOver(host, 'base.raw'), async (disk) => {
          await disk.stream({ allocate });
          await reads(disk, baseContent());
          const list = await extents(disk.map());
          sizes.push(
            list
              .filter(({ state }) => state === 'data')
              .reduce((sum, { length }) => sum + length, 0),
          );
        });
      }
      equal(
        sizes,
        [BASE_RUNS.reduce((sum, { length }) => sum + length, 0), BASE_SIZE],
        'bytes of data, sparse and in full',
      );
    },
  },
  {
    name: 'what the guest writes while a job runs is never overwritten by it',
    run: (host) =>
      withHeldBase(host, async (disk, remote) => {
        const content = baseContent();
        await disk.stream({ nonblock: true });
        await remote.held();
        const places = [FIRST_PAGE_BYTES + 100, 600 * KIB, 1100 * KIB + 3, BASE_SIZE - 700];
        // A write into part of a cluster needs the rest of it from the base, so it ends only when
        // that has come.
        const writes = places.map((at) => disk.write(at, guestData(600, at)));
        for (const at of places) content.set(guestData(600, at), at);
        const completed = nextEvent(disk, 'completed');
        await remote.behave({});
        await Promise.all([completed, ...writes]);
        await reads(disk, content);
        await standsAlone(disk);
      }),
  },
  {
    name: 'the guest reads and writes elsewhere while the base does not answer the job',
    run: (host) =>
      withHeldBase(host, async (disk, remote) => {
        await disk.write(1024 * KIB, guestData(CLUSTER));
        await disk.stream({ nonblock: true, length: MIB });
        await remote.held();
        sameBytes(
          await disk.read(1024 * KIB, CLUSTER),
          guestData(CLUSTER),
          'what was written before',
        );
        await disk.write(1536 * KIB, guestData(CLUSTER, 7));
        sameBytes(
          await disk.read(1536 * KIB, CLUSTER),
          guestData(CLUSTER, 7),
          'what was written meanwhile',
        );
        await disk.abort();
      }),
  },
  {
    name: 'closing a disk ends its job; opened again, the job goes on from there',
    async run(host) {
      const overlay = newOverlay(host);
      const remote = new Remote(host, 'base.raw');
      const disk = await host.createDisk({ overlay, base: remote.url });
      await disk.stream({ length: 512 * KIB });
      await remote.behave({ holdFrom: MIB });
      await disk.stream({ nonblock: true });
      await remote.held();
      await disk.close();
      await remote.behave({});
      await using(host.openDisk({ overlay }), async (again) => {
        equal(await again.remaining(0, 512 * KIB), 0, 'remaining of what was streamed');
        await again.stream();
        await standsAlone(again);
        await reads(again, baseContent());
      });
    },
  },
];
