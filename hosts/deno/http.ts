/**
 * HTTP bases under Deno: its `fetch` heeds the variables of proxies by itself, and asks for no
 * permission for that.
 */
import type { HttpOptions, HttpSource, UrlSource } from '../bases/http/http.ts';
import { openHttp as openHttpWith } from '../bases/http/http.ts';
import { namingProxies } from '../bases/http/proxy.ts';

/** Without the permission, a message does not name the proxy; nobody is asked for it. */
function readable(variable: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: 'env', variable });
  return state === 'granted' ? Deno.env.get(variable) : undefined;
}

/** As `openHttp` of ../bases/http/http.ts. */
export function openHttp(url: UrlSource, options: HttpOptions = {}): Promise<HttpSource> {
  const { fetch = namingProxies(globalThis.fetch, readable) } = options;
  return openHttpWith(url, { ...options, fetch });
}
