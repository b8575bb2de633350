/** How node:http and node:https reach a proxy. */
import { Buffer } from 'node:buffer';
import type { ProxyServer } from './proxy.ts';

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
