/**
 * Hostile containers: a fixed set, and a fresh one. `npm run fuzz -- --containers --seed N` replays
 * one.
 */
import { beforeAll, expect, it } from 'vitest';
import { CONTAINER_PEERS } from '../fixtures/containers.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { ContainerFixtures } from './container-case.ts';
import { makeContainerFixtures, runContainerCase } from './container-case.ts';

const FIXED_CASES = 600;
const FRESH_CASES = 300;
const TIMEOUT_MS = 300_000;

describeWithPeer(CONTAINER_PEERS, 'hostile containers', () => {
  let fixtures: ContainerFixtures;
  beforeAll(async () => {
    fixtures = await makeContainerFixtures();
  });

  it('give the right bytes, or an error by name, in bounded memory and work', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const failed: string[] = [];
    const codes = new Set<string>();
    let whole = 0;
    for (const [first, count] of [
      [1, FIXED_CASES],
      [Date.now() % 1_000_000_000, FRESH_CASES],
    ])
      for (let seed = first; seed < first + count; seed++) {
        const { error, code, isWhole, mutations } = await runContainerCase(fixtures, seed);
        if (code !== undefined) codes.add(code);
        if (isWhole) whole++;
        if (error)
          failed.push(
            `seed ${seed}: ${error.message}\n  ${mutations.join('\n  ')}\n  replay: npm run fuzz -- --containers --seed ${seed}`,
          );
      }
    expect(failed).toEqual([]);
    // The damage did bite, and did not always.
    expect([...codes]).toEqual(expect.arrayContaining(['ECORRUPT', 'EUNSUPPORTED']));
    expect(whole).toBeGreaterThan(0);
  });
});
