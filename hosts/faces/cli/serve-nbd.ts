/**
 * What `millrace serve --nbd` adds: where to listen, with which certificates, and the lines that
 * hypervisors take.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { NbdAddress, NbdListening, NbdTls } from '../nbd/listen.ts';
import { NbdServer } from '../nbd/server.ts';
import { hostAndPort } from './listen-address.ts';
import type { Platform } from './platform.ts';
import { LOOPBACK, tell } from './platform.ts';
import type { ServeOptions } from './serve.ts';
import type { ServedImage } from './serve-disks.ts';

const PEM_BYTES_MAX = 1024 * 1024;
/** How long a job that paused itself over an error waits before it tries again. */
const RETRY_MS = 5000;
/** The longest path that a Unix socket can have on Linux. */
const SOCKET_PATH_BYTES_MAX = 107;

/** A server that answers. */
export interface NbdServing {
  server: NbdServer;
  /** `nbd+unix:///vda?socket=…`, `nbd://HOST:PORT/vda` or `nbds://…`. */
  uri(device: string): string;
  lines(device: string): string[];
  close(): Promise<void>;
}

/**
 * `unix:PATH`, PORT, HOST:PORT, or `systemd` for the socket that systemd has opened.
 * @throws MillraceError `EINVAL`
 */
export function nbdAddress(text: string): NbdAddress | 'systemd' {
  if (text === 'systemd') return text;
  const path = /^unix:(.+)$/s.exec(text)?.[1];
  if (path !== undefined) {
    if (new TextEncoder().encode(path).length > SOCKET_PATH_BYTES_MAX)
      throw new MillraceError(
        'EINVAL',
        `'${path}' is too long for a Unix socket: ${SOCKET_PATH_BYTES_MAX} bytes at most`,
      );
    return { path };
  }
  const address = hostAndPort(text);
  if (address === undefined)
    throw new MillraceError(
      'EINVAL',
      `'${text}' is no address for NBD: unix:PATH, PORT, HOST:PORT, or systemd`,
    );
  return address;
}

/**
 * Listens before anything is told.
 * @throws MillraceError `EACCES` for an address that others reach, without TLS.
 */
export async function startNbd(
  platform: Platform,
  disks: Readonly<Record<string, Disk>>,
  options: ServeOptions,
): Promise<NbdServing> {
  if (platform.listenNbd === undefined)
    throw new MillraceError('EUNSUPPORTED', 'NBD is not served under this runtime');
  const address = nbdAddress(options.nbd!);
  const tls = await certificates(platform, options);
  mustBePrivate(address, tls);
  const server = new NbdServer(disks, {
    readOnly: options.readOnly,
    ioTimeout: options.ioTimeout === undefined ? undefined : options.ioTimeout * 1000,
    tlsRequired: tls !== undefined,
  });
  const listening = await platform.listenNbd(server, address, tls);
  try {
    mustBePrivate(listening.address, tls);
  } catch (error) {
    await listening.close();
    throw error;
  }
  return {
    server,
    uri: (device) => uriOf(listening, tls !== undefined, device),
    lines: (device) => linesFor(listening, tls !== undefined, device),
    async close() {
      await listening.close();
      await server.close();
    },
  };
}

function mustBePrivate(address: NbdAddress | 'systemd', tls: NbdTls | undefined): void {
  if (address === 'systemd' || !('hostname' in address) || tls !== undefined) return;
  if (LOOPBACK.test(address.hostname)) return;
  throw new MillraceError(
    'EACCES',
    `cannot listen at ${address.hostname} without TLS: others than this machine reach it (--tls-cert, --tls-key)`,
  );
}

async function certificates(
  platform: Platform,
  options: ServeOptions,
): Promise<NbdTls | undefined> {
  const { tlsCert, tlsKey, tlsCa } = options;
  if (tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined)
    throw new MillraceError('EINVAL', 'TLS needs a certificate and its key: --tls-cert, --tls-key');
  const [cert, key, ca] = await Promise.all(
    [tlsCert, tlsKey, tlsCa].map((path) =>
      path === undefined ? undefined : contentOf(platform, path),
    ),
  );
  return { cert: cert!, key: key!, ca };
}

async function contentOf(platform: Platform, path: string): Promise<Uint8Array> {
  const source = await platform.runtime.openSource(path);
  try {
    if (source.size > PEM_BYTES_MAX)
      throw new MillraceError('EINVAL', `'${path}' is too long to be a certificate or a key`);
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    return bytes;
  } finally {
    await source.close();
  }
}

/**
 * Starts a job for each disk, which goes on by itself when an error has paused it, and tells how it
 * ends.
 */
export async function streamBehind(
  platform: Platform,
  served: ReadonlyMap<string, ServedImage>,
  keepCompressed = false,
): Promise<void> {
  const compressed = keepCompressed ? 'keep' : 'inflate';
  for (const [device, { disk, image }] of served) {
    const note = (text: string): void => void tell(platform, `${device}: ${text}`);
    disk.addEventListener('paused', (event) => {
      const { error } = event.detail;
      if (error === undefined) return;
      note(`paused: ${error.message}; trying again in ${RETRY_MS / 1000} s`);
      setTimeout(() => void disk.resume().catch(() => {}), RETRY_MS);
    });
    disk.addEventListener('completed', (event) => {
      const { offset, length } = event.detail;
      if (offset === 0 && length === disk.size)
        note(`all is streamed: ${image} stands alone, and QEMU may use the file itself`);
    });
    disk.addEventListener('failed', (event) => {
      const { error, reason } = event.detail;
      if (reason === 'error') note(`the stream failed: ${error?.message}`);
    });
    await disk.stream({ nonblock: true, onError: 'stop', compressed });
  }
}

function uriOf({ address }: NbdListening, secure: boolean, device: string): string {
  const scheme = secure ? 'nbds' : 'nbd';
  const name = encodeURIComponent(device);
  if ('path' in address)
    return `${scheme}+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  return `${scheme}://${hostOf(address)}:${address.port}/${name}`;
}

function hostOf({ hostname }: { hostname: string }): string {
  return hostname.includes(':') ? `[${hostname}]` : hostname;
}

/** What users paste: a hypervisor each. */
function linesFor(listening: NbdListening, secure: boolean, device: string): string[] {
  const { address } = listening;
  const uri = uriOf(listening, secure, device);
  const isUnix = 'path' in address;
  const server = isUnix
    ? `server.type=unix,server.path=${address.path}`
    : `server.type=inet,server.host=${address.hostname},server.port=${address.port}`;
  const host = isUnix
    ? `<host transport='unix' socket='${address.path}'/>`
    : `<host name='${address.hostname}' port='${address.port}'/>`;
  const place = isUnix ? `-unix ${address.path}` : `${address.hostname} ${address.port}`;
  const tls = secure ? ',tls-creds=tls0' : '';
  return [
    `${device}: ${uri}`,
    `  QEMU:       ${secure ? '-object tls-creds-x509,id=tls0,endpoint=client,dir=DIR ' : ''}-blockdev driver=nbd,node-name=${device}-nbd,${server},export=${device},reconnect-delay=60${tls} -blockdev driver=raw,node-name=${device},file=${device}-nbd -device virtio-blk-pci,drive=${device}`,
    `  libvirt:    <disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='${device}'${secure ? " tls='yes'" : ''}>${host}</source><target dev='${device}' bus='virtio'/></disk>`,
    `  nbd-client: nbd-client -b 512 ${place} -N ${device}${secure ? ' -x' : ''} /dev/nbd0`,
    `  tart:       tart run MACHINE --disk '${uri}'`,
    `  vfkit:      --device nbd,uri=${uri},deviceId=${device},timeout=90000`,
  ];
}
