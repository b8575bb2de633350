/** The conformance suite on the browser host in Firefox. */
import { startFirefox } from '../browser/browsers.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { contractIn } from './browser.ts';

describeWithPeer(['firefox-esr', 'qemu-img', 'qemu-io'], 'the contract in Firefox', () =>
  contractIn(startFirefox),
);
