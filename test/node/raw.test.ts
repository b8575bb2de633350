/** A raw image in the overlay's place, to be read. */
import { expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import { openDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';

const MIB = 1024 * 1024;

it('is read in large pieces', async () => {
  const bytes = makeContent('random', 1, 4 * MIB);
  let reads = 0;
  const source: BlockSource = {
    size: bytes.length,
    read(offset, into) {
      reads++;
      into.set(bytes.subarray(offset, offset + into.length));
    },
    close() {},
  };
  const disk = await openDisk({ overlay: source, readOnly: true });
  const seen = await disk.read(MIB + 7, 2 * MIB);
  expect(Buffer.compare(seen, bytes.subarray(MIB + 7, 3 * MIB + 7))).toBe(0);
  // One to tell the format, and pieces of at least 256 KiB.
  expect(reads).toBeLessThanOrEqual(9);
  await disk.close();
});
