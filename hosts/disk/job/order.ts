/** The order of a job: what is copied first, handed to the engine piece by piece. */
import type { Engine } from '../driver/engine.ts';
import type { JobStart } from './options.ts';

export class JobOrder {
  readonly #engine: Engine;
  readonly #ranges: NonNullable<JobStart['ranges']>;
  /** What of it the engine has not been told yet. */
  #next = 0;

  constructor(engine: Engine, ranges: JobStart['ranges'] = []) {
    this.#engine = engine;
    this.#ranges = ranges;
  }

  get isGiven(): boolean {
    return this.#ranges.length > 0;
  }

  /** Hands over as much of it as the engine takes; it goes on with that. */
  feed(): void {
    const { exports } = this.#engine;
    const ranges = this.#ranges;
    const before = this.#next;
    if (!this.isGiven || before > ranges.length) return;
    while (this.#next < ranges.length) {
      const { offset, length } = ranges[this.#next];
      if (!exports.streamNext(offset, length)) break;
      this.#next++;
    }
    // A range of no bytes ends the order.
    if (this.#next === ranges.length && exports.streamNext(0, 0)) this.#next++;
    if (this.#next > before) this.#engine.pumpSoon();
  }
}
