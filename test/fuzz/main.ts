/**
 * `npm run fuzz -- --cases N --seed S` runs N hostile images from seed S on; without `--seed`, fresh ones. With `--servers`, hostile
 * servers.
 */
import { parseArgs } from 'node:util';
import { loadEngine } from '../simulator/simulate.ts';
import { runCase } from './case.ts';
import { runServerCases } from './server-case.ts';

const IMAGES_DEFAULT = 100_000;
const SERVERS_DEFAULT = 1000;
/** How often a run says how far it is. */
const PROGRESS_MS = 10_000;
/** Cases of servers mostly wait. */
const SERVER_LANES = 8;

const { values } = parseArgs({ options: {
  cases: { type: 'string' }, seed: { type: 'string' }, servers: { type: 'boolean' }, engine: { type: 'string' }, keep: { type: 'boolean' },
} });
const first = Number(values.seed ?? Date.now() % 1_000_000_000);
const cases = Number(values.cases ?? (values.seed !== undefined ? 1 : values.servers ? SERVERS_DEFAULT : IMAGES_DEFAULT));
const started = performance.now();
const counts = values.servers ? await fuzzServers() : fuzzImages();
console.log({ ...counts, casesASecond: Math.round((counts.cases / (performance.now() - started)) * 10_000) / 10 });

function fuzzImages(): { cases: number; opened: number; failed: number } {
  const module = loadEngine(values.engine);
  const trace: string[] = [];
  let told = started;
  let opened = 0;
  let failed = 0;
  let seed = first;
  for (; seed < first + cases; seed++) {
    if (performance.now() - told > PROGRESS_MS) {
      told = performance.now();
      console.error(`seed ${seed}: ${seed - first} images, ${failed} failed`);
    }
    const result = runCase(module, seed, cases === 1 ? (line) => trace.push(line) : undefined);
    if (result.opened) opened++;
    if (!result.error) continue;
    failed++;
    if (trace.length) console.log(trace.join('\n'));
    tell(seed, result.error, result.mutations);
    if (!values.keep) break;
  }
  return { cases: Math.min(seed - first + 1, cases), opened, failed };
}

async function fuzzServers(): Promise<{ cases: number; errors: Record<string, number>; failed: number }> {
  const errors: Record<string, number> = {};
  let failed = 0;
  await runServerCases(first, cases, SERVER_LANES, (seed, { codes, deeds, error }) => {
    for (const code of codes) errors[code] = (errors[code] ?? 0) + 1;
    if (!error) return;
    failed++;
    tell(seed, error, deeds);
    if (!values.keep) process.exit();
  });
  return { cases, errors, failed };
}

function tell(seed: number, error: Error, deeds: readonly string[]): void {
  const what = cases === 1 ? error.stack : error.message.slice(0, 300);
  console.log(`seed ${seed}: ${what}\n  ${deeds.join('\n  ')}\n  replay: npm run fuzz --${values.servers ? ' --servers' : ''} --seed ${seed}`);
  process.exitCode = 1;
}
