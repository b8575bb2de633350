/**
 * How much of the event loop a body takes that comes quicker than it is worked off: whoever shares
 * the loop gets a turn in between.
 */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { nodeFetch } from '../../hosts/node/http.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { startNginx } from '../support/nginx.ts';

const MIB = 1024 * 1024;
const BODIES = 8;
/** Each body has a piece or two on their way when it is told to wait. */
const TURN_BYTES_MAX = 512 * 1024 + BODIES * 2 * 65536;

describeWithPeer(['nginx'], 'bodies of node:http', () => {
  test('share the turns of the event loop', async () => {
    const root = await mkdtemp(join(tmpdir(), 'millrace-turns-'));
    await writeFile(join(root, 'zeros'), '');
    await truncate(join(root, 'zeros'), 16 * MIB);
    const nginx = await startNginx({ root });
    try {
      let bytes = 0;
      let most = 0;
      let isOver = false;
      const look = (): void => {
        most = Math.max(most, bytes);
        bytes = 0;
        if (!isOver) setImmediate(look);
      };
      look();
      const read = async (): Promise<number> => {
        const init = { headers: new Headers(), signal: new AbortController().signal };
        const { body } = await nodeFetch(`${nginx.url}/zeros`, init);
        const reader = body!.getReader();
        let length = 0;
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return length;
          bytes += value!.length;
          length += value!.length;
        }
      };
      const lengths = await Promise.all(Array.from({ length: BODIES }, read));
      isOver = true;
      expect(lengths).toEqual(Array(BODIES).fill(16 * MIB));
      expect(most).toBeLessThanOrEqual(TURN_BYTES_MAX);
    } finally {
      await nginx.stop();
      await rm(root, { recursive: true, force: true });
    }
  });
});
