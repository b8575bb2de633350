/**
 * The queue in front of a base on a server: reads wait here for a lane, neighbours leave together
 * as one larger request, and each read is done as soon as its own bytes are there. Bytes that are
 * on their way are never asked for again, unless a shared request fails: each read is then tried
 * once more by itself. It sends nothing itself, and never touches a read's buffer after that read
 * has settled.
 */
import type { ReadHint } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';

/**
 * A request is filled up with neighbours to at least this size, so that a gigabyte costs about a
 * thousand requests.
 */
export const REQUEST_BYTES_MIN: number = 1024 * 1024;
/**
 * And to this at most: a read at its end waits for all before it. Beside a guest it never grows so
 * large, as the job has only a few copies in flight then.
 */
export const REQUEST_BYTES_MAX: number = 16 * 1024 * 1024;
/** So many requests of the background under way keep the line busy. */
const FLIGHTS_BUSY = 3;
/**
 * Two neighbours may leave a gap between them when all gaps together are at most this share of the
 * request: bytes for nothing.
 */
const GAP_SHARE_MAX = 1 / 64;

/**
 * A range on its way: `deliver` gets the bytes from `position` on, and moves `position` behind
 * them.
 */
export interface Transfer {
  position: number;
  /** Lowered to the object's size by the first answer, which is when it is learnt. */
  end: number;
  /** Whether a failure is not to be followed by repetitions: it is one itself. */
  readonly once?: boolean;
  /** Whether somebody waits for it who shall not wait for others. */
  readonly urgent?: boolean;
  deliver(bytes: Uint8Array): void;
  /**
   * Makes room for the whole object, of so many bytes, which a server sends in place of the range;
   * only the first request's has it.
   */
  takeWhole?(size: number): void;
}

/** Who goes first: those who wait, what is fetched ahead of them, the rest of the background. */
const WAITED_FOR = 0;
const AHEAD = 1;
const BACKGROUND = 2;

function rankOf(hint: ReadHint): number {
  if (!hint.background) return WAITED_FOR;
  return hint.ahead ? AHEAD : BACKGROUND;
}

/** One caller's read. */
class Read {
  readonly offset: number;
  readonly end: number;
  readonly rank: number;
  readonly #into: Uint8Array;
  readonly #settle: (error?: unknown) => void;
  #missing: number;
  settled = false;

  constructor(offset: number, into: Uint8Array, rank: number, settle: (error?: unknown) => void) {
    this.offset = offset;
    this.end = offset + into.length;
    this.rank = rank;
    this.#into = into;
    this.#missing = into.length;
    this.#settle = settle;
  }

  /** Takes bytes that start at `position`; each byte of the read comes exactly once. */
  accept(position: number, bytes: Uint8Array): void {
    this.#into.set(bytes, position - this.offset);
    this.#missing -= bytes.length;
    if (this.#missing === 0) this.settle();
  }

  settle(error?: unknown): void {
    if (this.settled) return;
    this.settled = true;
    this.#settle(error);
  }
}

/**
 * A piece `[start, end)` of a read: waiting, or on a request. Reads are cut where a part of them is
 * on its way already.
 */
interface Part {
  readonly read: Read;
  readonly start: number;
  readonly end: number;
  /** To share its request with no neighbour, as one that it shared has failed. */
  readonly alone?: boolean;
}

interface Range {
  readonly start: number;
  readonly end: number;
  readonly alone?: boolean;
}

/** A request and the parts of reads that ride on it. */
class Flight implements Transfer {
  position: number;
  end: number;
  readonly rank: number;
  readonly once: boolean;
  readonly #controller = new AbortController();
  #parts: Part[] = [];
  /** Settles when nothing more comes; never rejects. */
  done: Promise<void> = Promise.resolve();

  constructor(range: Range, rank: number) {
    this.position = range.start;
    this.end = range.end;
    this.rank = rank;
    this.once = range.alone ?? false;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** A read of the foreground may have come on board of a request of the background. */
  get urgent(): boolean {
    return this.#parts.some((part) => part.read.rank === WAITED_FOR);
  }

  /** Takes what it will still deliver of the part on board; returns what is left of it. */
  board(part: Part): Part[] {
    const start = Math.max(part.start, this.position);
    const end = Math.min(part.end, this.end);
    if (start >= end || this.signal.aborted || (part.alone && !this.once)) return [part];
    this.#parts.push({ ...part, start, end });
    return [
      { ...part, end: start },
      { ...part, start: end },
    ].filter((rest) => rest.start < rest.end);
  }

  deliver(bytes: Uint8Array): void {
    const from = this.position;
    const to = from + bytes.length;
    this.position = to;
    for (const { read, start, end } of this.#parts) {
      const first = Math.max(start, from);
      const last = Math.min(end, to);
      if (first < last) read.accept(first, bytes.subarray(first - from, last - from));
    }
    this.#parts = this.#parts.filter((part) => part.end > to);
    if (this.position < this.end) this.#endIfEmpty();
  }

  /** Forgets a read that has settled. */
  drop(read: Read): void {
    this.#parts = this.#parts.filter((part) => part.read !== read);
    this.#endIfEmpty();
  }

  reads(): Read[] {
    return this.#parts.map((part) => part.read);
  }

  /** When several reads share it: what each of them misses, to be asked for alone. */
  apart(): Part[] {
    if (this.once || this.#parts.length < 2) return [];
    return this.#parts.map((part) => ({
      ...part,
      start: Math.max(part.start, this.position),
      alone: true,
    }));
  }

  /** A request that nobody waits for is cancelled. */
  #endIfEmpty(): void {
    if (this.#parts.length === 0) this.#controller.abort();
  }
}

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
      : grow(sorted, seed, this.#requestBytes(parts, flights));
    if (background) this.#head = range.end;
    return range;
  }

  /**
   * A share of what waits for each lane, so that no lane is left without work by one that took it
   * all; the less is under way, the smaller: requests of one size that start together would end
   * together, again and again, and leave the line idle for a round trip each time.
   */
  #requestBytes(parts: Part[], flights: number): number {
    const share = Math.ceil((6 * (flights + 1) * sumBytes(parts)) / (this.#lanes * this.#lanes));
    return Math.min(Math.max(share, REQUEST_BYTES_MIN), REQUEST_BYTES_MAX);
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

function sumBytes(parts: Part[]): number {
  return parts.reduce((sum, part) => sum + part.end - part.start, 0);
}

/**
 * While enough is under way to keep the line busy, small reads of the background wait for
 * neighbours to share a request with.
 */
function isTooLittle(parts: Part[], flights: number): boolean {
  return flights >= FLIGHTS_BUSY && sumBytes(parts) < REQUEST_BYTES_MIN;
}

/**
 * The range of the seed, widened by whole neighbours until it is as large as wanted: what touches
 * or overlaps it, or leaves a small gap. A part larger than that is cut, and its rest waits for
 * another lane.
 */
function grow(sorted: Part[], seed: number, wanted: number): Range {
  let { start, end } = sorted[seed];
  if (end - start > wanted) return { start, end: start + wanted };
  let [below, above] = [seed - 1, seed + 1];
  let gaps = 0;
  const join = (part: Part | undefined): boolean => {
    if (part === undefined || part.alone) return false;
    const wide = { start: Math.min(start, part.start), end: Math.max(end, part.end) };
    const gap = Math.max(part.start - end, start - part.end, 0);
    const bytes = wide.end - wide.start;
    if (bytes > REQUEST_BYTES_MAX || gaps + gap > bytes * GAP_SHARE_MAX) return false;
    ({ start, end } = wide);
    gaps += gap;
    return true;
  };
  while (end - start < wanted) {
    if (join(sorted[above])) above++;
    else if (join(sorted[below])) below--;
    else break;
  }
  return { start, end };
}
