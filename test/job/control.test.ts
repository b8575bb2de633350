/**
 * The job under its controls: pause, speed, abort, signals, progress. No test here depends on how
 * fast the machine is.
 */
import { describe, expect, it } from 'vitest';
import type { Disk } from '../../hosts/api/disk.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import { makeContent } from '../fixtures/content.ts';
import { writeImage } from '../simulator/writer.ts';
import { Bench, CLUSTER, diskOver, KIB, MIB } from './bench.ts';

/** Bytes of the whole disk that are populated. */
async function copied(disk: Disk): Promise<number> {
  return disk.size - (await disk.remaining());
}

describe('pause', () => {
  it('means no I/O of the job at all, until it is resumed', async () => {
    const { bench, disk } = await diskOver(64 * MIB);
    bench.holds = ({ file }) => file === 'base.raw';
    await disk.stream({ nonblock: true });
    await bench.settle();
    expect(bench.held.length).toBeGreaterThan(0);
    let quiet = false;
    const pausing = disk.pause().then(() => {
      quiet = true;
    });
    await bench.settle();
    expect(quiet).toBe(false);
    expect(await disk.info()).toMatchObject({ status: JobStatus.ACTIVE, paused: true });
    // Copies that had room by then may still ask for their part.
    while (!quiet) {
      await bench.holding.releaseAll();
      await bench.settle();
    }
    await pausing;
    const operations = bench.operations.length;
    const { remaining } = await disk.info();
    await bench.pass(5000, 100);
    expect(bench.operations).toHaveLength(operations);
    expect(await disk.info()).toMatchObject({ paused: true, remaining });
    bench.holds = () => false;
    await disk.resume();
    await bench.settle();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.COMPLETED,
      paused: false,
      remaining: 0,
    });
    expect(bench.told).toEqual(['paused', 'resumed', 'completed']);
    await disk.close();
  });

  it('holds when everything has been handed out already', async () => {
    const { bench, disk } = await diskOver(2 * MIB);
    bench.holds = ({ file }) => file === 'base.raw';
    await disk.stream({ nonblock: true });
    await bench.settle();
    const pausing = disk.pause();
    await bench.holding.releaseAll();
    await pausing;
    await bench.settle();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.ACTIVE,
      paused: true,
      remaining: 0,
    });
    expect(await disk.images()).toHaveLength(2);
    await disk.resume();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED });
    await disk.close();
  });

  it('needs a job, as resume and setSpeed do', async () => {
    const { disk } = await diskOver(MIB);
    for (const call of [disk.pause(), disk.resume(), disk.setSpeed(1)])
      await expect(call).rejects.toMatchObject({ code: 'ENOENT' });
    await disk.close();
  });
});

describe('speed', () => {
  it('holds over every second, from the start', async () => {
    const { bench, disk } = await diskOver(8 * MIB);
    await disk.stream({ nonblock: true, speed: MIB });
    expect(await disk.info()).toMatchObject({ speed: MIB });
    let before = 0;
    for (let second = 0; second < 5; second++) {
      await bench.pass(1000);
      const now = await copied(disk);
      expect(now - before).toBeLessThanOrEqual(MIB * 1.2);
      expect(now - before).toBeGreaterThanOrEqual(MIB * 0.8);
      before = now;
    }
    await disk.close();
  });

  it('may be less than a cluster a second', async () => {
    const { bench, disk } = await diskOver(MIB);
    await disk.stream({ nonblock: true, speed: CLUSTER / 8 });
    await bench.pass(7000, 100);
    expect(await copied(disk)).toBe(0);
    await bench.pass(1200, 100);
    expect(await copied(disk)).toBe(CLUSTER);
    await bench.pass(16_000, 100);
    expect(await copied(disk)).toBe(3 * CLUSTER);
    await disk.close();
  });

  it('can be set while the job runs, up and down, and lifted', async () => {
    const { bench, disk } = await diskOver(32 * MIB);
    await disk.stream({ nonblock: true, speed: 4 * MIB });
    await bench.pass(1000);
    const first = await copied(disk);
    expect(Math.abs(first - 4 * MIB)).toBeLessThan(MIB);
    await disk.setSpeed(512 * KIB);
    await bench.pass(2000);
    expect(Math.abs((await copied(disk)) - first - MIB)).toBeLessThanOrEqual(512 * KIB);
    await disk.setSpeed(0);
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED, speed: 0 });
    await disk.close();
  });

  it('counts from when it is set: what was copied without a limit is not held against the job', async () => {
    const { bench, disk } = await diskOver(64 * MIB);
    bench.holds = ({ file, offset }) => file === 'base.raw' && offset >= 16 * MIB;
    await disk.stream({ nonblock: true });
    await bench.settle();
    const before = await copied(disk);
    expect(before).toBeGreaterThanOrEqual(8 * MIB);
    await disk.setSpeed(MIB);
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await bench.settle();
    const letGo = await copied(disk);
    await bench.pass(2000);
    expect((await copied(disk)) - letGo).toBeGreaterThan(MIB);
    await disk.close();
  });

  it('is refused when it cannot be', async () => {
    const { disk } = await diskOver(MIB);
    const impossible = [-1, NaN, Infinity];
    for (const speed of impossible)
      await expect(disk.stream({ speed })).rejects.toMatchObject({ code: 'EINVAL' });
    await disk.stream({ speed: 1000, nonblock: true });
    for (const speed of impossible)
      await expect(disk.setSpeed(speed)).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(disk.setSpeed(-1)).rejects.toThrow(
      'invalid speed -1: must be 0 or more bytes per second',
    );
    expect(await disk.info()).toMatchObject({ status: JobStatus.ACTIVE, speed: 1000 });
    await disk.close();
  });
});

describe('abort', () => {
  it('cancels what is in flight, keeps what was copied, and tells exactly what remains', async () => {
    const { bench, disk } = await diskOver(64 * MIB);
    bench.holds = ({ file, offset }) => file === 'base.raw' && offset >= 4 * MIB;
    await disk.stream({ nonblock: true });
    await bench.settle();
    // Nothing lets the held reads go: only being cancelled ends them.
    await disk.abort();
    const info = await disk.info();
    expect(info).toMatchObject({ status: JobStatus.FAILED, reason: 'aborted', paused: false });
    expect(info.remaining).toBe(60 * MIB);
    expect(info.remaining).toBe(await disk.remaining());
    expect(bench.told).toEqual(['failed']);
    expect(bench.held).toEqual([]);
    expect(await disk.images()).toHaveLength(2);
    await disk.close();
  });

  it('works while the job is paused', async () => {
    const { disk } = await diskOver(8 * MIB);
    await disk.stream({ nonblock: true, speed: 1 });
    await disk.pause();
    await disk.abort();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.FAILED,
      reason: 'aborted',
      remaining: 8 * MIB,
    });
    await disk.close();
  });

  it('works while the speed holds the job back', async () => {
    const { bench, disk } = await diskOver(8 * MIB);
    await disk.stream({ nonblock: true, speed: 1 });
    await bench.pass(1000, 100);
    await disk.abort();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.FAILED,
      reason: 'aborted',
      remaining: 8 * MIB,
    });
    await disk.close();
  });

  it('is an error without a job, and for one that its caller waits for', async () => {
    const { bench, disk } = await diskOver(8 * MIB);
    await expect(disk.abort()).rejects.toMatchObject({ code: 'ENOENT' });
    bench.holds = ({ file }) => file === 'base.raw';
    const aborter = new AbortController();
    const streaming = disk.stream({ signal: aborter.signal });
    await bench.settle();
    await expect(disk.abort()).rejects.toMatchObject({ code: 'ENOENT' });
    aborter.abort();
    await expect(streaming).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await disk.info()).toMatchObject({
      status: JobStatus.FAILED,
      reason: 'aborted',
      remaining: 8 * MIB,
    });
    await expect(disk.abort()).rejects.toMatchObject({ code: 'ENOENT' });
    await disk.close();
  });

  it('does not wait for a table of the base that does not come, for which a guest goes on waiting', async () => {
    const bench = new Bench();
    const content = makeContent('random', 1, MIB);
    bench.runtime.add(
      'base.qcow2',
      writeImage({
        version: 3,
        clusterBits: 16,
        refcountOrder: 4,
        extendedL2: false,
        content,
        fills: ['data'],
      }),
    );
    const disk = await bench.create({ base: 'base.qcow2' });
    bench.holds = ({ kind, file }) => kind === 'read' && file === 'base.qcow2';
    await disk.stream({ nonblock: true });
    await bench.settle();
    expect(bench.held.map(({ operation }) => operation.background)).toEqual([false]);
    const reading = disk.read(100, 1000);
    await bench.settle();
    await disk.abort();
    expect(await disk.info()).toMatchObject({ status: JobStatus.FAILED, reason: 'aborted' });
    await bench.settle();
    bench.holds = () => false;
    await bench.holding.releaseAll();
    expect(Buffer.compare(await reading, content.subarray(100, 1100))).toBe(0);
    await disk.close();
  });

  it('does not wait for what a guest has asked the base for: data, or a table', async () => {
    for (const asks of ['data', 'table']) {
      const bench = new Bench();
      const content = makeContent('random', 1, MIB);
      bench.runtime.add(
        'base.qcow2',
        writeImage({
          version: 3,
          clusterBits: 16,
          refcountOrder: 4,
          extendedL2: false,
          content,
          fills: Array.from({ length: 16 }, () => 'data'),
        }),
      );
      const disk = await bench.create({ base: 'base.qcow2' });
      // The tables of the base are in the cache then.
      if (asks === 'data') await disk.read(CLUSTER, 10);
      bench.holds = ({ kind, file }) => kind === 'read' && file === 'base.qcow2';
      const reading = disk.read(100, 1000);
      await bench.settle();
      expect(bench.held).toHaveLength(1);
      await disk.stream({ nonblock: true });
      await bench.settle();
      let isOver = false;
      const aborting = disk.abort().then(() => {
        isOver = true;
      });
      await bench.settle();
      expect(isOver, asks).toBe(true);
      expect(bench.held).toHaveLength(1);
      bench.holds = () => false;
      await bench.holding.releaseAll();
      await aborting;
      expect(Buffer.compare(await reading, content.subarray(100, 1100))).toBe(0);
      await disk.close();
    }
  });

  it('counts the holes that were left out though a guest waits for the base', async () => {
    const bench = new Bench();
    const content = new Uint8Array(16 * MIB);
    content.set(makeContent('random', 1, MIB));
    const fills = Array.from({ length: (16 * MIB) / (4 * KIB) }, (_, cluster) =>
      cluster < 256 ? ('data' as const) : ('absent' as const),
    );
    bench.runtime.add(
      'base.qcow2',
      writeImage({
        version: 3,
        clusterBits: 12,
        refcountOrder: 4,
        extendedL2: false,
        content,
        fills,
      }),
    );
    const disk = await bench.create({ base: 'base.qcow2', clusterSize: 4 * KIB });
    await disk.read(MIB - 4 * KIB, 10);
    bench.holds = ({ kind, file }) => kind === 'read' && file === 'base.qcow2';
    const reading = disk.read(0, 10);
    await disk.stream({ nonblock: true });
    await bench.settle();
    expect((await disk.info()).remaining).toBeLessThan(3 * MIB);
    let isOver = false;
    const aborting = disk.abort().then(() => {
      isOver = true;
    });
    await bench.settle();
    expect(isOver).toBe(true);
    const { remaining } = await disk.info();
    expect(remaining).toBeGreaterThan(14 * MIB);
    expect(remaining).toBe(await disk.remaining());
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await Promise.all([aborting, reading]);
    await disk.close();
  });

  it.each([1, 2, 3, 4])(
    'comes to rest while a flush of the job is under way and another has failed (flush %i)',
    async (when) => {
      const { bench, disk } = await diskOver(MIB);
      bench.holds = ({ kind, file }) => kind === 'flush' && file === 'overlay.qcow2';
      await disk.stream({ nonblock: true });
      for (let flush = 1; flush < when; flush++) {
        await bench.settle();
        await bench.held[0]?.release();
      }
      await bench.settle();
      const flushing = disk.flush();
      flushing.catch(() => {});
      await bench.settle();
      if (bench.held.length > 1) await bench.held.at(-1)!.fail(new Error('unplugged'));
      await bench.settle();
      const aborting = disk.abort().catch(() => {});
      await bench.settle();
      // Nothing is due now: else the engine would go round until the flush has ended.
      expect(bench.runtime.clock.next ?? Infinity).toBeGreaterThan(bench.runtime.clock.now());
      bench.holds = () => false;
      await bench.holding.releaseAll();
      await aborting;
      await disk.close().catch(() => {});
    },
  );

  it('by a signal that was aborted before starts nothing', async () => {
    const { disk } = await diskOver(MIB);
    await expect(disk.stream({ signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    await expect(disk.info()).rejects.toMatchObject({ code: 'ENOENT' });
    await disk.close();
  });

  it('is followed by a stream that copies only the rest', async () => {
    const bench = new Bench();
    const content = bench.addBase(16 * MIB);
    const disk = await bench.create();
    bench.holds = ({ file, offset }) => file === 'base.raw' && offset >= 4 * MIB;
    await disk.stream({ nonblock: true });
    await bench.settle();
    await disk.abort();
    bench.holds = () => false;
    bench.operations.length = 0;
    await disk.stream();
    expect(bench.of('read', 'base.raw').reduce((bytes, { length }) => bytes + length, 0)).toBe(
      12 * MIB,
    );
    expect(Buffer.compare(await disk.read(0, content.length), content)).toBe(0);
    await disk.close();
  });

  it('is what closing the disk does to its job', async () => {
    const { bench, disk } = await diskOver(8 * MIB);
    await disk.stream({ nonblock: true, speed: 1 });
    await disk.close();
    expect(bench.told).toEqual(['failed']);
    expect(bench.events.at(-1)?.detail).toMatchObject({
      status: JobStatus.FAILED,
      reason: 'aborted',
    });
  });
});

describe('progress', () => {
  it('is told at most ten times a second, goes one way, and ends exact', async () => {
    const { bench, disk } = await diskOver(16 * MIB);
    await disk.stream({ nonblock: true, speed: 4 * MIB });
    for (let second = 0; second < 3; second++) {
      const before = bench.events.length;
      await bench.pass(1000, 5);
      expect(bench.events.length - before).toBeLessThanOrEqual(11);
      expect(bench.events.length - before).toBeGreaterThanOrEqual(5);
    }
    await bench.pass(3000, 20);
    const remaining = bench.events.map(({ detail }) => detail.remaining);
    expect(remaining).toEqual([...remaining].sort((a, b) => b - a));
    expect(bench.events.at(-1)).toMatchObject({ type: 'completed', detail: { remaining: 0 } });
    await disk.close();
  });
});

it('a job that is asked for while the disk shrinks is of what is left of it', async () => {
  const { bench, disk } = await diskOver(8 * MIB);
  // The end of the last cluster is read before it becomes zeros.
  bench.holds = ({ kind, file }) => kind === 'read' && file === 'base.raw';
  const resizing = disk.resize(4 * MIB + 512, { shrink: true });
  await bench.settle();
  expect(bench.held).toHaveLength(1);
  const job = disk.stream();
  await bench.settle();
  bench.holds = () => false;
  await bench.holding.releaseAll();
  await resizing;
  expect(await job).toMatchObject({
    status: JobStatus.COMPLETED,
    length: 4 * MIB + 512,
    remaining: 0,
  });
  expect(await disk.remaining()).toBe(0);
  await disk.close();
});
