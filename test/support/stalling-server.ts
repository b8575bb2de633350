/** A server that stops answering: what a command is doing when the user no longer wants to wait. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface StallingServer {
  readonly url: string;
  /** Resolves when it has been asked what it does not answer. */
  readonly asked: Promise<void>;
  stop(): void;
}

/**
 * Serves a few ranges of `content` that begin before `until`, and leaves every other request
 * without an answer.
 */
export async function serveAndStall(
  content: Uint8Array,
  answers: number,
  until: number = Infinity,
): Promise<StallingServer> {
  let count = 0;
  let stalls: () => void;
  const asked = new Promise<void>((resolve) => {
    stalls = resolve;
  });
  const server = createServer((request, response) => {
    const [first, end] = /^bytes=(\d+)-(\d+)$/
      .exec(request.headers.range ?? '')!
      .slice(1)
      .map(Number);
    if (count++ >= answers || first >= until) return stalls();
    const last = Math.min(end, content.length - 1);
    response
      .writeHead(206, { ETag: '"1"', 'Content-Range': `bytes ${first}-${last}/${content.length}` })
      .end(content.subarray(first, last + 1));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/base.raw`,
    asked,
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}
