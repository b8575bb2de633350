/** A disk over a base, served over NBD at a Unix socket, for real clients. */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Disk } from '../../hosts/api/disk.ts';
import type { NbdOptions } from '../../hosts/faces/nbd/server.ts';
import { NbdServer } from '../../hosts/faces/nbd/server.ts';
import { createDisk } from '../../hosts/node/index.ts';
import { listenNbd } from '../../hosts/node/nbd.ts';
import { peerPath } from '../support/peer.ts';
import type { RunResult } from '../support/run.ts';
import { run } from '../support/run.ts';

export const MIB: number = 1024 * 1024;
/** No client takes so long: one that does hangs. */
const CLIENT_MS_MAX = 60_000;

export interface Scene {
  folder: string;
  base: Uint8Array;
  overlay: string;
  disk: Disk;
  server: NbdServer;
  socket: string;
  uri: (name?: string) => string;
  /** Ends the server and closes the disk, before the scene does. */
  close: () => Promise<void>;
}

/** A base of 8 MiB and an odd end: data, a hole of 4 MiB, data. */
export function contentOf(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at++) {
    const isHole = at >= 2 * MIB && at < 6 * MIB;
    if (!isHole) bytes[at] = 1 + ((at * 31 + (at >> 9)) % 251);
  }
  return bytes;
}

export async function withScene(
  use: (scene: Scene) => Promise<void>,
  { size = 8 * MIB, ...options }: NbdOptions & { size?: number } = {},
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-nbd-'));
  try {
    const base = contentOf(size);
    await writeSparse(join(folder, 'base.raw'), base);
    const overlay = join(folder, 'vm.qcow2');
    const disk = await createDisk({ overlay, base: join(folder, 'base.raw'), baseFormat: 'raw' });
    const server = new NbdServer({ vda: disk }, options);
    const socket = join(folder, 'sock');
    const listening = await listenNbd(server, { path: socket });
    const close = async (): Promise<void> => {
      await listening.close();
      await server.close();
      await disk.close();
    };
    try {
      const uri = (name = 'vda'): string => `nbd+unix:///${name}?socket=${socket}`;
      await use({ folder, base, overlay, disk, server, socket, uri, close });
    } finally {
      await close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The hole takes no space, so that file systems tell of it. */
async function writeSparse(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'w');
  await file.truncate(bytes.length);
  await file.write(bytes, 0, 2 * MIB, 0);
  await file.write(bytes, 6 * MIB, bytes.length - 6 * MIB, 6 * MIB);
  await file.close();
}

/** Runs a client to its end. */
export function client(
  name: 'nbdinfo' | 'nbdcopy' | 'qemu-img' | 'qemu-io' | 'fio' | 'nbd-client',
  ...args: string[]
): Promise<RunResult> {
  return run(peerPath(name), args, { msMax: CLIENT_MS_MAX });
}

/**
 * Runs a script for libnbd; `h` is a handle that is not connected, `uri` where the disk is. What it
 * prints is handed back.
 */
export async function nbdsh(uri: string, script: string): Promise<string> {
  const program = `import nbd, errno\nuri = ${JSON.stringify(uri)}\nh = nbd.NBD()\n${script}`;
  const { stdout } = await run(peerPath('nbdsh'), ['-c', program], { msMax: CLIENT_MS_MAX });
  return stdout.trim();
}
