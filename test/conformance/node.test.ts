/** The conformance suite on the Node host. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, it } from 'vitest';
import { createDisk, Domain, openDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Adapter } from './adapter.ts';
import { FIXTURE_PEERS } from './fixtures.ts';
import type { FixtureServer } from './server.ts';
import { serveFixtures } from './server.ts';
import { cases } from './suite.ts';

describeWithPeer(FIXTURE_PEERS, 'the contract on Node', () => {
  let server: FixtureServer;
  let folder: string;
  let host: Adapter;

  beforeAll(async () => {
    server = await serveFixtures();
    folder = await mkdtemp(join(tmpdir(), 'millrace-contract-'));
    host = {
      name: 'Node',
      createDisk,
      openDisk,
      Domain,
      overlay: (name) => join(folder, name),
      server: server.origin,
    };
  });
  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true });
  });

  for (const { name, run } of cases) it(name, () => run(host));
});
