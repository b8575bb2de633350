/**
 * A base by NBD (NetworkBlockDevice/nbd, doc/proto.md): any server of block devices, as nbdkit,
 * qemu-nbd, or Millrace itself. It is only read. NBD tells nothing that identifies content: only
 * the size says whether a base is still the one that an overlay was made on.
 */
import type { BlockSource, ReadHint } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import type { OptionNames } from '../../api/options.ts';
import { mustKnowOptions } from '../../api/options.ts';
import { Elevator } from '../elevator.ts';
import type { Transfer } from '../flight.ts';
import { REQUEST_BYTES_MIN } from '../neighbours.ts';
import { checkedPatience, within } from '../patience.ts';
import type { NbdStats } from '../traffic.ts';
import { Caller } from './caller.ts';
import type { Connection } from './connection.ts';
import { Holes } from './holes.ts';
import { Pieces } from './pieces.ts';
import { Pool } from './pool.ts';
import type { NbdConnect } from './uri.ts';
import { parseNbdUri } from './uri.ts';

export type { NbdStats } from '../traffic.ts';
export type { NbdConnect } from './uri.ts';

/** Ranges under way, one of them for the foreground, over several connections or over one. */
const LANES = 8;
const LANES_OF_ONE = 4;
const CONNECTIONS_DEFAULT = 4;
const CONNECTIONS_MAX = 16;
/**
 * A server of ours that waits for its own base answers within 60 s; Linux gives up after 90 s by
 * default.
 */
const TIMEOUT_DEFAULT_MS = 75_000;

const NBD_OPTIONS: OptionNames<NbdBaseOptions> = {
  connections: true,
  timeout: true,
  retries: true,
  onTrouble: true,
};

/** How a base is asked for by NBD. */
export interface NbdBaseOptions {
  /**
   * Connections at once to a server that allows several (NBD_FLAG_CAN_MULTI_CONN), 1 to 16;
   * default 4.
   */
  connections?: number;
  /**
   * Milliseconds in which a connection must bring 1 KiB or the end of a reply, or else is given up
   * and made again; default 75000.
   */
  timeout?: number;
  /** How often a request that failed in a way that may pass is repeated, 0 to 100; default 6. */
  retries?: number;
  /**
   * Told, in words for the user, of each time in which the server brings nothing for two seconds,
   * while it is asked again.
   */
  onTrouble?: (message: string) => void;
}

/** An export of a server. */
export interface NbdSource extends BlockSource {
  /** The URI. */
  readonly name: string;
  /** Requests of this size, so many at a time. */
  readonly preferred: { chunk: number; depth: number };
  /** What was sent and received so far. */
  readonly stats: Readonly<NbdStats>;
  /** Fills `into` from `offset` on (bytes). */
  read(offset: number, into: Uint8Array, hint?: ReadHint): Promise<void>;
  /** Ends the connections. */
  close(): Promise<void>;
}

/**
 * Opens the export at an NBD URI (`nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`, both
 * with TLS as `nbds…`) or, where its fragment is the export's name, at a WebSocket's URL.
 * @throws MillraceError `EINVAL` (URI or option), `EUNSUPPORTED`, `ENOENT` (no such export),
 * `EACCES`, `ETIMEDOUT`, `EIO`. Reads throw these, and `ECHANGED` when the export has another size
 * than when it was opened.
 */
export async function openNbdWith(
  connect: NbdConnect,
  uri: string | URL,
  options: NbdBaseOptions = {},
): Promise<NbdSource> {
  mustKnowOptions('openNbd', options, NBD_OPTIONS);
  const place = parseNbdUri(String(uri));
  const { connections = CONNECTIONS_DEFAULT, onTrouble } = options;
  const { timeout, retries } = checkedPatience(options, TIMEOUT_DEFAULT_MS);
  const stats: NbdStats = { requests: 0, bytes: 0, retries: 0 };
  const pool = new Pool(place, connect, {
    connections: within('connections', connections, 1, CONNECTIONS_MAX),
    timeout,
    traffic: stats,
  });
  const caller = new Caller(place.name, pool, retries, stats, onTrouble);
  const first = await caller.persist('open it', 0, false, new AbortController().signal, (signal) =>
    pool.take(false, signal),
  );
  return new NbdExport(place.name, first, pool, caller);
}

class NbdExport implements NbdSource {
  readonly size: number;
  readonly name: string;
  readonly preferred: { chunk: number; depth: number };
  readonly nextData?: BlockSource['nextData'];
  readonly #pool: Pool;
  readonly #caller: Caller;
  readonly #elevator: Elevator;
  readonly #pieces: Pieces;
  #closed = false;

  constructor(name: string, first: Connection, pool: Pool, caller: Caller) {
    const { told } = first;
    this.name = name;
    this.size = told.size;
    this.#pool = pool;
    this.#caller = caller;
    this.#pieces = new Pieces(told.size);
    const depth = pool.isShared ? LANES : LANES_OF_ONE;
    this.preferred = { chunk: REQUEST_BYTES_MIN, depth };
    this.#elevator = new Elevator(depth, (transfer, cancelled) =>
      this.#transfer(transfer, cancelled),
    );
    if (told.allocation === undefined) return;
    const holes = new Holes(told.size, (signal) => pool.take(true, signal), pool.closing);
    this.nextData = (offset) => holes.nextData(offset);
  }

  get stats(): Readonly<NbdStats> {
    return this.#caller.stats;
  }

  async read(offset: number, into: Uint8Array, hint: ReadHint = {}): Promise<void> {
    if (this.#closed) throw this.#closedError();
    hint.signal?.throwIfAborted();
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + into.length > this.size) {
      const what = `${into.length} bytes at ${offset} are not inside its ${this.size} bytes`;
      throw new MillraceError('EINVAL', `${this.name}: ${what}`, { offset });
    }
    if (into.length > 0) await this.#elevator.read(offset, into, hint);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#elevator.close(this.#closedError());
    await this.#pool.close(this.#closedError());
  }

  async #transfer(transfer: Transfer, cancelled: AbortSignal): Promise<void> {
    const what = `read bytes ${transfer.position}-${transfer.end - 1}`;
    await this.#caller.persist(what, transfer.position, transfer.once ?? false, cancelled, () =>
      this.#pieces.bring(transfer, cancelled, (signal) =>
        this.#pool.take(!(transfer.urgent ?? false), signal),
      ),
    );
  }

  #closedError(): MillraceError {
    return new MillraceError('ECLOSED', `${this.name}: the base has been closed`);
  }
}
