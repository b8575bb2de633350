/**
 * What can go wrong with one request, and whether and when it is asked again: exponential backoff,
 * half of it by chance, limited in count and in time. It sends nothing itself.
 */
import type { ErrorCode, ErrorReason } from '../api/errors.ts';
import { redactText } from './http/address.ts';

/**
 * The longest wait before the first repetition; each further one doubles it up to the maximum. No
 * wait is shorter than half of that: a server that is away for seven seconds is outlasted by six
 * repetitions, of each of the requests that it has cut off.
 */
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MAX_MS = 16_000;
/** A server that asks for more patience than this is asked again earlier than it wishes. */
const RETRY_AFTER_MAX_MS = 60_000;
/** No repetition starts later than this after the last progress. */
const RETRY_TIME_MAX_MS = 120_000;
/**
 * Nor later than this while the server gives others of our requests what they want, and has too
 * many of them to take this one.
 */
const CROWDED_TIME_MAX_MS = 600_000;
/**
 * While nobody has answered yet, a lost connection is not tried again later than this: it is the
 * URL that is wrong, most likely.
 */
const FIRST_CONTACT_MS_MAX = 1500;
/**
 * An attempt that brought this much was no failure of the server: count and time start anew. Less
 * would let a trickle go on for ever.
 */
export const PROGRESS_BYTES_MIN: number = 64 * 1024;

/**
 * One request's failure, still without the name of its base; `transient` ones are worth another
 * try.
 */
export class Failure extends Error {
  readonly code: ErrorCode;
  readonly reason?: ErrorReason;
  readonly transient: boolean;
  /** Whether fresh credentials, or a fresh URL, may help. */
  readonly expired: boolean;
  /** Whether the server has too much to do: fewer requests at once may help. */
  readonly busy: boolean;
  /** Whether there was no answer, as the connection failed. */
  readonly lost: boolean;
  /** Milliseconds that the server asks to wait, from its Retry-After. */
  readonly retryAfterMs?: number;

  constructor(
    code: ErrorCode,
    message: string,
    options: {
      reason?: ErrorReason;
      transient?: boolean;
      expired?: boolean;
      busy?: boolean;
      lost?: boolean;
      retryAfterMs?: number;
      cause?: unknown;
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options.reason !== undefined) this.reason = options.reason;
    this.transient = options.transient ?? false;
    this.expired = options.expired ?? false;
    this.busy = options.busy ?? false;
    this.lost = options.lost ?? false;
    if (options.retryAfterMs !== undefined) this.retryAfterMs = options.retryAfterMs;
  }
}

/**
 * 408 Request Timeout, 425 Too Early, 429 Too Many Requests and all server errors: what may pass by
 * itself.
 */
export function isTransientStatus(status: number): boolean {
  return status === 408 || status === 425 || status === 429 || status >= 500;
}

/**
 * Milliseconds from `nowMs` (since the epoch) that a Retry-After header asks for, RFC 9110 section
 * 10.2.3: seconds or an HTTP-date; undefined for no header or one that is neither. Capped at a
 * minute.
 */
export function parseRetryAfter(header: string | null, nowMs: number): number | undefined {
  if (header === null) return undefined;
  const text = header.trim();
  const waitMs = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - nowMs;
  return Number.isNaN(waitMs) ? undefined : Math.min(Math.max(waitMs, 0), RETRY_AFTER_MAX_MS);
}

/** A clock in milliseconds and a random number from 0 to below 1: what a test replaces. */
export interface Chance {
  now(): number;
  random(): number;
}

const REAL: Chance = { now: () => performance.now(), random: () => Math.random() };

/** How many more times, and how late, one range is asked for. */
export class RetryBudget {
  readonly #retries: number;
  readonly #chance: Chance;
  readonly #reached: boolean;
  #failures = 0;
  #waits = 0;
  #sinceMs: number;

  /** `reached`: the server has answered before. */
  constructor(retries: number, chance: Chance = REAL, reached = true) {
    this.#reached = reached;
    this.#retries = retries;
    this.#chance = chance;
    this.#sinceMs = chance.now();
  }

  /**
   * Milliseconds to wait after a failed attempt that brought `progressBytes`; undefined when it was
   * the last. `servedBytes` came to others meanwhile: a server that is busy with them has not
   * failed.
   */
  next(failure: Failure, progressBytes: number, servedBytes = 0): number | undefined {
    if (progressBytes >= PROGRESS_BYTES_MIN) {
      this.#failures = 0;
      this.#waits = 0;
      this.#sinceMs = this.#chance.now();
    }
    const crowded = failure.busy && servedBytes >= PROGRESS_BYTES_MIN;
    if (!crowded) this.#failures++;
    if (this.#failures > this.#retries) return undefined;
    const boundMs = Math.min(BACKOFF_FIRST_MS * 2 ** this.#waits++, BACKOFF_MAX_MS);
    const waitMs = Math.max((boundMs / 2) * (1 + this.#chance.random()), failure.retryAfterMs ?? 0);
    const isFirst = failure.lost && !this.#reached;
    if (isFirst && this.#chance.now() + waitMs - this.#sinceMs > FIRST_CONTACT_MS_MAX)
      return undefined;
    const limitMs = crowded ? CROWDED_TIME_MAX_MS : RETRY_TIME_MAX_MS;
    return this.#chance.now() + waitMs - this.#sinceMs > limitMs ? undefined : waitMs;
  }
}

/**
 * Resolves after `ms`, or when the function that `early` is handed is called; rejects with the
 * signal's reason when it is aborted before.
 */
export function sleep(
  ms: number,
  signal: AbortSignal,
  early: (wake: () => void) => void = () => {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const wake = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', wake);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(wake, ms);
    signal.addEventListener('abort', wake);
    early(wake);
  });
}

const CERTIFICATE = /certificate|UnknownIssuer|self.signed/i;
/** Besides certificates, what goes wrong with a server that speaks TLS, or an old form of it. */
const HANDSHAKE = /\balert\b|unsupported protocol|HandshakeFailure|ProtocolVersion/i;

/** Whether an error is one that only servers that speak TLS are the cause of. */
export function isOfTls(error: unknown): boolean {
  const said = innermostMessage(error);
  return CERTIFICATE.test(said) || HANDSHAKE.test(said);
}

/** In the words of Node, Deno (two: the server may speak first) and Bun. */
const NO_HTTP =
  /Parse Error: Expected HTTP|invalid HTTP version|unexpected message|Malformed_HTTP_Response/i;

/** Where the user names certificates to trust; nothing of the kind exists in browsers. */
function trustHint(): string {
  const globals = globalThis as { Deno?: unknown; process?: { versions?: { node?: string } } };
  const variable =
    globals.Deno !== undefined
      ? 'DENO_CERT'
      : globals.process?.versions?.node !== undefined
        ? 'NODE_EXTRA_CA_CERTS'
        : undefined;
  return variable === undefined
    ? ''
    : `; ${variable} names a file with the certificate of a private authority, in PEM`;
}

/**
 * What asking again would not change, in the words of Node, Deno, Bun and workerd, and what it
 * means; browsers do not tell.
 */
const HOPELESS: readonly [RegExp, string][] = [
  [
    /redirect.* (exceeded|reached|too many)|too many redirects/i,
    'the redirects of this URL have no end: check it',
  ],
  [CERTIFICATE, 'the certificate of the server is not trusted'],
  [/wrong version number|InvalidContentType/, 'the server does not speak TLS: is it an http: URL?'],
  [/ports? \d+ (is|are) blocked|bad port/i, 'this runtime does not connect to such a port'],
];
/** Deno names the address, whose words say nothing of what went wrong. */
const ADDRESSES = /https?:\/\/\S+/gi;
/** While a base is being read, a name server that has just lost its name may find it again. */
const UNKNOWN_HOST = /ENOTFOUND|name or service not known/i;

/**
 * What `fetch` or a body threw, as a failure; `hint` is added to its message. A lost connection is
 * worth another try, unless nobody has been there before (`reached`) and the host's name does not
 * exist.
 */
export function transportFailure(error: unknown, hint: string, reached: boolean): Failure {
  const said = innermostMessage(error);
  const cause = scrubbed(error);
  // Deno's way to say that the user did not allow it.
  if (error instanceof Error && error.name === 'NotCapable')
    return new Failure('EACCES', said, { cause });
  const why = said.replace(ADDRESSES, '');
  const meaning = HOPELESS.find(([words]) => words.test(why))?.[1];
  if (meaning !== undefined) {
    const help = CERTIFICATE.test(why) ? trustHint() : '';
    return new Failure('EIO', `${meaning} (${said})${help}`, { cause });
  }
  if (!reached && NO_HTTP.test(why))
    return new Failure('EIO', `what answers there does not speak HTTP (${said})`, {
      lost: true,
      cause,
    });
  if (!reached && UNKNOWN_HOST.test(why))
    return new Failure('EIO', `there is no host of this name (${said})`, { cause });
  return new Failure('EIO', `the connection failed (${said})${hint}`, {
    transient: true,
    lost: true,
    cause,
  });
}

/** What a function that the caller brought threw: repeating it is the caller's own affair. */
export function callerFailure(error: unknown): Failure {
  const what = 'the function that was given for its URL or headers failed';
  return new Failure('EIO', `${what} (${innermostMessage(error)})`, { cause: scrubbed(error) });
}

/**
 * Runtimes wrap the reason ("fetch failed") around the cause that says it ("connect ECONNREFUSED
 * …").
 */
function innermostMessage(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  if (!(inner instanceof Error)) return redactText(String(inner));
  const said =
    inner.message !== '' ? inner.message : ((inner as { code?: string }).code ?? inner.name);
  return redactText(said);
}

/**
 * The error as it may be kept as a cause: as it is, unless some message in it holds an address that
 * has to be redacted.
 */
function scrubbed(error: unknown): unknown {
  for (let inner = error; inner instanceof Error; inner = inner.cause) {
    if (redactText(inner.message) !== inner.message) return new Error(innermostMessage(error));
  }
  return error;
}
