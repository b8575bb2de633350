/** The guest, alone and beside the job: who goes first, who fetches, what is freed. */
import { describe, expect, it } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import { Bench, CLUSTER, diskOver, KIB, MIB } from './bench.ts';

describe('a guest beside the job', () => {
  it('never makes a cluster be fetched twice, whoever wants it: reads, their read-ahead, the job', async () => {
    const bench = new Bench();
    bench.runtime.remote = { chunk: MIB, depth: 8 };
    const content = bench.addBase(16 * MIB);
    const disk = await bench.create();
    bench.holds = ({ file }) => file === 'base.raw';
    await disk.stream({ nonblock: true });
    const reads: Promise<boolean>[] = [];
    for (let at = 0; at < 16 * MIB; at += 640 * KIB) {
      reads.push(
        disk
          .read(at, 4096)
          .then((bytes) => Buffer.compare(bytes, content.subarray(at, at + 4096)) === 0),
      );
    }
    while ((await disk.info()).status === JobStatus.ACTIVE) {
      await bench.holding.held.at(-1)?.release();
      await bench.settle();
    }
    expect(await Promise.all(reads)).not.toContain(false);
    expect(bench.readTwice('base.raw', 16 * MIB)).toBe(0);
    await disk.close();
  });

  it('finds no more on the line to a far base than keeps it busy', async () => {
    const bench = new Bench();
    bench.runtime.remote = { chunk: MIB, depth: 8 };
    bench.addBase(256 * MIB);
    const disk = await bench.create();
    const bytesUnderWay = (): number =>
      bench.held.reduce((sum, { operation }) => sum + operation.length, 0);
    bench.holds = ({ kind, file }) => kind === 'read' && file === 'base.raw';
    await disk.stream({ nonblock: true });
    await bench.settle();
    expect(bytesUnderWay()).toBe(4 * MIB);
    const releaseAll = async (eachMs: number): Promise<void> => {
      for (const held of [...bench.held]) {
        await bench.pass(eachMs);
        await held.release();
        await bench.settle();
      }
    };
    // A line that is long, and quick: it takes all that there is.
    for (let trip = 0; trip < 3; trip++) {
      await bench.pass(300);
      await releaseAll(0);
    }
    expect(bytesUnderWay()).toBeGreaterThan(16 * MIB);
    // One of 50 Mbit/s: what takes so much longer was too much at once.
    for (let trip = 0; trip < 3; trip++) await releaseAll(160);
    expect(bytesUnderWay()).toBeLessThanOrEqual(8 * MIB);
    // It has become longer, and is as quick as before.
    for (let trip = 0; trip < 6; trip++) {
      await bench.pass(900);
      await releaseAll(0);
    }
    expect(bytesUnderWay()).toBeGreaterThan(12 * MIB);
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED });
    await disk.close();
  });

  it('keeps what it wrote against data of the base that comes later', async () => {
    const { bench, disk } = await diskOver(4 * MIB);
    bench.holds = ({ file }) => file === 'base.raw';
    await disk.stream({ nonblock: true });
    await bench.settle();
    const writes = [100, MIB + 5, 3 * MIB].map((at) =>
      disk.write(at, new Uint8Array(3000).fill(7)),
    );
    await bench.settle();
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await Promise.all(writes);
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED });
    for (const at of [100, MIB + 5, 3 * MIB])
      expect((await disk.read(at, 3000)).every((byte) => byte === 7)).toBe(true);
    await disk.close();
  });

  it('reads on while the job is held back', async () => {
    const bench = new Bench();
    const content = bench.addBase(8 * MIB);
    const disk = await bench.create();
    await disk.stream({ nonblock: true, speed: 1 });
    expect(
      Buffer.compare(await disk.read(5 * MIB, 4096), content.subarray(5 * MIB, 5 * MIB + 4096)),
    ).toBe(0);
    expect((await disk.info()).remaining).toBe(8 * MIB - CLUSTER);
    await disk.close();
  });

  it('can grow the disk: what is gained reads as zeros, and the base goes when the job is done', async () => {
    const bench = new Bench();
    const content = bench.addBase(6 * MIB);
    const disk = await bench.create({ size: 4 * MIB });
    bench.holds = ({ file, offset }) => file === 'base.raw' && offset >= 2 * MIB;
    await disk.stream({ nonblock: true });
    await bench.settle();
    await expect(disk.resize(MIB, { shrink: true })).rejects.toMatchObject({ code: 'EBUSY' });
    const growing = disk.resize(9 * MIB + 512);
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await growing;
    await bench.settle();
    expect(disk.size).toBe(9 * MIB + 512);
    expect(await disk.info()).toMatchObject({
      status: JobStatus.COMPLETED,
      length: 4 * MIB,
      remaining: 0,
    });
    expect(await disk.images()).toHaveLength(1);
    const expected = Buffer.alloc(9 * MIB + 512);
    expected.set(content.subarray(0, 4 * MIB));
    expect(Buffer.compare(await disk.read(0, disk.size), expected)).toBe(0);
    await disk.close();
  });
});

describe('a flush', () => {
  it('tries again what a write-back before it could not write, where the cause is gone', async () => {
    const bench = new Bench();
    const disk = await bench.create({ base: undefined, size: 512 * MIB });
    await disk.write(MIB, new Uint8Array(CLUSTER));
    await disk.flush();
    // Two sectors of one L2 table, far from each other.
    bench.holds = ({ kind, length }) => kind === 'write' && length < CLUSTER;
    for (const at of [0, 256 * MIB]) await disk.write(at, new Uint8Array(CLUSTER).fill(5));
    const first = disk.flush().catch((error) => error);
    await bench.settle();
    while (bench.held.length < 2) {
      await bench.holding.releaseAll();
      await bench.settle();
    }
    await bench.held[0].fail(new MillraceError('EIO', 'injected into a write'));
    await bench.settle();
    const second = disk.flush();
    await bench.settle();
    bench.holds = () => false;
    await bench.holding.releaseAll();
    expect(await first).toMatchObject({ code: 'EIO', message: 'injected into a write' });
    await second;
    await disk.close();
    const again = await bench.runtime.open({ overlay: 'overlay.qcow2' });
    for (const at of [0, 256 * MIB])
      expect((await again.read(at, CLUSTER)).every((byte) => byte === 5)).toBe(true);
    await again.close();
  });
});

describe('a write of many pieces', () => {
  it('is over when it fails: nothing of it comes after what the guest does next', async () => {
    const bench = new Bench();
    const disk = await bench.create({ base: undefined, size: 32 * MIB });
    bench.holds = ({ kind, length }) => kind === 'write' && length >= CLUSTER;
    let failed = false;
    const writing = disk.write(0, new Uint8Array(32 * MIB).fill(1)).catch(() => {
      failed = true;
    });
    await bench.settle();
    await bench.held[0].fail(new MillraceError('EIO', 'injected'));
    await bench.settle();
    expect(failed).toBe(false);
    while (!failed) {
      await bench.holding.releaseAll();
      await bench.settle();
    }
    await writing;
    bench.holds = () => false;
    const operations = bench.of('write', 'overlay.qcow2').length;
    await bench.settle();
    expect(bench.of('write', 'overlay.qcow2')).toHaveLength(operations);
    expect((await disk.read(24 * MIB, 8 * MIB)).every((byte) => byte === 0)).toBe(true);
    await disk.close();
  });
});

describe('discard', () => {
  it('frees clusters: their space goes back to the storage, and they are taken again', async () => {
    const { bench, disk } = await diskOver(4 * MIB);
    await disk.stream();
    await disk.flush();
    const file = bench.runtime.file('overlay.qcow2');
    const full = file.size;
    await disk.discard(MIB, MIB);
    await disk.flush();
    await bench.settle();
    expect(file.discarded).toBe(MIB);
    await disk.write(MIB, new Uint8Array(MIB).fill(3));
    expect(file.size).toBe(full);
    expect((await disk.read(MIB, MIB)).every((byte) => byte === 3)).toBe(true);
    await disk.close();
  });

  it('does not hit who takes the cluster next, however late the storage is with it', async () => {
    const { bench, disk } = await diskOver(MIB);
    await disk.stream();
    bench.holds = ({ kind }) => kind === 'discard';
    await disk.discard(0, MIB);
    await disk.flush();
    const flushing = disk.flush();
    await bench.settle();
    const writing = disk.write(0, new Uint8Array(MIB).fill(5));
    await bench.settle();
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await Promise.all([flushing, writing]);
    await disk.flush();
    await bench.settle();
    expect((await disk.read(0, MIB)).every((byte) => byte === 5)).toBe(true);
    await disk.close();
  });

  it('of more scattered clusters than are noted at once comes to an end', async () => {
    const bench = new Bench();
    bench.addBase(4 * MIB);
    const disk = await bench.create({ clusterSize: 512 });
    await disk.stream();
    for (let at = 0; at < 4 * MIB; at += 1024) await disk.discard(at, 512);
    await disk.flush();
    expect((await disk.read(1024, 512)).every((byte) => byte === 0)).toBe(true);
    await disk.close();
    expect(bench.runtime.file('overlay.qcow2').discarded).toBe(2 * MIB);
  });
});

describe('read-ahead', () => {
  /** What else is in the overlay already. */
  type Range = { offset: number; length: number };

  /** Bytes of the base that each of a row of guest reads brings about. */
  async function fetched(offsets: number[], length: number, there?: Range): Promise<number[]> {
    const bench = new Bench();
    bench.runtime.remote = { chunk: MIB, depth: 8 };
    bench.addBase(64 * MIB);
    const disk = await bench.create();
    if (there) await disk.stream(there);
    const bytes: number[] = [];
    for (const offset of offsets) {
      const before = bench.of('read', 'base.raw').length;
      await disk.read(offset, length);
      await bench.settle();
      bytes.push(
        bench
          .of('read', 'base.raw')
          .slice(before)
          .reduce((sum, operation) => sum + operation.length, 0),
      );
    }
    await disk.close();
    return bytes;
  }

  it('grows while reads stay sequential, so that most of them find everything there', async () => {
    const offsets = Array.from({ length: 256 }, (_, index) => index * CLUSTER);
    const bytes = await fetched(offsets, CLUSTER);
    const requests = bytes.filter((count) => count > 0).length;
    expect(requests).toBeLessThan(64);
    expect(Math.max(...bytes)).toBeGreaterThanOrEqual(MIB);
    expect(Math.max(...bytes)).toBeLessThanOrEqual(5 * MIB);
  });

  it('fetches what lies around a jump, so that reads beside it find everything there', async () => {
    const near = [0, 3, -2, 4].map((clusters) => clusters * CLUSTER);
    const offsets = [21, 3, 40, 9].flatMap((at) => near.map((by) => at * MIB + 2 * CLUSTER + by));
    const bytes = await fetched(offsets, 4096);
    expect(bytes).toEqual([21, 3, 40, 9].flatMap(() => [512 * KIB, 0, 0, 0]));
  });

  it('fetches nothing more than is asked for when they jump about, but for a few trials', async () => {
    const offsets = Array.from({ length: 64 }, (_, index) => ((index * 37 + 5) % 64) * MIB);
    const bytes = await fetched(offsets, 4096);
    // Eight before the first one's use is known, and four that were for nothing.
    expect(bytes.slice(0, 12)).toEqual(Array(12).fill(512 * KIB));
    const more = bytes.slice(12).filter((count) => count !== CLUSTER);
    expect(more).toEqual(Array(6).fill(512 * KIB));
  });

  it('fetches nothing ahead of what is there already, however far it went elsewhere', async () => {
    const row = Array.from({ length: 128 }, (_, index) => index * CLUSTER);
    const there = { offset: 40 * MIB, length: MIB };
    const again = Array.from({ length: MIB / CLUSTER }, (_, index) => 40 * MIB + index * CLUSTER);
    const bytes = await fetched([...row, ...again], CLUSTER, there);
    expect(Math.max(...bytes.slice(0, row.length))).toBeGreaterThanOrEqual(MIB);
    expect(bytes.slice(row.length)).toEqual(again.map(() => 0));
  });

  it('shrinks when a sequence ends', async () => {
    const row = Array.from({ length: 128 }, (_, index) => index * CLUSTER);
    const jumps = Array.from({ length: 24 }, (_, index) => (20 + ((index * 7) % 32)) * MIB);
    const bytes = await fetched([...row, ...jumps], 4096);
    // By then they are known to be jumps without return.
    expect(bytes.slice(-7)).toEqual(Array(7).fill(CLUSTER));
  });
});
