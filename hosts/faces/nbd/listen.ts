/**
 * NBD at sockets, by node:net and node:tls, which Node, Bun and Deno have: listens, and hands each
 * connection to the server.
 */
import { once } from 'node:events';
import { lstat, readFile, readlink, rm } from 'node:fs/promises';
import type { AddressInfo, Server } from 'node:net';
import { connect, createServer } from 'node:net';
import process from 'node:process';
import type { TlsOptions, Server as TlsServer } from 'node:tls';
import { createServer as createTlsServer } from 'node:tls';
import { MillraceError } from '../../api/errors.ts';
import { mustKnowOptions } from '../../api/options.ts';
import { placeOf, systemError } from '../../files/errors.ts';
import type { NbdServer } from './server.ts';
import type { Securing } from './socket.ts';
import { connectionOfServer } from './socket.ts';

/** Only the user that runs the server may connect. */
const SOCKET_UMASK = 0o177;
/** How long a socket's file is asked whether anyone listens at it. */
const PROBE_MS_MAX = 2_000;
/** How long a client has for the messages of TLS. */
const TLS_MS_MAX = 30_000;

/** Where NBD is served: a Unix socket, or a port of an address. */
export type NbdAddress = { path: string } | { hostname: string; port: number };

/**
 * PEM texts: the server's certificate and key; with `ca`, clients must have a certificate that it
 * has signed.
 */
export interface NbdTls {
  /** The server's certificate. */
  cert: string | Uint8Array;
  /** Its private key. */
  key: string | Uint8Array;
  /** Whose clients' certificates are taken. */
  ca?: string | Uint8Array;
}

/** An NBD server that answers. */
export interface NbdListening {
  /** Where it listens; a free port has been put in. */
  readonly address: NbdAddress;
  /** Lets nobody in any more. Connections go on. */
  close(): Promise<void>;
}

/**
 * Listens, and serves everyone who connects; `fd` is a socket that listens already. A Unix socket
 * has mode 0600; one that was left behind, and at which nobody listens, is replaced.
 * @throws MillraceError `EBUSY` when another program listens there, `EEXIST` when something else is
 *   there.
 */
export async function listenNbd(
  server: NbdServer,
  address: NbdAddress | { fd: number },
  options: { tls?: NbdTls } = {},
): Promise<NbdListening> {
  mustKnowOptions('listenNbd', options, { tls: true });
  mustKnowOptions('tls of listenNbd', options.tls ?? {}, { cert: true, key: true, ca: true });
  const secure = options.tls === undefined ? undefined : securing(options.tls);
  const how = { allowHalfOpen: true, noDelay: true, pauseOnConnect: true };
  const listener = createServer(how, (socket) => {
    socket.on('error', () => {});
    void server.serve(connectionOfServer(socket, secure));
  });
  if ('path' in address) await removeStale(address.path);
  await listenAt(listener, address);
  return {
    address: await taken(listener, address),
    async close() {
      if (!listener.listening) return;
      listener.close();
      // 'close' comes only when all connections have ended, which is not waited for here.
      if ('path' in address) await rm(address.path, { force: true });
    },
  };
}

async function listenAt(listener: Server, address: NbdAddress | { fd: number }): Promise<void> {
  const where = nameOf(address);
  const umask = 'path' in address ? maskedFor(where) : undefined;
  try {
    if ('path' in address) listener.listen(address.path);
    else if ('fd' in address) listener.listen({ fd: address.fd });
    else listener.listen(address.port, address.hostname);
    await once(listener, 'listening');
  } catch (cause) {
    const {
      name,
      code = name === 'NotCapable' ? 'EACCES' : 'EIO',
      message,
    } = cause as NodeJS.ErrnoException;
    if (code !== 'EADDRINUSE')
      throw systemError('listen at', placeOf(where), { code, reason: message, cause });
    throw new MillraceError('EBUSY', `cannot listen at ${where}: another program does`, { cause });
  } finally {
    if (umask !== undefined) process.umask(umask);
  }
}

/** The process's mask before; what is made from now on is its user's alone. */
function maskedFor(where: string): number {
  try {
    return process.umask(SOCKET_UMASK);
  } catch (cause) {
    // Deno wants a permission for it.
    const { message } = cause as Error;
    throw new MillraceError('EACCES', `cannot listen at ${where}: ${message}`, { cause });
  }
}

function nameOf(address: NbdAddress | { fd: number }): string {
  if ('path' in address) return address.path;
  return 'fd' in address ? `socket ${address.fd}` : `${address.hostname}:${address.port}`;
}

/** Where it listens now: a free port, or what systemd has chosen, is known only after. */
async function taken(listener: Server, address: NbdAddress | { fd: number }): Promise<NbdAddress> {
  if ('path' in address) return address;
  const bound = listener.address() as AddressInfo | string | null;
  if (bound === null || typeof bound === 'string')
    return { path: bound ?? ('fd' in address ? await pathOfSocket(address.fd) : '') };
  return { hostname: 'hostname' in address ? address.hostname : bound.address, port: bound.port };
}

/**
 * Node does not tell the path of a socket that it was given; Linux does. Empty where it cannot be
 * told.
 */
async function pathOfSocket(fd: number): Promise<string> {
  const link = await readlink(`/proc/self/fd/${fd}`).catch(() => '');
  const inode = /^socket:\[(\d+)\]$/.exec(link)?.[1];
  const table = await readFile('/proc/net/unix', 'utf8').catch(() => '');
  const line = table.split('\n').find((text) => text.split(/\s+/)[6] === inode);
  return line?.split(/\s+/).slice(7).join(' ') ?? '';
}

/** A server that was killed leaves its socket's file behind. */
async function removeStale(path: string): Promise<void> {
  const stats = await lstat(path).catch(() => undefined);
  if (stats === undefined) return;
  if (!stats.isSocket())
    throw new MillraceError('EEXIST', `cannot listen at ${path}: it is there, and is no socket`);
  if (await answers(path))
    throw new MillraceError('EBUSY', `cannot listen at ${path}: another program does`);
  await rm(path, { force: true });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    // One that is too busy to answer is there.
    socket.setTimeout(PROBE_MS_MAX, () => end(true));
    socket.once('connect', () => end(true));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      end(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}

/** Turns a connection into one by TLS. */
export /** @throws MillraceError `EINVAL` for a certificate or key that is none. */
function securing({ cert, key, ca }: NbdTls): Securing {
  const pem = (text: string | Uint8Array): string | Buffer =>
    typeof text === 'string' ? text : Buffer.from(text);
  const options: TlsOptions = {
    cert: pem(cert),
    key: pem(key),
    ca: ca === undefined ? undefined : pem(ca),
    requestCert: ca !== undefined,
    rejectUnauthorized: ca !== undefined,
    minVersion: 'TLSv1.2',
    handshakeTimeout: TLS_MS_MAX,
  };
  const server = (): TlsServer => {
    try {
      return createTlsServer(options);
    } catch (cause) {
      throw new MillraceError('EINVAL', `cannot use the certificate: ${(cause as Error).message}`, {
        cause,
      });
    }
  };
  server();
  // A server of its own for each socket, which is never listened with, tells which of the sockets
  // is secure now.
  return (socket) =>
    new Promise((resolve, reject) => {
      const secured = server();
      secured.once('secureConnection', (secure) => {
        secure.on('error', () => {});
        resolve(secure);
      });
      secured.once('tlsClientError', reject);
      socket.once('close', () => reject(new Error('the connection was closed')));
      secured.emit('connection', socket);
    });
}

/** Descriptors that systemd hands over (sd_listen_fds(3)) begin with this one. */
const LISTEN_FDS_START = 3;

/**
 * The socket that systemd has opened for this process, if it has. @throws MillraceError
 * `EUNSUPPORTED` for more than one.
 */
export function activatedSocket(
  environment: Readonly<Record<string, string | undefined>>,
  pid: number,
): { fd: number } | undefined {
  if (Number(environment.LISTEN_PID) !== pid || environment.LISTEN_FDS === undefined)
    return undefined;
  const count = Number(environment.LISTEN_FDS);
  if (count === 0) return undefined;
  if (count !== 1)
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot listen at ${environment.LISTEN_FDS} sockets of systemd: give the unit one`,
    );
  return { fd: LISTEN_FDS_START };
}
