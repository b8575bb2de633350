/**
 * A client that uses a disk over a WebSocket, under Deno: to the URL it is given, or of whoever
 * connects to the port that it prints. It prints what it saw as a line of JSON.
 */
import { Buffer } from 'node:buffer';
import { overWebSocket } from '../../hosts/bases/nbd/websocket.ts';
import { Client } from './client.ts';

const KIB = 1024;
/** Longer than one message, and at no boundary of anything. */
const AT = 12_345;
const LENGTH = 300 * KIB + 1;

async function use(socket: WebSocket): Promise<void> {
  const client = await Client.ready(overWebSocket(socket), 'structured', ['base:allocation']);
  const before = await client.read(AT, LENGTH);
  const payload = Buffer.alloc(LENGTH);
  for (let at = 0; at < LENGTH; at++) payload[at] = at * 7;
  const flags = 1;
  await client.request(1, AT, LENGTH, { flags, payload });
  const { error } = await client.reply();
  const after = await client.read(0, 1024 * KIB);
  await client.request(7, 0, 1024 * KIB);
  const status = await client.chunks();
  await client.request(2, 0, 0);
  console.log(
    JSON.stringify({
      zeros: before.every((byte) => byte === 0),
      error,
      written: after.subarray(AT, AT + LENGTH).equals(payload),
      around: after[AT - 1] === 0 && after[AT + LENGTH] === 0,
      status: status.map(({ type }) => type),
    }),
  );
  await client.close();
  Deno.exit(0);
}

const [url] = Deno.args;
if (url !== undefined) {
  const socket = new WebSocket(url);
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => use(socket);
} else {
  const server = Deno.serve({ hostname: '127.0.0.1', port: 0, onListen: () => {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => use(socket);
    return response;
  });
  console.log(server.addr.port);
}
