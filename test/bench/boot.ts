/**
 * What a user waits for: the Debian guest in QEMU (software emulation) from a disk by NBD, whose
 * base is at the end of a line. To its prompt, to its first work (a sum of files that nobody read
 * before), and to a disk that stands alone; with what has gone over the line by the prompt.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { bytesOf, decodeProfile } from '../../hosts/profiles/format.ts';
import { startMillrace } from '../cli/program.ts';
import type { Guest } from '../guest/guest.ts';
import { makeGuest } from '../guest/guest.ts';
import { QemuMachine } from '../guest/qemu-machine.ts';
import { startNginx } from '../support/nginx.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';
import { serveStreaming } from '../support/storage-daemon.ts';
import type { Bar } from './bars.ts';
import { drawBars } from './bars.ts';
import type { BenchRow } from './table.ts';

const LINES = [
  { name: '20 ms, 1 Gbit/s', roundTripMs: 20, bitsPerSecond: 1e9, goal: 1.05 },
  { name: '50 ms, 200 Mbit/s', roundTripMs: 50, bitsPerSecond: 200e6, goal: 1.05 },
  { name: '100 ms, 50 Mbit/s', roundTripMs: 100, bitsPerSecond: 50e6, goal: 1.3 },
];
const FORMATS = ['raw', 'qcow2'] as const;
type Format = (typeof FORMATS)[number];
const BOOT_MS_MAX = 600_000;
/** Nothing writes to the serial line but what was read from the disk. */
const LOADER = /\S/;
const MIB = 1024 * 1024;
const PICTURE = fileURLToPath(new URL('../../build/boot.svg', import.meta.url));
const WORK = 'md5sum $(find /usr/bin /usr/sbin -type f -size +60k | sort | tail -n 60) | md5sum';

/** One boot, in seconds from when the user asked for it. */
interface Boot {
  /** When it first says something. */
  first: number;
  prompt: number;
  work: number;
  alone?: number;
  /** Over the line by the prompt. */
  bytes: number;
  requests: number;
}

/** Where an image is to be had, and how it is booted from there. */
interface Scene {
  folder: string;
  guest: Guest;
  format: Format;
  /** The image, near and far. */
  path: string;
  url: string;
}

/** A server of the disk `vda` on `sock`. */
interface DiskServer {
  /** Resolves when the disk stands alone. */
  alone?: Promise<unknown>;
  stop(): Promise<void>;
}

type Serve = (scene: Scene, socket: string) => Promise<DiskServer>;

function program(name: string, args: readonly string[], cwd: string): DiskServer {
  const child = spawn(name, args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] });
  return {
    async stop() {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'exit');
    },
  };
}

async function listening(folder: string, socket: string, server: DiskServer): Promise<DiskServer> {
  while (!existsSync(join(folder, socket))) await new Promise((next) => setTimeout(next, 10));
  return server;
}

function qemuNbd({ folder }: Scene, socket: string, file: string, format: string) {
  const args = ['-k', join(folder, socket), '-x', 'vda', '-f', format, '--persistent', '-t', file];
  return listening(folder, socket, program(peerPath('qemu-nbd'), args, folder));
}

/** Writes go into an overlay, as they do everywhere here. */
async function overlayOf({ folder, format }: Scene, socket: string, base: string): Promise<string> {
  const path = join(folder, `${socket}.qcow2`);
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', format, '-b', base, path]);
  return path;
}

const serveLocal: Serve = async (scene, socket) =>
  qemuNbd(scene, socket, await overlayOf(scene, socket, scene.path), 'qcow2');

const serveDownloaded: Serve = async (scene, socket) => {
  const copy = join(scene.folder, `${socket}.copy`);
  await run('curl', ['-sS', '-o', copy, scene.url]);
  return qemuNbd(scene, socket, await overlayOf(scene, socket, copy), 'qcow2');
};

const serveQemuHttp: Serve = async (scene, socket) =>
  qemuNbd(scene, socket, await overlayOf(scene, socket, scene.url), 'qcow2');

const serveBlockStream: Serve = async (scene, socket) => {
  const { folder, url, format } = scene;
  const overlay = await overlayOf(scene, socket, url);
  const where = { overlay, base: url, baseFormat: format, socket: join(folder, socket) };
  return serveStreaming(where);
};

const serveNbdkit: Serve = ({ folder, url }, socket) => {
  // Without the cache below it, readahead has nowhere to put what it reads.
  const filters = ['--filter=cow', '--filter=readahead', '--filter=cache'];
  const args = ['-f', '-U', join(folder, socket), ...filters, 'curl', url];
  return listening(folder, socket, program(peerPath('nbdkit'), args, folder));
};

/** `more` are options of `millrace serve`. */
function serveOurs(more: (scene: Scene) => readonly string[] = () => []): Serve {
  return async (scene, socket) => {
    const disk = `vda=${socket}.own.qcow2`;
    const where = ['--nbd', `unix:${socket}`, '--create', '--base', scene.url];
    const options = more(scene);
    const server = startMillrace(['serve', ...where, ...options, disk], { cwd: scene.folder });
    await server.until('stderr', /serving until/);
    const isStreamed = options.includes('--stream');
    return {
      alone: isStreamed ? server.until('stderr', /all is streamed/) : undefined,
      async stop() {
        server.child.kill('SIGINT');
        await server.ended;
      },
    };
  };
}

const ORDINARY: readonly [name: string, serve: Serve][] = [
  ['download with curl, then boot', serveDownloaded],
  ["QEMU's http backing file", serveQemuHttp],
  ["QEMU's http backing file and block-stream", serveBlockStream],
];
/** It serves raw bytes as they are. */
const RAW_ONLY: readonly [name: string, serve: Serve][] = [
  ['nbdkit curl, cache, readahead, cow', serveNbdkit],
];

/** Our ways; the second fills the cache for the third. */
const OURS: readonly [name: string, serve: Serve][] = [
  ['Millrace', serveOurs(() => ['--profile', 'none'])],
  ['Millrace with a profile', serveOurs(() => ['--cache', 'cache'])],
  ['Millrace, second machine', serveOurs(() => ['--cache', 'cache'])],
  ['Millrace with a profile, streaming', serveOurs(() => ['--stream'])],
];

/** `npm run bench -- boot`. */
export async function boots(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const bars: Bar[] = [];
  for (const format of FORMATS) {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-boot-'));
    try {
      const { guest, path, read } = await prepare(folder, format);
      for (const line of LINES) {
        const figures = await overLine({ folder, guest, format, path }, line);
        const local = figures.get(LOCAL)!;
        for (const [name, boot] of figures) {
          const ratio = boot.prompt / local.prompt;
          if (format === 'raw')
            bars.push({ group: line.name, name, ratio, isOurs: name.startsWith('Millrace') });
          rows.push(...rowsOf(`${format}, ${line.name}: ${name}`, boot, local, read, line.goal));
        }
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  await mkdir(join(PICTURE, '..'), { recursive: true });
  await writeFile(PICTURE, drawBars('Time to the prompt, by that of a local file', bars));
  console.error(`the picture is in ${PICTURE}`);
  return rows;
}

const LOCAL = 'a local file behind qemu-nbd';

/** The image, and its profile beside it: recorded from the file itself. */
async function prepare(folder: string, format: Format) {
  const guest = await makeGuest();
  const path = join(folder, `guest.${format}`);
  if (format === 'raw') await copyFile(guest.path, path);
  else await run('qemu-img', ['convert', '-c', '-O', 'qcow2', guest.path, path]);
  const profile = `guest.${format}.profile`;
  const record = ['--nbd', 'unix:record', '--create', '--base', path, '--record', profile];
  const server = startMillrace(['serve', ...record, 'vda=record.qcow2'], { cwd: folder });
  await server.until('stderr', /serving until/);
  const machine = new QemuMachine(folder, 'record');
  try {
    await machine.until(guest.prompt, BOOT_MS_MAX);
  } finally {
    machine.child.kill('SIGKILL');
    server.child.kill('SIGINT');
  }
  const { stderr } = await server.ended;
  console.error(stderr.trim().split('\n').at(-1));
  const { ranges } = await decodeProfile(await readFile(join(folder, profile)));
  // What was recorded of the file is of what the server tells of it: their sizes decide.
  return { guest, path, read: bytesOf(ranges) };
}

/** All ways over one line, one after another: the image keeps its URL, which the cache goes by. */
async function overLine(
  scene: Omit<Scene, 'url'>,
  line: (typeof LINES)[number],
): Promise<Map<string, Boot>> {
  const figures = new Map<string, Boot>();
  const others = [...ORDINARY, ...(scene.format === 'raw' ? RAW_ONLY : [])];
  const nginx = await startNginx({ root: scene.folder });
  const target = { host: '127.0.0.1', port: nginx.port };
  const link = await startSlowLinkProcess({ ...line, target });
  const sent = async (): Promise<Sent> => ({
    bytes: (await link.traffic()).bytes.down,
    requests: (await nginx.log()).length,
  });
  try {
    const url = link.url(`/guest.${scene.format}`);
    for (const [name, serve] of [[LOCAL, serveLocal] as const, ...others, ...OURS]) {
      console.error(`  ${scene.format}, ${line.name}: ${name} …`);
      figures.set(name, await boot({ ...scene, url }, serve, `sock-${figures.size}`, sent));
    }
  } finally {
    await link.stop();
    await nginx.stop();
  }
  for (const name of await readdir(scene.folder))
    if (name.startsWith('sock-') || name === 'cache')
      await rm(join(scene.folder, name), { recursive: true });
  return figures;
}

/** What has gone over a line so far. */
interface Sent {
  bytes: number;
  requests: number;
}

async function boot(
  scene: Scene,
  serve: Serve,
  socket: string,
  sent: () => Promise<Sent>,
): Promise<Boot> {
  const before = await sent();
  const begun = performance.now();
  const seconds = (): number => (performance.now() - begun) / 1000;
  let machine: QemuMachine | undefined;
  let server: DiskServer | undefined;
  try {
    server = await serve(scene, socket);
    const alone = server.alone?.then(seconds);
    machine = new QemuMachine(scene.folder, socket);
    await machine.until(LOADER, BOOT_MS_MAX);
    const first = seconds();
    await machine.until(scene.guest.prompt, BOOT_MS_MAX);
    const prompt = seconds();
    const { bytes, requests } = await sent();
    await machine.type(WORK);
    const work = seconds();
    return {
      first,
      prompt,
      work,
      alone: await alone,
      bytes: bytes - before.bytes,
      requests: requests - before.requests,
    };
  } finally {
    machine?.child.kill('SIGKILL');
    await server?.stop();
  }
}

function rowsOf(name: string, boot: Boot, local: Boot, read: number, goal: number): BenchRow[] {
  if (boot === local) return [{ case: `${name}, to the prompt`, value: boot.prompt, unit: 's' }];
  const isOurs = name.includes('Millrace with') || name.includes('second machine');
  const rows: BenchRow[] = [
    {
      case: `${name}, to its first word`,
      value: boot.first,
      unit: 's',
    },
    {
      case: `  to the prompt by a local file's`,
      value: boot.prompt / local.prompt,
      unit: '',
      ...(isOurs ? { goalMax: goal } : {}),
    },
    { case: "  to its first work by a local file's", value: boot.work / local.work, unit: '' },
  ];
  if (boot.alone !== undefined)
    rows.push({ case: '  to standing alone', value: boot.alone, unit: 's' });
  rows.push(
    { case: '  requests at the prompt', value: boot.requests, unit: '' },
    { case: '  bytes at the prompt', value: boot.bytes / MIB, unit: 'MiB' },
    {
      case: '  the same by what the guest read',
      value: boot.bytes / read,
      unit: '',
      ...(isOurs && boot.alone === undefined ? { goalMax: 1.3 } : {}),
    },
  );
  return rows;
}
