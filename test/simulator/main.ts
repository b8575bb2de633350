/**
 * `npm run simulate -- --seed N` replays one seed, and prints what happened if it fails. `--seeds N` runs so many, from `--seed` on or
 * fresh ones; `--minutes M` runs fresh ones for so long; both go on after a failure with `--keep`. `--coverage` tells, after that, which
 * lines of the engine the seeds reached; `--qemu N` has qemu-img check one in N of the images. `--mutations` breaks the engine in known ways
 * instead, and tells which seed finds each.
 */
import { parseArgs } from 'node:util';
import { Coverage } from './coverage.ts';
import { MUTATIONS, findMutation } from './mutations.ts';
import { planOf } from './plan.ts';
import { QemuSample } from './qemu.ts';
import { loadEngine, simulate } from './simulate.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' }, seeds: { type: 'string' }, minutes: { type: 'string' }, engine: { type: 'string' }, keep: { type: 'boolean' },
    coverage: { type: 'boolean' }, qemu: { type: 'string' }, mutations: { type: 'boolean' },
  },
});
/** How often a run says how far it is. */
const PROGRESS_MS = 10_000;
/** Seeds with which a run for coverage is content, unless told otherwise. */
const COVERAGE_SEEDS = 300;
/** Seeds that a broken engine may survive. */
const MUTATION_SEEDS = 400;

const fixed = values.seed === undefined ? undefined : Number(values.seed);
if (values.mutations) await mutations();
else if (values.coverage) await coverage();
else if (fixed !== undefined && values.seeds === undefined && values.minutes === undefined) replay(fixed);
else many(loadEngine(values.engine));

function replay(seed: number): void {
  const { error, trace, ...counts } = simulate(loadEngine(values.engine), seed, { traced: true });
  if (!error) return void console.log(`seed ${seed}: well`, counts);
  console.log(trace.join('\n'));
  console.log(JSON.stringify(planOf(seed)));
  console.log(`seed ${seed} failed:`, error.stack);
  process.exitCode = 1;
}

function many(module: WebAssembly.Module, onMemory?: (memory: Uint8Array) => void, most: number = Infinity): void {
  const started = performance.now();
  const end = started + Number(values.minutes ?? Infinity) * 60_000;
  const first = fixed ?? Date.now() % 1_000_000_000;
  const last = first + Number(values.seeds ?? (values.minutes === undefined ? most : Infinity));
  const total = { seeds: 0, disks: 0, requests: 0, operations: 0, cuts: 0, opens: 0, jobs: 0, faults: 0, hours: 0, failed: 0 };
  const qemu = values.qemu === undefined ? undefined : new QemuSample(Number(values.qemu));
  let told = started;
  for (let seed = first; seed < last && performance.now() < end; seed++) {
    const outcome = simulate(module, seed, { onImage: (file, closed) => qemu?.look(file, closed), onMemory });
    total.seeds++;
    for (const name of ['disks', 'requests', 'operations', 'cuts', 'opens', 'jobs', 'faults'] as const) total[name] += outcome[name];
    total.hours += outcome.time / 3_600_000;
    if (performance.now() - told > PROGRESS_MS) {
      told = performance.now();
      console.error(`seed ${seed}: ${total.seeds} seeds, ${total.requests} requests, ${total.cuts} cuts in ${Math.round((told - started) / 1000)} s, ${total.failed} failed`);
    }
    if (!outcome.error) continue;
    total.failed++;
    console.log(`seed ${seed}: ${outcome.error.message.slice(0, 300)}\n  replay: npm run simulate -- --seed ${seed}`);
    process.exitCode = 1;
    if (!values.keep) break;
  }
  qemu?.end();
  const minutes = (performance.now() - started) / 60_000;
  console.log({ ...total, hours: Math.round(total.hours), seedsAMinute: Math.round(total.seeds / minutes), ...(qemu && { qemuChecks: qemu.checked }) });
}

async function coverage(): Promise<void> {
  const lines = new Coverage();
  const module = await lines.build();
  many(module, (memory) => lines.add(memory), COVERAGE_SEEDS);
  const files = lines.report();
  for (const { path, missed } of files) for (const { line, text } of missed) console.log(`${path}:${line}: ${text}`);
  for (const file of files) console.log(`${percent(file.reached, file.lines)} ${String(file.lines).padStart(5)} lines  ${file.path}`);
  const sum = (pick: 'lines' | 'reached'): number => files.reduce((total, file) => total + file[pick], 0);
  console.log(`${percent(sum('reached'), sum('lines'))} ${String(sum('lines')).padStart(5)} lines  in all`);
}

function percent(part: number, whole: number): string {
  return `${((100 * part) / whole).toFixed(1).padStart(5)}%`;
}

async function mutations(): Promise<void> {
  for (const mutation of MUTATIONS) {
    const { seed, message } = await findMutation(mutation, MUTATION_SEEDS);
    console.log(`${mutation.name}: ${seed === undefined ? `not found by ${MUTATION_SEEDS} seeds` : `seed ${seed}, ${message!.slice(0, 120)}`}`);
    if (seed === undefined) process.exitCode = 1;
  }
}
