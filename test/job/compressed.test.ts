/**
 * Jobs over bases with compressed clusters: their streams are fetched before there is a buffer for
 * what they inflate to.
 */
import { deflateRawSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { readHeader } from '../simulator/qcow2.ts';
import type { Fill } from '../simulator/writer.ts';
import { writeImage } from '../simulator/writer.ts';
import { Bench, CLUSTER, KIB, MIB } from './bench.ts';

const SMALL = 4 * KIB;
const SHAPE = { version: 3, clusterBits: 12, refcountOrder: 4, extendedL2: false } as const;
const COMPRESSED = 1n << 62n;
const OFFSET_MASK = 0x00fffffffffffe00n;
/** Of a disk in clusters of 4 KiB, what one L2 table maps. */
const SPAN = 512 * SMALL;

/**
 * An image of one L2 table with compressed clusters in its first half and none in its second; the
 * streams stand every 8 KiB.
 */
function scattered(content: Uint8Array): Uint8Array {
  const image = writeImage({
    ...SHAPE,
    content: new Uint8Array(SPAN).fill(1),
    fills: Array.from({ length: 512 }, () => 'data'),
  });
  const view = new DataView(image.buffer);
  const table = Number(view.getBigUint64(readHeader(image).l1Offset) & OFFSET_MASK);
  const first = Number(view.getBigUint64(table) & OFFSET_MASK);
  for (let i = 0; i < 512; i++) {
    const at = first + i * 2 * SMALL;
    if (i < 256) image.set(deflateRawSync(content.subarray(i * SMALL, (i + 1) * SMALL)), at);
    view.setBigUint64(table + i * 8, i < 256 ? COMPRESSED | (7n << 58n) | BigInt(at) : 0n);
  }
  return image;
}

it('a job fetches streams that lie too far apart to be fetched ahead with all that is between them', async () => {
  const bench = new Bench();
  const content = new Uint8Array(SPAN);
  content.set(makeContent('text', 1, SPAN / 2));
  bench.runtime.add('base.qcow2', scattered(content));
  const disk = await bench.create({ base: 'base.qcow2', memory: 8 * MIB });
  await disk.stream();
  expect(Buffer.compare(await disk.read(0, SPAN), content)).toBe(0);
  await disk.close();
}, 20_000);

/** Tables of the base, each in a page of its own: more than go into the least memory. */
const TABLES = 40;
const DATA = 128 * KIB;

it('a job stores zeros for the holes below compressed clusters, though the file tells others the second time', async () => {
  const bench = new Bench();
  const content = new Uint8Array(TABLES * SPAN);
  content.set(makeContent('text', 1, MIB));
  for (let table = 1; table < TABLES; table++)
    content.set(makeContent('random', table, DATA), table * SPAN);
  const fillOf = (at: number): Fill =>
    at < MIB
      ? at % (8 * SMALL)
        ? 'absent'
        : 'compressed'
      : at < SPAN
        ? 'absent'
        : at % SPAN < DATA
          ? 'data'
          : 'zero';
  const fills = Array.from({ length: content.length / SMALL }, (_, cluster) =>
    fillOf(cluster * SMALL),
  );
  bench.runtime.add(
    'middle.qcow2',
    writeImage({ ...SHAPE, content, fills, backing: { name: 'lowest.raw', format: 'raw' } }),
  );
  for (let at = 0; at < MIB; at += SMALL)
    if (fillOf(at) === 'absent') content.fill(0, at, at + SMALL);
  // As of a file whose blocks were reserved and not written: they are holes until somebody has read
  // them.
  let isRead = false;
  Object.assign(bench.runtime.add('lowest.raw', new Uint8Array(MIB)), {
    nextData: (offset: number) => (isRead ? { start: offset, end: MIB } : undefined),
  });
  const disk = await bench.create({ base: 'middle.qcow2', followChain: true, memory: 8 * MIB });
  bench.holds = ({ kind, file, background }) =>
    kind === 'read' && file === 'middle.qcow2' && background;
  const job = disk.stream({ offset: 0, length: MIB });
  await bench.settle();
  expect(bench.held.length).toBeGreaterThan(0);
  // The streams are on their way. The map of holes leaves the cache, and the memory fills with
  // something else than zeros.
  for (let table = 1; table < TABLES; table++) await disk.read(table * SPAN, DATA);
  isRead = true;
  bench.holds = () => false;
  await bench.holding.releaseAll();
  await job;
  expect(Buffer.compare(await disk.read(0, MIB), content.subarray(0, MIB))).toBe(0);
  await disk.close();
});

it('what does not inflate is told with its image and its place', async () => {
  const bench = new Bench();
  const content = makeContent('text', 1, CLUSTER);
  const image = writeImage({
    ...SHAPE,
    content,
    fills: Array.from({ length: 16 }, () => 'compressed'),
  });
  const view = new DataView(image.buffer);
  const table = Number(view.getBigUint64(readHeader(image).l1Offset) & OFFSET_MASK);
  const at = Number(view.getBigUint64(table) & ((1n << 58n) - 1n));
  // No block of such a type is known.
  image[at] = 7;
  bench.runtime.add('base.qcow2', image);
  const disk = await bench.create({ base: 'base.qcow2' });
  const message = expect.stringMatching(
    new RegExp(
      `base\\.qcow2: compressed data \\(zlib\\) does not inflate: .* \\(at offset ${at}\\)$`,
    ),
  );
  await expect(disk.read(0, 10)).rejects.toMatchObject({ code: 'ECORRUPT', message });
  await expect(disk.stream()).rejects.toMatchObject({
    code: 'ECORRUPT',
    message: expect.stringMatching(/cannot stream: base\.qcow2: .*does not inflate/),
  });
  await disk.close();
});
