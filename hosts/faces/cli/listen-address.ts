/** Where a server listens, as the command line has it. */

/** `PORT` or `HOST:PORT`, an IPv6 address in brackets; undefined for what is neither. */
export function hostAndPort(text: string): { hostname: string; port: number } | undefined {
  const [, hostname = '127.0.0.1', digits] = /^(?:(.+):)?(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (digits === undefined || port > 65535) return undefined;
  return { hostname: hostname.replace(/^\[(.*)\]$/, '$1'), port };
}
