/**
 * An HTTP server for one object that answers ranges as RFC 9110 wants, except where a test's script
 * has it do something else: the place of the wrong answers, the lost connections and the stalls
 * that no real server gives when asked to.
 */

import { once } from 'node:events';
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** One request, as a script sees it. */
export interface Ask {
  /** Counted from 0. */
  readonly number: number;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The range asked for, its end already lowered to the object's. */
  readonly first: number;
  readonly end: number;
  /** The right headers of a 206. */
  readonly headers: OutgoingHttpHeaders;
  /** The right bytes. */
  readonly body: Uint8Array;
  /** Answers rightly, with some headers replaced (or left out, as undefined). */
  answer(replaced?: OutgoingHttpHeaders, body?: Uint8Array): void;
  /** Answers with a status and no body. */
  refuse(status: number, headers?: OutgoingHttpHeaders): void;
}

export interface ObjectServer {
  readonly url: string;
  /** The ranges asked for, in order of arrival. */
  readonly ranges: string[];
  /** Requests whose connection the client has closed before their end. */
  readonly cancelled: () => number;
  /** Resolves when that many requests have arrived in all. */
  arrived(requests: number): Promise<void>;
  /** Resolves when the client has cancelled that many in all. */
  cancellations(requests: number): Promise<void>;
  stop(): Promise<void>;
}

export const ETAG = '"v1"';
export const LAST_MODIFIED = 'Tue, 03 Mar 2026 10:00:00 GMT';

/** Bytes in which no two places look alike for long: a wrong offset shows. */
export function pattern(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  const words = new DataView(bytes.buffer);
  for (let at = 0; at + 4 <= size; at += 4)
    words.setUint32(at, Math.imul(at + 1, 0x9e3779b1) >>> 0);
  return bytes;
}

/** Serves `object`; `script` answers each request, by default rightly. */
export async function serveObject(
  object: Uint8Array,
  script: (ask: Ask) => void = (ask) => ask.answer(),
): Promise<ObjectServer> {
  const ranges: string[] = [];
  const watchers = new Set<() => void>();
  let cancelled = 0;
  const notify = (): void => {
    for (const watcher of watchers) watcher();
  };
  const until = (reached: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      const watcher = (): void => {
        if (!reached()) return;
        watchers.delete(watcher);
        resolve();
      };
      watchers.add(watcher);
      watcher();
    });
  const server = createServer((request, response) => {
    response.on('close', () => {
      if (response.writableFinished) return;
      cancelled++;
      notify();
    });
    const ask = askOf(object, ranges.length, request, response);
    ranges.push(request.headers.range?.replace('bytes=', '') ?? '');
    script(ask);
    notify();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`,
    ranges,
    cancelled: () => cancelled,
    arrived: (requests) => until(() => ranges.length >= requests),
    cancellations: (requests) => until(() => cancelled >= requests),
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

function askOf(
  object: Uint8Array,
  number: number,
  request: IncomingMessage,
  response: ServerResponse,
): Ask {
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  const [first, last] =
    match === null ? [0, object.length - 1] : [Number(match[1]), Number(match[2])];
  const end = Math.min(last + 1, object.length);
  const body = object.subarray(first, end);
  const headers: OutgoingHttpHeaders = {
    'Content-Type': 'application/octet-stream',
    'Content-Range': `bytes ${first}-${end - 1}/${object.length}`,
    'Content-Length': end - first,
    ETag: ETAG,
    'Last-Modified': LAST_MODIFIED,
  };
  const refuse = (status: number, more: OutgoingHttpHeaders = {}): void => {
    response.writeHead(status, { 'Content-Length': 0, ...more }).end();
  };
  const answer = (replaced: OutgoingHttpHeaders = {}, bytes: Uint8Array = body): void => {
    const kept = Object.entries({ ...headers, ...replaced }).filter(
      ([, value]) => value !== undefined,
    );
    response.writeHead(206, Object.fromEntries(kept)).end(bytes);
  };
  return { number, request, response, first, end, headers, body, answer, refuse };
}
