/** What a replay asks for: the ranges of a profile as requests that are worth their round trip. */
import type { ProfileRange } from './format.ts';
import { bytesOf } from './format.ts';
import { joined, Spans } from './ranges.ts';

/** Bytes that are fetched only because they lie between two ranges, as a part of all ranges. */
const GAP_SHARE_MAX = 1 / 8;

/** How requests are to be made. */
export interface PlanShape {
  /** Bytes of the disk and of its clusters: whole clusters are fetched anyway. */
  size: number;
  cluster: number;
  /** Bytes of a request at most. */
  most: number;
}

/**
 * The requests for a profile, in its order: in whole clusters, none twice; neighbours that are read
 * soon after one another go together, over the smallest gaps first, as long as these are few.
 */
export function planOf(ranges: readonly ProfileRange[], shape: PlanShape): ProfileRange[] {
  const { size, cluster, most } = shape;
  const seen = new Spans();
  const whole = ranges.flatMap(({ offset, length, ms }) => {
    const from = Math.min(Math.floor(offset / cluster) * cluster, size);
    const to = Math.min(Math.ceil((offset + length) / cluster) * cluster, size);
    return seen
      .add(from, to)
      .map((span) => ({ offset: span.from, length: span.to - span.from, ms }));
  });
  return joined(whole, gapOf(whole), most).flatMap((range) => pieces(range, most));
}

/** The largest gap that may be bridged, so that all of them together are few bytes. */
function gapOf(ranges: readonly ProfileRange[]): number {
  const sorted = ranges.toSorted((a, b) => a.offset - b.offset);
  const gaps = sorted
    .slice(1)
    .map(({ offset }, i) => offset - (sorted[i].offset + sorted[i].length))
    .filter((gap) => gap > 0)
    .sort((a, b) => a - b);
  let left = bytesOf(ranges) * GAP_SHARE_MAX;
  let largest = 0;
  for (let i = 0; i < gaps.length; ) {
    // All of one size, or none: the first of them are no better than the others.
    const next = gaps.lastIndexOf(gaps[i]) + 1;
    left -= gaps[i] * (next - i);
    if (left < 0) break;
    largest = gaps[i];
    i = next;
  }
  return largest;
}

function pieces({ offset, length, ms }: ProfileRange, most: number): ProfileRange[] {
  return Array.from({ length: Math.ceil(length / most) }, (_, index) => ({
    offset: offset + index * most,
    length: Math.min(most, length - index * most),
    ms,
  }));
}
