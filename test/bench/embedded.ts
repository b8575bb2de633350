/**
 * What a program feels that has a disk in it: how long its event loop is held up while a base
 * streams, what a small request costs, and what HTTP costs beside a local file.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startNginx } from '../support/nginx.ts';
import { run } from '../support/run.ts';
import { binariesCompressed, linkRaw } from './data.ts';
import { warm } from './peers.ts';
import type { BenchRow } from './table.ts';
import { best } from './table.ts';

const RUNS = 3;
const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const LIBRARY = at('../../dist/node/index.js');

interface StreamCosts {
  seconds: number;
  cpuSeconds: number;
  p99Ms: number;
  maxMs: number;
}

export async function embedded(): Promise<BenchRow[]> {
  const [raw, compressed] = [await linkRaw(), await binariesCompressed('zlib')];
  await warm(raw);
  await warm(compressed);
  const nginx = await startNginx({ root: dirname(raw) });
  try {
    const url = (path: string): string => `${nginx.url}/${basename(path)}`;
    const near = await streams(compressed);
    const far = await streams(url(compressed));
    return [
      ...loopRows('raw by HTTP on loopback', await streams(url(raw))),
      ...loopRows('zlib qcow2 by HTTP on loopback', far),
      ...loopRows('zlib qcow2, local', near),
      ...(['seconds', 'cpuSeconds'] as const).map((cost) => ({
        case: `zlib qcow2 by HTTP on loopback by the same, local: ${cost === 'seconds' ? 'time' : 'CPU'}`,
        value: best(far[cost]) / best(near[cost]),
        unit: '',
        goalMax: 1.25,
      })),
      ...(await requestRows()),
    ];
  } finally {
    await nginx.stop();
  }
}

type Columns<T> = { [K in keyof T]: T[K][] };

async function streams(base: string): Promise<Columns<StreamCosts>> {
  const all: Columns<StreamCosts> = { seconds: [], cpuSeconds: [], p99Ms: [], maxMs: [] };
  for (let count = 0; count < RUNS; count++) {
    const costs = await program<StreamCosts>('stream-program.mjs', base, 'loop');
    for (const name of Object.keys(all) as (keyof StreamCosts)[]) all[name].push(costs[name]);
  }
  return all;
}

function loopRows(name: string, { p99Ms, maxMs }: Columns<StreamCosts>): BenchRow[] {
  return [
    { case: `delay of the event loop, ${name}: p99`, value: p99Ms, unit: 'ms', goalMax: 8 },
    { case: '  most', value: maxMs, unit: 'ms', goalMax: 20 },
  ];
}

/** The goals are 40,000 reads a second one after another, 90,000 with 16 at a time. */
async function requestRows(): Promise<BenchRow[]> {
  const runs: { one: number; sixteen: number }[] = [];
  for (let count = 0; count < RUNS; count++) runs.push(await program('requests-program.mjs'));
  return [
    {
      case: 'Disk.read of 4 KiB in the page cache, one at a time',
      value: runs.map(({ one }) => one),
      unit: 'µs',
      goalMax: 25,
    },
    {
      case: '  16 at a time',
      value: runs.map(({ sixteen }) => sixteen),
      unit: 'µs',
      goalMax: 11.1,
    },
  ];
}

async function program<T>(name: string, ...args: string[]): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    await run('sync', []);
    const command = [at(name), LIBRARY, join(dir, 'overlay.qcow2'), ...args];
    return JSON.parse((await run(process.execPath, command)).stdout) as T;
  } finally {
    await rm(dir, { recursive: true });
  }
}
