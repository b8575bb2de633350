/** Runs of a disk: sets of them, and lists that are brought into fewer and larger ones. */
import type { ProfileRange } from './format.ts';

/** A run `[from, to)`. */
export interface Span {
  from: number;
  to: number;
}

/** A set of bytes, kept as runs in order that do not touch one another. */
export class Spans {
  readonly #runs: Span[] = [];

  /** How many runs it takes. */
  get count(): number {
    return this.#runs.length;
  }

  /** Adds a run; returns what of it was not in the set. */
  add(from: number, to: number): Span[] {
    const fresh = this.without(from, to);
    if (from >= to) return fresh;
    const first = this.#find(from, true);
    let last = first;
    const merged: Span = { from, to };
    for (; last < this.#runs.length && this.#runs[last].from <= to; last++) {
      merged.from = Math.min(merged.from, this.#runs[last].from);
      merged.to = Math.max(merged.to, this.#runs[last].to);
    }
    this.#runs.splice(first, last - first, merged);
    return fresh;
  }

  /** What of a run is not in the set. */
  without(from: number, to: number): Span[] {
    const missing: Span[] = [];
    let at = from;
    for (let i = this.#find(from, false); i < this.#runs.length && at < to; i++) {
      const run = this.#runs[i];
      if (run.from >= to) break;
      if (run.from > at) missing.push({ from: at, to: run.from });
      at = Math.max(at, run.to);
    }
    if (at < to) missing.push({ from: at, to });
    return missing;
  }

  /** The first run that ends behind `at`, or, if it may touch, at `at`. */
  #find(at: number, mayTouch: boolean): number {
    let [low, high] = [0, this.#runs.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const { to } = this.#runs[middle];
      if (to > at || (mayTouch && to === at)) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** How far behind the first of its kind a range may be, by bytes read between, to be joined. */
const JOIN_WINDOW_BYTES: number = 4 * 1024 * 1024;

/**
 * The ranges in their order, where each takes those with it that follow soon and lie near: no more
 * than `gap` bytes apart, with what lies between. None is larger than `most`.
 */
export function joined(
  ranges: readonly ProfileRange[],
  gap: number,
  most: number = Number.MAX_SAFE_INTEGER,
): ProfileRange[] {
  const before: number[] = [];
  let total = 0;
  for (const { length } of ranges) {
    before.push(total);
    total += length;
  }
  const byPlace = ranges
    .map((_, index) => index)
    .sort((a, b) => ranges[a].offset - ranges[b].offset);
  const placeOf: number[] = [];
  byPlace.forEach((index, place) => {
    placeOf[index] = place;
  });
  const taken = new Uint8Array(ranges.length);
  const result: ProfileRange[] = [];
  for (let i = 0; i < ranges.length; i++) {
    if (taken[i]) continue;
    taken[i] = 1;
    let { offset, length } = ranges[i];
    const take = (place: number): boolean => {
      const index = byPlace[place];
      if (index === undefined || taken[index] || before[index] - before[i] > JOIN_WINDOW_BYTES)
        return false;
      const other = ranges[index];
      const from = Math.min(offset, other.offset);
      const to = Math.max(offset + length, other.offset + other.length);
      const between = Math.max(
        other.offset - (offset + length),
        offset - (other.offset + other.length),
      );
      if (between > gap || to - from > most) return false;
      taken[index] = 1;
      [offset, length] = [from, to - from];
      return true;
    };
    for (let place = placeOf[i] + 1; take(place); place++);
    for (let place = placeOf[i] - 1; take(place); place--);
    result.push({ offset, length, ms: ranges[i].ms });
  }
  return result;
}
