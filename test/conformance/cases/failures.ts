/** Jobs that meet errors: each policy of `onError`. */

import type { Disk } from '../../../hosts/api/disk.ts';
import { JobStatus } from '../../../hosts/api/job.ts';
import type { Adapter, Case } from '../adapter.ts';
import { equal, ok, rejects } from '../assert.ts';
import { baseContent, MIB } from '../content.ts';
import { Remote } from '../remote.ts';
import { newOverlay, nextEvent, reads, record, standsAlone, using } from '../support.ts';

/** A disk whose base refuses its second half. */
async function withHalfBase(
  host: Adapter,
  body: (disk: Disk, remote: Remote) => Promise<void>,
): Promise<void> {
  const remote = new Remote(host, 'base.raw');
  await using(
    host.createDisk({ overlay: newOverlay(host), base: remote.url, copyOnRead: false }),
    async (disk) => {
      await remote.behave({ refuseFrom: MIB });
      await body(disk, remote);
    },
  );
}

export const failureCases: readonly Case[] = [
  {
    name: 'report ends the job: it rejects, and info says what is missing and why',
    run: (host) =>
      withHalfBase(host, async (disk, remote) => {
        const events = record(disk);
        await rejects(disk.stream(), 'EACCES', /403/);
        const info = await disk.info();
        equal(
          [info.status, info.reason, info.error?.code],
          [JobStatus.FAILED, 'error', 'EACCES'],
          'status, reason and code',
        );
        ok(info.error!.message.includes(remote.url), 'the message names the base');
        equal(info.remaining, await disk.remaining(), 'remaining');
        equal(
          events.filter(({ type }) => type !== 'progress').map(({ type }) => type),
          ['failed'],
          'events',
        );
        await remote.behave({});
        await disk.stream();
        await standsAlone(disk);
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'stop pauses the job, which goes on when it is resumed',
    run: (host) =>
      withHalfBase(host, async (disk, remote) => {
        const paused = nextEvent(disk, 'paused');
        await disk.stream({ nonblock: true, onError: 'stop' });
        const told = await paused;
        equal(
          [told.status, told.paused, told.error?.code],
          [JobStatus.ACTIVE, true, 'EACCES'],
          'status, paused and code',
        );
        equal((await disk.info()).paused, true, 'paused');
        await remote.behave({});
        const completed = nextEvent(disk, 'completed');
        await disk.resume();
        equal((await completed).remaining, 0, 'remaining');
        await standsAlone(disk);
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'ignore goes on to the end, fails with the first error, and keeps the base',
    run: (host) =>
      withHalfBase(host, async (disk, remote) => {
        await rejects(disk.stream({ onError: 'ignore' }), 'EACCES');
        const info = await disk.info();
        equal(
          [info.status, info.error?.code, info.remaining],
          [JobStatus.FAILED, 'EACCES', await disk.remaining()],
          'status, code and remaining',
        );
        equal((await disk.images()).length, 2, 'images');
        await remote.behave({});
        await reads(disk, baseContent());
      }),
  },
  {
    name: 'enospc ends the job on an error of the base',
    run: (host) =>
      withHalfBase(host, async (disk) => {
        await rejects(disk.stream({ onError: 'enospc' }), 'EACCES');
        equal((await disk.info()).status, JobStatus.FAILED, 'status');
      }),
  },
  {
    name: 'a nonblock job that fails tells it by info and one failed event',
    run: (host) =>
      withHalfBase(host, async (disk) => {
        const events = record(disk);
        const failed = nextEvent(disk, 'failed');
        await disk.stream({ nonblock: true });
        equal((await failed).error?.code, 'EACCES', 'code of the event');
        equal((await disk.info()).error?.code, 'EACCES', 'code of info');
        await rejects(disk.abort(), 'ENOENT');
        equal(events.filter(({ type }) => type === 'failed').length, 1, 'failed events');
      }),
  },
];
