/**
 * Clients that do harm, and power cuts, by seed: a fixed set of them, and fresh ones. `npm run fuzz
 * -- --nbd --seed N` replays one.
 */
import { expect, it } from 'vitest';
import * as limits from '../../hosts/faces/nbd/limits.ts';
import { NbdServer } from '../../hosts/faces/nbd/server.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { Client } from './client.ts';
import { runHostileClients } from './hostile-clients.ts';
import { runPowerCut } from './power-cut.ts';

const FIXED_SEEDS = 20;
const FRESH_SEEDS = 10;
const MIB = 1024 * 1024;

function seeds(): number[] {
  const fresh = Date.now() % 1_000_000_000;
  return Array.from({ length: FIXED_SEEDS + FRESH_SEEDS }, (_, index) =>
    index < FIXED_SEEDS ? index + 1 : fresh + index,
  );
}

it.each([
  ['hostile clients disturb no honest one, and all end', runHostileClients],
  ['what was flushed, or written with FUA, survives a power cut', runPowerCut],
])('%s', { timeout: 300_000 }, async (_, run) => {
  const failed: string[] = [];
  for (const seed of seeds())
    await run(seed).catch((error) => failed.push(`seed ${seed}: ${error.stack}`));
  expect(failed).toEqual([]);
});

it('a client that asks for much and reads nothing holds a bounded amount of memory', async () => {
  const runtime = new MemoryRuntime();
  const disk = await runtime.create({ overlay: 'vm.qcow2', size: 64 * MIB });
  await disk.write(0, new Uint8Array(MIB).fill(1));
  const server = new NbdServer({ vda: disk });
  const before = process.memoryUsage().arrayBuffers;
  const client = await Client.ready(server, 'structured');
  let asked = 0;
  let isEnough = false;
  const asking = (async () => {
    for (; asked < 1000 && !isEnough; asked++)
      await client.request(0, 0, MIB, { cookie: BigInt(asked) });
  })();
  for (let last = -1; asked !== last; ) {
    last = asked;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  expect(asked).toBeLessThanOrEqual(limits.BYTES_IN_FLIGHT_MAX / MIB + 4);
  const held = process.memoryUsage().arrayBuffers - before;
  expect(held).toBeLessThan(2 * limits.BYTES_IN_FLIGHT_MAX);
  // Others are served meanwhile.
  const other = await Client.ready(server, 'simple');
  expect((await other.read(0, 512)).every((byte) => byte === 1)).toBe(true);
  await other.close();
  // Once it reads, all that it asked for comes.
  isEnough = true;
  for (let read = 0; read < asked; read++) await client.chunks();
  await asking;
  await client.close();
  await server.close();
  await disk.close();
}, 60_000);
