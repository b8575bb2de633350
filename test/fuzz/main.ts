/** `npm run fuzz -- --cases N --seed S` runs N hostile images from seed S on; without `--seed`, fresh ones. */
import { parseArgs } from 'node:util';
import { loadEngine } from '../simulator/simulate.ts';
import { runCase } from './case.ts';

const { values } = parseArgs({ options: { cases: { type: 'string' }, seed: { type: 'string' }, engine: { type: 'string' }, keep: { type: 'boolean' } } });
const module = loadEngine(values.engine);
const first = Number(values.seed ?? Date.now() % 1_000_000_000);
const cases = Number(values.cases ?? (values.seed === undefined ? 100_000 : 1));
const started = performance.now();
let opened = 0;
let failed = 0;
for (let seed = first; seed < first + cases; seed++) {
  const result = runCase(module, seed);
  if (result.opened) opened++;
  if (!result.error) continue;
  failed++;
  console.log(`seed ${seed}: ${cases === 1 ? result.error.stack : result.error.message.slice(0, 300)}\n  ${result.mutations.join('\n  ')}\n  replay: npm run fuzz -- --seed ${seed}`);
  process.exitCode = 1;
  if (!values.keep) break;
}
console.log({ cases, opened, failed, casesASecond: Math.round((cases / (performance.now() - started)) * 1000) });
