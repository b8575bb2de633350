/**
 * Bytes that come in order only, and how those of a source that can be read anywhere are had so.
 */
import type { BlockSource, Flow } from '../../api/block.ts';
import { corrupt } from './bytes.ts';

/** A request, and requests in flight, of a source that does not say how it likes to be read. */
const CHUNK_DEFAULT = 1024 * 1024;
const DEPTH_DEFAULT = 2;
/** What is in flight waits in memory for its turn. */
const DEPTH_MAX = 4;
const CHUNK_MAX = 4 * 1024 * 1024;
/** What an HTTP base has already, and enough to tell what it is. */
const FIRST_BYTES = 256 * 1024;

/** Bytes from a start to an end, which are had once. */
export class ByteStream {
  readonly source: BlockSource;
  /** Bytes, where that is known. */
  readonly size: number | undefined;
  readonly #pieces: AsyncIterator<Uint8Array>;
  #held: Uint8Array[] = [];

  /** `source` is what is closed in the end, and has name and identity. */
  constructor(source: BlockSource, size: number | undefined, pieces: AsyncIterable<Uint8Array>) {
    this.source = source;
    this.size = size;
    this.#pieces = pieces[Symbol.asyncIterator]();
  }

  /** The first bytes, which stay there; fewer where it ends before. */
  async peek(length: number): Promise<Uint8Array> {
    let bytes = this.#held.reduce((sum, piece) => sum + piece.length, 0);
    while (bytes < length) {
      const { done, value } = await this.#pieces.next();
      if (done) break;
      this.#held.push(value);
      bytes += value.length;
    }
    this.#held = [joined(this.#held, bytes)];
    return this.#held[0].subarray(0, length);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    try {
      for (let piece = this.#held.shift(); piece !== undefined; piece = this.#held.shift())
        if (piece.length > 0) yield piece;
      for (;;) {
        const { done, value } = await this.#pieces.next();
        if (done) return;
        yield value;
      }
    } finally {
      await this.close();
    }
  }

  /** Takes no more of it; the source stays open. */
  async close(): Promise<void> {
    this.#held = [];
    await this.#pieces.return?.();
  }
}

function joined(pieces: readonly Uint8Array[], length: number): Uint8Array {
  if (pieces.length === 1) return pieces[0];
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** What comes as one piece. */
export async function* alone(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** All of it: exactly `size` bytes, or it throws. Aborted, nobody wants them any more. */
export async function whole(
  pieces: AsyncIterable<Uint8Array>,
  size: number,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(size);
  let filled = 0;
  for await (const piece of pieces) {
    signal.throwIfAborted();
    if (piece.length > size - filled)
      throw new Error(`it gives more than the ${size} bytes it claims`);
    bytes.set(piece, filled);
    filled += piece.length;
  }
  if (filled !== size) throw new Error(`it gives ${filled} of the ${size} bytes it claims`);
  return bytes;
}

/** The source's own bytes `[start, end)` in order, a few requests ahead. */
export async function* inOrder(
  source: BlockSource,
  flow: Flow,
  start = 0,
  end: number = source.size,
): AsyncGenerator<Uint8Array> {
  const chunk = Math.min(source.preferred?.chunk ?? CHUNK_DEFAULT, CHUNK_MAX);
  const depth = Math.min(source.preferred?.depth ?? DEPTH_DEFAULT, DEPTH_MAX);
  const coming: { at: number; read: Promise<Uint8Array> }[] = [];
  const lengthAt = (at: number): number => Math.min(at === start ? FIRST_BYTES : chunk, end - at);
  const ask = (at: number): Promise<Uint8Array> => {
    const read = readChunk(source, at, lengthAt(at), flow);
    // It is looked at when its turn has come.
    read.catch(() => {});
    return read;
  };
  let next = start;
  while (next < end || coming.length > 0) {
    // The first one alone: who only wants to know what it begins with is not made to wait for more.
    const wanted = next === start ? 1 : depth;
    for (; next < end && coming.length < wanted; next += lengthAt(next))
      coming.push({ at: next, read: ask(next) });
    const { at, read } = coming[0];
    try {
      yield await read;
      coming.shift();
    } catch (error) {
      await flow.failed(error);
      coming[0] = { at, read: ask(at) };
    }
  }
}

async function readChunk(
  source: BlockSource,
  at: number,
  length: number,
  flow: Flow,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await source.read(at, bytes, { signal: flow.signal, background: !flow.isUrgent() });
  return bytes;
}

/** Takes a stream part by part. */
export class Reader {
  readonly #name: string | undefined;
  readonly #format: string;
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest = new Uint8Array(0);

  constructor(pieces: AsyncIterable<Uint8Array>, format: string, name: string | undefined) {
    this.#pieces = pieces[Symbol.asyncIterator]();
    this.#format = format;
    this.#name = name;
  }

  /** Exactly so many bytes. @throws MillraceError `ECORRUPT` where it ends before. */
  async take(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    let filled = 0;
    for await (const piece of this.run(length)) {
      bytes.set(piece, filled);
      filled += piece.length;
    }
    return bytes;
  }

  /** Exactly so many bytes, as they come. */
  async *run(length: number): AsyncGenerator<Uint8Array> {
    for (let missing = length; missing > 0; ) {
      if (!(await this.hasMore())) throw corrupt(this.#name, this.#format, 'it is cut off');
      const piece = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(piece.length);
      missing -= piece.length;
      yield piece;
    }
  }

  /** Goes through all that is left. */
  async skipRest(): Promise<void> {
    while (await this.hasMore()) this.#rest = new Uint8Array(0);
  }

  async hasMore(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#pieces.next();
      if (done) return false;
      this.#rest = value as Uint8Array<ArrayBuffer>;
    }
    return true;
  }

  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}
