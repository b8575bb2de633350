/** The reads of bases under way, so that those of a job, or all of them, can be cancelled. */
import { FLAG_AHEAD, FLAG_BACKGROUND, FLAG_JOBS } from '../../../engine/protocol.ts';
import type { BlockSource } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';

export class BaseReads {
  /** The reads of bases under way: one signal for all of them would gather a listener from each. */
  readonly #underWay = new Map<AbortController, { isJobs: boolean }>();
  /** Why bases are read no more. */
  #left: MillraceError | undefined;

  /** Cancels the reads of bases that are the job's. */
  cancelJobs(): void {
    for (const [controller, { isJobs }] of this.#underWay)
      if (isJobs) controller.abort(new MillraceError('ABORTED', 'the job was aborted'));
  }

  /**
   * Cancels all reads of bases, those to come as well: a server that does not answer holds up
   * nobody then.
   */
  leave(error: MillraceError): void {
    this.#left = error;
    for (const controller of this.#underWay.keys()) controller.abort(error);
  }

  /** Reads as the engine's flags have it. */
  read(file: BlockSource, offset: number, into: Uint8Array, flags: number): void | Promise<void> {
    if (this.#left) throw this.#left;
    const controller = new AbortController();
    const reading = file.read(offset, into, {
      signal: controller.signal,
      background: (flags & FLAG_BACKGROUND) !== 0,
      ahead: (flags & FLAG_AHEAD) !== 0,
    });
    if (!isPromise(reading)) return undefined;
    this.#underWay.set(controller, { isJobs: (flags & FLAG_JOBS) !== 0 });
    return Promise.resolve(reading).finally(() => this.#underWay.delete(controller));
  }
}

/**
 * What a file of the caller's own returns need not be a promise of this realm, nor nothing where it
 * is none.
 */
export function isPromise(result: unknown): result is PromiseLike<void> {
  return typeof (result as PromiseLike<void> | null | undefined)?.then === 'function';
}
