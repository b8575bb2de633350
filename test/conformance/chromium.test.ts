/** The conformance suite on the browser host in Chromium. */
import { startChromium } from '../browser/browsers.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { contractIn } from './browser.ts';

describeWithPeer(['chromium', 'qemu-img', 'qemu-io'], 'the contract in Chromium', () =>
  contractIn(startChromium),
);
