/**
 * Tests that need real programs. Where one is missing they are skipped, with a line that says what
 * was skipped and how to get it; in CI (`CI` is set) a missing one fails them, so that nothing is
 * left out unnoticed.
 */
import { describe, it } from 'vitest';
import type { PeerName } from './peer.ts';
import { missingPeers } from './peer.ts';

/** A `describe` of tests that need these peers. */
export function describeWithPeer(
  names: readonly PeerName[],
  title: string,
  tests: () => void,
): void {
  const reason = missingPeers(names);
  if (reason === undefined) {
    describe(title, tests);
  } else if (process.env.CI) {
    describe(title, () => {
      it('has its peers', () => {
        throw new Error(reason);
      });
    });
  } else {
    console.warn(`skipped: ${title} (${reason})`);
    describe.skip(title, tests);
  }
}
