/**
 * A base by NBD (NetworkBlockDevice/nbd, doc/proto.md): any server of block devices, as nbdkit,
 * qemu-nbd, or Millrace itself. It is only read. NBD tells nothing that identifies content: only
 * the size says whether a base is still the one that an overlay was made on.
 */
import type { BlockSource, ReadHint } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import type { OptionNames } from '../../api/options.ts';
import { mustKnowOptions } from '../../api/options.ts';
import type { Transfer } from '../elevator.ts';
import { Elevator, REQUEST_BYTES_MIN } from '../elevator.ts';
import { Failure, RetryBudget, sleep } from '../retry.ts';
import { Trouble } from '../trouble.ts';
import type { Connection, NbdConnect } from './connection.ts';
import { Holes } from './holes.ts';
import { Pool } from './pool.ts';
import { parseNbdUri } from './uri.ts';

export type { NbdConnect } from './connection.ts';

/** What one request asks for, at most: a guest's read does not wait behind a longer one. */
const PIECE_BYTES_MAX: number = 1024 * 1024;
/** Pieces of one range under way: the next is on its way while one comes. */
const PIECES_MAX = 2;
/** A preferred block that is larger is not heeded: more than a read wants would have to come. */
const PREFERRED_BYTES_MAX: number = 64 * 1024;
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
const TIMEOUT_MAX_MS = 2 ** 31 - 1;
const RETRIES_DEFAULT = 6;
const RETRIES_MAX = 100;

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

/** What was sent and received so far. */
export interface NbdStats {
  /** Requests sent, repeated ones included. */
  requests: number;
  /** Bytes of content received; holes have none. */
  bytes: number;
  /** Ranges that had to be asked for again. */
  retries: number;
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
  const timeout = within('timeout', options.timeout ?? TIMEOUT_DEFAULT_MS, 1, TIMEOUT_MAX_MS);
  const retries = within('retries', options.retries ?? RETRIES_DEFAULT, 0, RETRIES_MAX);
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

/** Asks again what failed in a way that may pass, and puts a name to what did not. */
class Caller {
  readonly stats: NbdStats;
  readonly #name: string;
  readonly #pool: Pool;
  readonly #retries: number;
  readonly #trouble: Trouble | undefined;

  constructor(
    name: string,
    pool: Pool,
    retries: number,
    stats: NbdStats,
    onTrouble: ((message: string) => void) | undefined,
  ) {
    this.#name = name;
    this.#pool = pool;
    this.#retries = retries;
    this.stats = stats;
    if (onTrouble !== undefined)
      this.#trouble = new Trouble(
        (reason) => onTrouble(`${name}: ${reason}; asking again`),
        () => stats.bytes,
      );
  }

  /**
   * @throws MillraceError that says what was being done; or the signal's reason.
   */
  async persist<T>(
    what: string,
    offset: number,
    once: boolean,
    signal: AbortSignal,
    ask: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const budget = new RetryBudget(once ? 0 : this.#retries, undefined, this.#pool.isKnown);
    this.#trouble?.begin();
    try {
      for (let attempts = 1; ; attempts++) {
        const received = this.stats.bytes;
        try {
          return await ask(signal);
        } catch (error) {
          signal.throwIfAborted();
          if (!(error instanceof Failure)) throw error;
          const waitMs = error.transient
            ? budget.next(error, this.stats.bytes - received)
            : undefined;
          if (waitMs === undefined) throw this.#final(error, what, offset, attempts);
          this.#trouble?.note(error.message);
          await sleep(waitMs, signal);
          this.stats.retries++;
        }
      }
    } finally {
      this.#trouble?.end();
    }
  }

  #final(failure: Failure, what: string, offset: number, attempts: number): MillraceError {
    const times = attempts > 1 ? ` after ${attempts} attempts` : '';
    return new MillraceError(
      failure.code,
      `${this.#name}: cannot ${what}${times}: ${failure.message}`,
      { cause: failure, offset },
    );
  }
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

/** A part of a range on its way, and what the server is asked for it. */
interface Piece {
  readonly end: number;
  /** The part that was wanted, of whole blocks. */
  readonly bytes: Promise<Uint8Array>;
}

/** Brings ranges in requests that suit the server. */
class Pieces {
  readonly #size: number;
  /** Buffers to be filled again. */
  readonly #spare: Uint8Array[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  /**
   * From the transfer's position to its end.
   * @throws Failure, or the signal's reason
   */
  async bring(
    transfer: Transfer,
    cancelled: AbortSignal,
    connection: (signal: AbortSignal) => Promise<Connection>,
  ): Promise<void> {
    const underWay: Piece[] = [];
    let next = transfer.position;
    while (transfer.position < transfer.end) {
      while (underWay.length < PIECES_MAX && next < transfer.end) {
        const piece = this.#ask(next, transfer.end, await connection(cancelled), cancelled);
        underWay.push(piece);
        next = piece.end;
      }
      const bytes = await underWay[0].bytes;
      underWay.shift();
      transfer.deliver(bytes);
      this.#keep(bytes);
    }
  }

  #ask(from: number, to: number, connection: Connection, cancelled: AbortSignal): Piece {
    const { minimum, preferred, maximum } = connection.told.blocks;
    const block = Math.max(minimum, Math.min(preferred, PREFERRED_BYTES_MAX));
    const most = Math.max(block, floorTo(Math.min(maximum, PIECE_BYTES_MAX), block));
    const start = floorTo(from, block);
    const end = Math.min(start + most, Math.ceil(to / block) * block, this.#size);
    const buffer = this.#spare.pop() ?? new Uint8Array(PIECE_BYTES_MAX);
    const into = buffer.subarray(0, end - start);
    const wanted = buffer.subarray(from - start, Math.min(to, end) - start);
    const bytes = connection.read(start, into, cancelled).then(() => wanted);
    // One that fails before its turn is told of when that comes, or with the one before it.
    bytes.catch(() => {});
    return { end: Math.min(to, end), bytes };
  }

  /** One that was given up is not filled again: its bytes may still come. */
  #keep(bytes: Uint8Array): void {
    if (this.#spare.length < LANES) this.#spare.push(new Uint8Array(bytes.buffer));
  }
}

function floorTo(value: number, block: number): number {
  return value - (value % block);
}

function within(option: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new MillraceError(
    'EINVAL',
    `${option} must be a whole number from ${min} to ${max}, not ${value}`,
  );
}
