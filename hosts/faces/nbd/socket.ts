/**
 * A socket of node:net or node:tls as the two directions of a connection, without web streams
 * between: these cost more than all else that a small request takes.
 */
import type { OnReadOpts } from 'node:net';
import { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { ByteSink, ByteSource, NbdConnection } from '../../bases/nbd/duplex.ts';
import { BATCH_BYTES, ConnectionEnded } from '../../bases/nbd/duplex.ts';

/** Turns a connection into one by TLS. */
export type Securing = (socket: Socket) => Promise<TLSSocket>;

/**
 * Both directions of a socket, which take no more from it than is asked for; `inlet` is what it was
 * made to read with.
 */
export function connectionOver(socket: Socket, secure?: Securing, inlet?: Inlet): NbdConnection {
  return {
    readable: new SocketSource(socket, inlet),
    writable: new SocketSink(socket),
    startTls: secure === undefined ? undefined : async () => connectionOver(await secure(socket)),
  };
}

/** A socket reads so much at once. */
const READ_BYTES = 64 * 1024;
/** Less than this is copied out of the buffer; with more in it, it goes and a new one comes. */
const COPIED_BYTES_MAX = 16 * 1024;

/**
 * What a socket reads into (`onread` of node:net): one buffer again and again. By itself it takes
 * one of 64 KiB for each message and cuts it to its length, a quarter of what a small request costs
 * in all.
 */
export class Inlet {
  #buffer = new Uint8Array(READ_BYTES);
  /** What has come before anybody asked. */
  readonly #early: Uint8Array[] = [];
  #onData = (chunk: Uint8Array): void => void this.#early.push(chunk);

  readonly onread: OnReadOpts = {
    buffer: () => this.#buffer,
    callback: (bytes) => {
      this.#onData(this.#taken(bytes));
      return true;
    },
  };

  /** What comes is handed over as it comes. */
  attach(onData: (chunk: Uint8Array) => void): void {
    this.#onData = onData;
    for (const chunk of this.#early.splice(0)) onData(chunk);
  }

  #taken(bytes: number): Uint8Array {
    if (bytes <= COPIED_BYTES_MAX) return this.#buffer.slice(0, bytes);
    const chunk = this.#buffer.subarray(0, bytes);
    this.#buffer = new Uint8Array(READ_BYTES);
    return chunk;
  }
}

/** A socket that a server has made, with what Node's own are made of. */
interface ServersSocket {
  _handle?: unknown;
}

/**
 * Both directions of a socket that a server of node:net has made, and which nothing has been read
 * from. A server makes its sockets without asking how they are to read: under Node another one
 * takes over what this one stands on.
 */
export function connectionOfServer(socket: Socket, secure?: Securing): NbdConnection {
  const { _handle: handle } = socket as ServersSocket;
  // TLS begins on the server's own.
  const inlet = secure === undefined && handle ? inletOfNode() : undefined;
  if (inlet === undefined) return connectionOver(socket, secure);
  (socket as ServersSocket)._handle = null;
  const options: object = { handle, onread: inlet.onread, allowHalfOpen: true };
  const own = new Socket(options);
  own.on('error', () => {});
  return connectionOver(own, undefined, inlet);
}

/** Deno and Bun have sockets of another kind beneath the same interface. */
export function inletOfNode(): Inlet | undefined {
  return 'Deno' in globalThis || 'Bun' in globalThis ? undefined : new Inlet();
}

/**
 * Buffers of replies that have been sent are kept for the next ones, so many bytes a connection.
 */
const SPARE_BYTES_MAX = 4 * 1024 * 1024;
const SPARES_MAX = 32;
/** So much may have come that was not asked for yet; then the socket is read no further. */
const AHEAD_BYTES = 256 * 1024;

export class SocketSource implements ByteSource {
  readonly #socket: Socket;
  #chunks: Uint8Array[] = [];
  #bytes = 0;
  #isPaused = false;
  #isEnded = false;
  #wake: ((chunk: Uint8Array | undefined) => void) | undefined;

  constructor(socket: Socket, inlet?: Inlet) {
    this.#socket = socket;
    if (inlet === undefined) socket.on('data', this.#onData);
    else inlet.attach(this.#onData);
    for (const event of ENDS) socket.on(event, this.#onEnd);
    socket.resume();
    this.#isEnded = socket.readableEnded || socket.destroyed;
  }

  read(): Promise<Uint8Array | undefined> {
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#bytes -= chunk.length;
      this.#goOn();
      return Promise.resolve(chunk);
    }
    if (this.#isEnded) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** What has come and was not read is the socket's again. */
  release(): void {
    this.#socket.removeListener('data', this.#onData);
    for (const event of ENDS) this.#socket.removeListener(event, this.#onEnd);
    this.#socket.pause();
    for (const chunk of this.#chunks.reverse()) this.#socket.unshift(chunk);
    this.#chunks = [];
  }

  cancel(): void {
    this.#chunks = [];
    this.#bytes = 0;
    this.#onEnd();
    this.#socket.destroySoon();
    // The end of what still comes is needed, for the socket to be closed.
    this.#goOn();
  }

  readonly #onData = (chunk: Uint8Array): void => {
    if (this.#isEnded) return;
    const wake = this.#wake;
    if (wake !== undefined) {
      this.#wake = undefined;
      return wake(chunk);
    }
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes < AHEAD_BYTES || this.#isPaused) return;
    this.#isPaused = true;
    this.#socket.pause();
  };

  readonly #onEnd = (): void => {
    this.#isEnded = true;
    this.#wake?.(undefined);
    this.#wake = undefined;
  };

  #goOn(): void {
    if (!this.#isPaused || this.#bytes >= AHEAD_BYTES) return;
    this.#isPaused = false;
    this.#socket.resume();
  }
}

const ENDS = ['end', 'close', 'error'] as const;

export class SocketSink implements ByteSink {
  readonly #socket: Socket;
  readonly #spares = new Spares();

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  room(length: number): Uint8Array {
    return this.#spares.take(length);
  }

  write(parts: readonly Uint8Array[]): void | Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded)
      throw new ConnectionEnded('the connection was closed');
    let bytes = 0;
    for (const part of parts) bytes += part.length;
    if (parts.length === 1) {
      this.#send(parts[0]);
    } else if (bytes <= BATCH_BYTES) {
      this.#send(this.#joined(parts, bytes));
    } else {
      socket.cork();
      for (const part of parts) this.#send(part);
      socket.uncork();
    }
    if (socket.writableNeedDrain) return this.#drained();
  }

  #send(part: Uint8Array): void {
    if (this.#spares.owns(part)) this.#socket.write(part, () => this.#spares.give(part));
    else this.#socket.write(part);
  }

  #joined(parts: readonly Uint8Array[], bytes: number): Uint8Array {
    const batch = this.#spares.take(bytes);
    let at = 0;
    for (const part of parts) {
      batch.set(part, at);
      at += part.length;
      this.#spares.give(part);
    }
    return batch;
  }

  release(): void {}

  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.destroyed) return resolve();
      this.#socket.once('close', () => resolve());
      this.#socket.end(() => resolve());
    });
  }

  abort(): void {
    this.#socket.destroy();
  }

  #drained(): Promise<void> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        socket.removeListener('drain', settle);
        socket.removeListener('close', settle);
        if (socket.destroyed) reject(new ConnectionEnded('the connection was closed'));
        else resolve();
      };
      socket.on('drain', settle);
      socket.on('close', settle);
    });
  }
}

/** Buffers that are used again. */
class Spares {
  #free: ArrayBuffer[] = [];
  #bytes = 0;
  readonly #all = new WeakSet<ArrayBufferLike>();

  take(length: number): Uint8Array {
    const index = this.#free.findIndex(
      ({ byteLength }) => byteLength >= length && byteLength <= 2 * length,
    );
    if (index >= 0) {
      const [buffer] = this.#free.splice(index, 1);
      this.#bytes -= buffer.byteLength;
      return new Uint8Array(buffer, 0, length);
    }
    const bytes = new Uint8Array(length);
    this.#all.add(bytes.buffer);
    return bytes;
  }

  owns({ buffer }: Uint8Array): boolean {
    return this.#all.has(buffer);
  }

  /** It must not be used by its giver any more; one that did not come from here is left alone. */
  give({ buffer }: Uint8Array): void {
    if (!this.#all.has(buffer) || this.#free.length === SPARES_MAX) return;
    if (this.#bytes + buffer.byteLength > SPARE_BYTES_MAX) return;
    this.#bytes += buffer.byteLength;
    this.#free.push(buffer as ArrayBuffer);
  }
}
