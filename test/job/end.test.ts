/** The end of a disk, and the end of a job. */
import { expect, it } from 'vitest';
import { createDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { writeImage } from '../simulator/writer.ts';
import type { Operation } from '../support/faulty.ts';
import { MemoryFile } from '../support/memory-file.ts';
import { turn } from '../support/virtual-clock.ts';
import { Bench, CLUSTER, MIB } from './bench.ts';

const KIB = 1024;

it('reads the end of a disk that ends inside a larger, compressed cluster of its base', async () => {
  const content = makeContent('text', 1, 96 * KIB);
  const image = writeImage({
    version: 3,
    clusterBits: 16,
    refcountOrder: 4,
    extendedL2: false,
    content,
    fills: ['compressed', 'compressed'],
  });
  const base = new MemoryFile('base.qcow2', image);
  const disk = await createDisk({
    overlay: new MemoryFile('overlay.qcow2'),
    base,
    baseFormat: 'qcow2',
    clusterSize: 4 * KIB,
  });
  // The first read shows that there are compressed clusters; the second populates the rest of one,
  // up to the disk's end.
  for (const offset of [70_000, 98_000])
    expect(await disk.read(offset, 10)).toEqual(content.slice(offset, offset + 10));
  await disk.close();
});

/**
 * The job's range is the first of two clusters; a guest fills the second while one of the job's
 * flushes is under way.
 */
it.each([1, 2, 3, 4, 5, 6])(
  'lets go of the base only when all that was filled beside it is there after a power cut (flush %i)',
  async (when) => {
    const bench = new Bench();
    bench.runtime.add('base.raw', new Uint8Array(2 * CLUSTER).fill(5));
    const disk = await bench.create();
    await disk.flush();
    const isFlush = ({ kind, file }: Operation): boolean =>
      kind === 'flush' && file === 'overlay.qcow2';
    const states: Uint8Array[] = [];
    bench.holds = (operation) => {
      if (isFlush(operation)) states.push(bench.runtime.file('overlay.qcow2').bytes.slice());
      return isFlush(operation);
    };
    let ended = false;
    const job = disk.stream({ offset: 0, length: CLUSTER }).finally(() => {
      ended = true;
    });
    let guest: Promise<void> | undefined;
    for (let flushes = 1; !ended && flushes < 60; ) {
      await turn();
      const [held] = bench.holding.held;
      if (!held) continue;
      if (flushes++ === when) {
        guest = disk.write(CLUSTER, new Uint8Array(CLUSTER).fill(9));
        await turn();
      }
      await held.release();
    }
    await Promise.all([job, guest]);
    bench.holds = () => false;
    for (const [index, bytes] of states.entries()) {
      const name = `cut-${index}`;
      bench.runtime.add(name, bytes);
      const cut = await bench.runtime.open({ overlay: name });
      expect((await cut.read(0, 1))[0], `before flush ${index}`).toBe(5);
      expect([5, 9], `before flush ${index}`).toContain((await cut.read(CLUSTER, 1))[0]);
      await cut.close();
    }
  },
);

it('a disk is closed in bounded time when its base answers no more', async () => {
  const bench = new Bench();
  const content = bench.addBase(4 * CLUSTER);
  const disk = await bench.create();
  const isBaseRead = ({ kind, file }: Operation): boolean => kind === 'read' && file === 'base.raw';
  bench.runtime.plan = (operation, perform) =>
    isBaseRead(operation)
      ? new Promise((_, reject) =>
          operation.signal?.addEventListener('abort', () => reject(operation.signal!.reason)),
        )
      : perform();
  await disk.write(0, content.slice(0, CLUSTER));
  const ends: string[] = [];
  const read = disk.read(2 * CLUSTER, 10).catch(({ code }) => ends.push(`read ${code}`));
  const write = disk
    .write(3 * CLUSTER + 5, new Uint8Array(10))
    .catch(({ code }) => ends.push(`write ${code}`));
  const close = disk.close().then(() => ends.push('closed'));
  await bench.pass(1900, 100);
  expect(ends).toEqual([]);
  await bench.pass(200, 100);
  await Promise.all([read, write, close]);
  expect(ends.slice(0, 2).sort()).toEqual(['read ECLOSED', 'write ECLOSED']);
  expect(ends.slice(2)).toEqual(['closed']);
  bench.runtime.plan = undefined;
  const again = await bench.runtime.open({ overlay: 'overlay.qcow2' });
  expect(Buffer.compare(await again.read(0, content.length), content)).toBe(0);
  await again.close();
});

it('so is one whose job has to count again what it leaves below', async () => {
  const bench = new Bench();
  bench.runtime.add('lowest.raw', new Uint8Array(4 * CLUSTER).fill(5));
  await (await bench.runtime.create({ overlay: 'middle.qcow2', base: 'lowest.raw' })).close();
  const disk = await bench.create({ base: 'middle.qcow2', followChain: true });
  const isTable = ({ kind, file }: Operation): boolean =>
    kind === 'read' && file === 'middle.qcow2';
  bench.runtime.plan = (operation, perform) =>
    isTable(operation)
      ? new Promise((_, reject) =>
          operation.signal?.addEventListener('abort', () => reject(operation.signal!.reason)),
        )
      : perform();
  await disk.stream({ base: 'lowest.raw', nonblock: true });
  await bench.settle();
  let isClosed = false;
  const closing = disk.close().then(() => {
    isClosed = true;
  });
  await bench.pass(2100, 100);
  expect(isClosed).toBe(true);
  await closing;
});

it('lets guests ask for as much as before when the base has gone', async () => {
  const bench = new Bench();
  const content = makeContent('text', 1, 6 * MIB);
  const fills = ['compressed', 'compressed', 'compressed'] as const;
  bench.runtime.add(
    'base.qcow2',
    writeImage({
      version: 3,
      clusterBits: 21,
      refcountOrder: 4,
      extendedL2: false,
      content,
      fills: [...fills],
    }),
  );
  const disk = await bench.create({ base: 'base.qcow2' });
  bench.holds = ({ kind, file }) => kind === 'flush' && file === 'overlay.qcow2';
  let isOver = false;
  const job = disk.stream().finally(() => {
    isOver = true;
  });
  const reads: Promise<Uint8Array>[] = [];
  while (!isOver) {
    await bench.settle();
    // Some of them come while the chain changes.
    reads.push(disk.read(0, content.length));
    await bench.settle();
    await bench.held[0]?.release();
  }
  bench.holds = () => false;
  await bench.holding.releaseAll();
  await job;
  expect(await disk.images()).toHaveLength(1);
  for (const read of reads) expect(Buffer.compare(await read, content)).toBe(0);
  await disk.close();
});
