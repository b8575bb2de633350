/** What one request asks for: how reads that lie side by side share it, and how large it gets. */
import type { Part, Range } from './flight.ts';

/**
 * A request is filled up with neighbours to at least this size, so that a gigabyte costs about a
 * thousand requests.
 */
export const REQUEST_BYTES_MIN: number = 1024 * 1024;
/**
 * And to this at most: a read at its end waits for all before it. Beside a guest it never grows so
 * large, as the job has only a few copies in flight then.
 */
export const REQUEST_BYTES_MAX: number = 16 * 1024 * 1024;
/** So many requests of the background under way keep the line busy. */
const FLIGHTS_BUSY = 3;
/**
 * Two neighbours may leave a gap between them when all gaps together are at most this share of the
 * request: bytes for nothing.
 */
const GAP_SHARE_MAX = 1 / 64;

function sumBytes(parts: Part[]): number {
  return parts.reduce((sum, part) => sum + part.end - part.start, 0);
}

/**
 * A share of what waits for each lane, so that no lane is left without work by one that took it
 * all; the less is under way, the smaller: requests of one size that start together would end
 * together, again and again, and leave the line idle for a round trip each time.
 */
export function requestBytes(parts: Part[], flights: number, lanes: number): number {
  const share = Math.ceil((6 * (flights + 1) * sumBytes(parts)) / (lanes * lanes));
  return Math.min(Math.max(share, REQUEST_BYTES_MIN), REQUEST_BYTES_MAX);
}

/**
 * While enough is under way to keep the line busy, small reads of the background wait for
 * neighbours to share a request with.
 */
export function isTooLittle(parts: Part[], flights: number): boolean {
  return flights >= FLIGHTS_BUSY && sumBytes(parts) < REQUEST_BYTES_MIN;
}

/**
 * The range of the seed, widened by whole neighbours until it is as large as wanted: what touches
 * or overlaps it, or leaves a small gap. A part larger than that is cut, and its rest waits for
 * another lane.
 */
export function grow(sorted: Part[], seed: number, wanted: number): Range {
  let { start, end } = sorted[seed];
  if (end - start > wanted) return { start, end: start + wanted };
  let [below, above] = [seed - 1, seed + 1];
  let gaps = 0;
  const join = (part: Part | undefined): boolean => {
    if (part === undefined || part.alone) return false;
    const wide = { start: Math.min(start, part.start), end: Math.max(end, part.end) };
    const gap = Math.max(part.start - end, start - part.end, 0);
    const bytes = wide.end - wide.start;
    if (bytes > REQUEST_BYTES_MAX || gaps + gap > bytes * GAP_SHARE_MAX) return false;
    ({ start, end } = wide);
    gaps += gap;
    return true;
  };
  while (end - start < wanted) {
    if (join(sorted[above])) above++;
    else if (join(sorted[below])) below--;
    else break;
  }
  return { start, end };
}
