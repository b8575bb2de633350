/** How the tests run: one process a file, as many at a time as there are cores, and a closing line that counts them. */
import { fileURLToPath } from 'node:url';
import type { ViteUserConfig } from 'vitest/config';
import { defineConfig } from 'vitest/config';
import { Tally } from './support/tally.ts';

const config: ViteUserConfig = defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // What fits two cores; no test is decided by time.
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    reporters: ['default', new Tally()],
  },
});

export default config;
