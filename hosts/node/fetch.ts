/**
 * What reading a base needs of `fetch`, over node:http and node:https: a request by GET, its redirects, and a body piece by piece. Node's
 * own `fetch` hands every piece through two kinds of streams: at 1 Gbit/s that took half of the main thread's time, and opened new
 * connections for requests that follow one another.
 */
import * as http from 'node:http';
import * as https from 'node:https';
import type { FetchInit } from '../http-request.ts';
import type { Answer, AnswerBody } from '../http-response.ts';

/** As in the Fetch standard. */
const REDIRECTS_MAX = 20;
const REDIRECT_STATUS: ReadonlySet<number | undefined> = new Set([301, 302, 303, 307, 308]);
/** Of a body, so much is kept that nobody has read yet; then the connection is told to wait. */
const UNREAD_BYTES_MAX = 1024 * 1024;
/** What a redirect may say beside where it leads to. */
const PASSED_OVER_BYTES_MAX = 16 * 1024;
/** Some servers refuse requests without one. */
const USER_AGENT = 'millrace';

const agents = { 'http:': new http.Agent({ keepAlive: true }), 'https:': new https.Agent({ keepAlive: true }) } as const;

/** @throws what node:http throws; the reason of the signal once that is aborted; for endless redirects, an error that says so. */
export async function nodeFetch(href: string, { headers, signal }: FetchInit): Promise<Answer> {
  const sent = new Headers(headers);
  if (!sent.has('User-Agent')) sent.set('User-Agent', USER_AGENT);
  let url = new URL(href);
  for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
    const response = await get(url, sent, signal);
    const location = REDIRECT_STATUS.has(response.statusCode) ? response.headers.location : undefined;
    if (location === undefined) return answerOf(response);
    passOver(response);
    const next = new URL(location, url);
    if (next.protocol !== 'http:' && next.protocol !== 'https:') throw new Error(`redirected to a URL of the scheme ${next.protocol}`);
    if (next.origin !== url.origin) for (const name of ['Authorization', 'Cookie']) sent.delete(name);
    url = next;
  }
  throw new Error('redirect count exceeded');
}

/** A kept connection may have been closed by the server while the request was on its way: the request then goes over a new one. */
async function get(url: URL, headers: Headers, signal: AbortSignal): Promise<http.IncomingMessage> {
  while (true) {
    signal.throwIfAborted();
    const { promise, reused } = start(url, headers, signal);
    try {
      return await promise;
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (!reused() || (error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error;
    }
  }
}

function start(url: URL, headers: Headers, signal: AbortSignal): { promise: Promise<http.IncomingMessage>; reused: () => boolean } {
  const protocol = url.protocol as keyof typeof agents;
  const { request: open } = protocol === 'https:' ? https : http;
  const request = open(url, { agent: agents[protocol], headers: Object.fromEntries(headers), signal });
  const promise = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve);
    request.on('error', reject);
  });
  request.end();
  return { promise, reused: () => request.reusedSocket };
}

/** A small body is let through, so that the connection can be used again. */
function passOver(response: http.IncomingMessage): void {
  response.on('error', () => {});
  if (Number(response.headers['content-length']) <= PASSED_OVER_BYTES_MAX) response.resume();
  else response.destroy();
}

function answerOf(response: http.IncomingMessage): Answer {
  const { statusCode = 0, statusMessage = '', headers } = response;
  const header = (name: string): string | null => {
    const value = headers[name.toLowerCase()];
    return Array.isArray(value) ? value.join(', ') : value ?? null;
  };
  return { status: statusCode, statusText: statusMessage, type: 'default', headers: { get: header }, body: new Body(response) };
}

/** The pieces as the parser gives them: reading from the stream would join them, at the cost of a copy. */
class Body implements AnswerBody {
  readonly #response: http.IncomingMessage;
  readonly #pieces: Uint8Array[] = [];
  #unread = 0;
  #over = false;
  #error: Error | undefined;
  #wake: () => void = () => {};

  constructor(response: http.IncomingMessage) {
    this.#response = response;
    response.on('error', (error) => this.#end(error));
    response.on('close', () => this.#end(response.complete ? undefined : new Error('the server closed it in the midst of its answer')));
    response.on('end', () => this.#end());
  }

  getReader(): { read(): Promise<{ done: boolean; value?: Uint8Array }>; cancel(): Promise<void> } {
    const response = this.#response;
    response.on('data', (piece: Uint8Array) => {
      this.#pieces.push(piece);
      this.#unread += piece.length;
      if (this.#unread >= UNREAD_BYTES_MAX) response.pause();
      this.#wake();
    });
    return { read: () => this.#read(), cancel: () => this.cancel() };
  }

  async cancel(): Promise<void> {
    this.#response.destroy();
  }

  #end(error?: Error): void {
    this.#over = true;
    this.#error ??= error;
    this.#wake();
  }

  async #read(): Promise<{ done: boolean; value?: Uint8Array }> {
    while (true) {
      const value = this.#pieces.shift();
      if (value !== undefined) {
        this.#unread -= value.length;
        if (this.#unread === 0) this.#response.resume();
        return { done: false, value };
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#over) return { done: true };
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
