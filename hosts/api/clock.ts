/**
 * Time, as far as disks need it: to hold a job to its speed and to space out events. It is an
 * object so that tests can bring their own, and no test's outcome hangs on how fast a machine is.
 */
export interface Clock {
  /** Milliseconds since some moment; never goes back. */
  now(): number;
  /**
   * Calls back once, after `ms` milliseconds at the earliest; with 0, as soon as everything else in
   * this thread that is due has had its turn. Returns what takes the call back.
   */
  after(ms: number, callback: () => void): () => void;
}

/** The runtime's own. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
};
