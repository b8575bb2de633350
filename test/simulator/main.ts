/** `npm run simulate`: the simulator by hand; `npm run simulate -- -h` tells what it can do. */
import { minutes, tool, whole } from '../support/tool.ts';
import { Coverage } from './coverage.ts';
import { findMutation, MUTATIONS } from './mutations.ts';
import { planOf } from './plan.ts';
import { QemuSample } from './qemu.ts';
import { runSeeds } from './run.ts';
import { loadEngine, simulate } from './simulate.ts';

interface Options {
  seed?: number;
  seeds?: number;
  minutes?: number;
  keep?: boolean;
  qemu?: number;
  coverage?: boolean;
  mutations?: boolean;
  engine?: string;
}

const options = tool(
  'simulate',
  'Runs the engine under seeded hosts that reorder, fail, tear and cut off its I/O. Without options, fresh seeds until one fails.',
)
  .option(
    '--seed <n>',
    'replay this seed, and print what happened if it fails; with --seeds or --minutes, begin with it',
    whole,
  )
  .option('--seeds <n>', 'run so many', whole)
  .option('--minutes <m>', 'run for so long', minutes)
  .option('--keep', 'go on after a failure')
  .option('--qemu <n>', 'have qemu-img check one in n of the images', whole)
  .option('--coverage', 'tell afterwards which lines of the engine the seeds reached')
  .option('--mutations', 'break the engine in known ways instead, and tell which seed finds each')
  .option('--engine <path>', 'another engine.wasm')
  .parse()
  .opts<Options>();
/** How often a run says how far it is. */
const PROGRESS_MS = 10_000;
/** Seeds with which a run for coverage is content, unless told otherwise. */
const COVERAGE_SEEDS = 300;
/** Seeds that a broken engine may survive. */
const MUTATION_SEEDS = 1000;

if (options.mutations) await mutations();
else if (options.coverage) await coverage();
else if (options.seed !== undefined && options.seeds === undefined && options.minutes === undefined)
  replay(options.seed);
else many(loadEngine(options.engine));

function replay(seed: number): void {
  const { error, trace, ...counts } = simulate(loadEngine(options.engine), seed, { traced: true });
  if (!error) return void console.log(`seed ${seed}: well`, counts);
  console.log(trace.join('\n'));
  console.log(JSON.stringify(planOf(seed)));
  console.log(`seed ${seed} failed:`, error.stack);
  process.exitCode = 1;
}

function many(
  module: WebAssembly.Module,
  onMemory?: (memory: Uint8Array) => void,
  most: number = Infinity,
): void {
  const started = performance.now();
  const qemu = options.qemu === undefined ? undefined : new QemuSample(options.qemu);
  let told = started;
  let failed = 0;
  const { failures, ...sum } = runSeeds(module, {
    first: options.seed ?? Date.now() % 1_000_000_000,
    seeds: options.seeds ?? (options.minutes === undefined ? most : Infinity),
    until: started + (options.minutes ?? Infinity) * 60_000,
    keep: options.keep,
    onImage: (file, closed) => qemu?.look(file, closed),
    onMemory,
    onSeed: (seed, { seeds, cuts, failures }) => {
      while (failed < failures.length) console.log(failures[failed++]);
      if (performance.now() - told < PROGRESS_MS) return;
      told = performance.now();
      console.error(
        `seed ${seed}: ${seeds} seeds, ${cuts} cuts in ${Math.round((told - started) / 1000)} s, ${failures.length} failed`,
      );
    },
  });
  qemu?.end();
  if (failures.length) process.exitCode = 1;
  const minutes = (performance.now() - started) / 60_000;
  const rates = { hours: Math.round(sum.hours), seedsAMinute: Math.round(sum.seeds / minutes) };
  console.log({
    ...sum,
    ...rates,
    failed: failures.length,
    ...(qemu && { qemuChecks: qemu.checked }),
  });
}

async function coverage(): Promise<void> {
  const lines = new Coverage();
  const module = await lines.build();
  many(module, (memory) => lines.add(memory), COVERAGE_SEEDS);
  const files = lines.report();
  for (const { path, missed } of files)
    for (const { line, text } of missed) console.log(`${path}:${line}: ${text}`);
  for (const file of files)
    console.log(
      `${percent(file.reached, file.lines)} ${String(file.lines).padStart(5)} lines  ${file.path}`,
    );
  const all = lines.total();
  console.log(`${percent(all.reached, all.lines)} ${String(all.lines).padStart(5)} lines  in all`);
}

function percent(part: number, whole: number): string {
  return `${((100 * part) / whole).toFixed(1).padStart(5)}%`;
}

async function mutations(): Promise<void> {
  for (const mutation of MUTATIONS) {
    const { seed, message } = await findMutation(mutation, MUTATION_SEEDS);
    console.log(
      `${mutation.name}: ${seed === undefined ? `not found by ${MUTATION_SEEDS} seeds` : `seed ${seed}, ${message!.slice(0, 120)}`}`,
    );
    if (seed === undefined) process.exitCode = 1;
  }
}
