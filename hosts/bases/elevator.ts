/**
 * The queue in front of a base on a server: reads wait here for a lane, neighbours leave together
 * as one larger request, and each read is done as soon as its own bytes are there. Bytes that are
 * on their way are never asked for again, unless a shared request fails: each read is then tried
 * once more by itself. It sends nothing itself, and never touches a read's buffer after that read
 * has settled.
 */
import type { ReadHint } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { Part, Range, Transfer } from './flight.ts';
import { BACKGROUND, Flight, Read, rankOf, WAITED_FOR } from './flight.ts';
import { grow, isTooLittle, requestBytes } from './neighbours.ts';

/**
 * Schedules reads onto at most `lanes` transfers at a time, one of which the background may not
 * use.
 */
export class Elevator {
  readonly #lanes: number;
  readonly #transfer: (transfer: Transfer, cancelled: AbortSignal) => Promise<void>;
  readonly #flights = new Set<Flight>();
  /**
   * The unsettled reads of each signal. One listener a signal: a job has one for all its reads, and
   * Node warns of more than ten.
   */
  readonly #watched = new Map<AbortSignal, Set<Read>>();
  /** In order of arrival. */
  #waiting: Part[] = [];
  /** Where the last background request ended: the next one is looked for from here upwards. */
  #head = 0;
  #scheduled = false;
  #closed: { reason: unknown } | undefined;

  constructor(
    lanes: number,
    transfer: (transfer: Transfer, cancelled: AbortSignal) => Promise<void>,
  ) {
    this.#lanes = lanes;
    this.#transfer = transfer;
  }

  /**
   * Fills `into`, which is not empty, from `offset` on; rejects with the transfer's error, or with
   * the hint's or close's reason.
   */
  read(offset: number, into: Uint8Array, hint: ReadHint): Promise<void> {
    return new Promise((resolve, reject) => {
      hint.signal?.throwIfAborted();
      if (this.#closed !== undefined) throw this.#closed.reason;
      const read = new Read(offset, into, rankOf(hint), (error) => {
        if (hint.signal !== undefined) this.#unwatch(hint.signal, read);
        if (error === undefined) resolve();
        else reject(error);
      });
      if (hint.signal !== undefined) this.#watch(hint.signal, read);
      let parts: Part[] = [{ read, start: read.offset, end: read.end }];
      for (const flight of this.#flights) parts = parts.flatMap((part) => flight.board(part));
      this.#waiting.push(...parts);
      if (parts.length > 0) this.#schedule();
    });
  }

  /** Rejects all reads, those to come as well, and returns when no transfer is left. */
  async close(reason: unknown): Promise<void> {
    this.#closed ??= { reason };
    const waiting = this.#waiting.map((part) => part.read);
    const riding = [...this.#flights].flatMap((flight) => flight.reads());
    for (const read of [...waiting, ...riding]) this.#fail(read, this.#closed.reason);
    await Promise.all([...this.#flights].map((flight) => flight.done));
  }

  #watch(signal: AbortSignal, read: Read): void {
    const reads = this.#watched.get(signal);
    if (reads !== undefined) {
      reads.add(read);
      return;
    }
    this.#watched.set(signal, new Set([read]));
    signal.addEventListener('abort', this.#onAbort);
  }

  #unwatch(signal: AbortSignal, read: Read): void {
    const reads = this.#watched.get(signal)!;
    reads.delete(read);
    if (reads.size > 0) return;
    this.#watched.delete(signal);
    signal.removeEventListener('abort', this.#onAbort);
  }

  readonly #onAbort = (event: Event): void => {
    const signal = event.target as AbortSignal;
    for (const read of [...(this.#watched.get(signal) ?? [])]) this.#fail(read, signal.reason);
  };

  #fail(read: Read, error: unknown): void {
    read.settle(error);
    this.#waiting = this.#waiting.filter((part) => part.read !== read);
    for (const flight of this.#flights) flight.drop(read);
  }

  /**
   * Reads that are issued together should leave together, so lanes are filled only when the
   * caller's turn has ended.
   */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#fillLanes();
    });
  }

  #fillLanes(): void {
    while (this.#flights.size < this.#lanes && this.#waiting.length > 0) {
      const rank = Math.min(...this.#waiting.map((part) => part.read.rank));
      const flights = [...this.#flights].filter((flight) => flight.rank !== WAITED_FOR).length;
      if (rank !== WAITED_FOR && flights >= this.#lanes - 1) return;
      const parts = this.#waiting.filter((part) => part.read.rank === rank);
      if (rank === BACKGROUND && isTooLittle(parts, flights)) return;
      this.#launch(new Flight(this.#nextRange(parts, rank, flights), rank));
    }
  }

  /**
   * What the next request asks for: in order of arrival, but the background upwards through the
   * object, then from its start.
   */
  #nextRange(parts: Part[], rank: number, flights: number): Range {
    const background = rank === BACKGROUND;
    const sorted = parts.toSorted((a, b) => a.start - b.start);
    const above = sorted.findIndex((part) => part.start >= this.#head);
    const seed = background ? Math.max(above, 0) : sorted.indexOf(parts[0]);
    const range: Range = sorted[seed].alone
      ? sorted[seed]
      : grow(sorted, seed, requestBytes(parts, flights, this.#lanes));
    if (background) this.#head = range.end;
    return range;
  }

  #launch(flight: Flight): void {
    this.#flights.add(flight);
    this.#waiting = this.#waiting.flatMap((part) => flight.board(part));
    flight.done = this.#transfer(flight, flight.signal)
      .catch((error) => this.#failed(flight, error))
      .then(() => {
        this.#flights.delete(flight);
        this.#schedule();
      });
  }

  /**
   * A block of the object that cannot be read fails the whole request: of the reads that shared it,
   * each is tried once more by itself.
   */
  #failed(flight: Flight, error: unknown): void {
    const apart = isOfTheRange(error) ? flight.apart() : [];
    if (apart.length > 0) this.#waiting.unshift(...apart);
    else for (const read of flight.reads()) this.#fail(read, error);
  }
}

/** Whether it may be that some bytes of a request cannot be had, and the others can. */
function isOfTheRange(error: unknown): boolean {
  return error instanceof MillraceError && (error.code === 'EIO' || error.code === 'ETIMEDOUT');
}
