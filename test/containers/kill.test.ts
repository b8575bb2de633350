/**
 * A stream from each container is killed in its midst and started again: what comes of it is the
 * disk. What is read anywhere goes on where it was; what comes in order begins anew.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { millrace, startMillrace } from '../cli/program.ts';
import { CONTAINERS } from '../fixtures/container-names.ts';
import { CONTAINER_PEERS, pack } from '../fixtures/containers.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { check, compare } from '../support/qemu.ts';

const SIZE = 6 * 1024 * 1024;
/** Some seconds for all of it: the kill comes in its midst. */
const SPEED = '1M';
const TIMEOUT_MS = 120_000;

describeWithPeer([...CONTAINER_PEERS, 'nginx', 'qemu-img'], 'a stream that is killed', () => {
  let folder: string;
  let server: NginxServer;
  const raw = (): string => join(folder, 'disk.raw');

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-killed-'));
    await writeFile(raw(), makeContent('text', 7, SIZE));
    for (const container of CONTAINERS) await pack(raw(), container);
    server = await startNginx({ root: folder });
  });

  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true });
  });

  it.concurrent.each(CONTAINERS)(
    'goes on from %s, and is complete',
    async (container) => {
      const overlay = join(folder, `${container}.qcow2`);
      const base = `${server.url}/disk.raw.${container}`;
      const run = { cwd: folder };
      expect(await millrace(['create', overlay, '--base', base], run)).toMatchObject({
        exitCode: 0,
      });
      const first = startMillrace(['stream', overlay, '--speed', SPEED, '--json'], run);
      await first.until('stdout', /"remaining":\s*[1-5]\d{6}\b/);
      first.child.kill('SIGKILL');
      await first.ended;
      // QEMU knows no containers.
      expect([0, 3]).toContain((await check(overlay, { withoutBase: true })).exitCode);
      expect(await millrace(['stream', overlay], run)).toMatchObject({ exitCode: 0 });
      expect((await check(overlay)).exitCode).toBe(0);
      expect(await compare(raw(), overlay)).toMatchObject({ identical: true });
    },
    TIMEOUT_MS,
  );
});
