/** Many seeds, one after another, and what they came to. */
import type { Counts } from './disk.ts';
import type { SimulateOptions } from './simulate.ts';
import { simulate } from './simulate.ts';

export interface Sum extends Counts {
  seeds: number;
  disks: number;
  /** Simulated. */
  hours: number;
  /** What was found, each with the command that replays it. */
  failures: string[];
}

export interface RunOptions extends SimulateOptions {
  first: number;
  seeds: number;
  /** On the clock of `performance`. */
  until?: number;
  /** Goes on after a failure. */
  keep?: boolean;
  /** Called after each seed. */
  onSeed?(seed: number, sum: Sum): void;
}

const MESSAGE_CHARACTERS_MAX = 300;

export function runSeeds(module: WebAssembly.Module, options: RunOptions): Sum {
  const { first, seeds, until = Infinity, keep = false, onSeed } = options;
  const sum: Sum = {
    seeds: 0,
    disks: 0,
    requests: 0,
    operations: 0,
    cuts: 0,
    opens: 0,
    jobs: 0,
    faults: 0,
    hours: 0,
    failures: [],
  };
  for (let seed = first; seed < first + seeds && performance.now() < until; seed++) {
    const outcome = simulate(module, seed, options);
    sum.seeds++;
    for (const name of [
      'disks',
      'requests',
      'operations',
      'cuts',
      'opens',
      'jobs',
      'faults',
    ] as const)
      sum[name] += outcome[name];
    sum.hours += outcome.time / 3_600_000;
    if (outcome.error)
      sum.failures.push(
        `seed ${seed}: ${outcome.error.message.slice(0, MESSAGE_CHARACTERS_MAX)}\n  replay: npm run simulate -- --seed ${seed}`,
      );
    onSeed?.(seed, sum);
    if (outcome.error && !keep) break;
  }
  return sum;
}
