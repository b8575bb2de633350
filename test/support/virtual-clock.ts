/** A clock that stands still until a test moves it. */
import type { Clock } from '../../hosts/api/clock.ts';

interface Alarm {
  at: number;
  callback: () => void;
}

export class VirtualClock implements Clock {
  #now = 1;
  readonly #alarms = new Set<Alarm>();

  now(): number {
    return this.#now;
  }

  after(ms: number, callback: () => void): () => void {
    const alarm = { at: this.#now + ms, callback };
    this.#alarms.add(alarm);
    return () => this.#alarms.delete(alarm);
  }

  /** When the next alarm is due; undefined when none is set. */
  get next(): number | undefined {
    let next: number | undefined;
    for (const { at } of this.#alarms) if (next === undefined || at < next) next = at;
    return next;
  }

  /**
   * Moves on by `ms` milliseconds and rings what has come due, the earliest first, each at its own
   * time.
   */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      let due: Alarm | undefined;
      for (const alarm of this.#alarms)
        if (alarm.at <= end && (due === undefined || alarm.at < due.at)) due = alarm;
      if (due === undefined) break;
      this.#alarms.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.callback();
    }
    this.#now = end;
  }
}

/** Lets everything run that waits for promises only. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
