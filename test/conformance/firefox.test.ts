/** The conformance suite on the browser host in Firefox. */

import { startFirefox } from '../browser/browsers.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { contractIn } from './browser.ts';
import { FIXTURE_PEERS } from './fixtures.ts';

describeWithPeer(['firefox-esr', ...FIXTURE_PEERS], 'the contract in Firefox', () =>
  contractIn(startFirefox),
);
