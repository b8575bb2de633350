/** What a guest's read costs: how often which file is read for it. */
import { expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import type { Operation } from '../support/faulty.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const KIB = 1024;
const CLUSTER = 64 * KIB;
const SIZE = 4096 * KIB;

const CONTENT = new Uint8Array(SIZE).map((_, i) => (i >> 9) % 251);

/**
 * A disk over a base of SIZE bytes, and the reads of both files, tables of the overlay left out.
 */
async function diskWithReads() {
  const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
  runtime.add('b', CONTENT.slice());
  const disk = await runtime.create({ overlay: 'o', base: 'b', baseFormat: 'raw' });
  // The tables that reads need are in the cache afterwards.
  await disk.write(SIZE - CLUSTER, new Uint8Array(CLUSTER).fill(9));
  await disk.flush();
  const reads: Pick<Operation, 'file' | 'offset' | 'length'>[] = [];
  runtime.plan = ({ kind, file, offset, length }, perform) => {
    if (kind === 'read') reads.push({ file, offset, length });
    return perform();
  };
  return { disk, reads };
}

it.each([
  ['within a cluster', 5 * CLUSTER + 512, 4 * KIB],
  ['across clusters', 5 * CLUSTER + 512, 3 * CLUSTER],
  ['a cluster', 7 * CLUSTER, CLUSTER],
])('what a guest misses %s is read once, from the base', async (_, offset, length) => {
  const { disk, reads } = await diskWithReads();
  expect(
    Buffer.compare(await disk.read(offset, length), CONTENT.slice(offset, offset + length)),
  ).toBe(0);
  const first = Math.floor(offset / CLUSTER) * CLUSTER;
  const end = Math.ceil((offset + length) / CLUSTER) * CLUSTER;
  expect(reads).toEqual([{ file: 'b', offset: first, length: end - first }]);
  // From now on the overlay has it.
  reads.length = 0;
  expect(
    Buffer.compare(await disk.read(offset, length), CONTENT.slice(offset, offset + length)),
  ).toBe(0);
  expect(reads).toMatchObject([{ file: 'o', length }]);
  await disk.close();
});

it('what a guest reads of both is read once from each', async () => {
  const { disk, reads } = await diskWithReads();
  const written = new Uint8Array(CLUSTER).fill(3);
  await disk.write(9 * CLUSTER, written);
  reads.length = 0;
  const whole = CONTENT.slice(8 * CLUSTER, 11 * CLUSTER);
  whole.set(written, CLUSTER);
  expect(Buffer.compare(await disk.read(8 * CLUSTER, 3 * CLUSTER), whole)).toBe(0);
  expect(reads.map(({ file, length }) => [file, length])).toEqual([
    ['b', CLUSTER],
    ['o', CLUSTER],
    ['b', CLUSTER],
  ]);
  await disk.close();
});
