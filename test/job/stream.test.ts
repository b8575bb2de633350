/**
 * The job without disturbance: what it copies, where it ends, and what it tells. After the
 * scenarios of QEMU's iotest 030.
 */
import { describe, expect, it } from 'vitest';
import { JobStatus } from '../../hosts/api/job.ts';
import { Domain } from '../../hosts/disk/domain.ts';
import { Bench, CLUSTER, diskOver, MIB } from './bench.ts';

describe('a stream of the whole disk', () => {
  it('copies the base, takes the reference to it away, and tells once that it has ended', async () => {
    const bench = new Bench();
    const content = bench.addBase(8 * MIB + 512);
    const disk = await bench.create();
    await disk.write(3 * MIB + 7, new Uint8Array(100).fill(9));
    content.fill(9, 3 * MIB + 7, 3 * MIB + 107);
    const info = await disk.stream();
    expect(info).toMatchObject({
      status: JobStatus.COMPLETED,
      remaining: 0,
      offset: 0,
      length: content.length,
      paused: false,
      speed: 0,
    });
    expect(await disk.info()).toEqual(info);
    expect(bench.told).toEqual(['completed']);
    expect(await disk.images()).toHaveLength(1);
    await disk.close();
    bench.runtime.files.delete('base.raw');
    const alone = await bench.runtime.open({ overlay: 'overlay.qcow2' });
    expect(await alone.remaining()).toBe(0);
    expect(Buffer.compare(await alone.read(0, content.length), content)).toBe(0);
    await alone.close();
  });

  it('leaves zeros without a place in the file, unless all space is to be taken', async () => {
    for (const [allocate, states] of [
      ['sparse', ['data', 'zero', 'data']],
      ['full', ['data']],
    ] as const) {
      const bench = new Bench();
      const content = bench.addBase(3 * MIB);
      content.fill(0, MIB, 2 * MIB);
      bench.runtime.file('base.raw').write(0, content);
      const disk = await bench.create();
      await disk.stream({ allocate });
      const found: string[] = [];
      for await (const extent of disk.map())
        if (found.at(-1) !== extent.state) found.push(extent.state);
      expect(found).toEqual(states);
      await disk.close();
    }
  });

  it('moves no data the second time, and is no error', async () => {
    const { bench, disk } = await diskOver(2 * MIB);
    await disk.stream({ keepBase: true });
    expect(await disk.images()).toHaveLength(2);
    bench.operations.length = 0;
    expect(await disk.stream({ keepBase: true })).toMatchObject({
      status: JobStatus.COMPLETED,
      remaining: 0,
    });
    expect(bench.operations.filter(({ kind }) => kind !== 'flush')).toEqual([]);
    await disk.close();
  });

  it('makes each table once, however many copies need it at the same time', async () => {
    const bench = new Bench();
    bench.addBase(32 * MIB);
    const disk = await bench.create({ clusterSize: 2 * MIB });
    await disk.stream();
    const written = bench.operations
      .filter(({ kind }) => kind === 'write')
      .reduce((sum, { length }) => sum + length, 0);
    // The data, the one L2 table that maps it, and the sectors that changed.
    expect(written).toBeLessThan(34 * MIB + 64 * 1024);
    await disk.close();
  });

  it.each([
    ['a smaller base', 3 * MIB + 512, 5 * MIB],
    ['a larger base', 5 * MIB, 3 * MIB + 512],
  ])('works over %s', async (_, base, size) => {
    const bench = new Bench();
    const content = bench.addBase(base);
    const disk = await bench.create({ size });
    await disk.stream();
    const expected = Buffer.alloc(size);
    expected.set(content.subarray(0, Math.min(base, size)));
    expect(Buffer.compare(await disk.read(0, size), expected)).toBe(0);
    expect(await disk.images()).toHaveLength(1);
    await disk.close();
  });
});

describe('a stream of a range', () => {
  it('goes to the end of the disk without a length, and nowhere with none', async () => {
    const { disk } = await diskOver(4 * MIB);
    expect(await disk.stream({ offset: 4 * MIB })).toMatchObject({
      status: JobStatus.COMPLETED,
      length: 0,
    });
    expect(await disk.stream({ offset: MIB, length: 0 })).toMatchObject({
      status: JobStatus.COMPLETED,
      length: 0,
    });
    expect(await disk.remaining()).toBe(4 * MIB);
    expect(await disk.stream({ offset: 3 * MIB })).toMatchObject({
      status: JobStatus.COMPLETED,
      offset: 3 * MIB,
      length: MIB,
    });
    expect(await disk.remaining()).toBe(3 * MIB);
    await expect(disk.stream({ offset: 5 * MIB })).rejects.toMatchObject({ code: 'EINVAL' });
    const domain = new Domain();
    domain.attach('vda', disk);
    expect(await domain.stream('vda', 2 * MIB)).toMatchObject({ length: 2 * MIB });
    expect(await domain.stream('vda', 0, 0)).toMatchObject({ length: 4 * MIB });
    await domain.close();
  });

  it('populates the clusters of the range and nothing else', async () => {
    const { bench, disk } = await diskOver(2 * MIB);
    const info = await disk.stream({ offset: CLUSTER + 1, length: 2 * CLUSTER });
    expect(info).toMatchObject({
      status: JobStatus.COMPLETED,
      offset: CLUSTER + 1,
      length: 2 * CLUSTER,
      remaining: 0,
    });
    expect(await disk.remaining(CLUSTER, 3 * CLUSTER)).toBe(0);
    expect(await disk.remaining()).toBe(2 * MIB - 3 * CLUSTER);
    expect(bench.of('read', 'base.raw').reduce((bytes, { length }) => bytes + length, 0)).toBe(
      3 * CLUSTER,
    );
    expect(await disk.images()).toHaveLength(2);
    await disk.close();
  });

  it('takes the base away when it was the last that was missing', async () => {
    const { disk } = await diskOver(2 * MIB);
    await disk.stream({ offset: 0, length: MIB });
    expect(await disk.images()).toHaveLength(2);
    await disk.stream({ offset: MIB, length: MIB });
    expect(await disk.images()).toHaveLength(1);
    await disk.close();
  });

  it.each([
    [2 * MIB - 512, 1024],
    [3 * MIB, 1],
    [-512, 512],
    [0.5, 512],
    [0, Number.MAX_SAFE_INTEGER + 2],
  ])('is refused outside the disk (%d + %d), and nothing is changed', async (offset, length) => {
    const { bench, disk } = await diskOver(2 * MIB);
    await expect(disk.stream({ offset, length })).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(disk.info()).rejects.toMatchObject({ code: 'ENOENT' });
    expect(bench.events).toEqual([]);
    expect(bench.operations).toEqual([]);
    await disk.close();
  });
});

describe('a stream down to an image of the chain', () => {
  async function chain(bench: Bench) {
    const content = bench.addBase(2 * MIB, 'lowest.raw');
    for (const [overlay, base, at] of [
      ['middle.qcow2', 'lowest.raw', 0],
      ['upper.qcow2', 'middle.qcow2', 512 * 1024],
    ] as const) {
      const image = await bench.runtime.create({
        overlay,
        base,
        clusterSize: CLUSTER,
        copyOnRead: false,
        followChain: true,
      });
      await image.write(at, new Uint8Array(CLUSTER).fill(at ? 2 : 1));
      content.fill(at ? 2 : 1, at, at + CLUSTER);
      await image.close();
    }
    return { content, disk: await bench.create({ base: 'upper.qcow2', followChain: true }) };
  }

  it.each(['middle.qcow2', 2] as const)(
    'copies what lies above it and makes it the new base (%s)',
    async (base) => {
      const bench = new Bench();
      const { content, disk } = await chain(bench);
      const lowest = () => bench.of('read', 'lowest.raw').length;
      const before = lowest();
      const info = await disk.stream({ base });
      expect(info).toMatchObject({ status: JobStatus.COMPLETED, remaining: 0 });
      expect(lowest()).toBe(before);
      expect((await disk.images()).map(({ name }) => name)).toEqual([
        'overlay.qcow2',
        'middle.qcow2',
        'lowest.raw',
      ]);
      expect(await disk.remaining()).toBe(2 * MIB - CLUSTER);
      expect(Buffer.compare(await disk.read(0, content.length), content)).toBe(0);
      await disk.close();
      bench.runtime.files.delete('upper.qcow2');
      const again = await bench.runtime.open({ overlay: 'overlay.qcow2', followChain: true });
      expect(Buffer.compare(await again.read(0, content.length), content)).toBe(0);
      await again.close();
    },
  );

  it('has nothing to do where nothing lies between', async () => {
    const bench = new Bench();
    const { disk } = await chain(bench);
    expect(await disk.stream({ base: 1 })).toMatchObject({
      status: JobStatus.COMPLETED,
      remaining: 0,
    });
    expect(await disk.images()).toHaveLength(4);
    expect(await disk.remaining()).toBe(2 * MIB);
    await disk.close();
  });

  it('is refused for an image that is not in the chain', async () => {
    const bench = new Bench();
    const { disk } = await chain(bench);
    for (const base of ['other.qcow2', 4, 0])
      await expect(disk.stream({ base })).rejects.toMatchObject({ code: 'EINVAL' });
    await disk.close();
  });
});

describe('a process that is killed', () => {
  it('has nothing fetched again but what was on its way, zeros as little as data', async () => {
    const bench = new Bench();
    bench.addBase(8 * MIB);
    bench.runtime.file('base.raw').write(0, new Uint8Array(2 * MIB));
    const disk = await bench.create();
    await disk.stream({ nonblock: true, speed: MIB });
    for (let second = 0; second < 3; second++) {
      await bench.pass(1000);
      expect(await bench.missingAfterKill()).toBe(await disk.remaining());
    }
    // What comes while a flush lasts waits for it, and for nothing else.
    bench.holds = ({ kind }) => kind === 'flush';
    const before = await disk.remaining();
    await bench.pass(3000);
    expect(await bench.missingAfterKill()).toBe(before);
    expect(await disk.remaining()).toBeLessThan(before - 2 * MIB);
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await bench.settle();
    expect(await bench.missingAfterKill()).toBe(await disk.remaining());
    await disk.close();
  });

  it('has fetched again what flushes were spared for, where they are dear', async () => {
    const bench = new Bench();
    bench.addBase(32 * MIB);
    await (await bench.create()).close();
    bench.runtime.file('overlay.qcow2').flushIsDear = true;
    bench.operations.length = 0;
    const disk = await bench.runtime.open({ overlay: 'overlay.qcow2', base: 'base.raw' });
    await disk.stream({ nonblock: true, speed: MIB });
    await bench.pass(6000);
    expect(bench.of('flush', 'overlay.qcow2')).toHaveLength(0);
    await bench.pass(20_000);
    expect(await bench.missingAfterKill()).toBeLessThan(32 * MIB);
    expect((await bench.missingAfterKill()) - (await disk.remaining())).toBeLessThan(10 * MIB);
    await disk.close();
  });

  it('costs a guest that writes no flush it has not asked for', async () => {
    const { bench, disk } = await diskOver(8 * MIB);
    for (let i = 0; i < 16; i++) await disk.write(i * CLUSTER, new Uint8Array(CLUSTER).fill(1));
    await bench.pass(1000);
    expect(bench.of('flush', 'overlay.qcow2')).toHaveLength(0);
    await disk.close();
  });
});

describe('info', () => {
  it('is an error before the first job', async () => {
    const { disk } = await diskOver(MIB);
    await expect(disk.info()).rejects.toMatchObject({ code: 'ENOENT' });
    await disk.close();
  });

  it('tells of the last job until the next one starts', async () => {
    const { bench, disk } = await diskOver(2 * MIB);
    await disk.stream({ offset: 0, length: MIB });
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED, length: MIB });
    bench.holds = ({ kind, file }) => kind === 'read' && file === 'base.raw';
    const started = await disk.stream({ offset: MIB, length: MIB, nonblock: true });
    expect(started).toMatchObject({ status: JobStatus.ACTIVE, offset: MIB });
    expect(await disk.info()).toMatchObject({
      status: JobStatus.ACTIVE,
      offset: MIB,
      length: MIB,
      remaining: MIB,
    });
    await expect(disk.stream()).rejects.toMatchObject({ code: 'EBUSY' });
    bench.holds = () => false;
    await bench.holding.releaseAll();
    await bench.settle();
    expect(await disk.info()).toMatchObject({ status: JobStatus.COMPLETED, remaining: 0 });
    expect(bench.told).toEqual(['completed', 'completed']);
    await disk.close();
  });

  it('is not needed for what remains: the overlay tells that itself, after a restart too', async () => {
    const { bench, disk } = await diskOver(4 * MIB);
    await disk.stream({ offset: 0, length: MIB });
    await disk.close();
    bench.operations.length = 0;
    const again = await bench.runtime.open({ overlay: 'overlay.qcow2' });
    const opening = bench.of('read', 'base.raw').length;
    expect(await again.remaining()).toBe(3 * MIB);
    expect(await again.remaining(MIB - 512, 1024)).toBe(512);
    expect(bench.of('read', 'base.raw')).toHaveLength(opening);
    await again.close();
  });
});
