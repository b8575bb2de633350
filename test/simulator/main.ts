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
import { runSeeds } from './run.ts';
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
const MUTATION_SEEDS = 1000;

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
  const qemu = values.qemu === undefined ? undefined : new QemuSample(Number(values.qemu));
  let told = started;
  let failed = 0;
  const { failures, ...sum } = runSeeds(module, {
    first: fixed ?? Date.now() % 1_000_000_000,
    seeds: Number(values.seeds ?? (values.minutes === undefined ? most : Infinity)),
    until: started + Number(values.minutes ?? Infinity) * 60_000,
    keep: values.keep,
    onImage: (file, closed) => qemu?.look(file, closed),
    onMemory,
    onSeed: (seed, { seeds, cuts, failures }) => {
      while (failed < failures.length) console.log(failures[failed++]);
      if (performance.now() - told < PROGRESS_MS) return;
      told = performance.now();
      console.error(`seed ${seed}: ${seeds} seeds, ${cuts} cuts in ${Math.round((told - started) / 1000)} s, ${failures.length} failed`);
    },
  });
  qemu?.end();
  if (failures.length) process.exitCode = 1;
  const minutes = (performance.now() - started) / 60_000;
  const rates = { hours: Math.round(sum.hours), seedsAMinute: Math.round(sum.seeds / minutes) };
  console.log({ ...sum, ...rates, failed: failures.length, ...(qemu && { qemuChecks: qemu.checked }) });
}

async function coverage(): Promise<void> {
  const lines = new Coverage();
  const module = await lines.build();
  many(module, (memory) => lines.add(memory), COVERAGE_SEEDS);
  const files = lines.report();
  for (const { path, missed } of files) for (const { line, text } of missed) console.log(`${path}:${line}: ${text}`);
  for (const file of files) console.log(`${percent(file.reached, file.lines)} ${String(file.lines).padStart(5)} lines  ${file.path}`);
  const all = lines.total();
  console.log(`${percent(all.reached, all.lines)} ${String(all.lines).padStart(5)} lines  in all`);
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
