/** A fetch handler behind node:http. */

import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { MillraceError } from '../api/errors.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { Handler, Listening } from '../faces/http/handler.ts';
import { fileError } from './file.ts';

/** Where a handler listens. */
export interface ListenOptions {
  /** Default loopback, `127.0.0.1`. */
  hostname?: string;
  /** Default 0, a free one. */
  port?: number;
}

/** A listener for a `node:http` (or `node:https`) server of one's own: `createServer(listener)`. */
export function nodeListener(
  handler: Handler,
): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    // The client has gone, or its answer was cut off because it could not be ended rightly: there
    // is nobody left to tell.
    answer(handler, request, response).catch(() => response.destroy());
  };
}

/**
 * Serves a fetch handler by `node:http`.
 * @throws MillraceError `EINVAL` for options that do not exist, `EBUSY` when another program has
 *   the port.
 */
export async function listen(handler: Handler, options: ListenOptions = {}): Promise<Listening> {
  mustKnowOptions('listen', options, { hostname: true, port: true });
  const { hostname = '127.0.0.1', port = 0 } = options;
  const server = createServer(nodeListener(handler));
  server.listen(port, hostname);
  try {
    await once(server, 'listening');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EADDRINUSE')
      throw fileError('listen at', `${hostname}:${port}`, cause);
    throw new MillraceError('EBUSY', `cannot listen at ${hostname}:${port}: another program does`, {
      cause,
    });
  }
  const address = server.address() as AddressInfo;
  return {
    url: `http://${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

async function answer(
  handler: Handler,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const gone = new AbortController();
  outgoing.once('close', () => gone.abort());
  const request = requestOf(incoming, gone.signal);
  if (request === undefined) return refuse(outgoing);
  const response = await handler(request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (response.body === null) return void outgoing.end();
  await pipeline(
    Readable.fromWeb(response.body as Parameters<typeof Readable.fromWeb>[0]),
    outgoing,
  );
}

/**
 * Not a request that a handler could be given: of a forbidden method (`TRACE`), or with a Host that
 * cannot be one.
 */
function refuse(outgoing: ServerResponse): void {
  const told = {
    code: 'EINVAL',
    message: 'there is no such request: see its method, Host and path',
  };
  outgoing
    .writeHead(400, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' })
    .end(JSON.stringify(told));
}

function requestOf(incoming: IncomingMessage, signal: AbortSignal): Request | undefined {
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers)) {
    if (value !== undefined) headers.set(name, Array.isArray(value) ? value.join(', ') : value);
  }
  const { method = 'GET', url = '/' } = incoming;
  const hasBody = method !== 'GET' && method !== 'HEAD';
  const init: RequestInit & { duplex: 'half' } = { method, headers, signal, duplex: 'half' };
  if (hasBody) init.body = bodyOf(incoming);
  try {
    return new Request(
      new URL(url.replace(/^\/+/, '/'), `http://${incoming.headers.host ?? 'localhost'}`),
      init,
    );
  } catch {
    return undefined;
  }
}

/**
 * The body, as far as it is read. The rest is let through: with it, the next request of the
 * connection would be kept back.
 */
function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  const pieces = incoming.iterator({ destroyOnReturn: false });
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = (await pieces.next()) as IteratorResult<Uint8Array>;
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await pieces.return?.();
        incoming.resume();
      },
    },
    { highWaterMark: 0 },
  );
}
