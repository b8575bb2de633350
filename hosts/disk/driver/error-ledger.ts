/**
 * Errors of the host's own, kept while the engine may tell of them, and what a failure that the
 * engine tells of is called.
 */
import { R_FLUSH_LOST } from '../../../engine/protocol.ts';
import { codeOf, MillraceError, messageOf } from '../../api/errors.ts';
import { codeOfNumber } from './reasons.ts';

/** Errors kept for the requests that fail of them; older ones have been told or will not be. */
const ERRORS_KEPT_MAX = 512;

/** Why a job or a request failed, as the engine tells it. */
export interface Failure {
  code: number;
  reason: number;
  image: number;
  offset: number;
  detail: number;
}

export class ErrorLedger {
  readonly #errors = new Map<number, unknown>();
  readonly #nameOf: (image: number) => string;
  readonly #jobsFirst: () => number;
  readonly #reasonOf: (failure: Failure) => string;
  #flush: { error: unknown } | undefined;
  #next = 1;
  /** The one among them that is older than its place allows. */
  #spared = 0;

  /**
   * `nameOf` gives an image's name; `jobsFirst` the number of the job's first error; `reasonOf`
   * what is wrong, in words.
   */
  constructor(
    nameOf: (image: number) => string,
    jobsFirst: () => number,
    reasonOf: (failure: Failure) => string,
  ) {
    this.#nameOf = nameOf;
    this.#jobsFirst = jobsFirst;
    this.#reasonOf = reasonOf;
  }

  /** Keeps an error, and returns the number by which the engine tells of it. */
  add(error: unknown): number {
    const detail = this.#next++;
    this.#errors.set(detail, error);
    this.#forget(detail - ERRORS_KEPT_MAX);
    return detail;
  }

  /** Keeps what the first flush that failed failed of: every later request fails of that, too. */
  flushFailed(error: unknown): void {
    this.#flush ??= { error };
  }

  /**
   * The error that a failure is told as: the host's own where there is one, else what the engine
   * found.
   */
  errorOf(failure: Failure, action: string): MillraceError {
    const cause = this.#errors.get(failure.detail);
    // A codec does not know whose data it was given.
    if (cause instanceof MillraceError && cause.code !== 'ECORRUPT') return cause;
    const flush = failure.reason === R_FLUSH_LOST && cause === undefined ? this.#flush : undefined;
    const code = flush ? codeOf(flush.error) : codeOfNumber(failure.code);
    const where = `${this.#nameOf(failure.image)}: `;
    const known = cause === undefined ? this.#reasonOf(failure) : messageOf(cause);
    const reason = flush ? `${known}: ${messageOf(flush.error)}` : known;
    const at = failure.offset || code === 'ECORRUPT' ? ` (at offset ${failure.offset})` : '';
    return new MillraceError(code, `cannot ${action}: ${where}${reason}${at}`, {
      cause: cause ?? flush?.error,
      offset: failure.offset,
    });
  }

  /**
   * A job's first error is told at its end, however many have come since: it is kept until there is
   * another job's.
   */
  #forget(detail: number): void {
    if (!this.#errors.has(detail)) return;
    const first = this.#jobsFirst();
    if (this.#spared !== first) this.#errors.delete(this.#spared);
    if (detail === first) this.#spared = detail;
    else this.#errors.delete(detail);
  }
}
