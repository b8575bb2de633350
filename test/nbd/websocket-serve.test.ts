/** Disks served by NBD over WebSockets: in workerd to who connects, in a page to a relay. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, it } from 'vitest';
import { startChromium, startFirefox } from '../browser/browsers.ts';
import { setScene } from '../browser/scene.ts';
import { DENO, denoArgs, ROOT } from '../deno/program.ts';
import { startWorker } from '../edge/worker.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { run } from '../support/run.ts';

const CLIENT = denoArgs(ROOT, 'test/nbd/websocket-client.ts', '--allow-net=127.0.0.1,localhost');
const MS_MAX = 60_000;
const SEEN = { zeros: true, error: 0, written: true, around: true, status: [5] };

it('in workerd', async () => {
  const entry = new URL('edge-worker.ts', import.meta.url);
  const worker = await startWorker(entry, { object: 'Machine' });
  try {
    const { href } = await worker.ready;
    const { stdout } = await run(DENO, [...CLIENT, href.replace('http', 'ws')], { msMax: MS_MAX });
    expect(JSON.parse(stdout)).toEqual(SEEN);
  } finally {
    await worker.dispose();
  }
});

for (const [peer, start] of [
  ['chromium', startChromium],
  ['firefox-esr', startFirefox],
] as const)
  describeWithPeer([peer], `in ${peer}`, () => {
    const scene = setScene(start);

    it('serves the disk of a page', async () => {
      const tab = await scene.tab();
      const relay = spawn(DENO, CLIENT, { stdio: ['ignore', 'pipe', 'inherit'] });
      const [port] = await once(relay.stdout!.setEncoding('utf8'), 'data');
      let seen = '';
      relay.stdout!.on('data', (text) => {
        seen += text;
      });
      await tab.run(async ({ createDisk, overWebSocket, serveNbd }, url) => {
        const disk = await createDisk({ overlay: 'served', size: 1024 * 1024 });
        const socket = new WebSocket(url);
        socket.binaryType = 'arraybuffer';
        await new Promise((resolve) => socket.addEventListener('open', resolve));
        await serveNbd({ vda: disk }, overWebSocket(socket));
        await disk.close();
      }, `ws://127.0.0.1:${port.trim()}/`);
      if (relay.exitCode === null) await once(relay, 'exit');
      expect(JSON.parse(seen)).toEqual(SEEN);
    });
  });
