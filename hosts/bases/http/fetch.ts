/** How requests are sent: as much of `fetch` as is needed here. */
import type { Answer } from './response.ts';

/** As much of `fetch` as is needed here: the global one, a caller's, or a host's own. */
export type Fetch = (href: string, init: FetchInit) => Promise<Answer>;

/** What a request is sent with: as `RequestInit` has it. */
export interface FetchInit {
  /** All headers, the range among them. */
  headers: Headers;
  /** Ends the request. */
  signal: AbortSignal;
  /** Browsers must not keep ranges. */
  cache?: 'no-store';
  /** Default GET. */
  method?: 'GET' | 'HEAD';
}

/** A fetch of our own, which takes header fields in any form. */
export interface PlainFetch {
  (href: string, init: PlainInit): Promise<Answer>;
  readonly isPlain: true;
}

export interface PlainInit extends Pick<FetchInit, 'signal' | 'method'> {
  headers: Iterable<readonly [name: string, value: string]>;
}

/** Sends a request; by any other fetch, with the runtime's own class of headers. */
export function sendBy(fetch: Fetch | PlainFetch, href: string, init: PlainInit): Promise<Answer> {
  if ('isPlain' in fetch) return fetch(href, init);
  // Not as a method: workers and pages refuse their own `fetch` on any other object than the global
  // one.
  const headers = new Headers(
    Array.from(init.headers, ([name, value]): [string, string] => [name, value]),
  );
  return fetch(href, { ...pastTheCache(), ...init, headers });
}

let cacheInit: { cache?: 'no-store' } | undefined;

/**
 * `cache: 'no-store'` where the runtime knows it: Chromium serialises the requests for one URL
 * behind its cache. Some edge runtimes throw on a field they do not implement, so it is tried once,
 * on a Request that goes nowhere.
 */
export function pastTheCache(): { cache?: 'no-store' } {
  if (cacheInit === undefined) {
    try {
      cacheInit = { cache: 'no-store' };
      void new Request('http://localhost/', cacheInit);
    } catch {
      cacheInit = {};
    }
  }
  return cacheInit;
}
