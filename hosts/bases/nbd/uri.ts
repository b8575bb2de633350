/**
 * NBD URIs (NetworkBlockDevice/nbd, doc/uri.md): which server, by which transport, which export.
 * NBD over a WebSocket has no scheme of its own there: it is the WebSocket's URL, its fragment the
 * export's name.
 */
import { MillraceError } from '../../api/errors.ts';
import type { NbdConnection } from './duplex.ts';
import { STRING_BYTES_MAX } from './protocol.ts';

const PORT_DEFAULT = 10809;
const SCHEME = /^(nbds?)(\+tcp|\+unix)?:\/\//i;
const WEBSOCKET = /^wss?:\/\//i;
/** As QEMU writes it besides: `nbd:HOST:PORT:exportname=NAME`. */
const OLD_FORM = /^nbd:(?!\/\/)/i;
/** What a URI may say of TLS. */
const TLS_PARAMETERS: readonly string[] = [
  'tls-certificates',
  'tls-hostname',
  'tls-type',
  'tls-verify-peer',
];

/** How TLS is to be gone on with. */
export interface NbdTlsOptions {
  /** The name that the server's certificate must be for. */
  hostname: string;
  /**
   * A folder with `ca-cert.pem`, whom to trust, and where the server asks for it `client-cert.pem`
   * and `client-key.pem`.
   */
  certificates?: string;
}

/** Where a connection leads. */
export type NbdTransport =
  | { kind: 'tcp'; hostname: string; port: number }
  | { kind: 'unix'; path: string }
  | { kind: 'websocket'; url: string };

/** What an NBD URI says. */
export interface NbdPlace {
  /** What messages and overlays call it: the URI, without what may be a secret. */
  readonly name: string;
  readonly transport: NbdTransport;
  readonly exportName: string;
  /** With `nbds:`, by NBD_OPT_STARTTLS; a `wss:` URL has TLS of its own. */
  readonly tls?: NbdTlsOptions;
}

/**
 * How a runtime connects: a socket, or a WebSocket. When `signal` is aborted, which is until the
 * export has been come to, the connection ends.
 */
export type NbdConnect = (place: NbdPlace, signal: AbortSignal) => Promise<NbdConnection>;

/** Whether a location is one by NBD. */
export function isNbdUri(text: string): boolean {
  return SCHEME.test(text) || WEBSOCKET.test(text) || OLD_FORM.test(text);
}

/**
 * @throws MillraceError `EINVAL` for a URI that says too little, `EUNSUPPORTED` for what it asks.
 */
export function parseNbdUri(text: string): NbdPlace {
  if (WEBSOCKET.test(text)) return parseWebSocketUrl(text);
  if (OLD_FORM.test(text)) throw oldForm(text);
  const [head, scheme, over = ''] = SCHEME.exec(text) ?? [];
  if (head === undefined) throw new MillraceError('EINVAL', `not an NBD URI: '${text}'`);
  // The syntax of http: is the one that all runtimes parse alike.
  const isUnix = over.toLowerCase() === '+unix';
  const rest = text.slice(head.length);
  const hasHost = !/^([/?#]|$)/.test(rest);
  if (!isUnix && !hasHost) throw new MillraceError('EINVAL', `${text}: it names no host`);
  const parsable = `http://${hasHost ? '' : 'unix'}${rest}`;
  if (!URL.canParse(parsable)) throw new MillraceError('EINVAL', `not an NBD URI: '${text}'`);
  const url = new URL(parsable);
  if (url.username !== '' || url.password !== '')
    throw new MillraceError(
      'EUNSUPPORTED',
      `${head}…${url.host}: a user in an NBD URI is for TLS by a shared key, which is not supported`,
    );
  const parameters = new Map(url.searchParams);
  const transport = isUnix ? unixOf(text, parameters) : tcpOf(url, rest);
  const known = [...(isUnix ? ['socket'] : []), ...(/^nbds/i.test(scheme) ? TLS_PARAMETERS : [])];
  const unknown = [...parameters.keys()].find((key) => !known.includes(key));
  if (unknown !== undefined)
    throw new MillraceError('EUNSUPPORTED', `${text}: the parameter '${unknown}' is not supported`);
  return {
    name: text,
    transport,
    exportName: exportOf(text, url.pathname.slice(1)),
    tls: /^nbds/i.test(scheme) ? tlsOf(text, parameters, transport) : undefined,
  };
}

function unixOf(text: string, parameters: ReadonlyMap<string, string>): NbdTransport {
  const path = parameters.get('socket');
  if (!path) throw new MillraceError('EINVAL', `${text}: it names no socket (?socket=PATH)`);
  return { kind: 'unix', path };
}

function tcpOf(url: URL, rest: string): NbdTransport {
  // Port 80 is what `http:` leaves out.
  const isDefault = url.port === '' && !/^[^/?#]*:80(?=[/?#]|$)/.test(rest);
  return {
    kind: 'tcp',
    hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: isDefault ? PORT_DEFAULT : Number(url.port || 80),
  };
}

function tlsOf(
  text: string,
  parameters: ReadonlyMap<string, string>,
  transport: NbdTransport,
): NbdTlsOptions {
  const type = parameters.get('tls-type') ?? 'x509';
  if (type !== 'x509')
    throw new MillraceError(
      'EUNSUPPORTED',
      `${text}: TLS of the type '${type}' is not supported: x509`,
    );
  if ((parameters.get('tls-verify-peer') ?? '1') !== '1')
    throw new MillraceError(
      'EUNSUPPORTED',
      `${text}: a server whose certificate is not verified is not supported`,
    );
  return {
    hostname:
      parameters.get('tls-hostname') ??
      (transport.kind === 'tcp' ? transport.hostname : 'localhost'),
    certificates: parameters.get('tls-certificates'),
  };
}

function parseWebSocketUrl(text: string): NbdPlace {
  if (!URL.canParse(text)) throw new MillraceError('EINVAL', `not a URL: '${bare(text)}'`);
  const url = new URL(text);
  const exportName = exportOf(bare(text), url.hash.slice(1));
  const name = `${url.protocol}//${url.host}${url.pathname}${url.search && '?…'}${url.hash}`;
  url.hash = '';
  return { name, transport: { kind: 'websocket', url: url.href }, exportName };
}

/** Without user, password and query, which may be secrets. */
function bare(text: string): string {
  return text.replace(/^(wss?:\/\/)([^/]*@)?([^?]*)[\s\S]*$/i, '$1$3');
}

function exportOf(text: string, encoded: string): string {
  let name: string;
  try {
    name = decodeURIComponent(encoded);
  } catch {
    throw new MillraceError('EINVAL', `${text}: the name of its export is no UTF-8`);
  }
  if (name.includes('\0') || new TextEncoder().encode(name).length > STRING_BYTES_MAX)
    throw new MillraceError(
      'EINVAL',
      `${text}: the name of its export has ${STRING_BYTES_MAX} bytes at most, none of them 0`,
    );
  return name;
}

function oldForm(text: string): MillraceError {
  const [, path, host, port, name = ''] =
    /^nbd:(?:unix:([^:]+)|([^:]+|\[[^\]]+\]):(\d+))(?::exportname=(.*))?$/is.exec(text) ?? [];
  const uri =
    path === undefined ? `nbd://${host}:${port}/${name}` : `nbd+unix:///${name}?socket=${path}`;
  const advice = (path ?? host) ? `write it as '${uri}'` : 'write it as nbd://HOST:PORT/EXPORT';
  return new MillraceError('EUNSUPPORTED', `'${text}' is no URI: ${advice}`);
}
