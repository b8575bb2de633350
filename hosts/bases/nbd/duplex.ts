/** A connection's bytes: read in runs of a known length, written in batches. It knows nothing of the protocol. */

/** Both directions of a connection, whatever carries it: a socket, a WebSocket, a pipe. */
export interface NbdConnection {
  /** What the other side sends. */
  readable: ReadableStream<Uint8Array>;
  /** What the other side is sent. */
  writable: WritableStream<Uint8Array>;
  /** Goes on with TLS on the same connection, once the client has asked for it (NBD_OPT_STARTTLS). Nothing is read or written meanwhile. */
  startTls?(): Promise<NbdConnection>;
}

/** Small parts of replies are put together up to so many bytes, so that each does not become a packet of its own. */
const BATCH_BYTES = 64 * 1024;

/** The other side has gone in the middle of a message, or between two. */
export class ConnectionEnded extends Error {}

/** Reads exact numbers of bytes; what the other side sends ahead stays where it is until it is asked for. */
export class ByteReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #chunks: Uint8Array[] = [];
  #first = 0;
  #available = 0;

  constructor(readable: ReadableStream<Uint8Array>) {
    this.#reader = readable.getReader();
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
    // A long run is collected as it comes, so that no memory is held twice.
    if (this.#available < length && length > BATCH_BYTES) return this.#collect(length);
    while (this.#available < length) await this.#receive();
    return this.tryTake(length)!;
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

  /** Leaves the stream to another reader. */
  release(): void {
    this.#reader.releaseLock();
  }

  /** Takes nothing more; who waits for bytes hears of it. */
  cancel(reason: unknown): void {
    this.#reader.cancel(reason).catch(() => {});
  }

  async #collect(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      if (this.#available === 0) await this.#receive();
      const part = bytes.subarray(filled, Math.min(length, filled + this.#available));
      this.#available -= part.length;
      this.#copy(part);
      filled += part.length;
    }
    return bytes;
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
    const { done, value } = await this.#reader.read().catch((cause) => {
      throw new ConnectionEnded('the connection broke', { cause });
    });
    if (done) throw new ConnectionEnded('the other side ended the connection');
    if (value.length === 0) return;
    this.#chunks.push(value);
    this.#available += value.length;
  }
}

/** Writes messages in the order in which they were given; while one batch is on its way, the next is put together. */
export class ByteWriter {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #parts: Uint8Array[] = [];
  #sent: (() => void)[] = [];
  #writing: Promise<void> | undefined;
  #failed = false;
  #giveUp: (error: Error) => void = () => {};

  constructor(writable: WritableStream<Uint8Array>) {
    this.#writer = writable.getWriter();
    // Who writes, or waits for all to be written, hears of it.
    this.#writer.closed.catch(() => {});
  }

  /** Hands over the parts of one message, which are not to be changed; `sent` is called when the connection has them, or has broken. */
  push(parts: readonly Uint8Array[], sent: () => void = () => {}): void {
    if (this.#failed) return sent();
    this.#parts.push(...parts);
    this.#sent.push(sent);
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
  }

  /** Resolves when all that was handed over has been written. @throws ConnectionEnded when it could not be. */
  async drained(): Promise<void> {
    while (this.#writing) await this.#writing;
    if (this.#failed) throw new ConnectionEnded('the connection broke');
  }

  /** Leaves the stream to another writer. */
  release(): void {
    this.#writer.releaseLock();
  }

  /** Ends the connection's own direction; the other side hears of it. */
  async close(): Promise<void> {
    await this.#writer.close().catch(() => {});
  }

  /** Ends the connection at once, whatever is under way. */
  abort(reason: unknown): void {
    this.#failed = true;
    this.#giveUp(new ConnectionEnded('the connection was aborted'));
    this.#writer.abort(reason).catch(() => {});
  }

  async #write(): Promise<void> {
    // Replies of this turn go together.
    await undefined;
    while (this.#parts.length > 0) {
      const parts = this.#parts;
      const sent = this.#sent;
      this.#parts = [];
      this.#sent = [];
      try {
        for (const batch of batches(parts)) await this.#deliver(batch);
      } catch {
        this.#failed = true;
      }
      for (const tell of sent) tell();
      if (this.#failed) return this.#dropRest();
    }
  }

  /** A client that reads no more holds up a write for ever, and an abort behind it: it is given up here. */
  #deliver(batch: Uint8Array): Promise<void> {
    if (this.#failed) return Promise.reject(new ConnectionEnded('the connection was aborted'));
    return new Promise((resolve, reject) => {
      this.#giveUp = reject;
      this.#writer.write(batch).then(resolve, reject);
    });
  }

  #dropRest(): void {
    for (const tell of this.#sent) tell();
    this.#parts = [];
    this.#sent = [];
  }
}

/** Puts small parts together; large ones go as they are. */
function* batches(parts: readonly Uint8Array[]): Generator<Uint8Array> {
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
