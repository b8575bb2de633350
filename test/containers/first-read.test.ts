/** What the first read of a large image costs that is compressed in blocks: counted, not timed. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Fetch } from '../../hosts/node/index.ts';
import { createDisk, openHttp } from '../../hosts/node/index.ts';
import { pack } from '../fixtures/containers.ts';
import { makeContent } from '../fixtures/content.ts';
import { RepeatedXz } from '../fixtures/repeated-xz.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';

const MIB = 1024 * 1024;
const BLOCKS = 4096;

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
    const object = new RepeatedXz(await readFile(await pack(path, 'one.xz')), BLOCKS);
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
