/**
 * The conformance suite in workerd, by Miniflare: with overlays in a Durable Object's storage, and
 * with overlays in a bucket.
 */

import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import type { Miniflare } from 'miniflare';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startWorker } from '../edge/worker.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { FIXTURE_PEERS } from './fixtures.ts';
import type { Outcome } from './program.ts';
import type { FixtureServer } from './server.ts';
import { serveFixtures } from './server.ts';
import { cases } from './suite.ts';

const SUITE_MS_MAX = 180_000;

for (const overlays of ['object', 'bucket']) {
  describeWithPeer(FIXTURE_PEERS, `the contract in workerd, with overlays in a ${overlays}`, () => {
    let server: FixtureServer;
    let worker: Miniflare;
    const results = new Map<string, Outcome>();

    beforeAll(async () => {
      server = await serveFixtures();
      worker = await startWorker(new URL('../conformance/edge-worker.ts', import.meta.url), {
        object: 'Suite',
      });
      const response = await worker.dispatchFetch(
        `http://suite/?overlays=${overlays}&server=${server.origin}`,
      );
      const lines = createInterface({
        input: Readable.fromWeb(response.body as Parameters<typeof Readable.fromWeb>[0]),
      });
      for await (const line of lines) {
        const outcome = JSON.parse(line) as Outcome;
        results.set(outcome.name, outcome);
      }
    }, SUITE_MS_MAX);
    afterAll(async () => {
      await worker.dispose();
      await server.stop();
    });

    for (const { name } of cases) it(name, () => expect(results.get(name)).toEqual({ name }));
  });
}
