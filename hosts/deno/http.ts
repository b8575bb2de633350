/**
 * HTTP bases under Deno. Where there are proxies, and permissions to see them and to use node:https
 * (`--allow-env`, `--allow-sys=ca`), that goes through them as curl does; else Deno's `fetch` heeds
 * their variables by rules of its own, for which it asks no permission.
 */
import type { HttpOptions, HttpSource, UrlSource } from '../bases/http/http.ts';
import { openHttp as openHttpWith } from '../bases/http/http.ts';
import { nodeFetchWith } from '../bases/http/node-fetch.ts';
import { heedingProxies } from '../bases/http/proxy.ts';

/** Nobody is asked for the permission. */
function readable(variable: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: 'env', variable });
  return state === 'granted' ? Deno.env.get(variable) : undefined;
}

/** For TLS, node:https reads the certificates of the system, which is a permission of its own. */
function mayUseNode(href: string): boolean {
  // Not all types of Deno know of it.
  const wanted = { name: 'sys', kind: 'ca' } as unknown as Deno.PermissionDescriptor;
  const { state } = Deno.permissions.querySync(wanted);
  return state === 'granted' || /^http:/i.test(href);
}

const byRules = nodeFetchWith(readable);
const ownFetch = heedingProxies(globalThis.fetch, byRules, readable, mayUseNode);

/** As `openHttp` of ../bases/http/http.ts. */
export function openHttp(url: UrlSource, options: HttpOptions = {}): Promise<HttpSource> {
  const { fetch = ownFetch } = options;
  return openHttpWith(url, { ...options, fetch });
}
