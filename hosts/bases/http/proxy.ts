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

/** As for curl, an empty variable is one that is not set: then its capitals count. */
function variable(name: string, environment: Environment): string | undefined {
  return environment(name) || environment(name.toUpperCase()) || undefined;
}

function parseProxy(given: string): ProxyServer {
  const text = given.trim();
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
 * As curl takes the list: names stand for themselves and all below them, with or without a dot in
 * front; addresses for themselves or, with a mask, for a network; `*` for all, if it stands alone.
 * It knows no ports there, and no other stars.
 */
function isExempt({ hostname }: URL, list: string): boolean {
  if (list === '*') return true;
  const host = hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '');
  const entries = list.toLowerCase().split(/[ \t,]+/);
  return entries.some((entry) => covers(entry, host));
}

function covers(entry: string, host: string): boolean {
  const bits = bitsOf(host);
  if (bits === undefined) {
    const name = entry.replace(/\.$/, '').replace(/^\./, '');
    return name !== '' && (host === name || host.endsWith(`.${name}`));
  }
  const [address, mask = '0'] = entry.split('/');
  const network = bitsOf(address);
  // A mask of none counts as none.
  const length = Number.parseInt(mask, 10) || bits.length;
  if (network === undefined || network.length !== bits.length || length > bits.length) return false;
  return bits.slice(0, length) === network.slice(0, length);
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

const PROXIES = ['http_proxy', 'https_proxy', 'all_proxy'] as const;

/**
 * A runtime's own `fetch` heeds these variables as it likes: where one of them is set, `byRules` is
 * taken in its place, as far as it `may` be. Else errors name the proxy at least.
 */
export function heedingProxies(
  own: Fetch,
  byRules: Fetch,
  environment: Environment,
  may: (href: string) => boolean = () => true,
): Fetch {
  return async (href, init) => {
    if (PROXIES.every((name) => variable(name, environment) === undefined)) return own(href, init);
    if (may(href)) return byRules(href, init);
    const proxy = proxyFor(href, environment);
    if (proxy === undefined) return own(href, init);
    try {
      return Object.assign(await own(href, init), { via: proxy.name }) as Answer;
    } catch (error) {
      throw init.signal.aborted ? error : throughProxy(error, proxy);
    }
  };
}
