/**
 * Requests that a server refused because it has enough of them under way: many allow one client a
 * few connections only, fewer than a base likes to have. Each time one ends, one of those that were
 * refused is sent again, what a guest waits for first.
 */
import { sleep } from '../retry.ts';

interface Turn {
  readonly isUrgent: () => boolean;
  go: () => void;
}

export class Queue {
  readonly #waiting: Turn[] = [];

  /**
   * Resolves when its turn has come, after `ms` at the latest; rejects with the signal's reason.
   * What is not urgent may become so.
   */
  async wait(ms: number, isUrgent: () => boolean, signal: AbortSignal): Promise<void> {
    const turn: Turn = { isUrgent, go: () => {} };
    this.#waiting.push(turn);
    try {
      await sleep(ms, signal, (wake) => (turn.go = wake));
    } finally {
      this.#leave(turn);
    }
  }

  /** A request has ended. */
  next(): void {
    const turn = this.#waiting.find(({ isUrgent }) => isUrgent()) ?? this.#waiting[0];
    if (turn === undefined) return;
    this.#leave(turn);
    turn.go();
  }

  #leave(turn: Turn): void {
    const at = this.#waiting.indexOf(turn);
    if (at >= 0) this.#waiting.splice(at, 1);
  }
}
