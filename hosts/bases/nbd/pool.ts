/**
 * The connections to one export: as many as the server allows and the work needs, one of them kept
 * free for the foreground. One that has ended is made again when it is needed.
 */
import { Failure } from '../retry.ts';
import { connectTo } from './connect.ts';
import type { Traffic } from './connection.ts';
import { Connection } from './connection.ts';
import { ExportFlag } from './protocol.ts';
import type { NbdConnect, NbdPlace } from './uri.ts';

/** After a further connection could not be made, no other is tried for so long. */
const GROW_AGAIN_MS = 30_000;

export class Pool {
  readonly #place: NbdPlace;
  readonly #connect: NbdConnect;
  readonly #most: number;
  readonly #timeoutMs: number;
  readonly #traffic: Traffic;
  readonly #closing = new AbortController();
  #open: Connection[] = [];
  #opening: Promise<Connection> | undefined;
  #size: number | undefined;
  #isShared = false;
  #growAtMs = 0;

  constructor(
    place: NbdPlace,
    connect: NbdConnect,
    options: { connections: number; timeout: number; traffic: Traffic },
  ) {
    this.#place = place;
    this.#connect = connect;
    this.#most = options.connections;
    this.#timeoutMs = options.timeout;
    this.#traffic = options.traffic;
  }

  /** Whether the server has answered before. */
  get isKnown(): boolean {
    return this.#size !== undefined;
  }

  /** Whether the server allows several connections at once. */
  get isShared(): boolean {
    return this.#isShared && this.#most > 1;
  }

  /** Aborted when the base is closed. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /**
   * The connection that has the least to do.
   * @throws Failure where there is none and none can be made, `ECHANGED` where the export is
   *   another one than before; the signal's reason.
   */
  async take(background: boolean, signal: AbortSignal): Promise<Connection> {
    this.#open = this.#open.filter(({ isOpen }) => isOpen);
    if (this.#open.length === 0) return untilAborted((this.#opening ??= this.#make()), signal);
    const usable = background && this.#open.length > 1 ? this.#open.slice(1) : this.#open;
    const best = usable.reduce((one, other) => (other.outstanding < one.outstanding ? other : one));
    if (best.requests > 0) this.#grow();
    return best;
  }

  async close(reason: Error): Promise<void> {
    this.#closing.abort(reason);
    await Promise.all(this.#open.map((connection) => connection.close()));
  }

  /** One more, which nobody waits for. */
  #grow(): void {
    const isFull = this.#open.length >= (this.#isShared ? this.#most : 1);
    if (isFull || this.#opening !== undefined || performance.now() < this.#growAtMs) return;
    this.#opening = this.#make();
    this.#opening.catch(() => {
      this.#growAtMs = performance.now() + GROW_AGAIN_MS;
    });
  }

  async #make(): Promise<Connection> {
    try {
      const connection = await connectTo(
        this.#place,
        this.#connect,
        this.#timeoutMs,
        this.#traffic,
        this.#closing.signal,
      );
      const { size, flags } = connection.told;
      if (this.#closing.signal.aborted) {
        await connection.close();
        throw this.#closing.signal.reason;
      }
      if (this.#size !== undefined && this.#size !== size) {
        await connection.close();
        throw new Failure('ECHANGED', `the export had ${this.#size} bytes, and has ${size} now`);
      }
      this.#size = size;
      this.#isShared = (flags & ExportFlag.canMultiConn) !== 0;
      this.#open.push(connection);
      return connection;
    } finally {
      this.#opening = undefined;
    }
  }
}

/** One who waits no more leaves the others waiting. */
function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) return abort();
    signal.addEventListener('abort', abort);
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
