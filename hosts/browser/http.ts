/**
 * HTTP bases in a page and its workers: the browser's `fetch` fails without a reason, but for what
 * the page's policy forbids the reason is told by an event.
 */
import { MillraceError } from '../api/errors.ts';
import type { Fetch } from '../bases/http/fetch.ts';
import type { HttpOptions, HttpSource, UrlSource } from '../bases/http/http.ts';
import { openHttp as openHttpWith, redactUrl } from '../bases/http/http.ts';

/** The event comes beside the failure, before or soon after it. */
const VIOLATION_MS = 50;
/** Origins that are remembered, those asked last. */
const FORBIDDEN_MAX = 64;

/** Origins that `connect-src` does not allow. */
let forbidden: Set<string> | undefined;

/** Listens from the first request on. */
function forbiddenOrigins(): Set<string> {
  if (forbidden !== undefined) return forbidden;
  const origins = new Set<string>();
  const heard = (event: Event): void => {
    const { effectiveDirective, blockedURI } = event as SecurityPolicyViolationEvent;
    if (effectiveDirective !== 'connect-src' || !URL.canParse(blockedURI)) return;
    if (origins.size === FORBIDDEN_MAX) origins.clear();
    origins.add(new URL(blockedURI).origin);
  };
  (globalThis.document ?? globalThis).addEventListener('securitypolicyviolation', heard);
  return (forbidden = origins);
}

const namingPolicies: Fetch = async (href, init) => {
  const origins = forbiddenOrigins();
  const { origin } = new URL(href);
  try {
    return await fetch(href, init);
  } catch (cause) {
    if (!init.signal.aborted && !origins.has(origin))
      await new Promise((resolve) => setTimeout(resolve, VIOLATION_MS));
    if (!origins.has(origin)) throw cause;
    throw new MillraceError(
      'EACCES',
      `cannot fetch ${redactUrl(href)}: the page's Content-Security-Policy forbids it (connect-src); allow connect-src ${origin}`,
      { cause, reason: 'policy' },
    );
  }
};

/** As `openHttp` of ../bases/http/http.ts. */
export function openHttp(url: UrlSource, options: HttpOptions = {}): Promise<HttpSource> {
  const { fetch = namingPolicies } = options;
  return openHttpWith(url, { ...options, fetch });
}
