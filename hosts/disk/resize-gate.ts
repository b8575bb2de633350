/**
 * Keeps a resize apart from what means the disk's end by whole clusters (zeroes, discards, a job
 * that begins): these must know where that end is.
 */
export class ResizeGate {
  #resizing: Promise<void> | undefined;
  readonly #wides = new Set<Promise<void>>();

  /**
   * The resize under way. Whoever has waited for it looks again: others go on at that moment, too.
   */
  get resizing(): Promise<void> | undefined {
    return this.#resizing;
  }

  /** A resize waits for `request`, which means the disk's end by whole clusters. */
  async asWide(request: Promise<void>): Promise<void> {
    this.#wides.add(request);
    try {
      await request;
    } finally {
      this.#wides.delete(request);
    }
  }

  /** Runs resizes one at a time, in the order in which they were asked for. */
  resize(work: () => Promise<void>): Promise<void> {
    const done = this.#after(this.#resizing, work);
    const resizing = done
      .catch(() => {})
      .then(() => {
        if (this.#resizing === resizing) this.#resizing = undefined;
      });
    this.#resizing = resizing;
    return done;
  }

  async #after(before: Promise<void> | undefined, work: () => Promise<void>): Promise<void> {
    await before;
    await Promise.allSettled(this.#wides);
    return work();
  }
}
