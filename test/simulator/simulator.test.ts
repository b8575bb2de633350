/**
 * The engine in the simulator: seeds that are always the same, and fresh ones, whose numbers a
 * failure tells; some of the images as QEMU's own check sees them; how many of the engine's lines
 * the seeds reach; and whether they would notice an engine that is broken.
 */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { Coverage } from './coverage.ts';
import { findMutation, MUTATIONS } from './mutations.ts';
import { QemuSample } from './qemu.ts';
import { runSeeds } from './run.ts';
import { loadEngine } from './simulate.ts';

const FIXED_SEEDS = 90;
const FRESH_SEEDS = 40;
const QEMU_SEEDS = 12;
/** One in so many images. */
const QEMU_SAMPLE = 8;
const COVERAGE_SEEDS = 30;
/**
 * What is missed is mostly what only images damaged beforehand lead to, which the fuzzer and the
 * check's own tests reach.
 */
const COVERAGE_PER_CENT_MIN = 75;
/** Broken engines are run until some seed finds them; these are found early. */
const MUTATION_NAMES = [
  'refcounts go to disk together with the tables that rely on them',
  'what a failed request took is never freed',
];
const MUTATION_SEEDS = 60;

it(`holds for seeds 1 to ${FIXED_SEEDS}`, () => {
  const { failures, ...sum } = runSeeds(loadEngine(), { first: 1, seeds: FIXED_SEEDS, keep: true });
  console.log('simulated', sum);
  expect(failures).toEqual([]);
});

it(`holds for ${FRESH_SEEDS} fresh seeds`, () => {
  const first = Date.now() % 1_000_000_000;
  console.log(`simulated from seed ${first} on`);
  expect(runSeeds(loadEngine(), { first, seeds: FRESH_SEEDS, keep: true }).failures).toEqual([]);
});

describeWithPeer(['qemu-img'], 'images after cuts and closes', () => {
  it(`are sound for qemu-img check, one in ${QEMU_SAMPLE} of them`, () => {
    const qemu = new QemuSample(QEMU_SAMPLE);
    const { failures } = runSeeds(loadEngine(), {
      first: FIXED_SEEDS + 1,
      seeds: QEMU_SEEDS,
      keep: true,
      onImage: (file, closed) => qemu.look(file, closed),
    });
    qemu.end();
    expect(failures).toEqual([]);
    expect(qemu.checked).toBeGreaterThan(QEMU_SEEDS / 4);
  });
});

it('reaches most lines of the engine', async () => {
  const coverage = new Coverage();
  const { failures } = runSeeds(await coverage.build(), {
    first: 1,
    seeds: COVERAGE_SEEDS,
    keep: true,
    onMemory: (memory) => coverage.add(memory),
  });
  const { lines, reached } = coverage.total();
  console.log(
    `the simulator reaches ${reached} of ${lines} lines of the engine: npm run simulate -- --coverage tells which`,
  );
  expect(failures).toEqual([]);
  expect((100 * reached) / lines).toBeGreaterThan(COVERAGE_PER_CENT_MIN);
});

it('knows ways to break the engine as it is by now', () => {
  const outdated = MUTATIONS.filter(
    ({ path, from }) =>
      readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8').split(from).length !== 2,
  );
  expect(outdated.map(({ name }) => name)).toEqual([]);
});

it.each(MUTATION_NAMES)('finds that %s', async (name) => {
  const { seed } = await findMutation(
    MUTATIONS.find((mutation) => mutation.name === name)!,
    MUTATION_SEEDS,
  );
  expect(seed).toBeDefined();
});
