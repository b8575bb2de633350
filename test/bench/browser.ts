/**
 * Streaming into a browser's own storage, in Chromium and in Firefox, beside the plainest loop that
 * does the same work in the same page: fetch the image and write each piece to a file as it comes.
 * The loop makes no overlay and could not be taken up again.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CHROMIUM_FLAGS } from '../browser/browsers.ts';
import { buildPage } from '../browser/site.ts';
import { startNginx } from '../support/nginx.ts';
import { peerPath } from '../support/peer.ts';
import type { Seconds } from './browser-page/main.ts';
import { linkRaw } from './data.ts';
import { warm } from './peers.ts';
import type { BenchRow } from './table.ts';

const GOAL_RATIO = 0.8;
const TYPES = 'types { text/html html; text/javascript js; application/wasm wasm; }';
const PAGE_MS_MAX = 5 * 60_000;

/** A browser started on a page with a profile of its own, without anything that drives it. */
const BROWSERS = {
  Chromium: {
    program: 'chromium',
    args: (profile: string) => ['--headless', ...CHROMIUM_FLAGS, `--user-data-dir=${profile}`],
  },
  Firefox: {
    program: 'firefox-esr',
    args: (profile: string) => ['--headless', '--no-remote', '--profile', profile],
  },
} as const;

/** A raw base of 256 MiB from a server on loopback. */
export async function browserStreams(): Promise<BenchRow[]> {
  const image = await linkRaw();
  await warm(image);
  const folder = await buildPage(fileURLToPath(new URL('browser-page', import.meta.url)));
  const root = await mkdtemp(join(tmpdir(), 'millrace-bench-browser-'));
  await symlink(folder, join(root, 'page'));
  await symlink(image, join(root, 'base.raw'));
  const nginx = await startNginx({ root, extra: TYPES });
  const rows: BenchRow[] = [];
  try {
    for (const name of ['Chromium', 'Firefox'] as const) {
      const { ours, loop } = await resultOf(name, `${nginx.url}/page/index.html`);
      rows.push({
        case: `stream into OPFS in ${name}, 256 MiB`,
        ours: ours,
        peer: 'fetch-and-write loop',
        theirs: loop,
        goalRatio: GOAL_RATIO,
      });
    }
  } finally {
    await nginx.stop();
    await Promise.all([rm(folder, { recursive: true }), rm(root, { recursive: true })]);
  }
  return rows;
}

/** Opens the page in a browser and waits for what it sends. */
async function resultOf(name: keyof typeof BROWSERS, page: string): Promise<Seconds> {
  const { program, args } = BROWSERS[name];
  const profile = await mkdtemp(join(tmpdir(), 'millrace-bench-profile-'));
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const report = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const sent = new Promise<Seconds>((resolve, reject) => {
    server.on('request', async (request, response) => {
      const parts: Uint8Array[] = [];
      for await (const part of request) parts.push(part as Uint8Array);
      response.end();
      const result = JSON.parse(Buffer.concat(parts).toString()) as Seconds | { error: string };
      if ('error' in result) reject(new Error(`${name}: ${result.error}`));
      else resolve(result);
    });
    setTimeout(() => reject(new Error(`${name} did not finish`)), PAGE_MS_MAX).unref();
  });
  // A group of its own, so that the processes which it starts end with it.
  const browser = spawn(
    peerPath(program),
    [...args(profile), `${page}?report=${encodeURIComponent(report)}`],
    { stdio: 'ignore', detached: true },
  );
  try {
    return await sent;
  } finally {
    process.kill(-browser.pid!, 'SIGTERM');
    await once(browser, 'close');
    server.closeAllConnections();
    server.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}
