/** Asks a server again what failed in a way that may pass, and puts a name to what did not. */
import { MillraceError } from '../../api/errors.ts';
import { Failure, RetryBudget, sleep } from '../retry.ts';
import type { NbdStats } from '../traffic.ts';
import { Trouble } from '../trouble.ts';
import type { Pool } from './pool.ts';

export class Caller {
  readonly stats: NbdStats;
  readonly #name: string;
  readonly #pool: Pool;
  readonly #retries: number;
  readonly #trouble: Trouble | undefined;

  constructor(
    name: string,
    pool: Pool,
    retries: number,
    stats: NbdStats,
    onTrouble: ((message: string) => void) | undefined,
  ) {
    this.#name = name;
    this.#pool = pool;
    this.#retries = retries;
    this.stats = stats;
    if (onTrouble !== undefined)
      this.#trouble = new Trouble(
        (reason) => onTrouble(`${name}: ${reason}; asking again`),
        () => stats.bytes,
      );
  }

  /**
   * @throws MillraceError that says what was being done; or the signal's reason.
   */
  async persist<T>(
    what: string,
    offset: number,
    once: boolean,
    signal: AbortSignal,
    ask: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const budget = new RetryBudget(once ? 0 : this.#retries, undefined, this.#pool.isKnown);
    this.#trouble?.begin();
    try {
      for (let attempts = 1; ; attempts++) {
        const received = this.stats.bytes;
        try {
          return await ask(signal);
        } catch (error) {
          signal.throwIfAborted();
          if (!(error instanceof Failure)) throw error;
          const waitMs = error.transient
            ? budget.next(error, this.stats.bytes - received)
            : undefined;
          if (waitMs === undefined) throw this.#final(error, what, offset, attempts);
          this.#trouble?.note(error.message);
          await sleep(waitMs, signal);
          this.stats.retries++;
        }
      }
    } finally {
      this.#trouble?.end();
    }
  }

  #final(failure: Failure, what: string, offset: number, attempts: number): MillraceError {
    const times = attempts > 1 ? ` after ${attempts} attempts` : '';
    return new MillraceError(
      failure.code,
      `${this.#name}: cannot ${what}${times}: ${failure.message}`,
      { cause: failure, offset },
    );
  }
}
