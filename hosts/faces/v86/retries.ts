/**
 * Requests of the guest that fail are tried again until they succeed: the guest never sees an error
 * of its disk.
 */
import { MillraceError } from '../../api/errors.ts';

/** Between two attempts at a request that failed. */
const RETRY_MS = 2000;

/** Who is told, until they are given up. */
export interface RetriesOwner {
  /** Once for each request that has to be tried again. */
  failed(error: MillraceError): void;
  /** No request is failing any more. */
  recovered(): void;
}

export class Retries {
  readonly #owner: RetriesOwner;
  #failing = 0;
  /** Ends the waiting of each request that is to be tried again. */
  readonly #waiting = new Set<() => void>();
  #areGivenUp = false;

  constructor(owner: RetriesOwner) {
    this.#owner = owner;
  }

  get areGivenUp(): boolean {
    return this.#areGivenUp;
  }

  /** What has failed is tried once more, at once, and no more. */
  giveUp(): void {
    this.#areGivenUp = true;
    for (const goOn of [...this.#waiting]) goOn();
  }

  /** @throws what the request failed of last, when nobody waits for the answer any more. */
  async untilItSucceeds<T>(request: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    let failed = false;
    try {
      while (true) {
        try {
          return await request();
        } catch (error) {
          if (!failed) this.#failed(error);
          failed = true;
          if (this.#areGivenUp) throw error;
          await this.#wait();
          if (signal?.aborted) throw error;
        }
      }
    } finally {
      if (failed) this.#recovered();
    }
  }

  /** Until a request is tried again. */
  #wait(): Promise<void> {
    return new Promise((resolve) => {
      const goOn = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(goOn);
        resolve();
      };
      const timer = setTimeout(goOn, RETRY_MS);
      this.#waiting.add(goOn);
    });
  }

  #failed(error: unknown): void {
    this.#failing++;
    if (!this.#areGivenUp) this.#owner.failed(asMillraceError(error));
  }

  #recovered(): void {
    if (--this.#failing === 0 && !this.#areGivenUp) this.#owner.recovered();
  }
}

/** As the page is told of it. */
export function asMillraceError(error: unknown): MillraceError {
  return error instanceof MillraceError
    ? error
    : new MillraceError('EIO', `the disk failed: ${String(error)}`, { cause: error });
}
