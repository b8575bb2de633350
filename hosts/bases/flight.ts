/**
 * A request that the elevator has sent, and the reads that ride on it: each byte goes to all who
 * want it, and a read is done as soon as its own bytes are there.
 */
import type { ReadHint } from '../api/block.ts';

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
export const WAITED_FOR: number = 0;
const AHEAD = 1;
export const BACKGROUND: number = 2;

export function rankOf(hint: ReadHint): number {
  if (!hint.background) return WAITED_FOR;
  return hint.ahead ? AHEAD : BACKGROUND;
}

/** One caller's read. */
export class Read {
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
export interface Part {
  readonly read: Read;
  readonly start: number;
  readonly end: number;
  /** To share its request with no neighbour, as one that it shared has failed. */
  readonly alone?: boolean;
}

export interface Range {
  readonly start: number;
  readonly end: number;
  readonly alone?: boolean;
}

/** A request and the parts of reads that ride on it. */
export class Flight implements Transfer {
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
