/**
 * The word that nobody waits any more: as an AbortSignal, but for any number of listeners, at the
 * price of a set.
 */
export class Stop {
  readonly #listeners = new Set<() => void>();
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

  give(): void {
    if (this.#isGiven) return;
    this.#isGiven = true;
    this.#signal?.abort();
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }
}
