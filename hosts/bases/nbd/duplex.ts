/**
 * A connection's bytes: read in runs of a known length, written in batches. It knows nothing of the
 * protocol.
 */

/** Both directions of a connection, whatever carries it: a socket, a WebSocket, a pipe. */
export interface NbdConnection {
  /** What the other side sends. */
  readable: ReadableStream<Uint8Array> | ByteSource;
  /** What the other side is sent. */
  writable: WritableStream<Uint8Array> | ByteSink;
  /**
   * Goes on with TLS on the same connection, once both sides have agreed (NBD_OPT_STARTTLS).
   * Nothing is read or written meanwhile.
   */
  startTls?(): Promise<NbdConnection>;
}

/** A connection of web streams. */
export interface StreamConnection extends NbdConnection {
  /** What the other side sends. */
  readable: ReadableStream<Uint8Array>;
  /** What is sent to it. */
  writable: WritableStream<Uint8Array>;
}

/** What a connection reads from: as a web stream, without the cost of one. */
export interface ByteSource {
  /** The next bytes, as many as have come; undefined at the end. One read at a time. */
  read(): Promise<Uint8Array | undefined>;
  /** Leaves the connection to another source, with what has come and was not read. */
  release(): void;
  /** Takes nothing more; a read that waits ends. */
  cancel(reason?: unknown): void | Promise<void>;
}

/** What a connection writes to. */
export interface ByteSink {
  /** An array for a part of a message; it belongs to the sink once that has been written. */
  room?(length: number): Uint8Array;
  /**
   * Sends all parts, one behind the other, and returns nothing where more may follow at once. The
   * parts are not to be changed. One write at a time.
   */
  write(parts: readonly Uint8Array[]): void | Promise<void>;
  /** Leaves the connection to another sink. */
  release(): void;
  /** Ends this direction; the other side hears of it. */
  close(): Promise<void>;
  /** Ends the connection at once; a write that is under way fails. */
  abort(reason?: unknown): void | Promise<void>;
}

/**
 * Small parts of replies are put together up to so many bytes, so that each does not become a
 * packet of its own.
 */
export const BATCH_BYTES: number = 64 * 1024;

/** The other side has gone in the middle of a message, or between two. */
export class ConnectionEnded extends Error {}

/**
 * Reads exact numbers of bytes; what the other side sends ahead stays where it is until it is asked
 * for.
 */
export class ByteReader {
  readonly #source: ByteSource;
  #chunks: Uint8Array[] = [];
  #first = 0;
  #available = 0;

  constructor(readable: ReadableStream<Uint8Array> | ByteSource) {
    this.#source = 'getReader' in readable ? new StreamSource(readable) : readable;
  }

  /** Bytes that have been received and not taken. */
  get available(): number {
    return this.#available;
  }

  /** The next `length` bytes, if they are there already. They are not to be changed. */
  tryTake(length: number): Uint8Array | undefined {
    if (this.#available < length) return undefined;
    this.#available -= length;
    if (length === 0) return new Uint8Array(0);
    const [chunk] = this.#chunks;
    if (chunk.length - this.#first >= length) {
      const bytes = chunk.subarray(this.#first, this.#first + length);
      this.#advance(length);
      return bytes;
    }
    const bytes = new Uint8Array(length);
    this.#copy(bytes);
    return bytes;
  }

  /** @throws ConnectionEnded when the other side ends before. */
  async take(length: number): Promise<Uint8Array> {
    if (this.#available < length && length > BATCH_BYTES) {
      const bytes = new Uint8Array(length);
      await this.fill(bytes);
      return bytes;
    }
    while (this.#available < length) await this.#receive();
    return this.tryTake(length)!;
  }

  /**
   * Fills all of `into` as bytes come, so that no memory is held twice; `took` is told how many
   * there were, each time.
   */
  async fill(into: Uint8Array, took: (bytes: number) => void = () => {}): Promise<void> {
    for (let filled = 0; filled < into.length; ) {
      if (this.#available === 0) await this.#receive();
      const part = into.subarray(filled, Math.min(into.length, filled + this.#available));
      this.#available -= part.length;
      this.#copy(part);
      filled += part.length;
      took(part.length);
    }
  }

  /** Passes over bytes without keeping them. */
  async skip(length: number): Promise<void> {
    let left = length;
    while (left > 0) {
      if (this.#available === 0) await this.#receive();
      const bytes = this.tryTake(Math.min(left, this.#available))!;
      left -= bytes.length;
    }
  }

  /** Leaves the connection to another reader. */
  release(): void {
    this.#source.release();
  }

  /** Takes nothing more; who waits for bytes hears of it. */
  cancel(reason: unknown): void {
    void this.#source.cancel(reason);
  }

  #copy(into: Uint8Array): void {
    for (let filled = 0; filled < into.length; ) {
      const [chunk] = this.#chunks;
      const part = chunk.subarray(
        this.#first,
        Math.min(chunk.length, this.#first + into.length - filled),
      );
      into.set(part, filled);
      filled += part.length;
      this.#advance(part.length);
    }
  }

  #advance(length: number): void {
    this.#first += length;
    if (this.#first < this.#chunks[0].length) return;
    this.#chunks.shift();
    this.#first = 0;
  }

  async #receive(): Promise<void> {
    const chunk = await this.#source.read();
    if (chunk === undefined) throw new ConnectionEnded('the other side ended the connection');
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#available += chunk.length;
  }
}

/**
 * Writes messages in the order in which they were given; while one batch is on its way, the next is
 * put together.
 */
export class ByteWriter {
  readonly #sink: ByteSink;
  #parts: Uint8Array[] = [];
  #sent: (() => void)[] = [];
  /** A batch is on its way, or will be when this turn is over. */
  #isBusy = false;
  #failed = false;
  #onDrained: (() => void)[] = [];

  constructor(writable: WritableStream<Uint8Array> | ByteSink) {
    this.#sink = 'getWriter' in writable ? new StreamSink(writable) : writable;
  }

  /** An array of `length` bytes for a part of one message, to be filled by the caller. */
  room(length: number): Uint8Array {
    return this.#sink.room?.(length) ?? new Uint8Array(length);
  }

  /**
   * Hands over the parts of one message, which are not to be changed; `sent` is called when the
   * connection has them, or has broken.
   */
  push(parts: readonly Uint8Array[], sent: () => void = () => {}): void {
    if (this.#failed) return sent();
    for (const part of parts) this.#parts.push(part);
    this.#sent.push(sent);
    if (this.#isBusy) return;
    this.#isBusy = true;
    // Replies of this turn go together.
    queueMicrotask(() => this.#write());
  }

  /** False once something could not be written. */
  get isOpen(): boolean {
    return !this.#failed;
  }

  /**
   * Resolves when all that was handed over has been written.
   * @throws ConnectionEnded when it could not be.
   */
  async drained(): Promise<void> {
    while (this.#isBusy && !this.#failed)
      await new Promise<void>((resolve) => this.#onDrained.push(resolve));
    if (this.#failed) throw new ConnectionEnded('the connection broke');
  }

  /** Leaves the connection to another writer. */
  release(): void {
    this.#sink.release();
  }

  /** Ends the connection's own direction; the other side hears of it. */
  async close(): Promise<void> {
    await this.#sink.close();
  }

  /** Ends the connection at once, whatever is under way. */
  abort(reason: unknown): void {
    this.#fail();
    void this.#sink.abort(reason);
  }

  #write(): void {
    while (this.#parts.length > 0) {
      const parts = this.#parts;
      const sent = this.#sent;
      this.#parts = [];
      this.#sent = [];
      const tell = (): void => {
        for (const each of sent) each();
      };
      let writing: void | Promise<void>;
      try {
        writing = this.#sink.write(parts);
      } catch {
        tell();
        return this.#fail();
      }
      if (writing !== undefined)
        return void writing.then(
          () => {
            tell();
            this.#write();
          },
          () => {
            tell();
            this.#fail();
          },
        );
      tell();
    }
    this.#isBusy = false;
    for (const resolve of this.#onDrained.splice(0)) resolve();
  }

  /** Nothing is sent any more: who waits hears of it. */
  #fail(): void {
    this.#failed = true;
    this.#parts = [];
    for (const tell of this.#sent.splice(0)) tell();
    for (const resolve of this.#onDrained.splice(0)) resolve();
  }
}

/** A web stream to read from. */
class StreamSource implements ByteSource {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;

  constructor(readable: ReadableStream<Uint8Array>) {
    this.#reader = readable.getReader();
  }

  async read(): Promise<Uint8Array | undefined> {
    const { value } = await this.#reader.read().catch((cause) => {
      throw new ConnectionEnded('the connection broke', { cause });
    });
    return value;
  }

  release(): void {
    this.#reader.releaseLock();
  }

  async cancel(reason: unknown): Promise<void> {
    await this.#reader.cancel(reason).catch(() => {});
  }
}

/** A web stream to write to. */
class StreamSink implements ByteSink {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #giveUp: (error: Error) => void = () => {};

  constructor(writable: WritableStream<Uint8Array>) {
    this.#writer = writable.getWriter();
    // Who writes, or waits for all to be written, hears of it.
    this.#writer.closed.catch(() => {});
  }

  async write(parts: readonly Uint8Array[]): Promise<void> {
    for (const batch of batches(parts)) await this.#deliver(batch);
  }

  release(): void {
    this.#writer.releaseLock();
  }

  async close(): Promise<void> {
    await this.#writer.close().catch(() => {});
  }

  async abort(reason: unknown): Promise<void> {
    this.#giveUp(new ConnectionEnded('the connection was aborted'));
    await this.#writer.abort(reason).catch(() => {});
  }

  /**
   * A client that reads no more holds up a write for ever, and an abort behind it: it is given up
   * here.
   */
  #deliver(batch: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#giveUp = reject;
      this.#writer.write(batch).then(resolve, reject);
    });
  }
}

/** Puts small parts together; large ones go as they are. */
export function* batches(parts: readonly Uint8Array[]): Generator<Uint8Array> {
  let from = 0;
  while (from < parts.length) {
    let to = from + 1;
    let bytes = parts[from].length;
    while (to < parts.length && bytes + parts[to].length <= BATCH_BYTES)
      bytes += parts[to++].length;
    if (to === from + 1) {
      yield parts[from];
    } else {
      const batch = new Uint8Array(bytes);
      let at = 0;
      for (const part of parts.slice(from, to)) {
        batch.set(part, at);
        at += part.length;
      }
      yield batch;
    }
    from = to;
  }
}

/** Ends a connection without a word: who reads or writes hears of it. */
export function hangUp(reader: ByteReader, writer: ByteWriter): void {
  const reason = new ConnectionEnded('the connection was given up');
  writer.abort(reason);
  reader.cancel(reason);
}
