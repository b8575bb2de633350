/**
 * What is done about a request for a range that failed: it is asked for again, by another redirect
 * or a fresh URL, or after a while; or it is given up.
 */
import type { Transfer } from '../flight.ts';
import type { Failure } from '../retry.ts';
import { RetryBudget, sleep } from '../retry.ts';
import type { Trouble } from '../trouble.ts';
import type { Address } from './address.ts';
import type { Asker } from './ask.ts';
import { hidden, needsTls } from './ask.ts';
import type { Attempt } from './attempt.ts';
import type { Mirrors } from './mirrors.ts';
import type { Queue } from './queue.ts';

/** What all requests of an object share. */
export interface ObjectParts {
  address: Address;
  asker: Asker;
  mirrors: Mirrors;
  queue: Queue;
  trouble: Trouble | undefined;
  retries: number;
}

/** The attempts at one range. */
export class Repetition {
  readonly #parts: ObjectParts;
  readonly #transfer: Transfer;
  readonly #range: string;
  readonly #started = performance.now();
  readonly #retries: number;
  readonly #reached: boolean;
  #budget: RetryBudget;
  #attempts = 0;
  /** Where the attempt under way began. */
  #before: number;
  /** Bytes of all requests of the object, when this one was last tried again. */
  #received: number;
  /** A redirect that was kept is blamed once, until the server has sent something. */
  #mayAskAnew = true;
  #renewable: boolean;

  /** `reached`: the server has answered before. */
  constructor(parts: ObjectParts, transfer: Transfer, reached: boolean) {
    this.#parts = parts;
    this.#transfer = transfer;
    this.#range = `bytes ${transfer.position}-${transfer.end - 1}`;
    this.#retries = transfer.once ? 0 : parts.retries;
    this.#reached = reached;
    this.#budget = new RetryBudget(this.#retries, undefined, reached);
    this.#before = transfer.position;
    this.#received = parts.asker.stats.bytes;
    this.#renewable = parts.address.renewable;
  }

  /** An attempt begins. */
  begin(): void {
    this.#attempts++;
    this.#before = this.#transfer.position;
  }

  /** The server has sent a good part of it: the next one at once. */
  succeeded(): void {
    this.#mayAskAnew = true;
    this.#budget = new RetryBudget(this.#retries);
  }

  /**
   * Returns when it is to be asked for again. `mayBeHidden`: it failed as requests fail whose
   * answers a page may not see.
   * @throws MillraceError when it is given up, or the reason of `cancelled`
   */
  async next(
    attempt: Attempt,
    failure: Failure,
    mayBeHidden: boolean,
    cancelled: AbortSignal,
  ): Promise<void> {
    const { address, asker, mirrors } = this.#parts;
    const { redirect, target } = attempt;
    const isFirst = !this.#reached && this.#attempts === 1;
    if (isFirst && (await asker.speaksTls(failure, target)))
      throw this.#finalError(needsTls(failure));
    // Twice, because the server may have come back in between.
    if (mayBeHidden && this.#attempts > 1 && (await asker.isHidden(target)))
      throw this.#finalError(hidden(failure));
    // A redirect that was kept: where it led to may have gone, or its signature have expired.
    if (redirect !== undefined) mirrors.forget(redirect);
    const isStale = failure.expired || failure.code === 'ENOENT';
    if (redirect !== undefined && this.#mayAskAnew && isStale) {
      this.#mayAskAnew = false;
    } else if (failure.expired && this.#renewable && target !== undefined) {
      this.#renewable = false;
      address.renew(target);
    } else await this.#wait(failure, cancelled);
  }

  async #wait(failure: Failure, cancelled: AbortSignal): Promise<void> {
    const { asker, queue, trouble } = this.#parts;
    const { position } = this.#transfer;
    const { bytes } = asker.stats;
    const waitMs = failure.transient
      ? this.#budget.next(failure, position - this.#before, bytes - this.#received)
      : undefined;
    if (waitMs === undefined) throw this.#finalError(failure);
    this.#received = bytes;
    trouble?.note(failure.message);
    // What the server asks for is not shortened.
    if (failure.busy && failure.retryAfterMs === undefined)
      await queue.wait(waitMs, () => this.#transfer.urgent ?? false, cancelled);
    else await sleep(waitMs, cancelled);
  }

  #finalError(failure: Failure): Error {
    const elapsedMs = performance.now() - this.#started;
    const { asker } = this.#parts;
    return asker.finalError(failure, this.#range, this.#before, this.#attempts, elapsedMs);
  }
}
