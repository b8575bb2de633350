/** A connection over sockets of node:net that read into one buffer again and again. */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import type { Server, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NbdConnection } from '../../hosts/bases/nbd/duplex.ts';
import { ByteReader, ByteWriter } from '../../hosts/bases/nbd/duplex.ts';
import { connectionOfServer, connectionOver, inletOfNode } from '../../hosts/faces/nbd/socket.ts';
import { makeContent, Random } from '../fixtures/content.ts';

const KIB = 1024;
let folder: string;
let server: Server;
let accepted: (socket: Socket) => void;
const path = (): string => join(folder, 'sock');

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-socket-'));
  const how = { allowHalfOpen: true, pauseOnConnect: true };
  server = createServer(how, (socket) => accepted(socket)).listen(path());
  await once(server, 'listening');
});
afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

/** A client, and what the server makes of its connection. */
async function pair(): Promise<{ client: Socket; connection: NbdConnection; socket: Socket }> {
  const socket = new Promise<Socket>((resolve) => (accepted = resolve));
  const client = connect({ path: path(), allowHalfOpen: true });
  client.on('error', () => {});
  const made = await socket;
  return { client, connection: connectionOfServer(made), socket: made };
}

/** Content in pieces of many lengths, with pauses between some of them. */
async function sendInPieces(client: Socket, content: Uint8Array): Promise<void> {
  const random = new Random(content.length);
  for (let at = 0; at < content.length; ) {
    const bytes = random.between(1, [40, 5_000, 20_000, 200_000][random.between(0, 3)]);
    const goesOn = client.write(content.subarray(at, at + bytes));
    at += bytes;
    if (!goesOn) await once(client, 'drain');
    if (random.between(0, 3) === 0) await new Promise(setImmediate);
  }
}

describe('a connection that a server of node:net has made', () => {
  it('takes over what the socket stands on', async () => {
    const { client, connection, socket } = await pair();
    expect((socket as { _handle?: unknown })._handle).toBe(null);
    new ByteReader(connection.readable).cancel('over');
    await once(client.resume(), 'end');
    client.end();
  });

  it('gives what was sent, in pieces of any size, and keeps what was taken', async () => {
    const { client, connection } = await pair();
    const content = makeContent('random', 5, 4 * KIB * KIB);
    const reader = new ByteReader(connection.readable);
    const random = new Random(9);
    const taken: Uint8Array[] = [];
    const sent = sendInPieces(client, content);
    for (let at = 0; at < content.length; ) {
      const bytes = Math.min(
        random.between(1, [28, 4_124, 70_000][random.between(0, 2)]),
        content.length - at,
      );
      taken.push(await reader.take(bytes));
      at += bytes;
      if (random.between(0, 20) === 0) await sleep(1);
    }
    await sent;
    expect(Buffer.compare(Buffer.concat(taken), content)).toBe(0);
    client.end();
    await expect(reader.take(1)).rejects.toThrow('ended the connection');
    new ByteWriter(connection.writable).abort('over');
  });

  it('reads no further than some bytes ahead of what is asked for', async () => {
    const { client, connection } = await pair();
    const content = makeContent('random', 6, 8 * KIB * KIB);
    const reader = new ByteReader(connection.readable);
    client.write(content);
    await sleep(100);
    // The rest waits here, not in the server.
    expect(client.writableLength).toBeGreaterThan(content.length - 2 * KIB * KIB);
    expect(Buffer.compare(await reader.take(content.length), content)).toBe(0);
    reader.cancel('over');
  });

  it('sends what is written, and hears of its end', async () => {
    const { client, connection } = await pair();
    const content = makeContent('random', 7, 300 * KIB);
    const received: Uint8Array[] = [];
    client.on('data', (chunk) => received.push(chunk));
    const writer = new ByteWriter(connection.writable);
    writer.push([content.subarray(0, 28), content.subarray(28)]);
    await writer.drained();
    await Promise.all([once(client, 'end'), writer.close(), client.end()]);
    expect(Buffer.compare(Buffer.concat(received), content)).toBe(0);
  });
});

it('what comes before anybody asks is kept', async () => {
  const content = makeContent('random', 8, 100 * KIB);
  accepted = (socket) => socket.end(content);
  const inlet = inletOfNode()!;
  const socket = connect({ path: path(), onread: inlet.onread });
  await once(socket, 'connect');
  await sleep(50);
  const { readable } = connectionOver(socket, undefined, inlet);
  expect(Buffer.compare(await new ByteReader(readable).take(content.length), content)).toBe(0);
});
