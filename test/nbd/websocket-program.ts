/**
 * Both ends of NBD's connection over a WebSocket, under Deno, which has a server and a client of
 * the standard: prints what came of each case as a line of JSON.
 */
import { ByteReader, ByteWriter } from '../../hosts/bases/nbd/duplex.ts';
import {
  connectWebSocket,
  overWebSocket,
  RECEIVED_BYTES_MAX,
} from '../../hosts/bases/nbd/websocket.ts';

const MIB = 1024 * 1024;
/** More than a WebSocket may buffer, by far. */
const LONG = 24 * MIB;

type Side = (socket: WebSocket) => void | Promise<void>;

const sides: Record<string, Side> = {
  /** Sends back what comes. */
  async echo(socket) {
    const { readable, writable } = overWebSocket(socket);
    await readable.pipeTo(writable);
  },
  text: (socket) => socket.send('text'),
  ends: (socket) => socket.close(1000),
  fails: (socket) => socket.close(4000),
  /** Sends on and on, whether anyone reads or not. */
  async floods(socket) {
    const bytes = new Uint8Array(8 * MIB);
    for (let sent = 0; sent <= RECEIVED_BYTES_MAX + 16 * MIB; sent += bytes.length) {
      socket.send(bytes);
      while (socket.bufferedAmount > 0 && socket.readyState === WebSocket.OPEN)
        await new Promise((resolve) => setTimeout(resolve, 1));
    }
  },
};

const server = Deno.serve({ hostname: '127.0.0.1', port: 0, onListen: () => {} }, (request) => {
  const side = sides[new URL(request.url).pathname.slice(1)];
  if (side === undefined) return new Response(null, { status: 404 });
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onopen = () => Promise.resolve(side(socket)).catch(() => {});
  return response;
});
const never = new AbortController().signal;
const url = (side: string): string => `ws://127.0.0.1:${server.addr.port}/${side}`;

/** What reading a byte comes to. */
async function readOne(side: string, waitMs = 0): Promise<string> {
  const { readable } = await connectWebSocket(url(side), never);
  await new Promise((resolve) => setTimeout(resolve, waitMs));
  const reader = readable.getReader();
  try {
    for (;;) if ((await reader.read()).done) return 'ended';
  } catch (error) {
    return (error as Error).message;
  }
}

async function echo(): Promise<boolean> {
  const { readable, writable } = await connectWebSocket(url('echo'), never);
  const sent = new Uint8Array(LONG);
  for (let at = 0; at < LONG; at += 4093) sent[at] = 1 + (at % 251);
  const writer = new ByteWriter(writable);
  // In parts of all sizes, small ones put together.
  for (let at = 0, length = 1; at < LONG; at += length, length = (length * 3) % (2 * MIB) || 7)
    writer.push([sent.subarray(at, at + length)]);
  const reader = new ByteReader(readable);
  const received = await reader.take(LONG);
  await writer.close();
  return received.every((byte, at) => byte === sent[at]);
}

async function refusal(): Promise<string> {
  return connectWebSocket(url('nothing'), never).then(
    () => 'accepted',
    (error) => `${error.code} ${error.message}`,
  );
}

/** The close that follows a cancelled stream must hurt nobody. */
async function cancelled(): Promise<string> {
  const { readable, writable } = await connectWebSocket(url('echo'), never);
  const reader = readable.getReader();
  const reading = reader.read();
  await reader.cancel();
  await writable.abort();
  await new Promise((resolve) => setTimeout(resolve, 200));
  return (await reading).done ? 'ended' : 'read';
}

async function aborted(): Promise<string> {
  const abort = new AbortController();
  const connecting = connectWebSocket(url('echo'), abort.signal);
  abort.abort(new Error('not wanted'));
  return connecting.then(
    () => 'connected',
    (error) => error.message,
  );
}

console.log(
  JSON.stringify({
    echo: await echo(),
    text: await readOne('text'),
    ends: await readOne('ends'),
    fails: await readOne('fails'),
    floods: await readOne('floods', 3000),
    refusal: await refusal(),
    cancelled: await cancelled(),
    aborted: await aborted(),
  }),
);
Deno.exit(0);
