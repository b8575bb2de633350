/** `npm run differential`: seeds of the differential test by hand. */
import { tool, whole } from '../support/tool.ts';
import { runSeed } from './run.ts';

const {
  seed: first,
  count,
  steps,
  log,
} = tool(
  'differential',
  'Runs sequences of calls on Millrace and on QEMU alike, and compares what both show.',
)
  .option('--seed <n>', 'the first sequence', whole, 1)
  .option('--count <n>', 'how many', whole, 1)
  .option('--steps <n>', 'calls of each', whole, 2000)
  .option('--log', 'print each call')
  .parse()
  .opts<{ seed: number; count: number; steps: number; log?: boolean }>();

for (let seed = first; seed < first + count; seed++) {
  const startMs = performance.now();
  try {
    const result = await runSeed(seed, steps, log ? console.log : undefined);
    console.log(`${Math.round(performance.now() - startMs)} ms ${JSON.stringify(result)}`);
  } catch (error) {
    console.log(`FAILED ${(error as Error).message}`);
    if (log) console.log((error as Error).cause);
    process.exitCode = 1;
  }
}
