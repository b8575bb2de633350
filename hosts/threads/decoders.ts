/**
 * Decompressors that work in threads: the event loop stays free, and blocks that stand by
 * themselves are decoded side by side. Where there are no threads, the calling one decodes.
 */
import { MillraceError } from '../api/errors.ts';
import type { Decompress } from '../bases/containers/decompress.ts';
import { Undecodable } from '../decoders/undecodable.ts';
import type { DecodeAnswer, DecodeRequest, DecodingSetup, FromThread } from './messages.ts';
import type { Thread, Threads, ThreadUser } from './threads.ts';

/**
 * Bytes of input that are sent at once. What comes in crumbs, as the blocks of zstd do, is
 * gathered; what comes as a whole file is sent as it is needed.
 */
const PART_BYTES_MIN = 256 * 1024;
const PART_BYTES_MAX = 1024 * 1024;
/** Of what comes last. */
const SLICE_BYTES = 64 * 1024;

/** Whoever waits for an answer. */
interface Waiting {
  resolve(answer: DecodeAnswer): void;
  reject(reason: unknown): void;
}

/** A thread has ended in the midst of it. */
class ThreadEnded extends Error {
  /** Whether it had answered before. */
  readonly hasGiven: boolean;

  constructor(hasGiven: boolean) {
    super('it has ended');
    this.hasGiven = hasGiven;
  }
}

export class ThreadedDecoders implements ThreadUser {
  readonly #threads: Threads;
  readonly #decodings = new Map<number, Decoding>();
  #count = 0;

  constructor(threads: Threads) {
    this.#threads = threads;
    threads.use(this);
  }

  /** `here` decodes in the calling thread; `wasm` gives what a thread needs for it. */
  decompressor(
    format: DecodingSetup['format'],
    here: () => Promise<Decompress>,
    wasm?: () => Promise<WebAssembly.Module>,
  ): () => Promise<Decompress> {
    return async () => {
      const setup: DecodingSetup = { format, wasm: await wasm?.() };
      // While it starts, the first bytes are fetched.
      this.#threads.startOne();
      return (input) => this.#decode(setup, here, new Parts(input));
    };
  }

  answered(answer: FromThread): void {
    if (answer.kind === 'decode') this.#decodings.get(answer.id)?.take(answer);
  }

  ended(): void {
    for (const decoding of this.#decodings.values()) decoding.fail();
  }

  async *#decode(
    setup: DecodingSetup,
    here: () => Promise<Decompress>,
    parts: Parts,
  ): AsyncGenerator<Uint8Array> {
    try {
      const first = await parts.next();
      try {
        const thread = this.#threads.forDecoding();
        if (thread !== undefined) return yield* this.#inThread(thread, setup, first, parts);
      } catch (error) {
        if (!(error instanceof ThreadEnded)) throw error;
        // Where it had only begun, nothing is lost.
        if (parts.hasGoneOn || error.hasGiven)
          throw new MillraceError('EIO', 'the thread that decoded it has ended', { cause: error });
      }
      yield* (await here())(parts.from(first));
    } finally {
      await parts.close();
    }
  }

  async *#inThread(
    thread: Thread,
    setup: DecodingSetup,
    first: Uint8Array | null,
    parts: Parts,
  ): AsyncGenerator<Uint8Array> {
    const id = this.#count++;
    const decoding = new Decoding(thread, id);
    this.#decodings.set(id, decoding);
    try {
      let asked = decoding.ask({ setup, part: first });
      for (;;) {
        const { output, state, failure } = await asked;
        // Where it needs nothing that would have to come first, it goes on meanwhile.
        const goesOn = state === 'more' || (state === 'hungry' && parts.hasNext);
        if (goesOn) asked = decoding.ask(state === 'more' ? {} : { part: await parts.next() });
        // Whoever only looks at the first bytes causes no further reading.
        if (parts.hasGoneOn) parts.fetch();
        // Whoever holds back the last piece until the end is known to be good holds back little.
        if (state === 'over') yield* slicesOf(output, SLICE_BYTES);
        else if (output.length > 0) yield output;
        if (failure !== undefined) throw new Undecodable(failure.message, failure.isUnsupported);
        if (state === 'over') return;
        if (!goesOn) asked = decoding.ask({ part: await parts.next() });
      }
    } finally {
      this.#decodings.delete(id);
      decoding.end();
    }
  }
}

/** One decompression in a thread. */
class Decoding {
  readonly #thread: Thread;
  readonly #id: number;
  #waiting: Waiting | undefined;
  #hasGiven = false;
  #isLost = false;

  constructor(thread: Thread, id: number) {
    this.#thread = thread;
    this.#id = id;
    thread.decodings++;
  }

  ask(request: Omit<DecodeRequest, 'kind' | 'id'>): Promise<DecodeAnswer> {
    const answer = new Promise<DecodeAnswer>((resolve, reject) => {
      if (this.#isLost) return reject(new ThreadEnded(this.#hasGiven));
      this.#waiting = { resolve, reject };
      // A copy: the first part is needed once more where the thread does not begin.
      this.#thread.ask({ kind: 'decode', id: this.#id, ...request }, []);
    });
    // It is looked at when what came before has been taken.
    answer.catch(() => {});
    return answer;
  }

  take(answer: DecodeAnswer): void {
    this.#hasGiven = true;
    this.#settled()?.resolve(answer);
  }

  fail(): void {
    this.#isLost = true;
    this.#settled()?.reject(new ThreadEnded(this.#hasGiven));
  }

  /** Nobody wants any more of it. */
  end(): void {
    this.#thread.decodings--;
    this.#settled();
    this.#thread.tell({ kind: 'end', id: this.#id });
  }

  #settled(): Waiting | undefined {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting !== undefined) this.#thread.answered();
    return waiting;
  }
}

/** The input in parts of their own. */
class Parts {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);
  #fetching: Promise<void> | undefined;
  #isOver = false;
  #failure: { error: unknown } | undefined;
  #count = 0;

  constructor(pieces: AsyncIterable<Uint8Array>) {
    this.#pieces = pieces[Symbol.asyncIterator]();
  }

  /** Whether the next part is at hand, or it is known that there is none. */
  get hasNext(): boolean {
    return this.#isFull && this.#fetching === undefined && this.#failure === undefined;
  }

  /** Whether more than the first one has been taken. */
  get hasGoneOn(): boolean {
    return this.#count > 1;
  }

  /** Null at the end. */
  async next(): Promise<Uint8Array | null> {
    this.#count++;
    await this.fetch();
    if (this.#failure !== undefined) throw this.#failure.error;
    if (this.#rest.length === 0) return null;
    // A copy, also of a Buffer: of a view, the whole buffer would be sent.
    const part = new Uint8Array(this.#rest.subarray(0, PART_BYTES_MAX));
    this.#rest = this.#rest.subarray(part.length);
    return part;
  }

  /** Makes the next part be at hand; what goes wrong is told when that is taken. */
  fetch(): Promise<void> {
    return (this.#fetching ??= this.#fill().finally(() => {
      this.#fetching = undefined;
    }));
  }

  get #isFull(): boolean {
    return this.#isOver || this.#rest.length >= PART_BYTES_MIN;
  }

  async #fill(): Promise<void> {
    try {
      while (!this.#isFull) {
        const { done, value } = await this.#pieces.next();
        if (done) this.#isOver = true;
        else this.#rest = this.#rest.length === 0 ? value : joined(this.#rest, value);
      }
    } catch (error) {
      this.#failure = { error };
    }
  }

  /** All of it, of which `first` has been taken. */
  async *from(first: Uint8Array | null): AsyncGenerator<Uint8Array> {
    for (let part = first; part !== null; part = await this.next()) yield part;
  }

  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}

function* slicesOf(bytes: Uint8Array, size: number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
