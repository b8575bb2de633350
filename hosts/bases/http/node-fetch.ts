/**
 * What reading a base needs of `fetch`, over node:http and node:https, in runtimes that have these:
 * a request by GET or HEAD, its proxy, its redirects, and a body piece by piece. Node's own `fetch`
 * hands every piece through two kinds of streams: at 1 Gbit/s that took half of the main thread's
 * time, and opened new connections for requests that follow one another.
 */
import { Buffer } from 'node:buffer';
import * as http from 'node:http';
import { Failure } from '../retry.ts';
import type { PlainFetch, PlainInit } from './fetch.ts';
import { Fields } from './fields.ts';
import { ORIGIN_HEADERS } from './mirrors.ts';
import { Body } from './node-body.ts';
import type { SecureRequests } from './node-https.ts';
import type { Environment, ProxyServer } from './proxy.ts';
import { proxyFor, throughProxy } from './proxy.ts';
import { proxyHeaders, proxyPlace } from './proxy-place.ts';
import type { Answer } from './response.ts';

/** As in the Fetch standard. */
const REDIRECTS_MAX = 20;
const REDIRECT_STATUS: ReadonlySet<number | undefined> = new Set([301, 302, 303, 307, 308]);
/** These would change how the connection is used, for the requests that follow as well. */
const CONNECTION_HEADERS = [
  'Connection',
  'Content-Length',
  'Expect',
  'Keep-Alive',
  'TE',
  'Trailer',
  'Transfer-Encoding',
  'Upgrade',
];
/** Some servers refuse requests without one. */
const USER_AGENT = 'millrace';
/**
 * An idle connection is kept no longer: most servers close theirs later, and one that the network
 * has forgotten costs a timeout.
 */
const IDLE_MS_MAX = 15_000;

const kept: http.AgentOptions = { keepAlive: true, timeout: IDLE_MS_MAX };
const ownAgent = new http.Agent(kept);

/** Loaded with the first request that needs it: that takes longer than many a request. */
let secure: Promise<SecureRequests> | undefined;

function loadSecure(): Promise<SecureRequests> {
  return (secure ??= import('./node-https.ts').then((module) => new module.SecureRequests(kept)));
}

/**
 * A `fetch` that goes through the proxies of an environment. It throws what node:http throws; the
 * reason of the signal once that is aborted; Failure for a redirect that cannot be followed.
 */
export function nodeFetchWith(environment: Environment): PlainFetch {
  const fetch = (href: string, init: PlainInit) => fetched(href, init, environment);
  return Object.assign(fetch, { isPlain: true as const });
}

async function fetched(
  href: string,
  { headers, signal, method = 'GET' }: PlainInit,
  environment: Environment,
): Promise<Answer> {
  const sent = new Fields(headers);
  for (const name of CONNECTION_HEADERS) sent.delete(name);
  if (!sent.has('User-Agent')) sent.set('User-Agent', USER_AGENT);
  let url = new URL(href);
  for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
    const proxy = proxyFor(url.href, environment);
    const { response, body } = await get({ url, method, headers: sent, signal, proxy });
    const location = REDIRECT_STATUS.has(response.statusCode)
      ? response.headers.location
      : undefined;
    if (location === undefined)
      return { ...answerOf(response, body), url: url.href, via: proxy?.name };
    await passOver(response);
    const next = follow(location, url);
    if (next.origin !== url.origin) for (const name of ORIGIN_HEADERS) sent.delete(name);
    url = next;
  }
  throw new Error('redirect count exceeded');
}

interface Received {
  response: http.IncomingMessage;
  body: Body;
}

interface Asked {
  url: URL;
  method: 'GET' | 'HEAD';
  headers: Fields;
  signal: AbortSignal;
  proxy: ProxyServer | undefined;
}

/**
 * The server may have closed a kept connection while the request was on its way: the request then
 * goes over one of its own (`agent` false), at once, and no third time.
 */
async function get(asked: Asked, agent?: false): Promise<Received> {
  const { url, signal, proxy } = asked;
  const needsTls = [url, proxy?.url].some((place) => place?.protocol === 'https:');
  const tls = needsTls ? await loadSecure() : undefined;
  signal.throwIfAborted();
  const request = open(asked, tls, agent);
  try {
    return await received(request, signal);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    const { code } = error as { code?: string };
    if (request.reusedSocket && (code === 'ECONNRESET' || code === 'EPIPE'))
      return get(asked, false);
    throw proxy === undefined || error instanceof Failure ? error : throughProxy(error, proxy);
  }
}

/** An http: URL is asked for whole from a proxy (RFC 9112, section 3.2.2). */
function open(
  { url, method, headers, signal, proxy }: Asked,
  tls: SecureRequests | undefined,
  agent?: false,
): http.ClientRequest {
  const sent = Object.fromEntries(headers);
  const way = (protocol: string): { agent: http.Agent; request: typeof http.request } =>
    protocol === 'https:' ? tls! : { request: http.request, agent: ownAgent };
  if (proxy === undefined || url.protocol === 'https:') {
    const { request, agent: own } = way(url.protocol);
    const used = proxy ? tls!.tunnelThrough(proxy, agent !== false) : (agent ?? own);
    return request(url, { agent: used, method, headers: sent, signal });
  }
  const { request, agent: own } = way(proxy.url.protocol);
  return request({
    ...proxyPlace(proxy),
    path: `${url.origin}${url.pathname}${url.search}`,
    agent: agent ?? own,
    method,
    headers: { Host: url.host, ...sent, ...proxyHeaders(proxy) },
    signal,
  });
}

/**
 * The listeners are there before anything can happen, and stay: an 'error' that nobody hears would
 * end the process.
 */
function received(request: http.ClientRequest, signal: AbortSignal): Promise<Received> {
  return new Promise((resolve, reject) => {
    let body: Body | undefined;
    request.on('response', (response) => {
      body = new Body(response, signal);
      resolve({ response, body });
    });
    request.on('error', (error) => {
      body?.fail(error);
      reject(error);
    });
    // Without any error: the server switched to another protocol unasked.
    request.on('close', () => reject(new Error('the server closed it without an answer')));
    request.end();
  });
}

/**
 * A body that came together with its head is let through, so that the connection can be used again;
 * no other is waited for.
 */
function passOver(response: http.IncomingMessage): Promise<void> {
  if (response.complete) response.resume();
  else response.destroy();
  return new Promise((resolve) => (response.closed ? resolve() : response.once('close', resolve)));
}

/** Where a redirect leads to. The server's words are not repeated: they may hold a password. */
function follow(location: string, from: URL): URL {
  // Field values are read as Latin-1; who puts letters beyond ASCII there means UTF-8.
  const text = Buffer.from(location, 'latin1').toString();
  if (!URL.canParse(text, from)) throw new Failure('EIO', 'the server redirects to what is no URL');
  const url = new URL(text, from);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new Failure(
      'EUNSUPPORTED',
      `the server redirects to a URL of the scheme ${url.protocol}, which is neither http: nor https:`,
    );
  }
  if (url.username !== '' || url.password !== '') {
    throw new Failure(
      'EUNSUPPORTED',
      'the server redirects to a URL that holds a user or password: give that URL itself',
    );
  }
  return url;
}

function answerOf(response: http.IncomingMessage, body: Body): Answer {
  const { statusCode = 0, statusMessage = '', headers } = response;
  const get = (name: string): string | null => {
    const value = headers[name.toLowerCase()];
    return Array.isArray(value) ? value.join(', ') : (value ?? null);
  };
  return { status: statusCode, statusText: statusMessage, type: 'default', headers: { get }, body };
}
