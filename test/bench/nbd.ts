/**
 * Disks over NBD: fio through `millrace serve --nbd` and through `qemu-nbd`, one after the other on
 * the same populated overlay.
 */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import { linkRaw } from './data.ts';
import { library, timeStream } from './ours.ts';
import { runsInTurn, seconds, warm } from './peers.ts';
import type { BenchRow, Runs } from './table.ts';

const RUNS = 3;
const SECONDS = 3;
/** What a row's time is that of. */
const REQUESTS = 10_000;
const MAIN = fileURLToPath(new URL('../../dist/node/main.js', import.meta.url));
const START_MS_MAX = 60_000;

const JOBS = [
  { work: 'read', bytes: 1024 * 1024, depth: 4, goal: 1 },
  { work: 'randread', bytes: 4096, depth: 1, goal: 0.8 },
  { work: 'randread', bytes: 4096, depth: 16, goal: 1 },
  { work: 'randwrite', bytes: 4096, depth: 1, goal: 0.8 },
  { work: 'randwrite', bytes: 4096, depth: 16, goal: 1 },
] as const;
type Job = (typeof JOBS)[number];

/** Requests a second of each job, through a server that listens at a socket. */
export async function nbdRequests(): Promise<BenchRow[]> {
  const base = await linkRaw();
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  const overlay = join(dir, 'vm.qcow2');
  const socket = join(dir, 'sock');
  const servers = [
    ['node', MAIN, 'serve', '--nbd', `unix:${socket}`, overlay],
    [peerPath('qemu-nbd'), '-t', '-e', '8', '-f', 'qcow2', '-k', socket, overlay],
  ];
  try {
    const { createDisk } = await library();
    const disk = await createDisk({ overlay, base, baseFormat: 'raw' });
    await disk.stream();
    await disk.close();
    const rates = servers.map(() => JOBS.map((): number[] => []));
    for (let count = 0; count < RUNS; count++)
      for (const [index, command] of servers.entries()) {
        await warm(overlay);
        await run('sync', []);
        const figures = await served(command, socket, () => requestsOfAll(socket));
        for (const [job, figure] of figures.entries()) rates[index][job].push(figure);
      }
    return JOBS.map((job, index) => rowOf(job, rates[0][index], rates[1][index]));
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** A base by NBD, from nbdkit, beside nbdcopy of the same into a file. */
export async function nbdBases(): Promise<BenchRow[]> {
  const raw = await linkRaw();
  await warm(raw);
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  const socket = join(dir, 'sock');
  const uri = `nbd+unix:///?socket=${socket}`;
  try {
    return await served([peerPath('nbdkit'), '-f', '-U', socket, 'file', raw], socket, async () => {
      const [ours, nbdcopy] = await runsInTurn(RUNS, [
        async () => (await timeStream(uri, 'unsafe')).seconds,
        () => seconds(() => run(peerPath('nbdcopy'), [uri, join(dir, 'copy')])),
      ]);
      return [
        {
          case: 'a base by NBD, 256 MiB, left in the page cache',
          ours: ours,
          peer: 'nbdcopy into a file',
          theirs: nbdcopy,
        },
      ];
    });
  } finally {
    await rm(dir, { recursive: true });
  }
}

function rowOf({ work, bytes, depth, goal }: Job, ours: Runs, peer: Runs): BenchRow {
  return {
    case: `NBD, ${REQUESTS} × ${work} of ${bytes / 1024} KiB, depth ${depth}`,
    ours: ours.map((rate) => REQUESTS / rate),
    peer: 'qemu-nbd',
    theirs: peer.map((rate) => REQUESTS / rate),
    goalRatio: goal,
  };
}

async function served<T>(
  [program, ...args]: readonly string[],
  socket: string,
  work: () => Promise<T>,
): Promise<T> {
  const server = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = once(server, 'exit');
  try {
    await listening(server, socket);
    return await work();
  } finally {
    server.kill('SIGTERM');
    await ended;
    await rm(socket, { force: true });
  }
}

async function listening(server: ChildProcess, socket: string): Promise<void> {
  const end = Date.now() + START_MS_MAX;
  while (!existsSync(socket)) {
    if (server.exitCode !== null || Date.now() > end)
      throw new Error(`${server.spawnargs.join(' ')} does not listen`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function requestsOfAll(socket: string): Promise<number[]> {
  const figures: number[] = [];
  for (const job of JOBS) figures.push(await requestsASecond(socket, job));
  return figures;
}

async function requestsASecond(socket: string, { work, bytes, depth }: Job): Promise<number> {
  const { stdout } = await run(peerPath('fio'), [
    ...['--name=requests', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`],
    ...[`--rw=${work}`, `--bs=${bytes}`, `--iodepth=${depth}`, '--end_fsync=1'],
    ...[`--runtime=${SECONDS}`, '--time_based', '--output-format=json'],
  ]);
  const [{ read, write }] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs;
  return read.iops + write.iops;
}
