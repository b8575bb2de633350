/** Where a raw file has holes, as the engine is told it. */
import { HOLE_BLOCK_BITS } from '../../../engine/protocol.ts';
import type { BlockSource } from '../../api/block.ts';
import type { Clock } from '../../api/clock.ts';

/** What one bit of the engine's map stands for. */
const BLOCK_BYTES = 2 ** HOLE_BLOCK_BITS;
/**
 * Runs of data that are asked for to fill one map, which is of 2 GiB: in a file of more pieces, the
 * rest of it counts as data.
 */
const RUNS_MAX = 4096;
/**
 * How long that holds up all else: on a file system on the network, each question may take a round
 * trip.
 */
const SLICE_MS = 5;

/**
 * Fills `map` with a bit for each block of the file from `offset` on, lowest first: set where data
 * may stand.
 */
export async function mapHoles(
  file: BlockSource,
  offset: number,
  map: Uint8Array,
  clock: Clock,
): Promise<void> {
  map.fill(0);
  const end = offset + map.length * 8 * BLOCK_BYTES;
  const mark = (from: number, to: number): void =>
    setBits(
      map,
      Math.floor((from - offset) / BLOCK_BYTES),
      Math.ceil((Math.min(to, end) - offset) / BLOCK_BYTES),
    );
  let until = clock.now() + SLICE_MS;
  for (let at = offset, runs = 0; at < end; runs++) {
    const data = at < file.size ? await file.nextData!(at) : undefined;
    if (data === undefined || data.start >= end) return;
    // A source that does not get on is not believed either.
    if (runs === RUNS_MAX || !(data.start >= at && data.end > data.start)) return mark(at, end);
    mark(data.start, data.end);
    at = data.end;
    if (clock.now() < until) continue;
    await new Promise<void>((resolve) => {
      clock.after(0, resolve);
    });
    until = clock.now() + SLICE_MS;
  }
}

function setBits(map: Uint8Array, from: number, to: number): void {
  const whole = Math.min(to, Math.ceil(from / 8) * 8);
  const wholeEnd = Math.max(whole, Math.floor(to / 8) * 8);
  for (let bit = from; bit < whole; bit++) map[bit >> 3] |= 1 << (bit & 7);
  map.fill(0xff, whole >> 3, wholeEnd >> 3);
  for (let bit = wholeEnd; bit < to; bit++) map[bit >> 3] |= 1 << (bit & 7);
}
