/** Replays seeds of the differential test: `npm run differential -- --seed N [--count N] [--steps N] [--log]`. */
import { parseArgs } from 'node:util';
import { runSeed } from './run.ts';

const { values } = parseArgs({
  options: { seed: { type: 'string', default: '1' }, count: { type: 'string', default: '1' }, steps: { type: 'string', default: '2000' }, log: { type: 'boolean' } },
});

for (let seed = Number(values.seed), last = seed + Number(values.count); seed < last; seed++) {
  const startMs = performance.now();
  try {
    const result = await runSeed(seed, Number(values.steps), values.log ? console.log : undefined);
    console.log(`${Math.round(performance.now() - startMs)} ms ${JSON.stringify(result)}`);
  } catch (error) {
    console.log(`FAILED ${(error as Error).message}`);
    if (values.log) console.log((error as Error).cause);
    process.exitCode = 1;
  }
}
