import { expect, it } from 'vitest';
import { createDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { writeImage } from '../simulator/qcow2.ts';
import { MemoryFile } from '../support/memory-file.ts';

const KIB = 1024;

it('reads the end of a disk that ends inside a larger, compressed cluster of its base', async () => {
  const content = makeContent('text', 1, 96 * KIB);
  const image = writeImage({ version: 3, clusterBits: 16, refcountOrder: 4, extendedL2: false, content, fills: ['compressed', 'compressed'] });
  const base = new MemoryFile('base.qcow2', image);
  const disk = await createDisk({ overlay: new MemoryFile('overlay.qcow2'), base, baseFormat: 'qcow2', clusterSize: 4 * KIB });
  // The first read shows that there are compressed clusters; the second populates the rest of one, up to the disk's end.
  for (const offset of [70_000, 98_000]) expect(await disk.read(offset, 10)).toEqual(content.slice(offset, offset + 10));
  await disk.close();
});
