/**
 * A process that streams an overlay and can be killed at any moment, with a guest that writes
 * meanwhile. What it does it says on stdout, a line each, written before the next thing is done:
 * `streaming BYTES` (so many are missing), `remaining BYTES`, `writing SLOT`, `flushed SLOT`, and
 * in the end `peak BYTES` (of memory) and `complete`.
 */
import { readFileSync, writeSync } from 'node:fs';
import type { CacheMode, Disk, StreamOptions } from '../../hosts/node/index.ts';
import { openDisk } from '../../hosts/node/index.ts';
import { slotContent, slotCount, slotOffset } from './slots.ts';

export interface StreamerOrder {
  overlay: string;
  base: string;
  /** Bytes a second, 0 for unlimited. */
  speed: number;
  /** The first slot that the guest writes; without one there is no guest. */
  slot?: number;
  cache?: CacheMode;
  compressed?: StreamOptions['compressed'];
}

/** The guest flushes after so many writes. */
const WRITES_A_FLUSH = 4;

const order = JSON.parse(process.argv[2]) as StreamerOrder;
const disk = await openDisk({ overlay: order.overlay, base: order.base, cache: order.cache });
disk.addEventListener('progress', ({ detail }) => say(`remaining ${detail.remaining}`));
say(`streaming ${await disk.remaining()}`);
const streamed = disk.stream({ speed: order.speed, compressed: order.compressed });
let ended = false;
await Promise.all([
  streamed.finally(() => {
    ended = true;
  }),
  order.slot === undefined ? undefined : guest(disk, order.slot),
]);
await disk.close();
say(`peak ${peakMemory()}`);
say('complete');

async function guest(disk: Disk, first: number): Promise<void> {
  for (let slot = first; slot < slotCount(disk.size) && !ended; slot++) {
    say(`writing ${slot}`);
    await disk.write(slotOffset(slot, disk.size), slotContent(slot));
    if (slot % WRITES_A_FLUSH !== 0) continue;
    await disk.flush();
    say(`flushed ${slot}`);
  }
}

function say(line: string): void {
  writeSync(1, `${line}\n`);
}

/** In bytes. Linux starts getrusage's figure at what the parent had when this process was made. */
function peakMemory(): number {
  if (process.platform !== 'linux') return process.resourceUsage().maxRSS * 1024;
  return Number(/VmHWM:\s*(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;
}
