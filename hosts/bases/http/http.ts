/**
 * A base by HTTP range requests: any server with byte ranges (RFC 9110, section 14). Uses
 * web-standard globals only, so that it runs unchanged in Node, Deno, browsers and edge runtimes.
 * It never returns bytes of another version of the object than the one it opened.
 */
import type { BlockSource, Flow, MirroredContent, ReadHint } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import type { OptionNames } from '../../api/options.ts';
import { mustKnowOptions } from '../../api/options.ts';
import { Elevator } from '../elevator.ts';
import type { Transfer } from '../flight.ts';
import { REQUEST_BYTES_MIN } from '../neighbours.ts';
import { checkedPatience, within } from '../patience.ts';
import type { HttpStats } from '../traffic.ts';
import type { HeaderSource, UrlSource } from './address.ts';
import { Address } from './address.ts';
import type { Fetch } from './fetch.ts';
import { KeptSample } from './kept-sample.ts';
import { HttpObject } from './request.ts';
import { identityOf } from './version.ts';

export type { HttpStats } from '../traffic.ts';
export type { HeaderSource, UrlSource } from './address.ts';
export { redactUrl } from './address.ts';
export type { Fetch, FetchInit } from './fetch.ts';
export type { Answer, AnswerBody, PieceReader } from './response.ts';

/**
 * What the first request asks for, and keeps: of a qcow2 image as `qemu-img` makes it, the header,
 * the L1 table and the first L2 table, so that none of them costs a round trip of its own.
 */
export const FIRST_PAGE_BYTES: number = 320 * 1024;

const DEPTH_DEFAULT = 6;
const DEPTH_MIN = 2;
const DEPTH_MAX = 64;
const TIMEOUT_DEFAULT_MS = 15_000;

const HTTP_OPTIONS: OptionNames<HttpOptions> = {
  headers: true,
  fetch: true,
  depth: true,
  timeout: true,
  retries: true,
  onTrouble: true,
  lookFirst: true,
  sequential: true,
};

/** How a base is asked for over HTTP. */
export interface HttpOptions {
  /**
   * Sent with every request; a function is asked before each. Range, If-Range and Accept-Encoding
   * are set by the reader.
   */
  headers?: HeaderSource;
  /** Used in place of the runtime's own. */
  fetch?: Fetch;
  /**
   * Requests in flight, 2 to 64; default 6, as many as a browser opens to one server, and 8 under
   * Node. One is kept free for reads in the foreground.
   */
  depth?: number;
  /**
   * Milliseconds in which a request must bring 1 KiB, or come to its end, or else is abandoned and
   * asked again; default 15000.
   */
  timeout?: number;
  /**
   * How often a request that failed in a way that may pass is repeated, 0 to 100; default 6. One
   * that a server is too busy for (429, 503) while it serves others of ours is not counted, for ten
   * minutes.
   */
  retries?: number;
  /**
   * Told, in words for the user, of each time in which the server brings nothing for two seconds,
   * while it is asked again.
   */
  onTrouble?: (message: string) => void;
  /**
   * Asks by HEAD what the object is, and for no bytes before they are read; default false, which
   * fetches its first 320 KiB at once.
   */
  lookFirst?: boolean;
  /**
   * Take also an object of more than 16 MiB, or of unknown size, from a server without byte ranges:
   * it comes from its start to its end only. A disk over it reads in one pass; `read` fails.
   */
  sequential?: boolean;
}

/** An object on a server, read by ranges. */
export interface HttpSource extends BlockSource {
  /** The URL without its credentials. */
  readonly name: string;
  /** Requests of this size, so many at a time. */
  readonly preferred: { chunk: number; depth: number };
  /** What was sent and received so far. */
  readonly stats: Readonly<HttpStats>;
  /** Fills `into` from `offset` on (bytes). */
  read(offset: number, into: Uint8Array, hint?: ReadHint): Promise<void>;
  /** Ends the requests under way. */
  close(): Promise<void>;
}

/**
 * Opens the object at an http: or https: URL. One request learns its size and validator and fetches
 * its first 320 KiB, which stay in memory; a server without byte ranges sends the whole object,
 * which is kept if it has 16 MiB at most. A user and password in the URL are sent as Basic
 * authorization. A server that sends neither ETag nor Last-Modified can change the object unnoticed
 * as long as its size stays the same.
 * @throws MillraceError `EINVAL` (URL or option), `EUNSUPPORTED` (scheme; a server without byte
 *   ranges for a larger object), `ENOENT` (404, 410), `EACCES` (401, 403), `ETIMEDOUT`, `EIO`.
 *   Reads throw these, and `ECHANGED` when the object is no longer the one opened.
 */
export async function openHttp(url: UrlSource, options: HttpOptions = {}): Promise<HttpSource> {
  mustKnowOptions('openHttp', options, HTTP_OPTIONS);
  const { headers = {}, fetch = globalThis.fetch, onTrouble, sequential = false } = options;
  const depth = within('depth', options.depth ?? DEPTH_DEFAULT, DEPTH_MIN, DEPTH_MAX);
  const { timeout, retries } = checkedPatience(options, TIMEOUT_DEFAULT_MS);
  const object = new HttpObject(new Address(url, headers), { fetch, timeout, retries, onTrouble });
  const beside = (ending: string): Promise<HttpSource> =>
    openHttp(besideUrl(url, ending), { headers, fetch, timeout, retries: 0 });
  if (options.lookFirst && (await object.look()))
    return new HttpRanges(object, new Uint8Array(0), depth, beside);
  const page = new FirstPage();
  try {
    await object.fetch(page, new AbortController().signal);
  } catch (error) {
    if (!sequential || object.inOrder.whole === undefined) throw error;
    return new HttpInOrder(object, error);
  }
  return new HttpRanges(object, page.bytes(), depth, beside);
}

/** The URL with an ending behind its path; a query stays, for it may be what opens the server. */
function besideUrl(url: UrlSource, ending: string): UrlSource {
  if (typeof url === 'function') return async () => withEnding(await url(), ending);
  return withEnding(url, ending);
}

function withEnding(url: string | URL, ending: string): string {
  const [, path, rest] = /^([^?#]*)(.*)$/s.exec(String(url))!;
  return `${path}${ending}${rest}`;
}

/** Where the first request's bytes go. */
class FirstPage implements Transfer {
  position = 0;
  end: number = FIRST_PAGE_BYTES;
  #bytes = new Uint8Array(FIRST_PAGE_BYTES);

  /** Also when it was begun with, and has to be asked for again: the whole comes from its start. */
  takeWhole(size: number): void {
    this.position = 0;
    this.end = size;
    this.#bytes = new Uint8Array(size);
  }

  deliver(bytes: Uint8Array): void {
    this.#bytes.set(bytes, this.position);
    this.position += bytes.length;
  }

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.end);
  }
}

/** What comes from start to end only. */
class HttpInOrder implements HttpSource {
  readonly size: number;
  readonly identity?: string;
  readonly preferred: { chunk: number; depth: number } = { chunk: REQUEST_BYTES_MIN, depth: 1 };
  readonly inOrder: (flow: Flow) => AsyncIterable<Uint8Array>;
  readonly #object: HttpObject;
  readonly #reason: unknown;

  /** `reason` is why it cannot be read anywhere. */
  constructor(object: HttpObject, reason: unknown) {
    const { version, size } = object.inOrder.whole!;
    this.size = size ?? Number.MAX_SAFE_INTEGER;
    this.identity = identityOf(version);
    this.inOrder = (flow) => object.inOrder.read(flow);
    this.#object = object;
    this.#reason = reason;
  }

  get name(): string {
    return this.#object.name;
  }

  get stats(): Readonly<HttpStats> {
    return this.#object.stats;
  }

  async read(): Promise<void> {
    throw this.#reason;
  }

  async close(): Promise<void> {}
}

class HttpRanges implements HttpSource {
  readonly size: number;
  readonly identity?: string;
  readonly preferred: { chunk: number; depth: number };
  readonly beside: (ending: string) => Promise<BlockSource>;
  readonly mirrors: MirroredContent;
  readonly #object: HttpObject;
  readonly #elevator: Elevator;
  readonly #page: Uint8Array;
  #closed = false;

  constructor(
    object: HttpObject,
    page: Uint8Array,
    depth: number,
    beside: (ending: string) => Promise<BlockSource>,
  ) {
    const version = object.version!;
    this.size = version.size;
    this.identity = identityOf(version);
    this.preferred = { chunk: REQUEST_BYTES_MIN, depth };
    this.#object = object;
    this.#page = page;
    this.beside = beside;
    this.mirrors = new KeptSample(object, (offset, into) => this.read(offset, into));
    this.#elevator = new Elevator(depth, (transfer, cancelled) =>
      object.fetch(transfer, cancelled),
    );
  }

  get name(): string {
    return this.#object.name;
  }

  get stats(): Readonly<HttpStats> {
    return this.#object.stats;
  }

  async read(offset: number, into: Uint8Array, hint: ReadHint = {}): Promise<void> {
    if (this.#closed) throw this.#closedError();
    hint.signal?.throwIfAborted();
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + into.length > this.size) {
      const what = `${into.length} bytes at ${offset} are not inside its ${this.size} bytes`;
      throw new MillraceError('EINVAL', `${this.name}: ${what}`, { offset });
    }
    const known = this.#page.subarray(offset, offset + into.length);
    into.set(known);
    if (known.length < into.length)
      await this.#elevator.read(offset + known.length, into.subarray(known.length), hint);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#elevator.close(this.#closedError());
  }

  #closedError(): MillraceError {
    return new MillraceError('ECLOSED', `${this.name}: the base has been closed`);
  }
}
