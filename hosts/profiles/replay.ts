/**
 * Fetches ahead what a profile says, in its order: a few requests at a time, behind the guest's own
 * and before the job's. It believes a profile as long as the guest does what that says; who reads
 * something else, again and again, has the line to itself.
 */
import type { Clock } from '../api/clock.ts';
import type { ErrorCode } from '../api/errors.ts';
import { codeOf } from '../api/errors.ts';
import type { ProfileRange } from './format.ts';
import { bytesOf } from './format.ts';
import { Pace } from './pace.ts';
import { Spans } from './ranges.ts';

/**
 * A guest's reads that a profile tells count for it, and those that it does not tell, and that have
 * to wait for the base, against it: at so many against it the replay yields, and goes on when as
 * many have spoken for it.
 */
export const TRUST_MAX = 8;
/** Requests that may fail, one after another, before it gives up. */
const FAILURES_MAX = 3;
/** After one of these the next would fail as well. */
const HOPELESS: readonly ErrorCode[] = ['ENOSPC', 'EROFS', 'ECLOSED', 'ECHANGED', 'ECORRUPT'];

/** How a replay has ended. */
export interface ReplayEnd {
  /** `yielded`: the guest read something else to the end; `stopped`: the disk was closed. */
  outcome: 'done' | 'yielded' | 'stopped' | 'failed';
  /** Bytes that it asked for. */
  asked: number;
  /** Bytes that it brought into the overlay. */
  fetched: number;
  requests: number;
  /** How often it yielded. */
  yields: number;
  error?: unknown;
}

export interface ReplayTools {
  clock: Clock;
  /** Requests in flight at most. */
  depth: number;
  /** Brings a range into the overlay; gives the bytes that had to be fetched. */
  populate(offset: number, length: number): Promise<number>;
}

export class Replay {
  readonly ended: Promise<ReplayEnd>;
  readonly #tools: ReplayTools;
  readonly #requests: readonly ProfileRange[];
  readonly #covered = new Spans();
  readonly #pace: Pace;
  #next = 0;
  #flights = 0;
  #bytesInFlight = 0;
  #trust = TRUST_MAX;
  #yielding = false;
  #failures = 0;
  #settled = false;
  #resolve!: (end: ReplayEnd) => void;
  readonly #end: ReplayEnd = { outcome: 'done', asked: 0, fetched: 0, requests: 0, yields: 0 };

  /** `requests` come from planOf. Nothing happens before `begin`. */
  constructor(requests: readonly ProfileRange[], tools: ReplayTools) {
    this.#tools = tools;
    this.#requests = requests;
    this.#pace = new Pace(tools.clock);
    for (const { offset, length } of requests) this.#covered.add(offset, offset + length);
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Bytes that it is going to ask for. */
  get bytes(): number {
    return bytesOf(this.#requests);
  }

  begin(): void {
    this.#goOn();
  }

  /** A guest has read; `missed` if it had to fetch what it read from the base by itself. */
  noteRead(offset: number, length: number, missed: boolean): void {
    if (this.#settled) return;
    if (this.#covered.without(offset, offset + length).length === 0)
      this.#trust = Math.min(this.#trust + 1, TRUST_MAX);
    else if (missed) this.#trust = Math.max(this.#trust - 1, 0);
    if (!this.#yielding && this.#trust === 0) {
      this.#yielding = true;
      this.#end.yields++;
    } else if (this.#yielding && this.#trust === TRUST_MAX) {
      this.#yielding = false;
      this.#goOn();
    }
  }

  /** Asks for nothing more; what is under way ends as it ends. */
  stop(): void {
    this.#settle(this.#yielding ? 'yielded' : 'stopped');
  }

  #goOn(): void {
    while (!this.#settled && !this.#yielding && this.#flights < this.#tools.depth) {
      const request = this.#requests[this.#next];
      if (request === undefined) break;
      const isFull = this.#bytesInFlight + request.length > this.#pace.window;
      if (isFull && this.#flights > 0) return;
      this.#next++;
      void this.#fetch(request);
    }
    if (this.#flights === 0 && this.#next === this.#requests.length) this.#settle('done');
  }

  async #fetch({ offset, length }: ProfileRange): Promise<void> {
    this.#flights++;
    this.#bytesInFlight += length;
    this.#end.asked += length;
    const arrived = this.#pace.leaves();
    try {
      const bytes = await this.#tools.populate(offset, length);
      arrived(bytes);
      this.#end.fetched += bytes;
      if (bytes > 0) this.#end.requests++;
      this.#failures = 0;
    } catch (error) {
      this.#failures++;
      if (this.#failures >= FAILURES_MAX || HOPELESS.includes(codeOf(error)))
        this.#settle('failed', error);
    }
    this.#flights--;
    this.#bytesInFlight -= length;
    this.#goOn();
  }

  #settle(outcome: ReplayEnd['outcome'], error?: unknown): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#resolve({ ...this.#end, outcome, error });
  }
}
