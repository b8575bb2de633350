/**
 * Hostile images through a real engine: a fixed set, a fresh one, and those that once brought an
 * engine down. `npm run fuzz -- --seed N` replays one.
 */
import { expect, it } from 'vitest';
import { loadEngine } from '../simulator/simulate.ts';
import { runCase } from './case.ts';
import { CORPUS } from './corpus.ts';

const FIXED_CASES = 10_000;
const FRESH_CASES = 10_000;

function failures(first: number, count: number): string[] {
  const module = loadEngine();
  const failed: string[] = [];
  for (let seed = first; seed < first + count; seed++) {
    const { error, mutations } = runCase(module, seed);
    if (error)
      failed.push(
        `seed ${seed}: ${error.message}\n  ${mutations.join('\n  ')}\n  replay: npm run fuzz -- --seed ${seed}`,
      );
  }
  return failed;
}

it(`${FIXED_CASES} hostile images: every request is answered, in bounded work, and nothing is written to what is refused`, () => {
  expect(failures(1, FIXED_CASES)).toEqual([]);
});

it(`${FRESH_CASES} fresh ones`, () => {
  const first = Date.now() % 1_000_000_000;
  console.log(`hostile images from seed ${first} on`);
  expect(failures(first, FRESH_CASES)).toEqual([]);
});

it.each(CORPUS)('seed $seed, $found', ({ seed, mutations }) => {
  const { error, mutations: made } = runCase(loadEngine(), seed);
  // A seed that makes another image by now no longer shows what it was kept for.
  expect(made).toEqual(mutations);
  expect(error).toBeUndefined();
});
