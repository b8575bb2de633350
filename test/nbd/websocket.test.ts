/**
 * NBD's connection over a WebSocket: order, back-pressure, ends and limits, on both sides of it.
 */
import { expect, it } from 'vitest';
import { DENO, denoArgs, ROOT } from '../deno/program.ts';
import { run } from '../support/run.ts';

it('carries bytes both ways, and ends by name', async () => {
  const args = denoArgs(ROOT, 'test/nbd/websocket-program.ts', '--allow-net=127.0.0.1');
  const { stdout } = await run(DENO, args, { msMax: 60_000 });
  expect(JSON.parse(stdout)).toEqual({
    echo: true,
    text: 'NBD goes in binary messages',
    ends: 'ended',
    fails: 'the WebSocket was closed (code 4000)',
    floods: 'more was sent than was asked for',
    refusal: 'EIO no WebSocket is accepted there',
    cancelled: 'ended',
    aborted: 'not wanted',
  });
});
