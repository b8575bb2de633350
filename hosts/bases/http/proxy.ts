/**
 * Which proxy a URL is asked for through, by the environment variables that curl and most other
 * programs heed: `http_proxy`, `https_proxy` and `all_proxy`, and where none is wanted, `no_proxy`;
 * in capitals too, where the small ones are not set.
 */
import { MillraceError } from '../../api/errors.ts';
import { redactUrl } from './address.ts';
import type { Fetch } from './fetch.ts';
import type { Answer } from './response.ts';

/** Reads an environment variable; undefined for one that is not set, or may not be read. */
export type Environment = (name: string) => string | undefined;

export interface ProxyServer {
  /** `http:` or `https:`, host and port; with the user and password, if any. */
  readonly url: URL;
  /** As messages may show it. */
  readonly name: string;
}

/**
 * The proxy for a URL; undefined for none.
 * @throws MillraceError `EINVAL` for what is no URL, `EUNSUPPORTED` for a proxy that does not speak
 *   HTTP (SOCKS).
 */
export function proxyFor(href: string, environment: Environment): ProxyServer | undefined {
  const url = new URL(href);
  const kind = url.protocol === 'https:' ? 'https_proxy' : 'http_proxy';
  const text = variable(kind, environment) ?? variable('all_proxy', environment);
  if (text === undefined || isExempt(url, variable('no_proxy', environment) ?? ''))
    return undefined;
  return parseProxy(text);
}

/** An empty variable is one that is not set: it overrides nothing but its own capitals. */
function variable(name: string, environment: Environment): string | undefined {
  const text = environment(name) ?? environment(name.toUpperCase());
  return text === undefined || text.trim() === '' ? undefined : text.trim();
}

function parseProxy(text: string): ProxyServer {
  const full = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  if (!URL.canParse(full))
    throw new MillraceError('EINVAL', `the proxy ${redactUrl(full)} is not a URL`);
  const url = new URL(full);
  const name = redactUrl(url).replace(/\/$/, '');
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new MillraceError(
      'EUNSUPPORTED',
      `the proxy ${name} is of the scheme ${url.protocol}: only http: and https: proxies can be used`,
    );
  return { url, name };
}

/**
 * Names stand for themselves and all below them, with or without a dot in front; addresses for
 * themselves or, with a mask, for a network.
 */
function isExempt({ hostname, port, protocol }: URL, list: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '');
  const at = port || (protocol === 'https:' ? '443' : '80');
  return list
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .some((entry) => {
      if (entry === '*') return true;
      const [, name, only] = /^(\[.*\]|[^:]*):(\d+)$/.exec(entry) ?? [undefined, entry];
      if (only !== undefined && only !== at) return false;
      return covers(name!.replace(/^\[(.*)\](.*)$/, '$1$2'), host);
    });
}

function covers(entry: string, host: string): boolean {
  const bits = bitsOf(host);
  const [address, mask] = entry.split('/');
  const network = bitsOf(address);
  if (network === undefined || bits === undefined) {
    const name = entry.replace(/^\*?\./, '').replace(/\.$/, '');
    return bits === undefined && (host === name || host.endsWith(`.${name}`));
  }
  const length = mask === undefined ? network.length : Number(mask);
  return bits.length === network.length && bits.slice(0, length) === network.slice(0, length);
}

/** An IP address as a string of its bits, 32 or 128; undefined for a name. */
function bitsOf(host: string): string | undefined {
  const wrapped = host.includes(':') ? `http://[${host}]` : `http://${host}`;
  if (!/^[\d.]+$|:/.test(host) || !URL.canParse(wrapped)) return undefined;
  const text = new URL(wrapped).hostname.replace(/^\[(.*)\]$/, '$1');
  const binary = (number: string, radix: number, width: number): string =>
    Number.parseInt(number, radix).toString(2).padStart(width, '0');
  if (!text.includes(':'))
    return text
      .split('.')
      .map((part) => binary(part, 10, 8))
      .join('');
  const [head, tail] = text.split('::').map((part) => (part === '' ? [] : part.split(':')));
  const words =
    tail === undefined
      ? head
      : [...head, ...Array<string>(8 - head.length - tail.length).fill('0'), ...tail];
  return words.map((word) => binary(word, 16, 16)).join('');
}

/**
 * An error that a proxy stands in the way of says so; the words of the runtime alone seem to be of
 * the server.
 */
export function throughProxy(error: unknown, { name }: ProxyServer): unknown {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  if (!(inner instanceof Error) || inner.name === 'NotCapable') return error;
  const { code = '' } = inner as { code?: string };
  return new Error(`${inner.message || code || inner.name}, by way of the proxy ${name}`);
}

/**
 * A `fetch` that heeds these variables by itself, as Deno's and Bun's do, with the proxy named in
 * what goes wrong.
 */
export function namingProxies(fetch: Fetch, environment: Environment): Fetch {
  return async (href, init) => {
    const proxy = proxyFor(href, environment);
    if (proxy === undefined) return fetch(href, init);
    try {
      return Object.assign(await fetch(href, init), { via: proxy.name }) as Answer;
    } catch (error) {
      throw init.signal.aborted ? error : throughProxy(error, proxy);
    }
  };
}
