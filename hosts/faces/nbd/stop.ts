/** The end of waiting: for a time that has passed, or because nobody is there any more. */

/** Somebody who waits. */
export interface Wait {
  readonly until: number;
  giveUp(why: 'late' | 'stopped'): void;
}

/**
 * The word that nobody waits any more: as an AbortSignal, but for any number of listeners, at the
 * price of a set.
 */
export class Stop {
  readonly #listeners = new Set<() => void>();
  /** By their times, the first to end first. */
  readonly #waits = new Set<Wait>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #signal: AbortController | undefined;
  #isGiven = false;

  get isGiven(): boolean {
    return this.#isGiven;
  }

  /** For what takes an AbortSignal. */
  get signal(): AbortSignal {
    this.#signal ??= new AbortController();
    if (this.#isGiven) this.#signal.abort();
    return this.#signal.signal;
  }

  /** Calls back once it is given, at once if it has been; the returned function takes that back. */
  listen(listener: () => void): () => void {
    if (this.#isGiven) listener();
    else this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Calls `giveUp` once it is given, or after `ms`, which is the same for all that wait here: one
   * timer does for them. It has to be given once nobody waits any more.
   */
  wait(ms: number, giveUp: Wait['giveUp']): Wait {
    const wait = { until: performance.now() + ms, giveUp };
    if (this.#isGiven) {
      giveUp('stopped');
    } else {
      this.#waits.add(wait);
      this.#timer ??= setTimeout(this.#onTime, ms);
    }
    return wait;
  }

  /** What was waited for has come. */
  leave(wait: Wait): void {
    this.#waits.delete(wait);
  }

  give(): void {
    if (this.#isGiven) return;
    this.#isGiven = true;
    clearTimeout(this.#timer);
    for (const { giveUp } of this.#waits) giveUp('stopped');
    this.#waits.clear();
    this.#signal?.abort();
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }
  readonly #onTime = (): void => {
    this.#timer = undefined;
    const now = performance.now();
    for (const wait of this.#waits) {
      if (wait.until > now) {
        this.#timer = setTimeout(this.#onTime, wait.until - now);
        return;
      }
      this.#waits.delete(wait);
      wait.giveUp('late');
    }
  };
}
