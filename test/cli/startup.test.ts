/** What a command does not load, which would take longer than what it does. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { serveFile } from '../demo/file-server.ts';
import { run } from '../support/run.ts';
import { PROGRAM, withFolder } from './program.ts';

/** Node loads all of `fetch` with the first of these. */
const OF_FETCH = ['fetch', 'Headers', 'Request', 'Response', 'FormData', 'WebSocket'];
const TRAP = `for (const name of ${JSON.stringify(OF_FETCH)})
  Object.defineProperty(globalThis, name, {
    configurable: true,
    get() { console.error('loaded by ' + name); return undefined; },
  });`;

it('an overlay over HTTP is made without what Node has for fetch', () =>
  withFolder(async (cwd) => {
    await writeFile(join(cwd, 'base.raw'), Buffer.alloc(1024 * 1024, 1));
    const server = await serveFile(join(cwd, 'base.raw'));
    const trap = `data:text/javascript,${encodeURIComponent(TRAP)}`;
    const base = `http://user:word@127.0.0.1:${server.port}/base.raw`;
    try {
      const args = ['--import', trap, ...PROGRAM, 'create', 'vm.qcow2', '--base', base];
      const { stdout, stderr } = await run(process.execPath, args, { cwd });
      expect(stdout).toMatch(/^vm\.qcow2: a disk of 1 MiB, over http:\/\/127/);
      expect(stderr).not.toMatch(/loaded by/);
    } finally {
      await server.stop();
    }
  }));
