/** The body of an answer of node:http, piece by piece, as quickly as it is read and no quicker. */
import type { IncomingMessage } from 'node:http';
import { setImmediate } from 'node:timers';
import type { AnswerBody, PieceReader } from './response.ts';

/** Of a body, so much is kept that nobody has read yet; then the connection is told to wait. */
const UNREAD_BYTES_MAX = 1024 * 1024;
/** And no more pieces than this: each takes room of its own, however small it is. */
const UNREAD_PIECES_MAX = 1024;
/** Bytes of all bodies together that one turn of the event loop takes: some milliseconds' work. */
const TURN_BYTES = 512 * 1024;

/**
 * What is taken in one turn of the event loop. Of each connection that has more, node would read 32
 * times before it looks at anything else, and whoever shares the loop with a stream would wait.
 */
class Turn {
  #taken = 0;
  #waiting: (() => void)[] = [];

  get isOver(): boolean {
    return this.#taken >= TURN_BYTES;
  }

  count(bytes: number): void {
    if (this.#taken === 0) setImmediate(this.#end);
    this.#taken += bytes;
  }

  /** Calls `work` in the next turn. */
  next(work: () => void): void {
    this.#waiting.push(work);
  }

  readonly #end = (): void => {
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#taken = 0;
    for (const work of waiting) work();
  };
}

const turn = new Turn();

/**
 * The pieces as the parser gives them: reading from the stream would join them, at the cost of a
 * copy.
 */
export class Body implements AnswerBody {
  readonly #response: IncomingMessage;
  readonly #signal: AbortSignal;
  #pieces: Uint8Array[] = [];
  #unread = 0;
  #over = false;
  #error: Error | undefined;
  #wake: () => void = () => {};

  constructor(response: IncomingMessage, signal: AbortSignal) {
    this.#response = response;
    this.#signal = signal;
    // The request tells of a better reason than this, if there is one, and tells it before.
    const cut = (): void => this.fail(new Error('the server closed it in the midst of its answer'));
    response.on('end', () => this.#end());
    response.on('error', cut);
    response.on('close', cut);
  }

  getReader(): PieceReader {
    this.#response.on('data', (piece: Uint8Array) => {
      this.#pieces.push(piece);
      this.#unread += piece.length;
      turn.count(piece.length);
      if (turn.isOver || this.#isFull) this.#response.pause();
      this.#wake();
    });
    return { read: () => this.#read(), cancel: () => this.cancel() };
  }

  get #isFull(): boolean {
    return this.#unread >= UNREAD_BYTES_MAX || this.#pieces.length >= UNREAD_PIECES_MAX;
  }

  readonly #goOn = (): void => {
    if (this.#unread > 0) return;
    if (turn.isOver) turn.next(this.#goOn);
    else this.#response.resume();
  };

  async cancel(): Promise<void> {
    this.#pieces = [];
    this.#end();
    this.#response.destroy();
  }

  /** Nothing more comes, and not because the body has ended; the first reason counts. */
  fail(error: Error): void {
    if (!this.#over) this.#end(error);
  }

  #end(error?: Error): void {
    this.#over = true;
    this.#error ??= error;
    this.#wake();
  }

  async #read(): Promise<{ done: boolean; value?: Uint8Array }> {
    while (true) {
      this.#signal.throwIfAborted();
      const value = this.#pieces.shift();
      if (value !== undefined) {
        this.#unread -= value.length;
        this.#goOn();
        return { done: false, value };
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#over) return { done: true };
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
