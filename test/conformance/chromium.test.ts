/** The conformance suite on the browser host in Chromium. */

import { startChromium } from '../browser/browsers.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { contractIn } from './browser.ts';
import { FIXTURE_PEERS } from './fixtures.ts';

describeWithPeer(['chromium', ...FIXTURE_PEERS], 'the contract in Chromium', () =>
  contractIn(startChromium),
);
