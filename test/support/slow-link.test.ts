import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo, Server, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { SlowLink, SlowLinkOptions } from './slow-link.ts';
import { startSlowLink, startSlowLinkProcess } from './slow-link.ts';

const MIB = 1 << 20;
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A real server behind a link; what the server does with a connection is the test's. */
async function linkTo(
  serve: (socket: Socket) => void,
  options: Partial<SlowLinkOptions> = {},
): Promise<SlowLink> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => server.close());
  const target = { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
  const link = await startSlowLink({ target, roundTripMs: 4, bitsPerSecond: 2e9, ...options });
  cleanups.push(() => link.stop());
  return link;
}

function dial(port: number): Socket {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  socket.on('error', () => {});
  cleanups.push(() => socket.destroy());
  return socket;
}

/**
 * Everything up to the other side's end. It leaves our own side open, which `for await` would not.
 */
async function readAll(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  await once(socket, 'end');
  return Buffer.concat(parts);
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describe('slow link', () => {
  it('carries every byte of every connection in order, both ways at once, and counts them', async () => {
    const link = await linkTo((socket) => socket.pipe(socket));
    const payloads = [1, 100_000, 3 * MIB + 17, 5 * MIB].map((length) => randomBytes(length));
    const echoes = await Promise.all(
      payloads.map((payload) => {
        const socket = dial(link.port);
        socket.end(payload);
        return readAll(socket);
      }),
    );
    expect(echoes.map(sha256)).toEqual(payloads.map(sha256));
    const total = payloads.reduce((sum, { length }) => sum + length, 0);
    expect(link.bytes).toEqual({ up: total, down: total });
    expect(link.connections).toBe(payloads.length);
  });

  it('passes on the end of one side while the other still sends', async () => {
    const link = await linkTo(async (socket) => {
      const received = await readAll(socket);
      socket.end(`after the end: ${received.length}`);
    });
    const socket = dial(link.port);
    socket.write('hello');
    socket.end();
    expect((await readAll(socket)).toString()).toBe('after the end: 5');
  });

  it('lets a server speak first', async () => {
    const link = await linkTo((socket) => socket.end('220 ready'));
    expect((await readAll(dial(link.port))).toString()).toBe('220 ready');
  });

  it('delivers what was sent before a reset, then the reset, whichever side it comes from', async () => {
    const seen: string[] = [];
    let serverSawReset!: () => void;
    const reset = new Promise<void>((resolve) => {
      serverSawReset = resolve;
    });
    const link = await linkTo((socket) => {
      socket.on('data', (bytes) => {
        seen.push(bytes.toString());
        if (bytes.toString() === 'reset me')
          socket.write('last words', () => setTimeout(() => socket.resetAndDestroy(), 20));
        else socket.write('go on');
      });
      socket.on('error', (error: NodeJS.ErrnoException) => {
        seen.push(error.code!);
        serverSawReset();
      });
    });

    const first = dial(link.port);
    first.write('reset me');
    expect((await once(first, 'data'))[0].toString()).toBe('last words');
    expect((await once(first, 'error'))[0]).toMatchObject({ code: 'ECONNRESET' });

    const second = dial(link.port);
    second.write('hello');
    await once(second, 'data');
    second.resetAndDestroy();
    await reset;
    expect(seen).toEqual(['reset me', 'hello', 'ECONNRESET']);
  });

  it('resets the client when nobody listens behind the link', async () => {
    const unused = createServer();
    unused.listen(0, '127.0.0.1');
    await once(unused, 'listening');
    const { port } = unused.address() as AddressInfo;
    unused.close();
    const link = await startSlowLink({
      target: { host: '127.0.0.1', port },
      roundTripMs: 2,
      bitsPerSecond: 1e9,
    });
    cleanups.push(() => link.stop());
    expect((await once(dial(link.port), 'error'))[0]).toMatchObject({ code: 'ECONNRESET' });
  });

  it('holds a bounded amount for a client that does not read, and goes on when it does', async () => {
    // More than all the kernel's socket buffers on the way together, so that a link without a bound
    // would take much more of it.
    const payload = randomBytes(192 * MIB);
    const link = await linkTo((socket) => socket.end(payload), { bitsPerSecond: 4e9 });
    const socket = dial(link.port);
    let before = -1;
    while (link.bytes.down !== before || before <= 0) {
      before = link.bytes.down;
      await sleep(200);
    }
    expect(link.bytes.down).toBeLessThan(96 * MIB);
    expect(sha256(await readAll(socket))).toBe(sha256(payload));
  });

  it('gives a small answer its turn beside a large one', async () => {
    const link = await linkTo(
      (socket) => {
        socket.once('data', (length) => socket.end(Buffer.alloc(Number(length))));
      },
      { bitsPerSecond: 4e7 },
    );
    const ended: string[] = [];
    const large = dial(link.port);
    large.write(String(2 * MIB));
    await once(large, 'data');
    const small = dial(link.port);
    small.write('1000');
    await Promise.all([
      readAll(large).then(() => ended.push('large')),
      readAll(small).then(() => ended.push('small')),
    ]);
    expect(ended).toEqual(['small', 'large']);
  });

  it('runs in a process of its own too', async () => {
    const payload = randomBytes(MIB);
    const server = createServer((socket) => socket.end(payload));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    cleanups.push(() => server.close());
    const target = { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
    const link = await startSlowLinkProcess({ target, roundTripMs: 4, bitsPerSecond: 1e9 });
    cleanups.push(() => link.stop());
    expect(sha256(await readAll(dial(link.port)))).toBe(sha256(payload));
    expect(await link.traffic()).toEqual({ bytes: { up: 0, down: MIB }, connections: 1 });
    await link.stop();
    expect((await once(dial(link.port), 'error'))[0]).toMatchObject({ code: 'ECONNREFUSED' });
  });
});
