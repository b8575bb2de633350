/**
 * Short writes into the page cache, at once: handing one to a thread of node:fs costs several times
 * what the copy does. A write may have to wait there (too much is dirty, the journal is full, the
 * file system is on a network): one that took long is followed by a time in which threads wait.
 */
import * as fs from 'node:fs';

/** Longer writes are better done by another thread, which copies while this one goes on. */
export const SHORT_WRITE_BYTES_MAX: number = 16 * 1024;
/** What a write takes at most that did not wait; it is two orders more than the copy. */
const WAITED_MS = 2;
/** Then none is done here for so many times what it took: a twentieth of the time at most. */
const REST = 20;

export class ShortWrites {
  readonly #fd: number;
  #notBeforeMs = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Whether it is short, and none has waited lately. */
  takes({ length }: Uint8Array): boolean {
    return length <= SHORT_WRITE_BYTES_MAX && performance.now() >= this.#notBeforeMs;
  }

  /** Bytes that were written. @throws as node:fs. */
  write(offset: number, from: Uint8Array): number {
    const begunMs = performance.now();
    try {
      return fs.writeSync(this.#fd, from, 0, from.length, offset);
    } finally {
      const endedMs = performance.now();
      if (endedMs - begunMs > WAITED_MS) this.#notBeforeMs = endedMs + REST * (endedMs - begunMs);
    }
  }
}
