/**
 * `npm run simulate -- --seed N` replays one seed and prints what happened if it fails; `--minutes M` runs fresh seeds for so long;
 * `--seeds N` runs so many, from `--seed` on.
 */
import { parseArgs } from 'node:util';
import { planOf } from './plan.ts';
import { loadEngine, simulate } from './simulate.ts';

const { values } = parseArgs({
  options: { seed: { type: 'string' }, seeds: { type: 'string' }, minutes: { type: 'string' }, engine: { type: 'string' }, keep: { type: 'boolean' } },
});
const module = loadEngine(values.engine);
const fixed = values.seed === undefined ? undefined : Number(values.seed);
if (fixed !== undefined && values.seeds === undefined && values.minutes === undefined) replay(fixed);
else soak();

function replay(seed: number): void {
  const { error, trace, ...counts } = simulate(module, seed, { traced: true });
  if (!error) return void console.log(`seed ${seed}: well`, counts);
  console.log(trace.join('\n'));
  console.log(JSON.stringify(planOf(seed)));
  console.log(`seed ${seed} failed:`, error.stack);
  process.exitCode = 1;
}

function soak(): void {
  const started = performance.now();
  const end = started + Number(values.minutes ?? Infinity) * 60_000;
  const first = fixed ?? Date.now() % 1_000_000_000;
  const last = first + Number(values.seeds ?? Infinity);
  const total = { seeds: 0, requests: 0, operations: 0, cuts: 0, opens: 0, jobs: 0, faults: 0, hours: 0, failed: 0 };
  for (let seed = first; seed < last && performance.now() < end; seed++) {
    const outcome = simulate(module, seed);
    total.seeds++;
    for (const name of ['requests', 'operations', 'cuts', 'opens', 'jobs', 'faults'] as const) total[name] += outcome[name];
    total.hours += outcome.time / 3_600_000;
    if (!outcome.error) continue;
    total.failed++;
    console.log(`seed ${seed}: ${outcome.error.message.slice(0, 300)}\n  replay: npm run simulate -- --seed ${seed}`);
    process.exitCode = 1;
    if (!values.keep) break;
  }
  const minutes = (performance.now() - started) / 60_000;
  console.log({ ...total, hours: Math.round(total.hours), seedsAMinute: Math.round(total.seeds / minutes) });
}
