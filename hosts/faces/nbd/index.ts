/**
 * The NBD server for browsers and edge runtimes, where clients come by WebSockets, and for
 * connections of one's own.
 *
 * ```ts
 * import { overWebSocket, serveNbd } from 'millrace/nbd';
 * // In a worker of Cloudflare; in a page: a WebSocket that it has opened to a relay.
 * const [client, server] = Object.values(new WebSocketPair());
 * server.accept();
 * context.waitUntil(serveNbd({ vda: disk }, overWebSocket(server)));
 * return new Response(null, { status: 101, webSocket: client });
 * ```
 */
export type {
  ByteSink,
  ByteSource,
  NbdConnection,
  StreamConnection,
} from '../../bases/nbd/duplex.ts';
export type { WebSocketLike } from '../../bases/nbd/websocket.ts';
export { overWebSocket } from '../../bases/nbd/websocket.ts';
export type { NbdOptions } from './server.ts';
export { NbdServer, serveNbd } from './server.ts';
