/**
 * NBD over a WebSocket: its binary messages, one behind the other, are the bytes of the connection,
 * wherever they are cut. It uses what the standard has, so that browsers, workerd, Deno, Bun and
 * Node fit, and knows nothing of the protocol.
 */

import { MillraceError } from '../../api/errors.ts';
import type { StreamConnection } from './duplex.ts';
import { ConnectionEnded } from './duplex.ts';
import type { NbdConnect } from './uri.ts';

/**
 * Bytes that have come and were not read. A WebSocket cannot be told to wait: one whose other side
 * sends more than that ahead is closed. It is as much as the server lets one connection hold.
 */
export const RECEIVED_BYTES_MAX: number = 96 * 1024 * 1024;
/** Bytes that the WebSocket may hold of what was sent, where it tells. */
const BUFFERED_BYTES_MAX = 1024 * 1024;
/** How often it is asked whether it holds less. */
const POLL_MS = 4;

/** `readyState` of a WebSocket. */
const OPEN = 1;
/**
 * A normal end, data of the wrong kind, too much of it: a script may send 1000, and else from 3000
 * on only, so that 1003 and 1009 (RFC 6455, section 7.4.1) are 4003 and 4009.
 */
const CloseCode = { normal: 1000, unsupported: 4003, tooBig: 4009 } as const;
/** A normal end, that the other side goes away, and an end without a code. */
const CLEAN_CODES: readonly number[] = [1000, 1001, 1005];

/** As much of a WebSocket as is needed here: the platform's, or one like it. */
export interface WebSocketLike {
  /** 0 connecting, 1 open, 2 closing, 3 closed. */
  readonly readyState: number;
  /** Is set to `arraybuffer`. */
  binaryType: string;
  /** Missing in workerd. */
  readonly bufferedAmount?: number;
  /** Sends one binary message. */
  send(data: Uint8Array<ArrayBuffer>): void;
  /** Begins to close it. */
  close(code?: number, reason?: string): void;
  /** Of `open`, `message`, `error` and `close`. */
  addEventListener(type: string, listener: (event: Event) => void): void;
}

/** A WebSocket that is open, as a connection. Nobody else may listen to it or send by it. */
export function overWebSocket(socket: WebSocketLike): StreamConnection {
  socket.binaryType = 'arraybuffer';
  return { readable: readableOf(socket), writable: writableOf(socket) };
}

/**
 * Connects to a ws: or wss: URL.
 * @throws MillraceError `EIO` where nothing accepts there, `EUNSUPPORTED` where the platform has no
 *   WebSocket; the signal's reason when it is aborted before.
 */
export async function connectWebSocket(
  url: string,
  signal: AbortSignal,
): Promise<StreamConnection> {
  signal.throwIfAborted();
  if (globalThis.WebSocket === undefined)
    throw new MillraceError('EUNSUPPORTED', 'this runtime has no WebSocket');
  const socket = new WebSocket(url);
  // Before it is open: its first message may come at once.
  const connection = overWebSocket(socket);
  await new Promise<void>((resolve, reject) => {
    const refuse = (): void => reject(new MillraceError('EIO', 'no WebSocket is accepted there'));
    socket.addEventListener('open', () => resolve());
    socket.addEventListener('error', refuse);
    socket.addEventListener('close', refuse);
    signal.addEventListener('abort', () => {
      socket.close();
      reject(signal.reason);
    });
  });
  return connection;
}

/** How runtimes connect that have no sockets. */
export const connectByWebSocket: NbdConnect = async ({ transport }, signal) => {
  if (transport.kind === 'websocket') return connectWebSocket(transport.url, signal);
  throw new MillraceError(
    'EUNSUPPORTED',
    'there are no sockets here: NBD goes over a WebSocket (ws:, wss:)',
  );
};

function readableOf(socket: WebSocketLike): ReadableStream<Uint8Array> {
  /** By whichever side: a stream that was cancelled must not be closed any more. */
  let ended = false;
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const end = (error?: Error): void => {
          if (ended) return;
          ended = true;
          if (error === undefined) controller.close();
          else controller.error(error);
        };
        const refuse = (code: number, message: string): void => {
          end(new ConnectionEnded(message));
          socket.close(code, message);
        };
        socket.addEventListener('message', (event) => {
          const { data } = event as MessageEvent<unknown>;
          if (ended) return;
          if (!(data instanceof ArrayBuffer))
            return refuse(CloseCode.unsupported, 'NBD goes in binary messages');
          controller.enqueue(new Uint8Array(data));
          if (-controller.desiredSize! > RECEIVED_BYTES_MAX)
            refuse(CloseCode.tooBig, 'more was sent than was asked for');
        });
        socket.addEventListener('close', (event) => {
          const { code } = event as CloseEvent;
          if (CLEAN_CODES.includes(code)) end();
          else end(new ConnectionEnded(`the WebSocket was closed (code ${code})`));
        });
        socket.addEventListener('error', () => end(new ConnectionEnded('the WebSocket failed')));
      },
      cancel() {
        ended = true;
        socket.close(CloseCode.normal);
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: 0 }),
  );
}

function writableOf(socket: WebSocketLike): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    // At once: `abort` below comes only behind a write that waits.
    start(controller) {
      controller.signal.addEventListener('abort', () => socket.close());
    },
    async write(bytes, controller) {
      if (socket.readyState !== OPEN) throw new ConnectionEnded('the WebSocket is closed');
      socket.send(bytes as Uint8Array<ArrayBuffer>);
      while (socket.readyState === OPEN && (socket.bufferedAmount ?? 0) > BUFFERED_BYTES_MAX) {
        if (controller.signal.aborted) throw controller.signal.reason;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    },
    close() {
      socket.close(CloseCode.normal);
    },
    abort() {
      socket.close();
    },
  });
}
