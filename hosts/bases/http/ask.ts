/** One request for an object: where it goes, with which headers, and what an error of it says. */

import { MillraceError } from '../../api/errors.ts';
import { callerFailure, Failure, isOfTls } from '../retry.ts';
import type { HttpStats } from '../traffic.ts';
import type { Address, Target } from './address.ts';
import type { Attempt } from './attempt.ts';
import { discard, isElsewhere } from './attempt.ts';
import type { Fetch } from './fetch.ts';
import { pastTheCache, sendBy } from './fetch.ts';
import { Fields } from './fields.ts';
import { ORIGIN_HEADERS } from './mirrors.ts';
import type { Answer } from './response.ts';
import { sizeOfHead } from './response.ts';

/** What servers of https: answer that understand http: (nginx). */
const BAD_REQUEST = /\bthe server answered 400\b/;
/** Whoever speaks TLS begins at once. */
const TLS_MS_MAX = 500;

export interface RequestOptions {
  fetch: Fetch;
  /** Milliseconds in which a request must bring 1 KiB, or else is abandoned. */
  timeout: number;
  /** Repetitions of a request that brings nothing. */
  retries: number;
  /** Told once of each time in which nothing comes, in words for the user, after two seconds. */
  onTrouble?: (message: string) => void;
}

/** Asks one server for one object: what its address tells, and how an error names it. */
export class Asker {
  readonly stats: HttpStats = { requests: 0, bytes: 0, retries: 0 };
  readonly #address: Address;
  readonly #options: RequestOptions;

  constructor(address: Address, options: RequestOptions) {
    this.#address = address;
    this.#options = options;
  }

  get name(): string {
    return this.#address.name;
  }

  /** @throws what the functions that tell address and headers throw, as an error of the caller. */
  async destination(): Promise<{ target: Target; headers: Fields }> {
    try {
      const target = await this.#address.target();
      return { target, headers: await this.#address.headers(target) };
    } catch (error) {
      throw error instanceof MillraceError ? error : callerFailure(error);
    }
  }

  /**
   * One request to the URL itself, or to where it has led: what is meant for its origin stays
   * there.
   */
  ask(attempt: Attempt, href: string, headers: Fields, method?: 'HEAD'): Promise<Answer> {
    attempt.href = href;
    headers.set('Accept-Encoding', 'identity');
    if (new URL(href).origin !== new URL(attempt.target!.href).origin)
      for (const name of ORIGIN_HEADERS) headers.delete(name);
    attempt.signal.throwIfAborted();
    this.stats.requests++;
    const init = { headers, signal: attempt.signal };
    return sendBy(this.#options.fetch, href, method === undefined ? init : { ...init, method });
  }

  /**
   * The object's size, which a server does not tell in its ranges (Content-Range: bytes 0-99 of
   * `*`).
   */
  async sizeByHead(attempt: Attempt, part: Answer): Promise<number | undefined> {
    const { headers } = await this.destination();
    const href = part.url || attempt.href!;
    const head = await attempt.guard(this.ask(attempt, href, headers, 'HEAD'));
    attempt.progress();
    discard(head);
    return sizeOfHead(head, part);
  }

  /**
   * Whether the server answers, and only this page may not know what: asked while no answer has
   * been seen.
   */
  async isHidden(target: Target | undefined): Promise<boolean> {
    if (target === undefined || !isElsewhere(target)) return false;
    return globalThis
      .fetch(target.href, { ...pastTheCache(), method: 'HEAD', mode: 'no-cors' })
      .then(
        () => true,
        () => false,
      );
  }

  /**
   * Whether a server that has given no answer to an http: URL, or called it a bad one, speaks TLS
   * there: it is asked so, without what opens it. A page is not told.
   */
  async speaksTls(failure: Failure, target: Target | undefined): Promise<boolean> {
    const url = new URL(target?.href ?? 'https:none');
    if (url.protocol !== 'http:' || !(failure.lost || BAD_REQUEST.test(failure.message)))
      return false;
    const port = url.port || '80';
    url.protocol = 'https:';
    url.port = port;
    const signal = AbortSignal.timeout(TLS_MS_MAX);
    const init = { method: 'HEAD' as const, headers: new Fields(), signal };
    try {
      discard(await sendBy(this.#options.fetch, url.href, init));
      return true;
    } catch (error) {
      return !signal.aborted && isOfTls(error);
    }
  }

  /** Names the object, the range, and after retries their number. */
  finalError(
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
      reason: failure.reason,
      cause: failure.cause,
    });
  }
}

/** What an http: URL is told of a server that wants https:. */
export function needsTls({ message, cause }: Failure): Failure {
  const words = `the server speaks TLS there: give the URL as https: (${message})`;
  return new Failure('EIO', words, { cause });
}

/** What a page is told of a server whose answers it may not see. */
export function hidden({ cause }: Failure): Failure {
  const reason =
    'the server answers, and its answer is hidden from this page by CORS: it must send Access-Control-Allow-Origin';
  return new Failure(
    'EACCES',
    `${reason} (errors too: it may be that there is nothing at this address)`,
    { cause, reason: 'cors' },
  );
}
