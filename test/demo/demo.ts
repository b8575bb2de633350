/**
 * What `npm start` runs: the whole of the main job on a sample base, on this machine alone. It
 * makes the base, serves it over HTTP through an emulated slow link, starts on an empty overlay as
 * a guest would, streams the rest, and proves the result. It leaves nothing behind.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatElapsed, formatSize } from '../../hosts/faces/cli/sizes.ts';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { startSlowLink } from '../support/slow-link.ts';
import type { SampleBase } from './base.ts';
import { DISK_BYTES, makeSampleBase } from './base.ts';
import { serveFile } from './file-server.ts';

const ROUND_TRIP_MS = 20;
const BITS_PER_SECOND = 100e6;
/** As a machine that boots asks: its boot sector, then a block here and there. */
const GUEST_READS: readonly [offset: number, length: number][] = [
  [0, 512],
  [1024 * 1024, 4096],
  [64 * 1024 * 1024, 4096],
  [81 * 1024 * 1024, 4096],
];
const HASH_PIECE_BYTES = 4 * 1024 * 1024;
/** The program as a user has it. */
const PROGRAM = fileURLToPath(new URL('../../dist/node/main.js', import.meta.url));

const folder = await mkdtemp(join(tmpdir(), 'millrace-demo-'));
let child: ReturnType<typeof spawn> | undefined;
process.on('SIGINT', () => {
  // Ctrl-C reaches the program that streams, too: it stops cleanly, and the demo then ends by
  // itself.
  if (child) return;
  rmSync(folder, { recursive: true, force: true });
  process.exit(130);
});
try {
  process.exitCode = await demo(folder);
} finally {
  await rm(folder, { recursive: true, force: true });
}

async function demo(folder: string): Promise<number> {
  say(`A sample base of ${formatSize(DISK_BYTES)} is being made ...`);
  const base = await makeSampleBase(folder);
  const overlay = join(folder, 'vm.qcow2');
  const traffic = await overSlowLink(base, async (url, requests) => {
    await readAsGuest(overlay, url, requests);
    say('\nNow the rest, with the command line:\n  $ millrace stream vm.qcow2');
    return runProgram(['stream', 'vm.qcow2'], folder);
  });
  if (traffic.exitCode !== 0) return traffic.exitCode;
  const result = await hashOf(overlay);
  say(
    `\nThe server is gone, and the overlay has all of the base:\n  base     ${base.hash}\n  overlay  ${result}`,
  );
  if (result !== base.hash) {
    say('They differ: this must not be. Please report it.');
    return 1;
  }
  whatHappened(`${formatSize(traffic.bytes)} in ${traffic.requests} requests`);
  return 0;
}

/** Serves the base while `use` runs, which gives an exit code; tells what went over the link. */
async function overSlowLink(
  base: SampleBase,
  use: (url: string, requests: () => number) => Promise<number>,
): Promise<{ exitCode: number; bytes: number; requests: number }> {
  const server = await serveFile(base.path);
  const link = await startSlowLink({
    target: { host: '127.0.0.1', port: server.port },
    roundTripMs: ROUND_TRIP_MS,
    bitsPerSecond: BITS_PER_SECOND,
  });
  try {
    const kind = base.format === 'raw' ? 'raw' : 'compressed qcow2';
    const { size } = await stat(base.path);
    say(
      `It is served at ${link.url('/base')} (${kind}, ${formatSize(size)}), through a link of ${ROUND_TRIP_MS} ms and ${BITS_PER_SECOND / 1e6} Mbit/s.\n`,
    );
    const exitCode = await use(link.url('/base'), () => server.requests);
    return { exitCode, bytes: link.bytes.down, requests: server.requests };
  } finally {
    await link.stop();
    await server.stop();
  }
}

/** Creates the overlay and reads a few blocks of it at once. */
async function readAsGuest(overlay: string, url: string, requests: () => number): Promise<void> {
  say(
    `An overlay over it, and a guest that reads at once:\n  $ millrace create vm.qcow2 --base ${url}`,
  );
  const before = performance.now();
  const disk = await createDisk({ overlay, base: url });
  try {
    say(
      `  created and open after ${formatElapsed((performance.now() - before) / 1000)}, ${counted(requests())}: a disk of ${formatSize(disk.size)}`,
    );
    for (const [offset, length] of GUEST_READS) {
      const [start, asked] = [performance.now(), requests()];
      await disk.read(offset, length);
      say(
        `  read ${formatSize(length).padEnd(7)} at ${formatSize(offset).padEnd(8)} ${String(Math.round(performance.now() - start)).padStart(4)} ms, ${counted(requests() - asked)}`,
      );
    }
  } finally {
    await disk.close();
  }
}

async function runProgram(args: string[], cwd: string): Promise<number> {
  child = spawn(process.execPath, [PROGRAM, ...args], { cwd, stdio: 'inherit' });
  const [code] = (await once(child, 'exit')) as [number | null];
  child = undefined;
  return code ?? 1;
}

/** SHA-256 of what the overlay shows, opened without any base. */
async function hashOf(overlay: string): Promise<string> {
  const disk = await openDisk({ overlay, base: null, readOnly: true });
  try {
    const hash = createHash('sha256');
    for (let at = 0; at < disk.size; at += HASH_PIECE_BYTES)
      hash.update(await disk.read(at, Math.min(HASH_PIECE_BYTES, disk.size - at)));
    return hash.digest('hex');
  } finally {
    await disk.close();
  }
}

function counted(requests: number): string {
  return `${requests} request${requests === 1 ? '' : 's'}`;
}

function whatHappened(traffic: string): void {
  say(`
What happened: the disk could be used before anything was copied; each read fetched what it needed, and kept it. The stream
then copied the rest (${traffic} in all) and took the base out of the overlay, which is now a qcow2 image of its own.

With an image of your own:
  npx millrace create vm.qcow2 --base https://example.org/debian.qcow2     any server with byte ranges; or a path
  npx millrace stream vm.qcow2                                             Ctrl-C stops it, run again it goes on
  npx millrace info vm.qcow2                                               how much is still missing
  npx millrace --help`);
}

function say(text: string): void {
  console.log(text);
}
