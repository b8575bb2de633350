/**
 * How much may be under way so that a line is kept busy and no more: what it carries in two of its
 * round trips, by what the requests before have shown (after BBR, draft-cardwell-iccrg-bbr). More
 * would only stand in a queue before what a guest asks for.
 */
import type { Clock } from '../api/clock.ts';

/** What is under way before anything is known; the least, and the most. */
const WINDOW_BYTES_FIRST: number = 1024 * 1024;
const WINDOW_BYTES_MIN: number = 512 * 1024;
const WINDOW_BYTES_MAX: number = 8 * 1024 * 1024;
const GAIN = 2;
/** The rate is the best of so many requests. */
const SAMPLES = 16;
/** Clocks are not finer. */
const MS_MIN = 0.1;

export class Pace {
  readonly #clock: Clock;
  readonly #rates: number[] = [];
  #roundTripMs = Infinity;
  #delivered = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Bytes. */
  get window(): number {
    if (this.#rates.length === 0) return WINDOW_BYTES_FIRST;
    const bytes = GAIN * Math.max(...this.#rates) * this.#roundTripMs;
    return Math.min(Math.max(bytes, WINDOW_BYTES_MIN), WINDOW_BYTES_MAX);
  }

  /** A request leaves. What is returned is called with the bytes that it has brought. */
  leaves(): (bytes: number) => void {
    const at = this.#clock.now();
    const before = this.#delivered;
    return (bytes) => {
      // What was there already tells nothing of the line.
      if (bytes === 0) return;
      this.#delivered += bytes;
      const ms = Math.max(this.#clock.now() - at, MS_MIN);
      this.#roundTripMs = Math.min(this.#roundTripMs, ms);
      this.#rates.push((this.#delivered - before) / ms);
      if (this.#rates.length > SAMPLES) this.#rates.shift();
    };
  }
}
