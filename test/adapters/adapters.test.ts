/** Disks as other libraries take them, by those libraries. */
import { DiskSmallerBlock, RandomAccessDisk } from '@xen-orchestra/disk-transform';
import {
  BlobReader,
  BlobWriter,
  TextReader,
  TextWriter,
  ZipReader,
  ZipWriter,
} from '@zip.js/zip.js';
import RandomAccessStorage from 'random-access-storage';
import { describe, expect, it } from 'vitest';
import type { Disk } from '../../hosts/api/disk.ts';
import { createDiskWith } from '../../hosts/disk/open.ts';
import {
  asFile,
  asRandomAccessDisk,
  asRandomAccessStorage,
} from '../../hosts/faces/adapters/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { MemoryFile } from '../support/memory-file.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const MIB = 1024 * 1024;

/** A disk with a run of bytes in the midst of nothing. */
async function disk(content: Uint8Array, size = 8 * MIB): Promise<Disk> {
  const disk = await createDiskWith(new MemoryRuntime(), {
    overlay: new MemoryFile('overlay'),
    size,
  });
  await disk.write(3 * MIB, content);
  return disk;
}

describe('a disk as a random-access-storage', () => {
  const call = <T>(act: (done: (error: Error | null, result?: T) => void) => void): Promise<T> =>
    new Promise((resolve, reject) =>
      act((error, result) => (error ? reject(error) : resolve(result as T))),
    );

  it('reads, writes, clears, and tells its size', async () => {
    const content = makeContent('random', 1, MIB);
    const under = await disk(content);
    const storage = asRandomAccessStorage(RandomAccessStorage, under);
    expect(await call((done) => storage.stat(done))).toEqual({ size: 8 * MIB });
    const read = await call<Buffer>((done) => storage.read(3 * MIB + 100, 5000, done));
    expect(Buffer.isBuffer(read) && read.equals(content.subarray(100, 5100))).toBe(true);
    await call((done) => storage.write(1000, Buffer.from('hello'), done));
    expect((await call<Buffer>((done) => storage.read(1000, 5, done))).toString()).toBe('hello');
    await call((done) => storage.del(1000, 5, done));
    expect(
      (await call<Buffer>((done) => storage.read(1000, 5, done))).equals(Buffer.alloc(5)),
    ).toBe(true);
    await call((done) => storage.truncate(3 * MIB, done));
    expect((await under.read(3 * MIB, MIB)).every((byte) => byte === 0)).toBe(true);
    await expect(call((done) => storage.read(8 * MIB, 1, done))).rejects.toMatchObject({
      code: 'EINVAL',
    });
    await call((done) => storage.close(done));
    expect(await under.read(0, 1)).toEqual(new Uint8Array(1));
    await under.close();
  });
});

describe("a disk as Xen Orchestra's RandomAccessDisk", () => {
  it('gives its blocks, the last one with zeros at its end', async () => {
    const content = makeContent('random', 2, 2 * MIB + 4608);
    const under = await disk(content, 5 * MIB + 4608);
    const source = asRandomAccessDisk(RandomAccessDisk, under);
    expect(source).toBeInstanceOf(RandomAccessDisk);
    await source.init();
    expect([source.getVirtualSize(), source.getBlockSize(), source.isDifferencing()]).toEqual([
      5 * MIB + 4608,
      2 * MIB,
      false,
    ]);
    expect([source.hasBlock(0), source.hasBlock(2), source.getBlockIndexesCount()]).toEqual([
      false,
      true,
      2,
    ]);
    const whole = Buffer.alloc(6 * MIB);
    for await (const { index, data } of source.diskBlocks()) {
      expect(data.length).toBe(2 * MIB);
      data.copy(whole, index * 2 * MIB);
    }
    const expected = Buffer.alloc(6 * MIB);
    expected.set(content, 3 * MIB);
    expect(Buffer.compare(whole, expected)).toBe(0);
    // A reader of theirs that cuts it otherwise.
    const halves = new DiskSmallerBlock(source, MIB / 2);
    await halves.init();
    const { data } = await halves.readBlock(6);
    expect(Buffer.compare(data, Buffer.from(content.subarray(0, MIB / 2)))).toBe(0);
    await under.close();
    expect(() => asRandomAccessDisk(RandomAccessDisk, under, { blockSize: 100 })).toThrow(
      'multiple of 512',
    );
  });
});

describe('a disk as a file', () => {
  it('is read by an archive library, and sliced as a Blob is', async () => {
    const writer = new ZipWriter(new BlobWriter());
    await writer.add('hello.txt', new TextReader('hello from a disk'));
    const zip = new Uint8Array(await (await writer.close()).arrayBuffer());
    const under = await disk(zip);
    const whole = asFile(under, 'archive.zip');
    const file = whole.slice(3 * MIB, 3 * MIB + zip.length, 'application/zip');
    expect([file.name, file.type, file.size]).toEqual([
      'archive.zip',
      'application/zip',
      zip.length,
    ]);
    const reader = new ZipReader(new BlobReader(file as unknown as Blob));
    const [entry] = await reader.getEntries();
    expect(entry.filename).toBe('hello.txt');
    expect('getData' in entry && (await entry.getData?.(new TextWriter()))).toBe(
      'hello from a disk',
    );
    await reader.close();
    const blob = new Blob([zip]);
    for (const [from, to] of [
      [0, 4],
      [-22, undefined],
      [5, 3],
      [10, -10],
      [0, 1e9],
    ] as const) {
      const [ours, theirs] = [file.slice(from, to), blob.slice(from, to)];
      expect(ours.size).toBe(theirs.size);
      expect(Buffer.compare(await ours.bytes(), Buffer.from(await theirs.arrayBuffer()))).toBe(0);
      expect(await new Response(ours.stream()).text()).toBe(await theirs.text());
    }
    expect(await file.slice(0, 2).text()).toBe('PK');
    await under.close();
  });
});
