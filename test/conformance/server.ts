/**
 * The server of the fixtures, in Node: gives ranges as RFC 9110 wants, with the CORS headers that a
 * page needs. A case can have a view of a fixture of its own, and tell the server to hold, refuse
 * or change it: so every host meets the same faults, over real HTTP.
 *
 * - `GET /NAME`: a fixture
 * - `GET /own/ID/NAME`: the same, as the view ID has it
 * - `POST /own/ID`: sets the behaviour of the view, a Behaviour as JSON
 * - `GET /own/ID`: what it was asked, Traffic as JSON; with `?held=1`, as soon as a request is held
 * - `PUT /own/ID/NAME`: puts a file there, for that view alone
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeFixtures } from './fixtures.ts';
import type { Behaviour, Traffic } from './remote.ts';

const CORS = {
  'Access-Control-Allow-Origin': '*',
  'Access-Control-Allow-Headers': '*',
  'Access-Control-Allow-Methods': '*',
  'Access-Control-Expose-Headers': 'Content-Range, ETag',
};

export interface FixtureServer {
  /** `http://127.0.0.1:PORT` */
  readonly origin: string;
  stop(): Promise<void>;
}

/** Makes the fixtures and serves them; needs qemu-img. */
export async function serveFixtures(): Promise<FixtureServer> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-conformance-'));
  const files = new Map<string, Uint8Array>();
  try {
    await makeFixtures(folder);
    for (const name of await readdir(folder)) files.set(name, await readFile(join(folder, name)));
  } finally {
    await rm(folder, { recursive: true });
  }
  const views = new Map<string, View>();
  const server = createServer((request, response) => {
    answer(files, views, request, response).catch((error: Error) =>
      response.writeHead(500, CORS).end(error.message),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: () => stop(server),
  };
}

async function stop(server: Server): Promise<void> {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
}

/** A case's own view of the fixtures. */
class View {
  behaviour: Behaviour = {};
  requests = 0;
  readonly held: Set<() => void> = new Set();
  /** What has been put beside the fixtures. */
  readonly files = new Map<string, Uint8Array>();
  readonly watchers: Set<() => void> = new Set();

  set(behaviour: Behaviour): void {
    this.behaviour = behaviour;
    for (const retry of [...this.held]) retry();
  }

  get traffic(): Traffic {
    return { requests: this.requests, held: this.held.size };
  }

  /** Resolves when the behaviour lets a range that ends at `end` go. */
  async pass(end: number, response: ServerResponse): Promise<void> {
    const held = (): boolean => end > (this.behaviour.holdFrom ?? Infinity) && !response.destroyed;
    while (held()) {
      await new Promise<void>((resolve) => {
        const retry = (): void => {
          this.held.delete(retry);
          resolve();
        };
        this.held.add(retry);
        response.once('close', retry);
        for (const watcher of this.watchers) watcher();
      });
    }
  }

  async untilHeld(): Promise<void> {
    while (this.held.size === 0) {
      await new Promise<void>((resolve) => this.watchers.add(resolve));
      this.watchers.clear();
    }
  }
}

async function answer(
  files: Map<string, Uint8Array>,
  views: Map<string, View>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://localhost');
  if (request.method === 'OPTIONS') return void response.writeHead(204, CORS).end();
  const [, id, name] = /^\/own\/([^/]+)(?:\/(.+))?$/.exec(url.pathname) ?? [
    undefined,
    undefined,
    url.pathname.slice(1),
  ];
  const view = id === undefined ? new View() : (views.get(id) ?? new View());
  if (id !== undefined) views.set(id, view);
  if (name !== undefined && request.method === 'PUT') {
    view.files.set(name, Buffer.concat(await request.toArray()));
    return void response.writeHead(204, CORS).end();
  }
  if (name !== undefined)
    return give(view.files.get(name) ?? files.get(name), view, request, response);
  if (request.method === 'POST') view.set(JSON.parse(await bodyOf(request)) as Behaviour);
  if (url.searchParams.has('held')) await view.untilHeld();
  response
    .writeHead(200, { ...CORS, 'Content-Type': 'application/json' })
    .end(JSON.stringify(view.traffic));
}

async function give(
  file: Uint8Array | undefined,
  view: View,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (file === undefined) return void response.writeHead(404, CORS).end();
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [
    undefined,
    '0',
    '',
  ];
  const first = Number(from);
  const end = Math.min(to === '' ? file.length : Number(to) + 1, file.length);
  view.requests++;
  await view.pass(end, response);
  const {
    refuseFrom = Infinity,
    etag = createHash('sha256').update(file).digest('hex').slice(0, 16),
  } = view.behaviour;
  const headers = {
    ...CORS,
    ETag: `"${etag}"`,
    'Content-Type': 'application/octet-stream',
    'Accept-Ranges': 'bytes',
  };
  if (end > refuseFrom) return void response.writeHead(403, CORS).end();
  if (request.headers.range === undefined)
    return void response.writeHead(200, { ...headers, 'Content-Length': file.length }).end(file);
  if (first >= file.length)
    return void response
      .writeHead(416, { ...headers, 'Content-Range': `bytes */${file.length}` })
      .end();
  const range = {
    'Content-Range': `bytes ${first}-${end - 1}/${file.length}`,
    'Content-Length': end - first,
  };
  response.writeHead(206, { ...headers, ...range }).end(file.subarray(first, end));
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const part of request) parts.push(part as Uint8Array);
  return Buffer.concat(parts).toString();
}
