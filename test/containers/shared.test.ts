/** Disks of one process over one source that comes in order: it is fetched once, by counting. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Fetch } from '../../hosts/node/index.ts';
import { createDisk, openDisk, openHttp } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';

const SIZE = 6 * 1024 * 1024;
const content = makeContent('random', 5, SIZE);
const packed = gzipSync(content);
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-shared-'));
  await writeFile(join(folder, 'disk.raw.gz'), packed);
});
afterAll(() => rm(folder, { recursive: true }));

/** A server whose answers are counted; `etag` tells its content from another. */
function server(etag: () => string) {
  const sent = { bytes: 0 };
  const fetch: Fetch = async (_, { headers }) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(headers.get('Range') ?? '')!;
    const bytes = packed.subarray(Number(from), Number(to) + 1);
    sent.bytes += bytes.length;
    const range = `bytes ${from}-${Number(from) + bytes.length - 1}/${packed.length}`;
    return new Response(bytes, {
      status: 206,
      headers: { ETag: etag(), 'Content-Range': range },
    });
  };
  return { sent, open: () => openHttp('http://images.example/disk.raw.gz', { fetch }) };
}

it('two disks take one pass, which goes on when the first is closed', async () => {
  const { sent, open } = server(() => '"1"');
  const disks = await Promise.all(
    ['a', 'b'].map(async (name) =>
      createDisk({ overlay: join(folder, `${name}.qcow2`), base: await open() }),
    ),
  );
  const [first, second] = disks;
  await first.stream();
  await first.close();
  const before = sent.bytes;
  await second.stream();
  expect(sent.bytes).toBe(before);
  // Each looks what it is; the rest of it came once.
  expect(sent.bytes).toBeLessThan(1.3 * packed.length);
  expect(Buffer.compare(await second.read(0, SIZE), content)).toBe(0);
  await second.close();
  const again = await openDisk({ overlay: join(folder, 'a.qcow2') });
  expect(Buffer.compare(await again.read(0, SIZE), content)).toBe(0);
  await again.close();
});

it('what has changed meanwhile is another one', async () => {
  let etag = '"1"';
  const { sent, open } = server(() => etag);
  const first = await createDisk({ overlay: join(folder, 'c.qcow2'), base: await open() });
  const before = sent.bytes;
  etag = '"2"';
  const second = await createDisk({ overlay: join(folder, 'd.qcow2'), base: await open() });
  expect(sent.bytes).toBeGreaterThan(before + packed.length / 2);
  await first.close();
  await second.close();
});

it('a local file is gone through once for two disks', async () => {
  const base = join(folder, 'disk.raw.gz');
  const make = (name: string) => createDisk({ overlay: join(folder, `${name}.qcow2`), base });
  const [first, second] = await Promise.all([make('e'), make('f')]);
  const passed = async () => (await second.images())[1].container?.passed ?? 0;
  await first.stream();
  expect(await passed()).toBe(SIZE);
  await first.close();
  expect(Buffer.compare(await second.read(0, SIZE), content)).toBe(0);
  await second.close();
});
