/**
 * Serves one file over HTTP on loopback, by ranges (RFC 9110, section 14): what any web server or
 * object store does with an image.
 */

import { once } from 'node:events';
import { createReadStream, statSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream';

export interface FileServer {
  /** On 127.0.0.1. */
  readonly port: number;
  /** Requests answered so far. */
  readonly requests: number;
  stop(): Promise<void>;
}

export async function serveFile(path: string): Promise<FileServer> {
  const { size, mtimeMs } = statSync(path);
  const etag = `"${size.toString(16)}-${Math.trunc(mtimeMs).toString(16)}"`;
  let requests = 0;
  const server = createServer((request, response) => {
    requests++;
    answer(path, size, etag, request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    get requests() {
      return requests;
    },
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

function answer(
  path: string,
  size: number,
  etag: string,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const first = Number(range?.[1] ?? 0);
  const last = Math.min(Number(range?.[2] || size - 1), size - 1);
  const headers = {
    'Accept-Ranges': 'bytes',
    ETag: etag,
    'Content-Type': 'application/octet-stream',
    'Content-Length': last - first + 1,
  };
  if (first > last)
    return void response.writeHead(416, { 'Content-Range': `bytes */${size}` }).end();
  if (range)
    response.writeHead(206, { ...headers, 'Content-Range': `bytes ${first}-${last}/${size}` });
  else response.writeHead(200, headers);
  if (request.method === 'HEAD') return void response.end();
  // A client that does not want the rest closes the connection: nothing is wrong then.
  pipeline(createReadStream(path, { start: first, end: last }), response, () => {});
}
