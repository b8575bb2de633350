/**
 * Which real programs are here to test against. Where one is missing, its tests are skipped with a line that says what was skipped
 * and how to get it; in CI (`CI` is set) a missing one fails them, so that nothing is left out unnoticed.
 */
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { describe, it } from 'vitest';

/** The Debian 12 package that brings each peer. */
const PACKAGES = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-storage-daemon': 'qemu-system-common',
  /** QEMU's driver for bases over HTTP: a module, not a program. */
  'qemu-curl': 'qemu-block-extra',
  nginx: 'nginx-light',
  curl: 'curl',
  chromium: 'chromium',
  'firefox-esr': 'firefox-esr',
  mke2fs: 'e2fsprogs',
  zstd: 'zstd',
  'apt-get': 'apt',
  'dpkg-deb': 'dpkg',
  flock: 'util-linux',
} as const;

export type PeerName = keyof typeof PACKAGES;

export interface Peer {
  name: PeerName;
  /** Where it is; undefined when it is missing. */
  path?: string;
  /** The line that installs it. */
  install: string;
}

/** Where the modules of QEMU's block layer are on Debian, by multiarch name. */
const QEMU_MODULES = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((arch) => `/usr/lib/${arch}/qemu/block-curl.so`);
/** Servers and file system tools are here, which not every user's PATH has. */
const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** Looks for one peer. */
export function peer(name: PeerName): Peer {
  const path = name === 'qemu-curl' ? QEMU_MODULES.find((file) => existsSync(file)) : find(name);
  return { name, path, install: `apt-get install -y ${PACKAGES[name]}` };
}

/** The path of a peer. @throws with the line that installs it, when it is missing. */
export function peerPath(name: PeerName): string {
  const { path, install } = peer(name);
  if (path === undefined) throw new Error(`${name} is missing; to get it: ${install}`);
  return path;
}

/** A `describe` of tests that need these peers. */
export function describeWithPeer(names: readonly PeerName[], title: string, tests: () => void): void {
  const missing = names.map(peer).filter(({ path }) => path === undefined);
  if (missing.length === 0) {
    describe(title, tests);
    return;
  }
  const packages = [...new Set(missing.map(({ name }) => PACKAGES[name]))].join(' ');
  const reason = `${missing.map(({ name }) => name).join(', ')} missing; to get it: apt-get install -y ${packages}`;
  if (process.env.CI) {
    describe(title, () => {
      it('has its peers', () => { throw new Error(reason); });
    });
    return;
  }
  console.warn(`skipped: ${title} (${reason})`);
  describe.skip(title, tests);
}

function find(program: string): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_FOLDERS];
  return folders.map((folder) => join(folder, program)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
