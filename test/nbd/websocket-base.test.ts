/** In browsers a base is read by NBD over a WebSocket: here from nbdkit, behind a small proxy. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { BrowserUnderTest } from '../browser/browsers.ts';
import { startChromium, startFirefox } from '../browser/browsers.ts';
import { setScene } from '../browser/scene.ts';
import { DENO, denoArgs } from '../deno/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Server } from './other-servers.ts';
import { logged, startNbdkit } from './other-servers.ts';

const MIB = 1024 * 1024;
const HALF = makeContent('text', 3, 3 * MIB);

describeWithPeer(['chromium', 'nbdkit'], 'a base over a WebSocket in Chromium', () =>
  bases(startChromium),
);
describeWithPeer(['firefox-esr', 'nbdkit'], 'a base over a WebSocket in Firefox', () =>
  bases(startFirefox),
);

function bases(start: () => Promise<BrowserUnderTest>): void {
  const scene = setScene(start);
  let server: Server;
  let proxy: ChildProcess;
  let url: string;
  const log = (): string => join(scene.site.left, 'log');

  beforeAll(async () => {
    const folder = scene.site.left;
    // Half of it is a hole.
    await writeFile(join(folder, 'base.raw'), HALF);
    server = await startNbdkit(folder, [
      '--filter=log',
      '--filter=truncate',
      'file',
      join(folder, 'base.raw'),
      'truncate=6M',
      `logfile=${log()}`,
    ]);
    const permissions = ['--allow-net'];
    const args = denoArgs(folder, 'test/nbd/websocket-proxy.ts', ...permissions);
    proxy = spawn(DENO, [...args, server.socket], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [port] = await once(proxy.stdout!.setEncoding('utf8'), 'data');
    url = `ws://127.0.0.1:${port.trim()}/any/path`;
  });

  afterAll(async () => {
    proxy.kill('SIGKILL');
    await server.kill();
  });

  it('is read, streamed without its holes, and opened again by what is recorded', async () => {
    const tab = await scene.tab();
    const seen = await tab.run(async (tools, base) => {
      const disk = await tools.createDisk({ overlay: 'ws', base: `${base}?token=secret` });
      const first = await tools.sha256(await disk.read(1_000_000, 1000));
      await disk.close();
      const again = await tools.openDisk({ overlay: 'ws' });
      const [, image] = await again.images();
      await again.stream();
      const whole = await tools.sha256(await again.read(0, again.size));
      const { bytes } = await again.traffic();
      await again.close();
      return { first, whole, bytes, name: image.name };
    }, url);
    const content = new Uint8Array(6 * MIB);
    content.set(HALF);
    expect(seen).toMatchObject({
      first: digest(content.subarray(1_000_000, 1_001_000)),
      whole: digest(content),
      name: url,
    });
    expect(seen.bytes).toBeLessThan(3.2 * MIB);
    for (const { offset, count } of await logged(log(), 'Read'))
      expect(offset + count).toBeLessThanOrEqual(3 * MIB);
  });

  it('that is not there, or none, is refused by name', async () => {
    const tab = await scene.tab();
    const refusals = await tab.run(
      async (tools, bases) => {
        const told: string[] = [];
        for (const base of bases)
          told.push((await tools.refusal(tools.createDisk({ overlay: 'no', base }))).message);
        return told;
      },
      [`ws://127.0.0.1:${scene.site.port}/`, 'nbd://127.0.0.1/'],
    );
    expect(refusals[0]).toMatch(/no WebSocket is accepted there/);
    expect(refusals[1]).toMatch(/there are no sockets here: NBD goes over a WebSocket/);
  });
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
