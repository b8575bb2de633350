/** Lines between us and a server, as the benchmarks have them. */
import { fixturesFolder } from '../fixtures/made-by-script.ts';
import { startNginx } from '../support/nginx.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';

export interface Line {
  name: string;
  roundTripMs: number;
  bitsPerSecond: number;
}

export const QUICK: Line = { name: '20 ms, 1 Gbit/s', roundTripMs: 20, bitsPerSecond: 1e9 };
export const SLOW: Line = { name: '100 ms, 200 Mbit/s', roundTripMs: 100, bitsPerSecond: 200e6 };

/** Serves the fixtures by nginx behind a line of its own process. */
export async function overLine(
  line: Line,
  work: (url: (file: string) => string) => Promise<void>,
): Promise<void> {
  const nginx = await startNginx({ root: fixturesFolder() });
  const slow = await startSlowLinkProcess({
    ...line,
    target: { host: '127.0.0.1', port: nginx.port },
  });
  try {
    await work((file) => slow.url(`/${file}`));
  } finally {
    await slow.stop();
    await nginx.stop();
  }
}
