/**
 * Storage that fails while much is to be written: every request ends, and the image goes on telling
 * the truth about itself.
 */
import { expect, it } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { EngineDisk } from '../../hosts/disk/disk.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const CLUSTER = 65536;

it('when it is gone for good, requests fail and the disk can be closed, however many clusters wait to be freed', async () => {
  const runtime = new MemoryRuntime();
  const disk = await runtime.create({ overlay: 'o', size: 4096 * CLUSTER });
  const clusters = 2200;
  for (let i = 0; i < clusters; i++) await disk.write(i * CLUSTER, new Uint8Array(CLUSTER).fill(7));
  await disk.flush();
  let failed = 0;
  runtime.plan = (operation, perform) => {
    if (operation.kind === 'read') return perform();
    failed++;
    return new Promise((_, reject) => {
      setTimeout(() => reject(new MillraceError('EIO', 'storage is gone')), 0);
    });
  };
  const errors = new Set<string>();
  for (let i = 0; i < clusters; i += 2)
    await disk
      .discard(i * CLUSTER, CLUSTER)
      .catch((error: MillraceError) => errors.add(error.message));
  expect([...errors]).toEqual([expect.stringContaining('storage is gone')]);
  await expect(disk.close()).rejects.toMatchObject({ code: 'EIO' });
  expect(failed).toBeLessThan(clusters);
}, 20_000);

it('a close that fails leaves the image marked as in use', async () => {
  const runtime = new MemoryRuntime();
  const disk = (await runtime.create({ overlay: 'o', size: 1 << 26 })) as EngineDisk;
  const isDirty = (): boolean => (runtime.file('o').bytes[79] & 1) === 1;
  await disk.write(0, new Uint8Array(4096).fill(7));
  await disk.flush();
  expect(isDirty()).toBe(true);
  let header = 0;
  runtime.plan = (operation, perform) => {
    // The bit is off, and the flush behind it fails: whoever writes on has to set it again.
    if (operation.kind === 'write' && operation.offset === 0) header++;
    if (operation.kind === 'write' && operation.offset === 0 && header === 1)
      throw new MillraceError('EIO', 'the header is not written');
    return perform();
  };
  await expect(disk.settle()).rejects.toThrow('the header is not written');
  runtime.plan = undefined;
  for (let i = 0; i < 5; i++) {
    await disk.write((20 + i) << 20, new Uint8Array(CLUSTER).fill(8));
    await disk.flush();
    expect(isDirty()).toBe(true);
  }
  await disk.close();
  expect(isDirty()).toBe(false);
});
