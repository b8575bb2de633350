/**
 * How node:http and node:https get through a proxy: http: URLs are asked for whole (RFC 9112,
 * section 3.2.2), https: ones by CONNECT.
 */
import { Buffer } from 'node:buffer';
import * as http from 'node:http';
import * as https from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Failure } from '../retry.ts';
import type { ProxyServer } from './proxy.ts';

/** A proxy that has not answered a CONNECT by then does not. */
const CONNECT_MS_MAX = 15_000;

/** The headers that a proxy itself is sent. */
export function proxyHeaders({ url }: ProxyServer): Record<string, string> {
  if (url.username === '' && url.password === '') return {};
  const user = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return { 'Proxy-Authorization': `Basic ${Buffer.from(user).toString('base64')}` };
}

/** Host and port as node:http takes them. */
export function proxyPlace({ url }: ProxyServer): { hostname: string; port: number } {
  const { hostname, port, protocol } = url;
  return {
    hostname: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: Number(port || (protocol === 'https:' ? 443 : 80)),
  };
}

type Connected = (error: Error | null, socket?: Duplex) => void;
/** What node:https itself has, and calls: it makes TLS over a socket that is there. */
type WithConnection = { createConnection(options: object, connected: Connected): Socket };

/** Connections to https: servers through one proxy. */
export class TunnelAgent extends https.Agent {
  readonly #proxy: ProxyServer;

  constructor(proxy: ProxyServer, options: http.AgentOptions) {
    super(options);
    this.#proxy = proxy;
  }

  override createConnection(
    options: { host: string; port: number },
    connected: Connected,
  ): undefined {
    const { host, port } = options;
    const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
    const { request } = this.#proxy.url.protocol === 'https:' ? https : http;
    const connect = request({
      ...proxyPlace(this.#proxy),
      method: 'CONNECT',
      path: authority,
      headers: { Host: authority, ...proxyHeaders(this.#proxy) },
      agent: false,
      timeout: CONNECT_MS_MAX,
    });
    connect.on('timeout', () =>
      connect.destroy(new Error(`no answer for ${CONNECT_MS_MAX / 1000} s`)),
    );
    connect.on('error', connected);
    connect.on('connect', ({ statusCode = 0 }, socket) => {
      if (statusCode >= 200 && statusCode < 300) {
        socket.setTimeout(0);
        const tls = (https.Agent.prototype as unknown as WithConnection).createConnection;
        connected(
          null,
          tls.call(this as unknown as WithConnection, { ...options, socket }, () => {}),
        );
      } else {
        socket.destroy();
        connected(refusal(statusCode, authority, this.#proxy));
      }
    });
    connect.end();
    return undefined;
  }
}

function refusal(status: number, authority: string, { name }: ProxyServer): Failure {
  if (status === 407)
    return new Failure(
      'EACCES',
      `the proxy ${name} wants credentials (407): give them in its URL, as http://USER:PASSWORD@HOST:PORT`,
    );
  return new Failure(
    'EIO',
    `the proxy ${name} does not connect to ${authority} (it answered ${status})`,
    {
      transient: status >= 500,
      lost: true,
    },
  );
}
