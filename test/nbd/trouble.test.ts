/** `millrace serve --nbd` over a base in trouble: the guest waits, and not for ever. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startMillrace, withFolder } from '../cli/program.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { contentOf, MIB, nbdsh } from './scene.ts';

const TEST_MS_MAX = 120_000;
/** The base is well again before that. */
const PATIENT = '100';
const HASTY = '2';
const READ_AT = 5 * MIB;

/** A base on a server that can be made to fail. */
async function startBase() {
  const content = Buffer.from(contentOf(8 * MIB));
  const state = { isDown: false, failed: 0, onfailed: () => {} };
  const server = createServer(({ headers }, response) => {
    if (state.isDown) {
      state.failed++;
      state.onfailed();
      response.writeHead(503).end();
      return;
    }
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
    const end = Math.min(Number(to) + 1, content.length);
    response.writeHead(206, {
      ETag: '"1"',
      'Content-Range': `bytes ${from}-${end - 1}/${content.length}`,
    });
    response.end(content.subarray(Number(from), end));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { state, server, content, url: `http://127.0.0.1:${port}/base.raw` };
}

describeWithPeer(['nbdsh'], 'a guest whose base is in trouble', () => {
  it(
    'waits for it, or until --io-timeout, and is told what is wrong',
    () =>
      withFolder(async (folder) => {
        const { state, server, content, url } = await startBase();
        const serve = async (name: string, timeout: string) => {
          const args = ['serve', '--nbd', `unix:${name}`, '--create', '--base', url];
          const started = startMillrace([...args, '--io-timeout', timeout, `vda=${name}.qcow2`], {
            cwd: folder,
          });
          await started.until('stderr', /serving until/);
          return started;
        };
        const read = (name: string) =>
          nbdsh(
            `nbd+unix:///vda?socket=${join(folder, name)}`,
            `h.set_debug(True)\nh.connect_uri(uri)\nprint(h.pread(512, ${READ_AT}).hex())`,
          );
        const patient = await serve('patient', PATIENT);
        const hasty = await serve('hasty', HASTY);
        try {
          state.isDown = true;
          const down = new Promise<void>((resolve) => {
            state.onfailed = resolve;
          });
          const waiting = read('patient');
          await down;
          await expect(read('hasty')).rejects.toThrow(
            /cannot read 512 bytes at \d+ within 2 s: the base does not answer/,
          );
          state.isDown = false;
          expect(await waiting).toBe(content.subarray(READ_AT, READ_AT + 512).toString('hex'));
          // What has failed for one read is there for the next.
          expect(await read('hasty')).toHaveLength(1024);
        } finally {
          patient.child.kill('SIGKILL');
          hasty.child.kill('SIGKILL');
          server.close();
        }
      }),
    TEST_MS_MAX,
  );
});
