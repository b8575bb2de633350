/** One request to a server: its progress is watched, and a stalled one is ended. */
import { MillraceError } from '../../api/errors.ts';
import { Failure, transportFailure } from '../retry.ts';
import type { Target } from './address.ts';
import { piecesOf } from './body.ts';
import type { Redirect } from './mirrors.ts';
import type { Answer } from './response.ts';

/**
 * Less than this within the timeout is no progress: a server that sends a byte now and then would
 * hold up its readers for ever.
 */
const TIMEOUT_BYTES_MIN = 1024;

/** One request: its signal, the watch over its progress, and why it ended. */
export class Attempt {
  /** Where it went, once that is known. */
  target: Target | undefined;
  /** And the redirect that it took without asking. */
  redirect: Redirect | undefined;
  href: string | undefined;
  readonly #timeoutMs: number;
  readonly #cancelled: AbortSignal;
  readonly #controller = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #progressMs = 0;
  /** Since then. */
  #bytes = 0;
  #stalled = false;

  constructor(timeoutMs: number, cancelled: AbortSignal) {
    this.#timeoutMs = timeoutMs;
    this.#cancelled = cancelled;
    if (cancelled.aborted) this.#abort();
    cancelled.addEventListener('abort', this.#abort);
    this.progress();
    this.#watch();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the timeout anew. */
  progress(): void {
    this.#progressMs = performance.now();
    this.#bytes = 0;
  }

  /**
   * The answer, or a rejection as soon as the attempt is over, even when a caller's own `fetch`
   * does not heed the signal.
   */
  guard(answer: Promise<Answer>): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const over = (): void => reject(this.signal.reason);
      if (this.signal.aborted) over();
      this.signal.addEventListener('abort', over);
      answer.then((response) => {
        resolve(response);
        if (this.signal.aborted) discard(response);
        else this.signal.addEventListener('abort', () => discard(response));
      }, reject);
    });
  }

  /**
   * The body, which should be of so many bytes, piece by piece; a piece is good until the one after
   * the next is asked for.
   */
  async *pieces(response: Answer, bytes: number): AsyncGenerator<Uint8Array> {
    if (response.body === null) return;
    const reader = piecesOf(response.body, bytes);
    // Cancelling makes a pending read return, in every runtime and for every kind of stream.
    this.signal.addEventListener('abort', () => reader.cancel().catch(ignore));
    while (true) {
      const { done, value } = await reader.read();
      this.signal.throwIfAborted();
      if (done) return;
      this.#bytes += value!.length;
      if (this.#bytes >= TIMEOUT_BYTES_MIN) this.progress();
      yield value!;
    }
  }

  /** Watches once more, after `finish`. */
  goOn(): void {
    if (this.#cancelled.aborted) this.#abort();
    this.#cancelled.addEventListener('abort', this.#abort);
    this.progress();
    this.#watch();
  }

  /** To be called after success: nothing is left to watch. */
  finish(): void {
    clearTimeout(this.#timer);
    this.#cancelled.removeEventListener('abort', this.#abort);
  }

  /** To be called after a failure: what is still coming of the answer is cut off. */
  abandon(): void {
    this.finish();
    this.#abort();
  }

  /**
   * The reason behind an error of this attempt: the caller's cancellation, the timeout, or what the
   * error says. `reached`: the server has answered before.
   */
  explain(error: unknown, reached: boolean): unknown {
    if (this.#cancelled.aborted) return this.#cancelled.reason;
    if (this.#stalled) {
      const what =
        this.#bytes === 0
          ? `nothing for ${this.#timeoutMs} ms`
          : `only ${this.#bytes} bytes in ${this.#timeoutMs} ms`;
      return new Failure('ETIMEDOUT', `the server sent ${what}`, { transient: true });
    }
    if (error instanceof Failure || error instanceof MillraceError) return error;
    return transportFailure(error, this.target === undefined ? '' : corsHint(this.target), reached);
  }

  readonly #abort = (): void => this.#controller.abort(this.#cancelled.reason);

  /** One timer an attempt, set anew only when it rings: the time of the last progress decides. */
  #watch(): void {
    const leftMs = this.#progressMs + this.#timeoutMs - performance.now();
    if (leftMs > 0) {
      this.#timer = setTimeout(() => this.#watch(), leftMs);
      return;
    }
    this.#stalled = true;
    this.#abort();
  }
}

export function discard(response: Answer): void {
  response.body?.cancel().catch(ignore);
}

function ignore(): void {}

/** Whether this is a page, and the target of another origin. */
export function isElsewhere(target: Target): boolean {
  const here = (globalThis as { location?: { origin: string } }).location?.origin;
  return here !== undefined && new URL(target.href).origin !== here;
}

/** A page is not told why a request to another origin failed. */
function corsHint(target: Target): string {
  return isElsewhere(target)
    ? "; the browser does not say why: see that the server is up and allows this page's origin by CORS"
    : '';
}
