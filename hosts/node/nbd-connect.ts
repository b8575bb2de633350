/** Connections to NBD servers under Node and Bun: over TCP, Unix sockets and TLS. */
import { readFile } from 'node:fs/promises';
import type { OnReadOpts, Socket } from 'node:net';
import { connect as connectSocket, isIP } from 'node:net';
import { join } from 'node:path';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { connect as connectTls } from 'node:tls';
import type { NbdConnect } from '../bases/nbd/nbd.ts';
import type { NbdTlsOptions, NbdTransport } from '../bases/nbd/uri.ts';
import { connectWebSocket } from '../bases/nbd/websocket.ts';
import type { Inlet } from '../faces/nbd/socket.ts';
import { connectionOver, inletOfNode } from '../faces/nbd/socket.ts';
import { fileError } from './file.ts';

export const connect: NbdConnect = async ({ transport, tls }, signal) => {
  if (transport.kind === 'websocket') return connectWebSocket(transport.url, signal);
  if (tls === undefined) {
    const inlet = inletOfNode();
    return connectionOver(await connected(transport, signal, inlet), undefined, inlet);
  }
  const options = await tlsOptions(tls);
  return connectionOver(await connected(transport, signal), (plain) =>
    connected({ ...options, socket: plain }, signal),
  );
};

/** What is to be connected to: a server, or TLS over a socket that is. */
type Way = Exclude<NbdTransport, { kind: 'websocket' }> | (ConnectionOptions & { socket: Socket });

function connected<T extends Way>(
  way: T,
  signal: AbortSignal,
  inlet?: Inlet,
): Promise<T extends { socket: Socket } ? TLSSocket : Socket>;
function connected(way: Way, signal: AbortSignal, inlet?: Inlet): Promise<Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = begun(way, inlet?.onread);
    signal.addEventListener('abort', () => {
      socket.destroy();
      reject(signal.reason);
    });
    // What breaks a connection that was made shows in its streams.
    socket.on('error', reject);
    socket.once('socket' in way ? 'secureConnect' : 'connect', () => resolve(socket));
    socket.once('close', () => reject(new Error('the connection was closed')));
  });
}

function begun(way: Way, onread?: OnReadOpts): Socket {
  if ('socket' in way) return connectTls(way);
  return way.kind === 'unix'
    ? connectSocket({ path: way.path, onread })
    : connectSocket({ host: way.hostname, port: way.port, noDelay: true, onread });
}

/** @throws MillraceError for a folder of certificates that cannot be read */
async function tlsOptions({ hostname, certificates }: NbdTlsOptions): Promise<ConnectionOptions> {
  const options: ConnectionOptions = {
    host: hostname,
    servername: isIP(hostname) ? undefined : hostname,
    minVersion: 'TLSv1.2',
  };
  if (certificates === undefined) return options;
  const [ca, cert, key] = await Promise.all([
    pem(join(certificates, 'ca-cert.pem')),
    pem(join(certificates, 'client-cert.pem'), 'optional'),
    pem(join(certificates, 'client-key.pem'), 'optional'),
  ]);
  return { ...options, ca, cert, key };
}

async function pem(path: string, need?: 'optional'): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    if (need === 'optional' && (cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fileError('read', path, cause);
  }
}
