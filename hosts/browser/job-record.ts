/** The job of a worker's disk, as the page and the catalogue know it, until its end is told. */
import type { RememberedJob } from './catalog.ts';

/** A job that is under way. */
export interface Job {
  /** The page's. */
  number: number;
  /** By which it can be started again. */
  options: RememberedJob;
  cancel: AbortController;
}

export class JobRecord {
  #job: (Job & { over: (() => void)[] }) | undefined;

  get current(): Job | undefined {
    return this.#job;
  }

  /** Notes a job that begins; one that is under way stays the one. */
  begin(number: number, options: RememberedJob): Job {
    const job = { number, options, cancel: new AbortController(), over: [] };
    this.#job ??= job;
    return job;
  }

  /** Resolves when the end of the job has been told. */
  whenOver(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#job) this.#job.over.push(resolve);
      else resolve();
    });
  }

  change(change: RememberedJob): void {
    if (this.#job) this.#job.options = { ...this.#job.options, ...change };
  }

  /** Does nothing when that job has ended. */
  cancel(number: number): void {
    if (this.#job?.number === number) this.#job.cancel.abort();
  }

  /** The end of the job has been told; does nothing where another one is under way. */
  end(job: Job | undefined = this.#job): void {
    if (!this.#job || this.#job !== job) return;
    const { over } = this.#job;
    this.#job = undefined;
    for (const goOn of over) goOn();
  }
}
