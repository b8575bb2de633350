/**
 * An overlay opened without its base: looked at, checked and written, but nothing absent is ever
 * taken for zeros.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import type { Extent } from '../../hosts/api/disk.ts';
import { createDisk, openDisk, openFileSource } from '../../hosts/node/index.ts';

const CLUSTER = 65536;
const SIZE = 16 * CLUSTER;
let folder: string;
let overlay: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-baseless-'));
  overlay = join(folder, 'o.qcow2');
  const base = join(folder, 'base.raw');
  await writeFile(base, new Uint8Array(SIZE).fill(7));
  const disk = await createDisk({ overlay, base });
  await disk.stream({ offset: CLUSTER, length: CLUSTER });
  await disk.close();
  await rm(base);
});

afterEach(() => rm(folder, { recursive: true, force: true }));

async function all(extents: AsyncIterable<Extent>): Promise<Extent[]> {
  const list: Extent[] = [];
  for await (const extent of extents) list.push(extent);
  return list;
}

it('tells what is there and what is missing', async () => {
  const disk = await openDisk({ overlay, base: null, readOnly: true });
  expect(await disk.remaining()).toBe(SIZE - CLUSTER);
  expect(await all(disk.map())).toEqual([
    { offset: 0, length: CLUSTER, state: 'absent', depth: 0 },
    { offset: CLUSTER, length: CLUSTER, state: 'data', depth: 0, hostOffset: expect.any(Number) },
    { offset: 2 * CLUSTER, length: SIZE - 2 * CLUSTER, state: 'absent', depth: 0 },
  ]);
  expect(await disk.images()).toMatchObject([{ name: overlay, backingFormat: 'raw' }]);
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 1 });
  await disk.close();
});

it('reads what is there; what is absent cannot be read, by name', async () => {
  const disk = await openDisk({ overlay, base: null, readOnly: true });
  expect(await disk.read(CLUSTER + 5, 3)).toEqual(new Uint8Array(3).fill(7));
  await expect(disk.read(0, 512)).rejects.toMatchObject({
    code: 'ENOENT',
    message: expect.stringContaining(`the base of ${overlay}`),
  });
  await disk.close();
});

it('takes whole clusters, refuses parts, and keeps its base recorded when it cannot be streamed', async () => {
  const disk = await openDisk({ overlay, base: null });
  await disk.write(2 * CLUSTER, new Uint8Array(CLUSTER).fill(9));
  await expect(disk.write(4 * CLUSTER + 512, new Uint8Array(512))).rejects.toMatchObject({
    code: 'ENOENT',
  });
  await expect(disk.stream()).rejects.toMatchObject({ code: 'ENOENT' });
  await disk.close();
  const again = await openDisk({ overlay, base: null, readOnly: true });
  expect((await again.images())[0].backingFile).toBe(join(folder, 'base.raw'));
  expect(await again.remaining()).toBe(SIZE - 2 * CLUSTER);
  await again.close();
});

it('opens a source that can only be read, if only reading is asked for', async () => {
  const file = await openFileSource(overlay);
  const source: BlockSource = {
    size: file.size,
    read: (offset, into) => file.read(offset, into),
    close: () => file.close(),
  };
  await expect(openDisk({ overlay: source, base: null })).rejects.toMatchObject({ code: 'EROFS' });
  const disk = await openDisk({
    overlay: await openFileSource(overlay),
    base: null,
    readOnly: true,
  });
  expect(disk.size).toBe(SIZE);
  await disk.close();
  await file.close();
});
