/**
 * How the tests run: one process a file, two files at a time, and a closing line that counts them.
 */
import { fileURLToPath } from 'node:url';
import type { ViteUserConfig } from 'vitest/config';
import { defineConfig } from 'vitest/config';
import { Tally } from './support/tally.ts';

const config: ViteUserConfig = defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // Two files at a time: many tests wait for links, locks and processes, and a small machine has
    // two cores. No test measures time or the machine.
    maxWorkers: 2,
    testTimeout: 180_000,
    hookTimeout: 180_000,
    reporters: ['default', new Tally()],
  },
});

export default config;
