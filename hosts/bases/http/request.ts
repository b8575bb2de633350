/**
 * Gets one range of an object, however many requests that takes: sends, checks the answer, hands the bytes on as they arrive, and
 * after a failure that may pass asks again from the first missing byte. It keeps no bytes and knows nothing of who reads them.
 */
import { MillraceError } from '../../api/errors.ts';
import type { Address, Target } from './address.ts';
import { piecesOf } from './body.ts';
import { Queue } from './queue.ts';
import type { Answer, Version } from './response.ts';
import { checkResponse, strongEtag } from './response.ts';
import {
  callerFailure,
  Failure,
  PROGRESS_BYTES_MIN,
  RetryBudget,
  sleep,
  transportFailure,
} from './retry.ts';

/** Less than this within the timeout is no progress: a server that sends a byte now and then would hold up its readers for ever. */
const TIMEOUT_BYTES_MIN = 1024;

/** A range on its way: `deliver` gets the bytes from `position` on, and moves `position` behind them. */
export interface Transfer {
  position: number;
  /** Lowered to the object's size by the first answer, which is when it is learnt. */
  end: number;
  /** Whether a failure is not to be followed by repetitions: it is one itself. */
  readonly once?: boolean;
  /** Whether somebody waits for it who shall not wait for others. */
  readonly urgent?: boolean;
  deliver(bytes: Uint8Array): void;
}

/** What was sent and received so far. */
export interface HttpStats {
  /** Requests sent, repeated ones included. */
  requests: number;
  /** Body bytes received, used or not. */
  bytes: number;
  /** Requests that had to be repeated. */
  retries: number;
}

/** As much of `fetch` as is needed here: the global one, a caller's, or a host's own. */
export type Fetch = (href: string, init: FetchInit) => Promise<Answer>;

export interface FetchInit {
  headers: Headers;
  signal: AbortSignal;
  cache?: 'no-store';
}

export interface RequestOptions {
  fetch: Fetch;
  /** Milliseconds in which a request must bring 1 KiB, or else is abandoned. */
  timeout: number;
  /** Repetitions of a request that brings nothing. */
  retries: number;
}

/** One object on one server. */
export class HttpObject {
  readonly stats: HttpStats = { requests: 0, bytes: 0, retries: 0 };
  readonly #address: Address;
  readonly #options: RequestOptions;
  readonly #queue = new Queue();
  #version: Version | undefined;
  #sendsIfRange = true;

  constructor(address: Address, options: RequestOptions) {
    this.#address = address;
    this.#options = options;
  }

  get name(): string {
    return this.#address.name;
  }

  /** Undefined until the first answer. */
  get version(): Version | undefined {
    return this.#version;
  }

  /**
   * Fills `transfer` from its position to its end.
   * @throws MillraceError naming the object, the range, and after retries their number; or the reason of `cancelled`.
   */
  async fetch(transfer: Transfer, cancelled: AbortSignal): Promise<void> {
    const started = performance.now();
    const retries = transfer.once ? 0 : this.#options.retries;
    let budget = new RetryBudget(retries);
    const range = `bytes ${transfer.position}-${transfer.end - 1}`;
    let renewable = this.#address.renewable;
    let received = this.stats.bytes;
    for (let attempts = 1; ; attempts++) {
      const before = transfer.position;
      const attempt = new Attempt(this.#options.timeout, cancelled);
      try {
        await this.#try(attempt, transfer);
        attempt.finish();
        this.#queue.next();
        if (transfer.position === transfer.end) return;
        // The server has sent a good part of it: the next one at once.
        budget = new RetryBudget(retries);
      } catch (error) {
        attempt.abandon();
        const failure = attempt.explain(error, this.#version !== undefined);
        if (!(failure instanceof Failure && failure.busy)) this.#queue.next();
        if (!(failure instanceof Failure)) throw failure;
        // Twice, because the server may have come back in between.
        if (attempts > 1 && error instanceof TypeError && (await this.#isHidden(attempt.target))) {
          throw this.#finalError(
            hidden(failure),
            range,
            before,
            attempts,
            performance.now() - started,
          );
        }
        if (failure.expired && renewable && attempt.target !== undefined) {
          renewable = false;
          this.#address.renew(attempt.target);
        } else {
          const waitMs = failure.transient
            ? budget.next(failure, transfer.position - before, this.stats.bytes - received)
            : undefined;
          if (waitMs === undefined)
            throw this.#finalError(failure, range, before, attempts, performance.now() - started);
          received = this.stats.bytes;
          // What the server asks for is not shortened.
          if (failure.busy && failure.retryAfterMs === undefined)
            await this.#queue.wait(waitMs, () => transfer.urgent ?? false, cancelled);
          else await sleep(waitMs, cancelled);
        }
        this.stats.retries++;
      }
    }
  }

  async #try(attempt: Attempt, transfer: Transfer): Promise<void> {
    const response = await attempt.guard(this.#send(attempt, transfer));
    attempt.progress();
    // Another origin's answer to a page: If-Range would have to be allowed there by a preflight. And a server may answer 200 since it
    // takes If-Range amiss. The answers alone are compared then.
    if (response.type === 'cors' || response.status === 200) this.#sendsIfRange = false;
    const { version, end } = checkResponse(
      response,
      { first: transfer.position, end: transfer.end },
      this.#version,
    );
    this.#version ??= version;
    transfer.end = Math.min(transfer.end, version.size);
    if (transfer.position === transfer.end) return void (await response.body?.cancel());
    const bytes = end - transfer.position;
    await this.#receive(attempt, response, transfer, end);
    if (transfer.position < transfer.end && bytes < PROGRESS_BYTES_MIN) {
      throw new Failure('EIO', `the server sends ranges in pieces of ${bytes} bytes`, {
        transient: true,
      });
    }
  }

  async #send(attempt: Attempt, transfer: Transfer): Promise<Answer> {
    const { target, headers } = await this.#destination();
    attempt.target = target;
    headers.set('Range', `bytes=${transfer.position}-${transfer.end - 1}`);
    headers.set('Accept-Encoding', 'identity');
    const etag = this.#version === undefined ? undefined : strongEtag(this.#version);
    if (etag !== undefined && this.#sendsIfRange) headers.set('If-Range', etag);
    attempt.signal.throwIfAborted();
    this.stats.requests++;
    const { fetch } = this.#options;
    return fetch(target.href, { ...pastTheCache(), headers, signal: attempt.signal });
  }

  /** Whether the server answers, and only this page may not know what: asked when no answer has been seen yet. */
  async #isHidden(target: Target | undefined): Promise<boolean> {
    if (this.#version !== undefined || target === undefined || !isElsewhere(target)) return false;
    return globalThis
      .fetch(target.href, { ...pastTheCache(), method: 'HEAD', mode: 'no-cors' })
      .then(
        () => true,
        () => false,
      );
  }

  async #destination(): Promise<{ target: Target; headers: Headers }> {
    try {
      const target = await this.#address.target();
      return { target, headers: await this.#address.headers(target) };
    } catch (error) {
      throw error instanceof MillraceError ? error : callerFailure(error);
    }
  }

  /** The bytes that end the answer are kept back until the body ends there: only then is it known to be neither short nor long. */
  async #receive(
    attempt: Attempt,
    response: Answer,
    transfer: Transfer,
    end: number,
  ): Promise<void> {
    let last: Uint8Array | undefined;
    for await (const bytes of attempt.pieces(response, end - transfer.position)) {
      this.stats.bytes += bytes.length;
      const missing = end - transfer.position;
      if (last !== undefined || bytes.length > missing) {
        throw new Failure('EIO', 'the server sent more bytes than the range has');
      }
      if (bytes.length === missing) last = bytes;
      else transfer.deliver(bytes);
    }
    if (last === undefined) {
      const missing = end - transfer.position;
      throw new Failure('EIO', `the server ended its answer ${missing} bytes early`, {
        transient: true,
      });
    }
    transfer.deliver(last);
  }

  #finalError(
    failure: Failure,
    range: string,
    offset: number,
    attempts: number,
    elapsedMs: number,
  ): MillraceError {
    const tries =
      attempts === 1 ? '' : ` (${attempts} attempts in ${(elapsedMs / 1000).toFixed(1)} s)`;
    return new MillraceError(failure.code, `${this.name}, ${range}: ${failure.message}${tries}`, {
      offset,
      cause: failure.cause,
    });
  }
}

/** One request: its signal, the watch over its progress, and why it ended. */
class Attempt {
  /** Where it went, once that is known. */
  target: Target | undefined;
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

  /** The answer, or a rejection as soon as the attempt is over, even when a caller's own `fetch` does not heed the signal. */
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

  /** The body, which should be of so many bytes, piece by piece; a piece is good until the one after the next is asked for. */
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
   * The reason behind an error of this attempt: the caller's cancellation, the timeout, or what the error says. `reached`: the server has
   * answered before.
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

function discard(response: Answer): void {
  response.body?.cancel().catch(ignore);
}

function ignore(): void {}

let cacheInit: { cache?: 'no-store' } | undefined;

/**
 * `cache: 'no-store'` where the runtime knows it: Chromium serialises the requests for one URL behind its cache. Some edge runtimes
 * throw on a field they do not implement, so it is tried once, on a Request that goes nowhere.
 */
function pastTheCache(): { cache?: 'no-store' } {
  if (cacheInit === undefined) {
    try {
      cacheInit = { cache: 'no-store' };
      void new Request('http://localhost/', cacheInit);
    } catch {
      cacheInit = {};
    }
  }
  return cacheInit;
}

/** Whether this is a page, and the target of another origin. */
function isElsewhere(target: Target): boolean {
  const here = (globalThis as { location?: { origin: string } }).location?.origin;
  return here !== undefined && new URL(target.href).origin !== here;
}

/** A page is not told why a request to another origin failed. */
function corsHint(target: Target): string {
  return isElsewhere(target)
    ? "; the browser does not say why: see that the server is up and allows this page's origin by CORS"
    : '';
}

function hidden({ cause }: Failure): Failure {
  const reason =
    'the server answers, and its answer is hidden from this page by CORS: it must send Access-Control-Allow-Origin';
  return new Failure(
    'EACCES',
    `${reason} (errors too: it may be that there is nothing at this address)`,
    { cause },
  );
}
