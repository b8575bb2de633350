/** Which real programs are here to test and measure against, and how to get those that are not. */
import { accessSync, constants, existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, join } from 'node:path';

/** The line that installs a package of Debian 12. */
const APT = 'apt-get install -y';
/** The Debian 12 package that brings each peer, but for npm's. */
const PACKAGES = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-storage-daemon': 'qemu-system-common',
  /** QEMU's driver for bases over HTTP: a module, not a program. */
  'qemu-curl': 'qemu-block-extra',
  nginx: 'nginx-light',
  curl: 'curl',
  openssl: 'openssl',
  chromium: 'chromium',
  'firefox-esr': 'firefox-esr',
  mke2fs: 'e2fsprogs',
  zstd: 'zstd',
  xz: 'xz-utils',
  gzip: 'gzip',
  bzip2: 'bzip2',
  zip: 'zip',
  tar: 'tar',
  'apt-get': 'apt',
  'dpkg-deb': 'dpkg',
  flock: 'util-linux',
  python3: 'python3',
  debugfs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  /** The BIOS of virtual machines: files, not a program. */
  seabios: 'seabios',
  /** Shells. */
  bash: 'bash',
  fish: 'fish',
  zsh: 'zsh',
  'qemu-nbd': 'qemu-utils',
  'qemu-system-x86_64': 'qemu-system-x86',
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  /** libnbd for Python: a module of Debian's own, not a program. */
  nbdsh: 'python3-libnbd',
  nbdkit: 'nbdkit',
  fio: 'fio',
  'nbd-client': 'nbd-client',
  'systemd-socket-activate': 'systemd',
} as const;

/** What npm has no build of for every system. */
const OPTIONAL = { koffi: 'npm ci' } as const;

export type PeerName = keyof typeof PACKAGES | keyof typeof OPTIONAL;

export interface Peer {
  name: PeerName;
  /** Where it is; undefined when it is missing. */
  path?: string;
  /** The line that installs it. */
  install: string;
}

/** Where the modules of QEMU's block layer are on Debian, by multiarch name. */
const QEMU_MODULES = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map(
  (arch) => `/usr/lib/${arch}/qemu/block-curl.so`,
);
/**
 * Debian's own Python, which has the modules of Debian's packages; another one in the PATH has not.
 */
const NBD_PYTHON = ['/usr/bin/python3', '/usr/lib/python3/dist-packages/nbd.py'];
const SEABIOS = '/usr/share/seabios/bios.bin';
/** Servers and file system tools are here, which not every user's PATH has. */
const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** Looks for one peer. */
export function peer(name: PeerName): Peer {
  const path = find(name);
  return { name, path, install: isOptional(name) ? OPTIONAL[name] : `${APT} ${PACKAGES[name]}` };
}

/** The path of a peer. @throws with the line that installs it, when it is missing. */
export function peerPath(name: PeerName): string {
  const { path, install } = peer(name);
  if (path === undefined) throw new Error(`${name} is missing; to get it: ${install}`);
  return path;
}

/**
 * What to say of the missing ones among these peers, and how to get them; undefined when all are
 * here.
 */
export function missingPeers(names: readonly PeerName[]): string | undefined {
  const missing = names.filter((name) => peer(name).path === undefined);
  if (missing.length === 0) return undefined;
  const packages = missing.flatMap((name) => (isOptional(name) ? [] : PACKAGES[name]));
  const lines: string[] = missing.flatMap((name) => (isOptional(name) ? OPTIONAL[name] : []));
  if (packages.length > 0) lines.push(`${APT} ${[...new Set(packages)].join(' ')}`);
  return `${missing.join(', ')} missing; to get it: ${lines.join(' && ')}`;
}

function isOptional(name: PeerName): name is keyof typeof OPTIONAL {
  return Object.hasOwn(OPTIONAL, name);
}

function find(name: PeerName): string | undefined {
  if (name === 'qemu-curl') return QEMU_MODULES.find((file) => existsSync(file));
  if (isOptional(name)) return loadable(name);
  if (name === 'nbdsh')
    return NBD_PYTHON.every((file) => existsSync(file)) ? NBD_PYTHON[0] : undefined;
  if (name === 'seabios') return existsSync(SEABIOS) ? SEABIOS : undefined;
  const folders = [...(process.env.PATH ?? '').split(delimiter).filter(Boolean), ...SYSTEM_FOLDERS];
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Where a module is that can be loaded: one for another system than this cannot. */
function loadable(name: string): string | undefined {
  const require = createRequire(import.meta.url);
  try {
    require(name);
    return require.resolve(name);
  } catch {
    return undefined;
  }
}
