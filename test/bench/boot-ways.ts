/** The ways in which a machine's disk is served over NBD, ours and the others'. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { millrace, startMillrace } from '../cli/program.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import { serveStreaming } from '../support/storage-daemon.ts';
import type { Goals } from './chromium-boots.ts';

export type Format = 'raw' | 'qcow2';

/** Where an image is to be had, and where what belongs to a boot of it is put. */
export interface Scene {
  folder: string;
  format: Format;
  /** The image, near and far. */
  path: string;
  url: string;
}

/** A server of the disk `vda` at a socket. */
export interface DiskServer {
  /** Resolves when the disk stands alone. */
  alone?: Promise<unknown>;
  /** Seconds that fetching the whole image took, where that comes first. */
  fetchSeconds?: number;
  stop(): Promise<void>;
}

/** Serves an image as `vda` at a Unix socket of this name in the scene's folder. */
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

function qemuNbd(
  { folder }: Scene,
  socket: string,
  file: string,
  format: string,
): Promise<DiskServer> {
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
  const begun = performance.now();
  await run('curl', ['-sS', '-o', copy, scene.url]);
  const fetchSeconds = (performance.now() - begun) / 1000;
  const server = await qemuNbd(scene, socket, await overlayOf(scene, socket, copy), 'qcow2');
  return { ...server, fetchSeconds };
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
  // What is read stays in the overlay, in blocks of 64 KiB. (Its readahead does nothing for curl.)
  const args = ['-f', '-U', join(folder, socket), '--filter=cow', 'curl', url, 'cow-on-read=true'];
  return listening(folder, socket, program(peerPath('nbdkit'), args, folder));
};

const ownOverlay = (socket: string): string => `${socket}.own.qcow2`;

async function streamBefore({ folder, path }: Scene, socket: string): Promise<void> {
  for (const args of [
    ['create', ownOverlay(socket), '--base', path],
    ['stream', ownOverlay(socket)],
  ])
    await millrace(args, { cwd: folder });
}

/** `options` are those of `millrace serve`. */
function serveOurs(...options: readonly string[]): Serve {
  return async (scene, socket) => {
    const disk = `vda=${ownOverlay(socket)}`;
    const where = ['--nbd', `unix:${socket}`, '--create', '--base', scene.url];
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

/** A way to serve a disk, and what is aimed at with it. */
export interface Way {
  name: string;
  /** What stands already when the user asks for the machine. */
  prepare?: (scene: Scene, socket: string) => Promise<void>;
  serve: Serve;
  /** It serves bytes as they are. */
  isRawOnly?: boolean;
  isOurs?: boolean;
  /** The goal of its time to the prompt: of the line, or over all lines. */
  goal?: keyof Goals | number;
  /** Bytes over the line by the prompt, by those that the guest read. */
  bytesMax?: number;
  /** Until the disk stands alone, by what curl takes for the file. */
  aloneMax?: number;
}

/** What all other ways are measured by. */
export const LOCAL: Way = { name: 'a local file behind qemu-nbd', serve: serveLocal };
export const DOWNLOADED: Way = { name: 'download with curl, then boot', serve: serveDownloaded };

/** In the order in which they boot: one of ours fills the cache for the next. */
export const WAYS: readonly Way[] = [
  LOCAL,
  DOWNLOADED,
  { name: "QEMU's http backing file", serve: serveQemuHttp },
  { name: "QEMU's http backing file and block-stream", serve: serveBlockStream },
  { name: 'nbdkit curl, cow-on-read', serve: serveNbdkit, isRawOnly: true },
  {
    name: 'Millrace',
    serve: serveOurs('--profile', 'none'),
    isOurs: true,
    goal: 'first',
  },
  {
    name: 'Millrace, streaming',
    serve: serveOurs('--profile', 'none', '--stream'),
    isOurs: true,
    goal: 'first',
    aloneMax: 1.1,
  },
  {
    name: 'Millrace with a profile',
    serve: serveOurs('--cache', 'cache'),
    isOurs: true,
    goal: 'profile',
    bytesMax: 1.3,
  },
  {
    name: 'Millrace, second machine',
    serve: serveOurs('--cache', 'cache'),
    isOurs: true,
    goal: 'profile',
    bytesMax: 0,
  },
  {
    name: 'Millrace with a profile, streaming',
    serve: serveOurs('--stream'),
    isOurs: true,
    goal: 'profile',
    aloneMax: 1.1,
  },
  {
    name: 'Millrace, streamed before',
    prepare: streamBefore,
    serve: serveOurs(),
    isOurs: true,
    goal: 1,
  },
];
