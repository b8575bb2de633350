/**
 * A TCP server whose every byte a test decides: the place of the answers that are no HTTP, and of
 * connections that end anyhow.
 */
import { once } from 'node:events';
import type { AddressInfo, Socket } from 'node:net';
import { createServer } from 'node:net';

/** The head of one request. */
export interface RawAsk {
  /** Counted from 0, over all connections. */
  readonly number: number;
  readonly path: string;
  readonly headers: Headers;
  /** Where it came from: the same one for requests over one connection. */
  readonly socket: Socket;
  /** Sends text as it stands (Latin-1). */
  say(text: string): void;
}

export interface RawServer {
  readonly url: string;
  readonly asked: RawAsk[];
  /** Connections so far, in order of arrival. */
  readonly sockets: Socket[];
  stop(): Promise<void>;
}

export async function serveRaw(script: (ask: RawAsk) => void): Promise<RawServer> {
  const asked: RawAsk[] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    let text = '';
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
        const [line, ...fields] = text.slice(0, end).split('\r\n');
        text = text.slice(end + 4);
        const headers = new Headers(
          fields.map((field) => field.split(/: (.*)/s).slice(0, 2) as [string, string]),
        );
        const say = (said: string): void => void socket.write(said, 'latin1');
        const ask: RawAsk = {
          number: asked.length,
          path: line.split(' ')[1],
          headers,
          socket,
          say,
        };
        asked.push(ask);
        script(ask);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    sockets,
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
