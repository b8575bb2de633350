/**
 * Bases by NBD under Deno: over TCP, Unix sockets and TLS. A socket needs the permission
 * for its host, or as a Unix socket that to read and write its file and `--allow-net=unix:PATH`.
 */
import { MillraceError } from '../api/errors.ts';
import type { NbdConnection } from '../bases/nbd/duplex.ts';
import { batches, ConnectionEnded } from '../bases/nbd/duplex.ts';
import type { NbdBaseOptions, NbdConnect, NbdSource } from '../bases/nbd/nbd.ts';
import { openNbdWith } from '../bases/nbd/nbd.ts';
import type { NbdTlsOptions } from '../bases/nbd/uri.ts';
import { connectWebSocket } from '../bases/nbd/websocket.ts';
import { fileError } from './file.ts';

/** What one read takes; less is left of a buffer, the more often a new one is needed. */
const BUFFER_BYTES: number = 256 * 1024;
const ROOM_BYTES_MIN: number = 64 * 1024;

/**
 * Opens the export at an NBD URI: `nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`,
 * `nbds://…` with TLS, or `ws://…#EXPORT`. Whom TLS trusts is said by DENO_CERT, or by the folder
 * of the URI's parameter `tls-certificates`. TLS over Unix sockets, and certificates of clients,
 * are refused.
 * @throws MillraceError as `openNbdWith` of ../bases/nbd/nbd.ts
 */
export function openNbd(uri: string | URL, options?: NbdBaseOptions): Promise<NbdSource> {
  return openNbdWith(connect, uri, options);
}

const connect: NbdConnect = async ({ transport, tls }, signal) => {
  if (transport.kind === 'websocket') return connectWebSocket(transport.url, signal);
  if (transport.kind === 'unix') {
    if (tls !== undefined)
      throw new MillraceError('EUNSUPPORTED', 'TLS over a Unix socket is not supported under Deno');
    return over(await opened(Deno.connect({ transport: 'unix', path: transport.path }), signal));
  }
  const caCerts = tls && (await authorities(tls));
  const { hostname, port } = transport;
  const socket = await opened(Deno.connect({ hostname, port }), signal);
  socket.setNoDelay();
  return {
    ...over(socket),
    startTls:
      tls &&
      (async () => {
        const secure = Deno.startTls(socket, { hostname: tls.hostname, caCerts });
        const connection = await opened(secure, signal);
        await connection.handshake();
        return over(connection);
      }),
  };
};

/** A connection that comes when nobody waits any more is closed at once. */
async function opened<T extends Deno.Conn>(opening: Promise<T>, signal: AbortSignal): Promise<T> {
  let socket: T | undefined;
  const close = (): void => endOf(socket);
  signal.addEventListener('abort', close);
  try {
    socket = await opening;
  } catch (cause) {
    // A permission, or what no second try changes.
    if (cause instanceof Deno.errors.NotCapable || cause instanceof Deno.errors.PermissionDenied)
      throw new MillraceError('EACCES', cause.message, { cause });
    throw cause;
  }
  if (signal.aborted) close();
  signal.throwIfAborted();
  return socket;
}

/** What has been closed, or handed over to TLS, is no more. */
function endOf(socket: Deno.Conn | undefined): void {
  try {
    socket?.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** Both directions of a socket, which take no more from it than is asked for. */
function over(socket: Deno.Conn): NbdConnection {
  let room = new Uint8Array(0);
  const end = (): void => endOf(socket);
  return {
    readable: {
      async read() {
        if (room.length < ROOM_BYTES_MIN) room = new Uint8Array(BUFFER_BYTES);
        const bytes = await socket.read(room).catch((cause) => {
          throw new ConnectionEnded('the connection broke', { cause });
        });
        if (bytes === null) return undefined;
        const come = room.subarray(0, bytes);
        room = room.subarray(bytes);
        return come;
      },
      release() {},
      cancel: end,
    },
    writable: {
      async write(parts) {
        for (const bytes of batches(parts))
          for (let sent = 0; sent < bytes.length; )
            sent += await socket.write(bytes.subarray(sent));
      },
      release() {},
      close: () => socket.closeWrite().catch(() => {}),
      abort: end,
    },
  };
}

/** The certificates to trust besides those of the system. */
async function authorities({ certificates }: NbdTlsOptions): Promise<string[] | undefined> {
  if (certificates === undefined) return undefined;
  if ((await pem(`${certificates}/client-cert.pem`, 'optional')) !== undefined)
    throw new MillraceError(
      'EUNSUPPORTED',
      "a client's certificate (client-cert.pem) is not supported under Deno",
    );
  return [(await pem(`${certificates}/ca-cert.pem`))!];
}

async function pem(path: string, need?: 'optional'): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (cause) {
    if (need === 'optional' && cause instanceof Deno.errors.NotFound) return undefined;
    throw fileError('read', path, cause);
  }
}
