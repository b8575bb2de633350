/**
 * Objects of servers without byte ranges, larger than what is kept in memory: in one pass, where
 * that is asked for.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import type { Ask } from './object-server.ts';
import { ETAG, pattern, serveObject } from './object-server.ts';

const MIB = 1024 * 1024;
/** More than is kept in memory. */
const BYTES = 18 * MIB;
const bytes = pattern(BYTES);
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-in-order-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** Answers with the whole object, whatever is asked for; `cut` bytes of it. */
function whole(
  { response }: Ask,
  object: Uint8Array,
  how: { cut?: number; etag?: string; chunked?: boolean } = {},
): void {
  const length = how.chunked ? {} : { 'Content-Length': object.length };
  response.writeHead(200, { ETag: how.etag ?? ETAG, ...length });
  if (how.cut === undefined) response.end(object);
  else response.write(object.subarray(0, how.cut), () => response.destroy());
}

it('is refused unless it is asked for, with the option that does', async () => {
  const server = await serveObject(bytes, (ask) => whole(ask, bytes));
  const overlay = join(folder, 'refused.qcow2');
  await expect(createDisk({ overlay, base: server.url })).rejects.toMatchObject({
    code: 'EUNSUPPORTED',
    message: expect.stringMatching(/ignores Range.*--sequential/),
  });
  await server.stop();
});

it('comes once: reads in front wait, what has passed is not asked for again', async () => {
  const server = await serveObject(bytes, (ask) => whole(ask, bytes));
  const overlay = join(folder, 'once.qcow2');
  const disk = await createDisk({ overlay, base: server.url, sequential: true });
  expect(await disk.read(17 * MIB, 4096)).toEqual(bytes.slice(17 * MIB, 17 * MIB + 4096));
  expect(await disk.read(MIB, 4096)).toEqual(bytes.slice(MIB, MIB + 4096));
  await disk.stream();
  expect(Buffer.compare(await disk.read(0, BYTES), bytes)).toBe(0);
  // The first request finds out that ranges are ignored; the second is the pass.
  expect(server.ranges).toEqual(['0-327679', '']);
  await disk.close();
  await server.stop();
});

it('is taken up behind what has come when the connection is lost', async () => {
  const cuts = [0, 7 * MIB, 12 * MIB];
  const server = await serveObject(bytes, (ask) =>
    whole(ask, bytes, { cut: cuts[ask.number] || undefined }),
  );
  const disk = await createDisk({
    overlay: join(folder, 'cut.qcow2'),
    base: server.url,
    sequential: true,
  });
  await disk.stream();
  expect(Buffer.compare(await disk.read(0, BYTES), bytes)).toBe(0);
  expect(server.ranges).toHaveLength(4);
  await disk.close();
  await server.stop();
});

it('is refused when it has changed meanwhile', async () => {
  const server = await serveObject(bytes, (ask) =>
    ask.number < 2
      ? whole(ask, bytes, { cut: ask.number * 7 * MIB || undefined })
      : whole(ask, bytes, { etag: '"v2"' }),
  );
  const overlay = join(folder, 'changed.qcow2');
  const disk = await createDisk({ overlay, base: server.url, sequential: true });
  await expect(disk.stream()).rejects.toMatchObject({ code: 'ECHANGED' });
  await disk.close();
  await expect(openDisk({ overlay, sequential: true })).rejects.toMatchObject({ code: 'ECHANGED' });
  await server.stop();
});

it('may be compressed, and of unknown length', async () => {
  const packed = new Uint8Array(gzipSync(bytes, { level: 1 }));
  const server = await serveObject(packed, (ask) => whole(ask, packed, { chunked: true }));
  const disk = await createDisk({
    overlay: join(folder, 'gz.qcow2'),
    base: server.url,
    sequential: true,
  });
  expect((await disk.images())[1].container).toMatchObject({
    formats: ['gzip'],
    access: 'sequential',
    passed: BYTES,
  });
  await disk.stream();
  expect(Buffer.compare(await disk.read(0, BYTES), bytes)).toBe(0);
  await disk.close();
  await server.stop();
});
