/** What of a disk goes into a copy that has a base, and what is left to that base. */
import type { Disk } from '../api/disk.ts';
import type { Run } from './copy-pieces.ts';

/**
 * Leaves to a base of `baseSize` bytes what the disk's first image does not hold, as `qemu-img
 * convert -B` does, by the caller's word that it shows the same as the base of the disk. Where one
 * of the two ends before the other they do not: what the disk shows there is copied, its zeros too.
 */
export async function* runsOver(disk: Disk, baseSize: number): AsyncGenerator<Run> {
  const [, own] = await disk.images();
  const ownEnd = own?.virtualSize ?? 0;
  const parts = function* (start: number, end: number, fates: FatesOver): Generator<Run> {
    const middle = Math.min(Math.max(start, baseSize), end);
    if (start < middle) yield { end: middle, fate: fates.over };
    if (middle < end) yield { end, fate: fates.behind };
  };
  for await (const { offset, length, state } of disk.map(0, disk.size, { depth: 1 })) {
    const end = offset + length;
    if (state !== 'zero' && state !== 'absent') yield { end, fate: 'data' };
    else if (state === 'zero') yield* parts(offset, end, ZEROS);
    else {
      const middle = Math.min(Math.max(offset, ownEnd), end);
      yield* parts(offset, middle, BASE);
      yield* parts(middle, end, ZEROS);
    }
  }
}

/** What becomes of a part where the copy's base is, and behind its end. */
interface FatesOver {
  over: Run['fate'];
  behind: Run['fate'];
}

/** Behind its end, a base shows zeros. */
const ZEROS: FatesOver = { over: 'zero', behind: 'left' };
const BASE: FatesOver = { over: 'left', behind: 'data' };
