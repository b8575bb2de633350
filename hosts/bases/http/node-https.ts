/**
 * What node-fetch.ts needs for TLS: node:https, whose connections to servers behind a proxy go
 * through a CONNECT to that.
 */
import * as http from 'node:http';
import * as https from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Failure } from '../retry.ts';
import type { ProxyServer } from './proxy.ts';
import { proxyHeaders, proxyPlace } from './proxy-place.ts';

/** A proxy that has not answered a CONNECT by then does not. */
const CONNECT_MS_MAX = 15_000;

type Connected = (error: Error | null, socket?: Duplex) => void;
/** What node:https itself has, and calls: it makes TLS over a socket that is there. */
type WithConnection = { createConnection(options: object, connected: Connected): Socket };

/** Connections to https: servers through one proxy. */
class TunnelAgent extends https.Agent {
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

/** Requests over TLS. */
export class SecureRequests {
  readonly request: typeof https.request = https.request;
  readonly agent: https.Agent;
  readonly #kept: http.AgentOptions;
  /** By the proxy's URL: a process has one for https:, or changes it hardly ever. */
  #tunnel: { href: string; agent: TunnelAgent } | undefined;

  /** `kept`: how connections are kept for the next request. */
  constructor(kept: http.AgentOptions) {
    this.agent = new https.Agent(kept);
    this.#kept = kept;
  }

  /** For servers behind a proxy; one that is not `kept` serves one request. */
  tunnelThrough(proxy: ProxyServer, isKept: boolean): https.Agent {
    if (!isKept) return new TunnelAgent(proxy, {});
    const { href } = proxy.url;
    if (this.#tunnel?.href !== href)
      this.#tunnel = { href, agent: new TunnelAgent(proxy, this.#kept) };
    return this.#tunnel.agent;
  }
}
