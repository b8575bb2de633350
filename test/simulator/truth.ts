/**
 * What a guest may see. Requests that overlap are done in the order in which they were started, so
 * that the disk's content is that of all changes so far; a failed change may or may not have been
 * made, byte by byte; a change that no flush has covered may be gone after a power cut, sector by
 * sector.
 */

/** Unit of comparing: the sector that storage writes whole. */
const BLOCK = 512;
const ZEROS = new Uint8Array(BLOCK);
/** Changes kept before it is worth forgetting them. */
const CHANGES_KEPT = 100;

export interface Change {
  offset: number;
  length: number;
  /** Zeros if there is none. */
  data?: Uint8Array;
  /** When it was asked for, and when it ended (0: it has not). */
  begun: number;
  ended: number;
  failed: boolean;
}

export class Truth {
  /** The content if nothing fails. */
  now: Uint8Array;
  #time = 1;
  #changes: Change[] = [];
  /** The content before `changes`. */
  #start: Uint8Array;
  /** When the last flush that ended well had begun. */
  #flushed = 0;

  constructor(content: Uint8Array) {
    this.now = content.slice();
    this.#start = content;
  }

  get size(): number {
    return this.now.length;
  }

  change(offset: number, length: number, data?: Uint8Array): Change {
    const change = { offset, length, data, begun: ++this.#time, ended: 0, failed: false };
    this.#changes.push(change);
    if (data) this.now.set(data, offset);
    else this.now.fill(0, offset, offset + length);
    return change;
  }

  ended(change: Change, failed: boolean): void {
    change.ended = ++this.#time;
    change.failed = failed;
  }

  /** What a read or a flush that begins now is held against later. */
  mark(): number {
    return ++this.#time;
  }

  flushed(begun: number): void {
    this.#flushed = Math.max(this.#flushed, begun);
  }

  /** Checks what a read has found that began at `begun`. @throws when a byte could not be there. */
  check(found: Uint8Array, offset: number, begun: number): void {
    this.#compare(
      found,
      offset,
      `a read of ${found.length} at ${offset}`,
      (change) => change.begun < begun && !change.failed,
    );
  }

  /**
   * After a cut: what is there must be what was flushed, or something written since. What is there
   * now is there for good.
   */
  recovered(found: Uint8Array): void {
    const before = this.#flushed;
    const length = Math.min(found.length, this.now.length);
    this.#compare(
      found.subarray(0, length),
      0,
      'what is there after a cut',
      (change) => change.ended > 0 && change.ended < before && !change.failed,
    );
    if (found.subarray(length).some((byte) => byte !== 0))
      throw new Error('what a disk has gained does not show zeros');
    this.now = found.slice();
    this.#start = found;
    this.#changes = [];
    this.#flushed = 0;
  }

  /** The disk has another size, and nothing is under way. */
  resized(size: number): void {
    for (const name of ['now', 'start'] as const) {
      const content = new Uint8Array(size);
      const old = name === 'now' ? this.now : this.#start;
      content.set(old.subarray(0, Math.min(size, old.length)));
      if (name === 'now') this.now = content;
      else this.#start = content;
    }
    this.#changes = this.#changes.filter(({ offset }) => offset < size);
    for (const change of this.#changes)
      change.length = Math.min(change.length, size - change.offset);
  }

  /** Forgets how it came to be, if all that was done was flushed and nothing is uncertain. */
  settle(): void {
    if (this.#changes.length < CHANGES_KEPT) return;
    if (
      this.#changes.some(
        (change) => change.failed || change.ended === 0 || change.ended >= this.#flushed,
      )
    )
      return;
    this.#changes = [];
    this.#start = this.now.slice();
  }

  #compare(
    found: Uint8Array,
    offset: number,
    what: string,
    certain: (change: Change) => boolean,
  ): void {
    const expected = Buffer.from(this.now.buffer, this.now.byteOffset + offset, found.length);
    if (expected.equals(found)) return;
    const shown = Buffer.from(found.buffer, found.byteOffset, found.length);
    for (let at = 0; at < found.length; at += BLOCK) {
      const end = Math.min(at + BLOCK, found.length);
      if (expected.compare(found, at, end, at, end) === 0) continue;
      const near = this.#changes.filter(
        (change) => change.offset < offset + end && change.offset + change.length > offset + at,
      );
      if (this.#isWhole(shown, at, end, offset, near, certain)) continue;
      for (let i = at; i < end; i++)
        if (found[i] !== expected[i]) this.#explain(found[i], offset + i, near, what, certain);
    }
  }

  /**
   * The quick way: whether the bytes [at, end) are those of one change, or those at the start, as a
   * whole.
   */
  #isWhole(
    shown: Buffer,
    at: number,
    end: number,
    offset: number,
    near: Change[],
    certain: (change: Change) => boolean,
  ): boolean {
    for (let i = near.length - 1; i >= 0; i--) {
      const { offset: from, length, data } = near[i];
      if (from > offset + at || from + length < offset + end) return false;
      if (data && shown.compare(data, offset + at - from, offset + end - from, at, end) === 0)
        return true;
      if (!data && shown.compare(ZEROS, 0, end - at, at, end) === 0) return true;
      if (certain(near[i])) return false;
    }
    return shown.compare(this.#start, offset + at, offset + end, at, end) === 0;
  }

  #explain(
    byte: number,
    at: number,
    near: Change[],
    what: string,
    certain: (change: Change) => boolean,
  ): void {
    const wanted = new Set<number>();
    for (let i = near.length - 1; i >= 0; i--) {
      const change = near[i];
      if (at < change.offset || at >= change.offset + change.length) continue;
      const value = change.data ? change.data[at - change.offset] : 0;
      if (value === byte) return;
      wanted.add(value);
      if (certain(change))
        throw new Error(`${what} shows ${byte} at ${at}, which may be ${[...wanted].join(' or ')}`);
    }
    wanted.add(this.#start[at]);
    if (byte !== this.#start[at])
      throw new Error(`${what} shows ${byte} at ${at}, which may be ${[...wanted].join(' or ')}`);
  }
}
