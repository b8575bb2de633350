/**
 * What waits for a job leaves nothing behind at its disk, however often it does: an alarm a minute,
 * for days.
 */
import { getEventListeners } from 'node:events';
import { expect, it } from 'vitest';
import type { Disk } from '../../hosts/api/disk.ts';
import { untilJobRests } from '../../hosts/edge/job-rest.ts';

function diskWith(info: { status: number; paused: boolean } | undefined): Disk {
  return Object.assign(new EventTarget(), {
    info: () => (info ? Promise.resolve(info) : Promise.reject(new Error('no job'))),
  }) as unknown as Disk;
}

function listenersOf(target: EventTarget): number {
  return ['completed', 'failed', 'paused', 'abort'].reduce(
    (sum, type) => sum + getEventListeners(target, type).length,
    0,
  );
}

it.each(['completed', 'failed', 'paused'])('waits for a job until it has %s', async (type) => {
  const disk = diskWith({ status: 1, paused: false });
  const { signal } = new AbortController();
  const still = untilJobRests(disk, signal);
  expect(listenersOf(disk)).toBeGreaterThan(0);
  disk.dispatchEvent(new Event(type));
  await still;
  expect([listenersOf(disk), listenersOf(signal)]).toEqual([0, 0]);
});

it('waits no longer than it is let', async () => {
  const disk = diskWith({ status: 1, paused: false });
  const enough = new AbortController();
  const still = untilJobRests(disk, enough.signal);
  enough.abort();
  await still;
  await untilJobRests(disk, enough.signal);
  expect([listenersOf(disk), listenersOf(enough.signal)]).toEqual([0, 0]);
});

it.each([[undefined], [{ status: 0, paused: false }], [{ status: 1, paused: true }]])(
  'does not wait for %o',
  async (info) => {
    const disk = diskWith(info);
    await untilJobRests(disk, new AbortController().signal);
    expect(listenersOf(disk)).toBe(0);
  },
);
