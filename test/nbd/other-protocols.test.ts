/** What is no NBD server is told by what it speaks, and not waited for. */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo, Server, Socket } from 'node:net';
import { createServer } from 'node:net';
import { expect, it } from 'vitest';
import { openNbd } from '../../hosts/node/nbd-base.ts';

/** Answers to what a client says first, as a server of TLS does to what is none, and to a hello. */
function speakTls(socket: Socket): void {
  socket.on('error', () => {});
  socket.once('data', (said) => {
    if (said[0] === 0x16) socket.write(Buffer.from([0x15, 3, 1, 0, 2, 2, 50]));
    socket.end();
  });
}

const OTHERS: [string, () => Server, RegExp][] = [
  [
    'HTTP',
    () => createHttpServer((_, response) => response.end('a page')),
    /no NBD server, it speaks HTTP: is it an http: URL\?$/,
  ],
  ['TLS', () => createServer(speakTls), /no NBD server, it speaks TLS from the start$/],
  [
    'another protocol in a short greeting',
    () =>
      createServer((socket) => {
        socket.on('error', () => {});
        socket.write('SSH-2.0-x\r\n');
      }),
    /no NBD server$/,
  ],
];

it.each(OTHERS)('%s', async (_, create, message) => {
  const server = create().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  try {
    await expect(openNbd(`nbd://127.0.0.1:${port}/vda`)).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringMatching(message),
    });
  } finally {
    server.close();
  }
});
