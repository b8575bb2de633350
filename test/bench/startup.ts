/** What a command takes to begin: of the built program, over `node -e 0` in the same rounds. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startNginx } from '../support/nginx.ts';
import type { BenchRow } from './table.ts';

const MAIN = fileURLToPath(new URL('../../dist/node/main.js', import.meta.url));
/** Of each program, in turn. */
const ROUNDS = 20;
const BASE_BYTES = 1024 * 1024;
const VERSION_MS_MAX = 60;
const CREATE_MS_MAX = 120;

/** Milliseconds of one run: on the clock, and of the processors, user and system together. */
interface Run {
  wallMs: number;
  cpuMs: number;
}

/**
 * The version, and an overlay over a base on this machine, whose round trips take no time: each
 * the median of its runs less that of Node's own start.
 */
export async function startups(): Promise<BenchRow[]> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  await writeFile(join(dir, 'base.raw'), Buffer.alloc(BASE_BYTES, 1));
  const nginx = await startNginx({ root: dir });
  const overlay = join(dir, 'overlay.qcow2');
  const programs = {
    node: ['-e', '0'],
    version: [MAIN, '--version'],
    create: [MAIN, 'create', overlay, '--base', `${nginx.url}/base.raw`],
  };
  const runs: Record<keyof typeof programs, Run[]> = { node: [], version: [], create: [] };
  try {
    for (let round = 0; round < ROUNDS; round++)
      for (const [name, args] of Object.entries(programs)) {
        await rm(overlay, { force: true });
        runs[name as keyof typeof runs].push(await runOf(args));
      }
  } finally {
    await nginx.stop();
    await rm(dir, { recursive: true });
  }
  const over = (name: keyof typeof runs, what: keyof Run): number =>
    medianOf(runs[name], what) - medianOf(runs.node, what);
  return [
    {
      case: 'millrace --version, over node -e 0',
      value: over('version', 'wallMs'),
      unit: 'ms',
      goalMax: VERSION_MS_MAX,
    },
    { case: '  of the processors', value: over('version', 'cpuMs'), unit: 'ms' },
    {
      case: 'millrace create over HTTP, over node -e 0',
      value: over('create', 'wallMs'),
      unit: 'ms',
      goalMax: CREATE_MS_MAX,
    },
    { case: '  of the processors', value: over('create', 'cpuMs'), unit: 'ms' },
  ];
}

/** The shell tells what its children took. */
async function runOf(args: readonly string[]): Promise<Run> {
  const script = '"$@" > /dev/null || exit 1; times';
  const child = spawn('sh', ['-c', script, 'sh', process.execPath, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const start = performance.now();
  let told = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (told += text));
  const [code] = await once(child, 'close');
  const wallMs = performance.now() - start;
  if (code !== 0) throw new Error(`a program failed: ${args.join(' ')}`);
  const [, children] = told.trim().split('\n');
  const seconds = Array.from(children.matchAll(/(\d+)m([\d.]+)s/g), ([, m, s]) => +m * 60 + +s);
  return { wallMs, cpuMs: seconds.reduce((sum, one) => sum + one) * 1000 };
}

function medianOf(runs: readonly Run[], what: keyof Run): number {
  return runs.map((run) => run[what]).sort((one, other) => one - other)[runs.length >> 1];
}
