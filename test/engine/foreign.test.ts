/** Overlays and bases as other programs write them, where ours never are so. */
import { expect, it } from 'vitest';
import { AT, readHeader } from '../simulator/qcow2.ts';
import { writeImage } from '../simulator/writer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const SHAPE = { version: 3, clusterBits: 16, refcountOrder: 4, extendedL2: false } as const;
const CLUSTER = 65536;

it.each([0n, 1n])(
  'features that tell of the disk as it was end before it may change (the header says in use: %i)',
  async (dirty) => {
    const runtime = new MemoryRuntime();
    const image = writeImage({
      ...SHAPE,
      content: new Uint8Array(CLUSTER).fill(7),
      fills: ['data'],
      odd: ['unknown features'],
    });
    new DataView(image.buffer).setBigUint64(AT.incompatible, dirty);
    const file = runtime.add('o', image);
    await (await runtime.open({ overlay: 'o', readOnly: true })).close();
    expect(readHeader(file.bytes).autoclear).not.toBe(0n);
    const disk = await runtime.open({ overlay: 'o' });
    expect(readHeader(file.bytes)).toMatchObject({ incompatible: 1n, autoclear: 0n });
    // In its place: no table changes.
    await disk.write(0, new Uint8Array(512));
    await disk.close();
    expect(readHeader(file.bytes)).toMatchObject({ incompatible: 0n, autoclear: 0n });
  },
);

it('a compressed cluster is read whose entry claims more sectors than a stream can take', async () => {
  const runtime = new MemoryRuntime();
  const content = new Uint8Array(2 * CLUSTER).fill(7);
  const image = writeImage({ ...SHAPE, content, fills: ['compressed', 'data'] });
  const view = new DataView(image.buffer);
  const l2 = Number(view.getBigUint64(readHeader(image).l1Offset) & 0x00fffffffffffe00n);
  // Twice a cluster less one sector, in two clusters of the file: all that an entry can say.
  view.setBigUint64(l2, view.getBigUint64(l2) | (0xffn << 54n));
  runtime.add('b', image);
  const disk = await runtime.create({ overlay: 'o', base: 'b' });
  expect(Buffer.compare(await disk.read(0, 2 * CLUSTER), content)).toBe(0);
  await disk.stream();
  expect(Buffer.compare(await disk.read(0, 2 * CLUSTER), content)).toBe(0);
  await disk.close();
});

it.each([3, 2] as const)(
  'an overlay is written whose flags do not tell what may be written in place (version %i)',
  async (version) => {
    const runtime = new MemoryRuntime();
    const content = new Uint8Array(40 * 512).fill(7);
    const image = writeImage({
      version,
      clusterBits: 9,
      refcountOrder: 4,
      extendedL2: false,
      content,
      fills: Array(40).fill('data'),
      odd: ['wrong flags'],
    });
    runtime.add('o', image);
    const disk = await runtime.open({ overlay: 'o' });
    for (let at = 0; at < 40; at++)
      await disk.write(
        at * 512 + at,
        content.fill(at, at * 512 + at, at * 512 + 100).subarray(at * 512 + at, at * 512 + 100),
      );
    await disk.discard(512, 1024);
    if (version === 3) content.fill(0, 512, 1536);
    await disk.resize(1 << 20);
    expect((await disk.check({ repair: 'all' })).corruptions).toBe(0);
    await disk.close();
    const again = await runtime.open({ overlay: 'o' });
    expect(Buffer.compare(await again.read(0, content.length), content)).toBe(0);
    expect(await again.check()).toMatchObject({ corruptions: 0, leaks: 0 });
    await again.close();
  },
);
