/** The job when I/O fails: what each policy makes of it. */
import { describe, expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { OnError } from '../../hosts/api/job.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import { Bench, CLUSTER, MIB, touches } from './bench.ts';

const SIZE = 8 * MIB;
const BAD = 3 * MIB + 2 * CLUSTER;

/** A disk over a base of which one cluster cannot be read until `heal` is called. */
async function badBase(): Promise<{
  bench: Bench;
  content: Uint8Array;
  disk: Disk;
  heal: () => void;
}> {
  const bench = new Bench();
  const content = bench.addBase(SIZE);
  const disk = await bench.create();
  bench.fails = (operation) =>
    touches(operation, 'base.raw', BAD, CLUSTER)
      ? new MillraceError('EIO', 'injected into a read of the base')
      : undefined;
  return {
    bench,
    content,
    disk,
    heal: () => {
      bench.fails = () => undefined;
    },
  };
}

/** A disk whose storage takes no data from `bytes` bytes of file on, until `heal` is called. */
async function fullDisk(
  bytes: number,
): Promise<{ bench: Bench; content: Uint8Array; disk: Disk; heal: () => void }> {
  const bench = new Bench();
  const content = bench.addBase(SIZE);
  const disk = await bench.create();
  bench.fails = ({ kind, file, offset, length }) =>
    kind === 'write' && file === 'overlay.qcow2' && offset + length > bytes
      ? new MillraceError('ENOSPC', 'injected: no space left')
      : undefined;
  return {
    bench,
    content,
    disk,
    heal: () => {
      bench.fails = () => undefined;
    },
  };
}

async function mustShow(disk: Disk, content: Uint8Array): Promise<void> {
  expect(Buffer.compare(await disk.read(0, content.length), content)).toBe(0);
}

describe('report', () => {
  it.each(['report', 'enospc'] as OnError[])(
    'ends the job with the error, and tells exactly what remains (%s)',
    async (onError) => {
      const { bench, content, disk, heal } = await badBase();
      await expect(disk.stream({ onError })).rejects.toMatchObject({
        code: 'EIO',
        message: 'injected into a read of the base',
      });
      const info = await disk.info();
      expect(info).toMatchObject({
        status: JobStatus.FAILED,
        reason: 'error',
        error: { code: 'EIO' },
      });
      expect(info.error?.offset).toBeGreaterThanOrEqual(BAD - MIB);
      expect(info.error?.offset).toBeLessThan(BAD + CLUSTER);
      expect(info.remaining).toBeGreaterThanOrEqual(CLUSTER);
      expect(info.remaining).toBe(await disk.remaining());
      expect(bench.told).toEqual(['failed']);
      expect(await disk.images()).toHaveLength(2);
      heal();
      await disk.stream();
      await mustShow(disk, content);
      await disk.close();
    },
  );

  it('is what a full storage means too', async () => {
    const { disk } = await fullDisk(3 * MIB);
    await expect(disk.stream()).rejects.toMatchObject({ code: 'ENOSPC' });
    const info = await disk.info();
    expect(info.remaining).toBe(await disk.remaining());
    await disk.close().catch(() => {});
  });
});

describe('enospc', () => {
  it('takes no more room for the rest than the rest needs, once there is some', async () => {
    const { bench, content, disk, heal } = await fullDisk(5 * MIB);
    await disk.stream({ onError: 'enospc', nonblock: true });
    await bench.settle();
    expect(await disk.info()).toMatchObject({ paused: true, error: { code: 'ENOSPC' } });
    heal();
    await disk.resume();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED });
    await mustShow(disk, content);
    await disk.close();
    expect(bench.runtime.file('overlay.qcow2').size).toBeLessThan(SIZE + 8 * CLUSTER);
  });
});

describe('stop', () => {
  it('is not said again of what was under way when the job was resumed', async () => {
    const bench = new Bench();
    const content = bench.addBase(SIZE);
    const disk = await bench.create();
    const noSpace = new MillraceError('ENOSPC', 'injected: no space left');
    bench.holds = ({ kind, file, length }) =>
      kind === 'write' && file === 'overlay.qcow2' && length >= CLUSTER;
    await disk.stream({ onError: 'enospc', nonblock: true });
    await bench.settle();
    const [first, ...others] = [...bench.held];
    expect(others.length).toBeGreaterThan(0);
    await first.fail(noSpace);
    await bench.settle();
    expect(bench.told).toEqual(['paused']);
    bench.holds = () => false;
    await disk.resume();
    for (const write of others) await write.fail(noSpace);
    await bench.settle();
    expect(bench.told).toEqual(['paused', 'resumed', 'completed']);
    await mustShow(disk, content);
    await disk.close();
  });

  it('pauses the job, which goes on from there when it is resumed', async () => {
    const { bench, content, disk, heal } = await badBase();
    await disk.stream({ onError: 'stop', nonblock: true });
    await bench.settle();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.ACTIVE,
      paused: true,
      error: { code: 'EIO' },
    });
    expect(bench.told).toEqual(['paused']);
    await disk.resume();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.ACTIVE, paused: true });
    heal();
    await disk.resume();
    await bench.settle();
    const info = await disk.info();
    expect(info).toMatchObject({ status: JobStatus.COMPLETED, remaining: 0, paused: false });
    expect(info.error).toBeUndefined();
    expect(bench.told).toEqual(['paused', 'resumed', 'paused', 'resumed', 'completed']);
    expect(await disk.images()).toHaveLength(1);
    await mustShow(disk, content);
    await disk.close();
  });

  it('can be aborted while an error has paused it', async () => {
    const { bench, disk } = await badBase();
    await disk.stream({ onError: 'stop', nonblock: true });
    await bench.settle();
    await disk.abort();
    const info = await disk.info();
    expect(info).toMatchObject({ status: JobStatus.FAILED, reason: 'aborted' });
    expect(info.remaining).toBe(await disk.remaining());
    await disk.close();
  });

  it('does not take data for the zeros that it was looking at when the error came', async () => {
    const bench = new Bench();
    // Small clusters make a base of many tables, which tell of zeros behind the first MiB.
    const content = bench.addBase(16 * MIB, 'lowest.raw');
    content.fill(0, MIB);
    const middle = await bench.runtime.create({
      overlay: 'base.qcow2',
      base: 'lowest.raw',
      clusterSize: 512,
    });
    await middle.writeZeroes(MIB, 15 * MIB);
    await middle.close();
    const disk = await bench.create({ base: 'base.qcow2', followChain: true });
    bench.holds = () => true;
    const streaming = disk.stream({ onError: 'stop', nonblock: true });
    const held = (file: string) => bench.held.filter(({ operation }) => operation.file === file);
    while (held('lowest.raw').length === 0) {
      for (const operation of [...held('base.qcow2'), ...held('overlay.qcow2')])
        await operation.release();
      await bench.settle();
    }
    await streaming;
    // The search for the end of the zeros has come some way, and waits for its next table.
    await held('base.qcow2')[0]?.release();
    await bench.settle();
    expect(held('base.qcow2')).not.toEqual([]);
    for (const read of held('lowest.raw')) await read.fail(new MillraceError('EIO', 'injected'));
    await bench.settle();
    expect(await disk.info()).toMatchObject({ paused: true });
    bench.holds = () => false;
    await disk.resume();
    await bench.holding.releaseAll();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED });
    await mustShow(disk, content);
    await disk.close();
  });
});

describe('ignore', () => {
  it('goes on, and ends as failed with the first error and the base kept', async () => {
    const { bench, content, disk, heal } = await badBase();
    await expect(disk.stream({ onError: 'ignore' })).rejects.toMatchObject({ code: 'EIO' });
    const info = await disk.info();
    expect(info).toMatchObject({
      status: JobStatus.FAILED,
      reason: 'error',
      error: { code: 'EIO' },
    });
    // A chunk is left out at most.
    expect(info.remaining).toBeGreaterThanOrEqual(CLUSTER);
    expect(info.remaining).toBeLessThanOrEqual(MIB);
    expect(info.remaining).toBe(await disk.remaining());
    expect(bench.told).toEqual(['failed']);
    expect(await disk.images()).toHaveLength(2);
    heal();
    await mustShow(disk, content);
    await disk.close();
  });

  it('tells the first error in its own words, however many came after it', async () => {
    const bench = new Bench();
    let failed = 0;
    // It takes no memory, and is a thousand chunks long.
    const base: BlockSource = {
      name: 'base.raw',
      size: 1024 * MIB,
      read: () => {
        throw new Error(`cable ${++failed} unplugged`);
      },
      close: () => {},
    };
    const disk = await bench.create({ base, baseFormat: 'raw' });
    for (let round = 0; round < 2; round++) {
      const first = failed + 1;
      await expect(disk.stream({ onError: 'ignore' })).rejects.toMatchObject({
        code: 'EIO',
        message: `cannot stream: base.raw: cable ${first} unplugged`,
      });
      expect(failed - first).toBeGreaterThan(512);
    }
    await disk.close();
  });
});

describe('enospc', () => {
  it('pauses on a full storage, and goes on when there is room', async () => {
    const { bench, content, disk, heal } = await fullDisk(3 * MIB);
    await disk.stream({ onError: 'enospc', nonblock: true });
    await bench.settle();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.ACTIVE,
      paused: true,
      error: { code: 'ENOSPC' },
    });
    // The guest goes on: a read need not be kept, and what is there can be written.
    expect(
      Buffer.compare(await disk.read(6 * MIB, 4096), content.subarray(6 * MIB, 6 * MIB + 4096)),
    ).toBe(0);
    heal();
    await disk.resume();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED, remaining: 0 });
    await mustShow(disk, content);
    await disk.close();
  });
});

describe('an error of the last moments', () => {
  it('is not forgotten by a resume that comes before the job has ended', async () => {
    const { bench, disk, heal } = await badBase();
    bench.holds = ({ file, offset }) => file === 'base.raw' && offset < MIB;
    await disk.stream({ nonblock: true });
    const pausing = disk.pause();
    await bench.settle();
    await disk.resume();
    heal();
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await pausing;
    await bench.settle();
    expect(await disk.info()).toMatchObject({
      status: JobStatus.FAILED,
      reason: 'error',
      error: { code: 'EIO' },
    });
    expect(await disk.images()).toHaveLength(2);
    await disk.close();
  });
});
