/** An object from start to end, of a server that heeds no ranges. */
import type { Flow } from '../../api/block.ts';
import { Failure, RetryBudget, sleep } from '../retry.ts';
import type { Asker, RequestOptions } from './ask.ts';
import { Attempt } from './attempt.ts';
import type { Answer, Whole } from './response.ts';
import { checkInOrder } from './response.ts';

export class InOrder {
  readonly #asker: Asker;
  readonly #options: RequestOptions;
  #whole: Whole | undefined;

  constructor(asker: Asker, options: RequestOptions) {
    this.#asker = asker;
    this.#options = options;
  }

  /** What the server tells of the object; undefined until it has sent all in answer to a range. */
  get whole(): Whole | undefined {
    return this.#whole;
  }

  /** Takes an answer that is all of the object. */
  learn(response: Answer): void {
    this.#whole = checkInOrder(response);
  }

  /**
   * All bytes in order. After a failure they are asked for once
   * more, and what has come already is left out.
   */
  async *read(flow: Flow): AsyncGenerator<Uint8Array> {
    const { timeout, retries } = this.#options;
    let budget = new RetryBudget(retries);
    for (let position = 0, before = 0; ; before = position) {
      const attempt = new Attempt(timeout, flow.signal);
      try {
        for await (const bytes of this.#pieces(attempt, position)) {
          position += bytes.length;
          attempt.finish();
          yield bytes;
          attempt.goOn();
        }
        attempt.finish();
        return;
      } catch (error) {
        const failure = attempt.explain(error, true);
        if (!(failure instanceof Failure)) throw failure;
        const waitMs = failure.transient ? budget.next(failure, position - before) : undefined;
        if (waitMs === undefined) {
          await flow.failed(this.#asker.finalError(failure, 'the whole object', position, 1, 0));
          budget = new RetryBudget(retries);
        } else await sleep(waitMs, flow.signal);
        this.#asker.stats.retries++;
      } finally {
        attempt.abandon();
      }
    }
  }

  /** The object from `position` on, in one answer. */
  async *#pieces(attempt: Attempt, position: number): AsyncGenerator<Uint8Array> {
    const { target, headers } = await this.#asker.destination();
    attempt.target = target;
    const response = await attempt.guard(this.#asker.ask(attempt, target.href, headers));
    attempt.progress();
    const { size } = (this.#whole = checkInOrder(response, this.#whole));
    let at = 0;
    for await (const bytes of attempt.pieces(response, size ?? Number.MAX_SAFE_INTEGER)) {
      this.#asker.stats.bytes += bytes.length;
      const known = Math.min(bytes.length, Math.max(0, position - at));
      at += bytes.length;
      if (size !== undefined && at > size)
        throw new Failure('EIO', 'the server sent more bytes than it told');
      // The buffer is used again for what comes next.
      if (known < bytes.length) yield bytes.slice(known);
    }
    if (size !== undefined && at < size)
      throw new Failure('EIO', `the server ended its answer ${size - at} bytes early`, {
        transient: true,
      });
  }
}
