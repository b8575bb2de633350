/**
 * Records what a guest reads of a base, in the order in which it reads it first. What it wrote
 * itself is no part of the base, and what it has read once is not told again. Where the overlay
 * holds the data already does not matter: a boot that finds all of it there is recorded as well.
 */
import type { Clock } from '../api/clock.ts';
import type { ProfileRange } from './format.ts';
import { RANGES_MAX, TOTAL_BYTES_MAX, UNIT_BYTES } from './format.ts';
import { Spans } from './ranges.ts';

/** How long a guest reads nothing that it has not read before, and its boot is taken to be over. */
export const QUIET_MS_DEFAULT = 30_000;

/** Why a recording has ended. */
export type RecordingEnd = 'told' | 'time' | 'quiet' | 'full';

/** A first read: of what, and from when to when, in milliseconds since the first of all. */
export interface Touch extends ProfileRange {
  endMs: number;
  /** It had to wait for the base. */
  waited: boolean;
}

export class Recorder {
  readonly touches: Touch[] = [];
  /** Reads of the guest, first ones and others. */
  reads = 0;
  readonly #clock: Clock;
  readonly #size: number;
  readonly #mostMs: number;
  readonly #quietMs: number;
  readonly #known = new Spans();
  #bytes = 0;
  #startedAt: number | undefined;
  #lastAt = 0;
  #ended: { reason: RecordingEnd; at: number } | undefined;
  #waiting: (() => void)[] = [];
  #cancelTimer: () => void = () => {};

  /** `size` is of the base's virtual disk. Milliseconds; the time runs from the first read on. */
  constructor(
    clock: Clock,
    size: number,
    { mostMs = Infinity, quietMs = QUIET_MS_DEFAULT }: { mostMs?: number; quietMs?: number } = {},
  ) {
    this.#clock = clock;
    this.#size = size;
    this.#mostMs = mostMs;
    this.#quietMs = quietMs;
  }

  /** How long was recorded: to the last first read, or to where it was told to end. */
  get seconds(): number {
    return this.#startedAt === undefined ? 0 : (this.#lastAt - this.#startedAt) / 1000;
  }

  get ended(): RecordingEnd | undefined {
    this.#look();
    return this.#ended?.reason;
  }

  /** A guest begins to read. What is returned is called when it has what it asked for. */
  reading(offset: number, length: number): ((waited: boolean) => void) | undefined {
    this.#look();
    if (this.#ended) return undefined;
    const now = this.#clock.now();
    this.reads++;
    const from = Math.floor(offset / UNIT_BYTES) * UNIT_BYTES;
    const to = Math.min(Math.ceil((offset + length) / UNIT_BYTES) * UNIT_BYTES, this.#size);
    const fresh = this.#known.add(from, to);
    if (fresh.length === 0) return undefined;
    this.#startedAt ??= now;
    this.#lastAt = now;
    const ms = now - this.#startedAt;
    const touches = fresh.map(({ from, to }) => {
      this.#bytes += to - from;
      return { offset: from, length: to - from, ms, endMs: ms, waited: false };
    });
    this.touches.push(...touches);
    if (this.touches.length >= RANGES_MAX / 2 || this.#bytes > TOTAL_BYTES_MAX / 2)
      this.end('full');
    this.#setTimer();
    return (waited) => {
      const endMs = this.#clock.now() - this.#startedAt!;
      for (const touch of touches) Object.assign(touch, { endMs, waited });
    };
  }

  /** What stands there now is the guest's own. */
  wrote(offset: number, length: number): void {
    if (this.#ended || length <= 0) return;
    // What a part of a unit keeps is of the base still.
    const from = Math.ceil(offset / UNIT_BYTES) * UNIT_BYTES;
    const to = Math.floor((offset + length) / UNIT_BYTES) * UNIT_BYTES;
    if (from < to) this.#known.add(from, to);
    // A guest that scatters writes all over its disk is no boot any more.
    if (this.#known.count > RANGES_MAX) this.end('full');
  }

  end(reason: RecordingEnd): void {
    this.#ended ??= { reason, at: this.#clock.now() };
    this.#cancelTimer();
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Resolves when it has ended. */
  whenEnded(): Promise<void> {
    this.#look();
    if (this.#ended) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#setTimer();
    });
  }

  /** Time alone may have ended it since it was looked at last. */
  #look(): void {
    if (this.#startedAt === undefined || this.#ended) return;
    const now = this.#clock.now();
    if (now - this.#startedAt >= this.#mostMs) this.end('time');
    else if (now - this.#lastAt >= this.#quietMs) this.end('quiet');
  }

  /** Only where somebody waits: a timer would keep a program from ending. */
  #setTimer(): void {
    this.#cancelTimer();
    if (this.#waiting.length === 0 || this.#startedAt === undefined || this.#ended) return;
    const at = Math.min(this.#startedAt + this.#mostMs, this.#lastAt + this.#quietMs);
    this.#cancelTimer = this.#clock.after(Math.max(1, at - this.#clock.now()), () => {
      this.#look();
      this.#setTimer();
    });
  }
}
