/** What the first read of a large image costs that is compressed in blocks: counted, not timed. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { crc32 } from '../../hosts/bases/containers/crc32.ts';
import type { Fetch } from '../../hosts/node/index.ts';
import { createDisk, openHttp } from '../../hosts/node/index.ts';
import { pack } from '../fixtures/containers.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';

const MIB = 1024 * 1024;
const BLOCKS = 4096;

/**
 * A file of 4 GiB: one block of 1 MiB as xz makes it, again and again, with the index of them all.
 */
class Repeated {
  readonly #header: Buffer;
  readonly #block: Buffer;
  readonly #end: Buffer;

  constructor(xz: Buffer) {
    const indexBytes = (xz.readUInt32LE(xz.length - 8) + 1) * 4;
    const indexAt = xz.length - 12 - indexBytes;
    this.#header = xz.subarray(0, 12);
    this.#block = xz.subarray(12, indexAt);
    const record: number[] = [];
    for (
      let at = indexAt + 2;
      record.length === 0 ||
      (xz[at - 1] & 0x80) !== 0 ||
      record.filter((byte) => byte < 0x80).length < 2;
      at++
    )
      record.push(xz[at]);
    const numbers = [0, 0x80, 0x20, ...Array.from({ length: BLOCKS }, () => record).flat()];
    const index = Buffer.alloc(Math.ceil(numbers.length / 4) * 4 + 4);
    index.set(numbers);
    index.writeUInt32LE(crc32(index.subarray(0, -4)), index.length - 4);
    const footer = Buffer.from(xz.subarray(-12));
    footer.writeUInt32LE(index.length / 4 - 1, 4);
    footer.writeUInt32LE(crc32(footer.subarray(4, 10)), 0);
    this.#end = Buffer.concat([index, footer]);
  }

  get size(): number {
    return 12 + BLOCKS * this.#block.length + this.#end.length;
  }

  bytes(first: number, end: number): Buffer {
    const bytes = Buffer.alloc(end - first);
    const put = (part: Buffer, at: number): void => {
      const from = Math.max(first, at);
      const to = Math.min(end, at + part.length);
      if (from < to) part.copy(bytes, from - first, from - at, to - at);
    };
    put(this.#header, 0);
    const blockAt = (index: number): number => 12 + index * this.#block.length;
    for (
      let index = Math.max(0, Math.floor((first - 12) / this.#block.length));
      index < BLOCKS && blockAt(index) < end;
      index++
    )
      put(this.#block, blockAt(index));
    put(this.#end, blockAt(BLOCKS));
    return bytes;
  }
}

describeWithPeer(['xz'], 'the first read of a raw.xz of 4 GiB in blocks of 1 MiB', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-first-read-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('takes four requests and three MiB at most', async () => {
    const content = makeContent('text', 1, MIB);
    const path = join(folder, 'block.raw');
    await writeFile(path, content);
    const object = new Repeated(await readFile(await pack(path, 'one.xz')));
    const fetch: Fetch = async (_, { headers }) => {
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(headers.get('Range') ?? '')!;
      const [first, end] = [Number(from), Math.min(Number(to) + 1, object.size)];
      return new Response(new Uint8Array(object.bytes(first, end)), {
        status: 206,
        headers: { ETag: '"1"', 'Content-Range': `bytes ${first}-${end - 1}/${object.size}` },
      });
    };
    const base = await openHttp('http://images.example/disk.raw.xz', { fetch });
    const disk = await createDisk({ overlay: join(folder, 'vm.qcow2'), base });
    expect(disk.size).toBe(BLOCKS * MIB);
    const at = 3 * 1024 * MIB + 12345;
    expect(await disk.read(at, 4096)).toEqual(content.slice(12345, 12345 + 4096));
    expect(base.stats.requests).toBeLessThanOrEqual(4);
    expect(base.stats.bytes).toBeLessThanOrEqual(3 * MIB);
    await disk.close();
  });
});
