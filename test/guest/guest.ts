/**
 * The Linux guest that boots in v86 and in QEMU: a raw disk of 160 MiB with a shell on the first
 * serial port. It is made once, by build.sh beside this file, and kept in the folder of fixtures,
 * which may be deleted at any time. Run as a program, it prints where the image is.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { madeByScript } from '../fixtures/made-by-script.ts';
import type { PeerName } from '../support/peer.ts';

/** What must be here to make it; network access to Debian packages besides. */
export const guestPeers: readonly PeerName[] = ['apt-get', 'dpkg-deb', 'mke2fs', 'flock'];

export interface Guest {
  /** The folder that the image is in, to be served as it is. */
  dir: string;
  /** Name of the raw image in that folder. */
  file: string;
  path: string;
  /** Bytes of the disk. */
  size: number;
  /** Where its file system begins, in bytes. */
  fileSystemOffset: number;
  /** What ends the guest's output when the shell waits. */
  prompt: RegExp;
}

const SCRIPT = fileURLToPath(new URL('build.sh', import.meta.url));
const MEBIBYTE = 1024 * 1024;

/**
 * Gives the guest, and makes it first when it is not there: half a minute, some 90 MiB of packages.
 * Processes that ask at once wait for the one that makes it.
 */
export async function makeGuest(): Promise<Guest> {
  const dir = await madeByScript('guest', SCRIPT, guestPeers);
  const file = 'guest.raw';
  return {
    dir,
    file,
    path: join(dir, file),
    size: 160 * MEBIBYTE,
    fileSystemOffset: MEBIBYTE,
    prompt: /guest:[^\n]*# $/,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log((await makeGuest()).path);
