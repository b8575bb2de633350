/** Seeds that every change has to pass, one of every kind of overlay, and a few whose seed is new each day. */
import { it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { shapes } from './images.ts';
import { runSeed } from './run.ts';

const STEPS = 1000;
/** Clusters of 2 MiB mean that much more to copy at each step. */
const STEPS_OF_LARGE = 400;

describeWithPeer(['qemu-img'], 'a disk under random requests, jobs, errors and reopenings', () => {
  for (const [number, shape] of shapes.entries()) {
    const steps = shape.cluster > 1024 * 1024 ? STEPS_OF_LARGE : STEPS;
    // The kind of overlay is the seed's rest by the number of kinds.
    const fresh = Math.floor(Date.now() / 86_400_000) * shapes.length + number;
    it.each([number + shapes.length, fresh])(`shows what the model shows: ${shape.name}, seed %d`, async (seed) => {
      await runSeed(seed, steps);
    });
  }
});
