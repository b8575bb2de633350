/** Errors tell their cause by a word that programs can go by, whichever way they come. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import { createHandler, openHttp } from '../../hosts/node/index.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const MIB = 1024 * 1024;

it('a server without byte ranges', async () => {
  const server = createServer((_, response) => {
    response.writeHead(200, { 'Content-Length': 256 * MIB });
    response.write(new Uint8Array(1000));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const { port } = server.address() as AddressInfo;
    await expect(openHttp(`http://127.0.0.1:${port}/base.raw`)).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
      reason: 'no-ranges',
    });
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

it("a job's error, as info and as what the call rejects with", async () => {
  const base: BlockSource = {
    size: MIB,
    name: 'base',
    read() {
      throw new MillraceError('EUNSUPPORTED', 'it has no ranges', { reason: 'no-ranges' });
    },
    close() {},
  };
  const disk = await new MemoryRuntime().create({ overlay: 'o', base, baseFormat: 'raw' });
  const told = { code: 'EUNSUPPORTED', reason: 'no-ranges' };
  await expect(disk.stream()).rejects.toMatchObject(told);
  expect((await disk.info()).error).toMatchObject(told);
  await disk.close();
});

it('what a handler refuses', async () => {
  const handler = createHandler({ disks: {}, token: 'sesame' });
  const headers = { Authorization: 'Bearer sesame' };
  const response = await handler(new Request('http://127.0.0.1/disks/none/info', { headers }));
  expect(await response.json()).toEqual({
    code: 'ENOENT',
    reason: 'no-such-disk',
    message: "there is no disk 'none'",
  });
});
