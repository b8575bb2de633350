/**
 * Disks over servers that misbehave by seed: a fixed set of seeds, and fresh ones. `npm run fuzz --
 * --servers --seed N` replays one.
 */
import { expect, it } from 'vitest';
import { runServerCases } from './server-case.ts';

/** Cases mostly wait: for timeouts, and before they ask again. */
const LANES = 8;
const FIXED_SEEDS = 120;
const FRESH_SEEDS = 60;

it(`${FIXED_SEEDS + FRESH_SEEDS} unruly servers: right bytes or an error by name, and a sound overlay`, async () => {
  const codes = new Set<string>();
  const failed: string[] = [];
  for (const [first, count] of [
    [1, FIXED_SEEDS],
    [Date.now() % 1_000_000_000, FRESH_SEEDS],
  ]) {
    await runServerCases(first, count, LANES, (seed, result) => {
      for (const code of result.codes) codes.add(code);
      if (result.error)
        failed.push(
          `seed ${seed}: ${result.error.message} (replay: npm run fuzz -- --servers --seed ${seed})`,
        );
    });
  }
  expect(failed).toEqual([]);
  // The servers did bite.
  expect([...codes]).toEqual(expect.arrayContaining(['EIO', 'ECHANGED', 'EUNSUPPORTED']));
}, 600_000);
