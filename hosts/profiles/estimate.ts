/**
 * What a guest would wait for its disk over a line, by what was recorded: it does between two reads
 * what it did then, and waits for each read as long as the line takes.
 */
import type { ProfileRange } from './format.ts';
import { Spans } from './ranges.ts';
import type { Touch } from './recorder.ts';

export interface Line {
  roundTripMs: number;
  bitsPerSecond: number;
}

/** Of which a recording tells. */
export const USUAL_LINE: Line = { roundTripMs: 50, bitsPerSecond: 200e6 };

/** Milliseconds of waiting, without a profile and with the requests of its replay. */
export interface Waits {
  without: number;
  with: number;
}

/** `cluster` is what is fetched at least for a read; `requests` come from planOf. */
export function estimateWaits(
  touches: readonly Touch[],
  requests: readonly ProfileRange[],
  line: Line,
  cluster: number,
): Waits {
  const bytesPerMs = line.bitsPerSecond / 8000;
  const comes = arrivals(requests, line, cluster);
  const idle = lastAnswer(touches, () => 0);
  const alone = new Fetched(cluster);
  const without = lastAnswer(touches, (touch) => {
    const bytes = alone.missing(touch);
    // What follows the last read is read ahead.
    return bytes === 0 ? 0 : bytes / bytesPerMs + (alone.goesOn(touch) ? 0 : line.roundTripMs);
  });
  const beside = new Fetched(cluster);
  const withProfile = lastAnswer(touches, (touch, at) => {
    const bytes = beside.missing(touch);
    if (bytes === 0) return 0;
    const own = line.roundTripMs + bytes / bytesPerMs;
    let latest = 0;
    for (const index of clustersOf(touch, cluster)) {
      const ms = comes.get(index);
      if (ms === undefined) return own;
      latest = Math.max(latest, ms);
    }
    return Math.min(own, Math.max(0, latest - at));
  });
  return { without: without - idle, with: withProfile - idle };
}

/** When each cluster has come, milliseconds: the profile takes a round trip by itself. */
function arrivals(
  requests: readonly ProfileRange[],
  { roundTripMs, bitsPerSecond }: Line,
  cluster: number,
): Map<number, number> {
  const comes = new Map<number, number>();
  let bytes = 0;
  for (const request of requests) {
    bytes += request.length;
    const ms = 2 * roundTripMs + (bytes * 8000) / bitsPerSecond;
    for (const index of clustersOf(request, cluster)) if (!comes.has(index)) comes.set(index, ms);
  }
  return comes;
}

function* clustersOf({ offset, length }: { offset: number; length: number }, cluster: number) {
  const end = offset + length;
  for (let index = Math.floor(offset / cluster); index * cluster < end; index++) yield index;
}

/** What has been fetched by the reads so far. */
class Fetched {
  readonly #cluster: number;
  readonly #spans = new Spans();
  #expected = 0;

  constructor(cluster: number) {
    this.#cluster = cluster;
  }

  /** Bytes that a read has to fetch; they are there from then on. */
  missing({ offset, length }: Touch): number {
    const from = Math.floor(offset / this.#cluster) * this.#cluster;
    const to = Math.ceil((offset + length) / this.#cluster) * this.#cluster;
    return this.#spans.add(from, to).reduce((sum, span) => sum + span.to - span.from, 0);
  }

  /** Whether a read goes on where the last one ended. */
  goesOn({ offset, length }: Touch): boolean {
    const follows = offset >= this.#expected && offset <= this.#expected + this.#cluster;
    this.#expected = offset + length;
    return follows;
  }
}

/**
 * When the last read has its answer: each begins as long after the one answered last as it did when
 * it was recorded. `wait` is called in the order of the reads, with when they begin.
 */
function lastAnswer(touches: readonly Touch[], wait: (touch: Touch, at: number) => number): number {
  const ends = touches.map((_, i) => i).sort((a, b) => touches[a].endMs - touches[b].endMs);
  const answered: number[] = [];
  let [delay, next, last] = [0, 0, 0];
  touches.forEach((touch, i) => {
    // Of one that began later nothing is known yet.
    while (next < ends.length && ends[next] < i && touches[ends[next]].endMs <= touch.ms) {
      delay = answered[ends[next]] - touches[ends[next]].endMs;
      next++;
    }
    const at = touch.ms + delay;
    answered[i] = at + wait(touch, at);
    last = Math.max(last, answered[i]);
  });
  return last;
}
