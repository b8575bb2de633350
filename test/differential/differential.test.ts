/**
 * Seeds that every change has to pass: two of every kind of overlay. More of them: `npm run
 * differential -- --seed N --count N`.
 */
import { it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { shapes } from './images.ts';
import { runSeed } from './run.ts';

const STEPS = 2000;
/** Clusters of 2 MiB mean that much more to copy at each step. */
const STEPS_OF_LARGE = 500;
const LARGE_BYTES = 1024 * 1024;
/** Nothing here waits for a clock: only a machine that is very busy takes long. */
const TIMEOUT_MS = 300_000;

describeWithPeer(['qemu-img'], 'a disk under random requests, jobs, errors and reopenings', () => {
  for (const [number, { name, cluster }] of shapes.entries()) {
    // The kind of overlay is the seed's rest by the number of kinds.
    it.each([number, number + 7 * shapes.length])(
      `shows what the model shows: ${name}, seed %d`,
      async (seed) => {
        await runSeed(seed, cluster > LARGE_BYTES ? STEPS_OF_LARGE : STEPS);
      },
      TIMEOUT_MS,
    );
  }
});
