/** The demo as `npm start` runs it after the build, on a machine that has only Node. */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';
import { run } from '../support/run.ts';

const built =
  existsSync(new URL('../../dist/engine.wasm', import.meta.url)) &&
  existsSync(new URL('../../dist/node/main.js', import.meta.url));
if (!built) console.warn('skipped: the demo (it needs `npm run build`)');

it.skipIf(!built)(
  'streams the sample base, proves it, and leaves nothing behind',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-demo-test-'));
    try {
      const loader = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
      const demo = fileURLToPath(new URL('demo.ts', import.meta.url));
      const { stdout, stderr } = await run(process.execPath, ['--import', loader, demo], {
        env: { TMPDIR: folder, PATH: '' },
      });
      expect(stderr).toBe('');
      expect(stdout).toMatch(/\(raw, 96 MiB\)/);
      const [, base, overlay] =
        /base {5}([0-9a-f]{64})\n {2}overlay {2}([0-9a-f]{64})\n/.exec(stdout) ?? [];
      expect(base).toBeDefined();
      expect(overlay).toBe(base);
      // What the loader caches there is not the demo's.
      expect((await readdir(folder)).filter((name) => name.startsWith('millrace'))).toEqual([]);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
  60_000,
);
