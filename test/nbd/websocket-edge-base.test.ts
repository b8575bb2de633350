/** In workerd, too, a base is read by NBD over a WebSocket: from nbdkit, behind a small proxy. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { withFolder } from '../cli/program.ts';
import { DENO, denoArgs } from '../deno/program.ts';
import { startWorker } from '../edge/worker.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { startNbdkit } from './other-servers.ts';

const MIB = 1024 * 1024;
const TEST_MS_MAX = 60_000;

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

describeWithPeer(['nbdkit'], 'a base over a WebSocket in workerd', () => {
  it(
    'is read, opened again by what is recorded, and streamed; what is none is refused',
    () =>
      withFolder(async (folder) => {
        const content = makeContent('text', 4, 3 * MIB);
        await writeFile(join(folder, 'base.raw'), content);
        const server = await startNbdkit(folder, ['file', join(folder, 'base.raw')]);
        const args = denoArgs(folder, 'test/nbd/websocket-proxy.ts', '--allow-net');
        const proxy = spawn(DENO, [...args, server.socket], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        const [port] = await once(proxy.stdout.setEncoding('utf8'), 'data');
        const entry = new URL('edge-base-worker.ts', import.meta.url);
        const worker = await startWorker(entry, { object: 'Machine' });
        try {
          const base = `ws://127.0.0.1:${port.trim()}/any/path`;
          const ask = async (url: string): Promise<unknown> =>
            (await worker.dispatchFetch(`http://vm/?base=${encodeURIComponent(url)}`)).json();
          expect(await ask(`${base}?token=secret`)).toEqual({
            first: digest(content.subarray(1_000_000, 1_001_000)),
            whole: digest(content),
            name: base,
            left: 1,
          });
          expect(await ask('nbd://127.0.0.1/')).toEqual({
            message: expect.stringMatching(/no sockets here: NBD goes over a WebSocket/),
          });
        } finally {
          await worker.dispose();
          proxy.kill('SIGKILL');
          await server.kill();
        }
      }),
    TEST_MS_MAX,
  );
});
