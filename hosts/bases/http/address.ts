/**
 * Where an HTTP base is and what is sent to get it: the URL (checked, its credentials taken out),
 * the caller's headers, and a fresh URL when a signed one has expired. Nothing here may put a
 * credential into a message.
 */
import { MillraceError } from '../../api/errors.ts';
import { Fields } from './fields.ts';

/**
 * A URL, or a function that returns a fresh one: it is asked at open, and again when the server
 * answers 400, 401 or 403.
 */
export type UrlSource = string | URL | (() => string | URL | Promise<string | URL>);

/**
 * Headers to send with every request, or a function that returns them, asked before each request.
 */
export type HeaderSource =
  | Record<string, string>
  | (() => Record<string, string> | Promise<Record<string, string>>);

/**
 * A URL as `fetch` takes it, with what its userinfo said as a header: `fetch` refuses URLs that
 * hold credentials.
 */
export interface Target {
  readonly href: string;
  readonly authorization?: string;
}

/**
 * The URL as messages may show it: without userinfo and fragment, and with `?…` in place of a
 * query, which may hold a signature. What cannot be parsed loses everything before its last `@`, so
 * that a mistyped URL does not show a password either.
 */
export function redactUrl(url: string | URL): string {
  const text = String(url);
  const parsed = URL.canParse(text) ? new URL(text) : undefined;
  const bare = parsed?.pathname.startsWith('/')
    ? withoutUserinfo(parsed)
    : text.replace(/^([a-z][a-z0-9+.-]*:\/\/)?[\s\S]*@/i, '$1');
  return bare.replace(/#[\s\S]*$/, '').replace(/\?[\s\S]*$/, '?…');
}

/**
 * The text with every web address in it redacted: some runtimes put the whole URL into their
 * errors.
 */
export function redactText(text: string): string {
  return text.replace(/\bhttps?:\/\/[^\s"'<>]+/gi, (url) => redactUrl(url));
}

/** The current address of one base, and the way to a new one. */
export class Address {
  readonly #source: UrlSource;
  readonly #headers: HeaderSource;
  /** The question for the URL; kept when answered, so that it is asked once. */
  #asked: Promise<Target> | undefined;
  #target: Target | undefined;
  #name: string;

  constructor(source: UrlSource, headers: HeaderSource) {
    this.#source = source;
    this.#headers = headers;
    this.#name = typeof source === 'function' ? 'the base' : redactUrl(parse(source));
  }

  /**
   * What messages call the base: its URL, redacted; before a URL function's first answer, `the
   * base`.
   */
  get name(): string {
    return this.#name;
  }

  /**
   * Whether asking again may help against a 400, 401 or 403: the URL or the headers come from a
   * function.
   */
  get renewable(): boolean {
    return typeof this.#source === 'function' || typeof this.#headers === 'function';
  }

  /**
   * @throws MillraceError `EINVAL` for what is no URL, `EUNSUPPORTED` for a scheme other than http
   *   and https.
   */
  async target(): Promise<Target> {
    const asked = (this.#asked ??= this.#resolve());
    try {
      return await asked;
    } catch (error) {
      if (this.#asked === asked) this.#asked = undefined;
      throw error;
    }
  }

  /**
   * Has the next `target()` ask for a fresh URL, unless that has happened since `refused` was
   * handed out.
   */
  renew(refused: Target): void {
    if (typeof this.#source !== 'function' || this.#target !== refused) return;
    this.#target = undefined;
    this.#asked = undefined;
  }

  /**
   * The caller's headers for one request, with the URL's credentials unless the caller brings an
   * Authorization of its own.
   */
  async headers(target: Target): Promise<Fields> {
    const given = typeof this.#headers === 'function' ? await this.#headers() : this.#headers;
    let headers: Fields;
    try {
      headers = new Fields(given);
    } catch {
      throw new MillraceError(
        'EINVAL',
        `${this.#name}: the headers given for it hold a name or value that HTTP does not allow`,
      );
    }
    if (target.authorization !== undefined && !headers.has('Authorization'))
      headers.set('Authorization', target.authorization);
    return headers;
  }

  async #resolve(): Promise<Target> {
    const url = parse(typeof this.#source === 'function' ? await this.#source() : this.#source);
    this.#name = redactUrl(url);
    return (this.#target = toTarget(url));
  }
}

function parse(given: string | URL): URL {
  // In a page or worker a relative URL means what it means to fetch; elsewhere there is nothing to
  // resolve it against.
  const base = (globalThis as { location?: { href: string } }).location?.href;
  if (!URL.canParse(String(given), base))
    throw new MillraceError('EINVAL', `not a URL: ${redactUrl(given)}`);
  const url = new URL(String(given), base);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new MillraceError(
      'EUNSUPPORTED',
      `${redactUrl(url)}: a base is read over http: or https:, not ${url.protocol}`,
    );
  }
  return url;
}

function toTarget(url: URL): Target {
  const href = withoutUserinfo(url).replace(/#[\s\S]*$/, '');
  if (url.username === '' && url.password === '') return { href };
  // RFC 7617, section 2: user-id, colon, password, in UTF-8, as Base64.
  const userinfo = new TextEncoder().encode(`${decode(url.username)}:${decode(url.password)}`);
  return { href, authorization: `Basic ${btoa(String.fromCharCode(...userinfo))}` };
}

function withoutUserinfo(url: URL): string {
  const copy = new URL(url);
  copy.username = '';
  copy.password = '';
  return copy.href;
}

/** Percent-decoding that leaves what is no UTF-8 and a stray `%` as they are. */
function decode(text: string): string {
  return text.replace(/(%[0-9a-f]{2})+/gi, (run) => {
    try {
      return decodeURIComponent(run);
    } catch {
      return run;
    }
  });
}
