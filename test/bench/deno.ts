/**
 * Deno beside Node: the built package streams the same images in a process of each, best of several
 * runs in turn. What a process takes to start is not counted: the program times itself.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startNginx } from '../support/nginx.ts';
import { run } from '../support/run.ts';
import { linkRaw, localRaw } from './data.ts';
import { runsInTurn, warm } from './peers.ts';
import type { BenchRow } from './table.ts';

const RUNS = 3;
/** Equal, but for what one run differs from the next. */
const GOAL_RATIO = 0.95;
const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const PROGRAM = at('stream-program.mjs');
const DENO = at('../../node_modules/.bin/deno');
const DENO_RUN = [DENO, 'run', '--no-config', '--quiet', '-A', PROGRAM];

/** A local base of 2 GiB, and one of 256 MiB by HTTP on loopback. */
export async function denoStreams(): Promise<BenchRow[]> {
  const [local, remote] = [await localRaw(), await linkRaw()];
  const nginx = await startNginx({ root: dirname(remote) });
  const rows: BenchRow[] = [];
  try {
    const cases = [
      ['local raw, 2 GiB', local],
      ['HTTP on loopback, 256 MiB', `${nginx.url}/${basename(remote)}`],
    ] as const;
    for (const [name, base] of cases) {
      await warm(base === local ? local : remote);
      const [node, deno] = await runsInTurn(RUNS, [
        () => timed([process.execPath, PROGRAM], at('../../dist/node/index.js'), base),
        () => timed(DENO_RUN, at('../../dist/deno/index.js'), base),
      ]);
      rows.push({
        case: `Deno: ${name}`,
        ours: deno,
        peer: 'Node',
        theirs: node,
        goalRatio: GOAL_RATIO,
      });
    }
  } finally {
    await nginx.stop();
  }
  return rows;
}

async function timed([program, ...args]: string[], library: string, base: string): Promise<number> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    const { stdout } = await run(program, [...args, library, join(dir, 'overlay.qcow2'), base]);
    return (JSON.parse(stdout) as { seconds: number }).seconds;
  } finally {
    await rm(dir, { recursive: true });
  }
}
