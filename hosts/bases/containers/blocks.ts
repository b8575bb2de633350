/**
 * A source made of blocks that are compressed each by itself: any of them can be had at once. A
 * block is fetched and decoded once, and kept for its neighbours as long as there is room.
 */
import type { BlockSource, ReadHint } from '../../api/block.ts';

/** Where the blocks are, in order and without gaps in what they unpack to. */
export interface BlockTable {
  readonly count: number;
  /** Unpacked bytes of all of them. */
  readonly size: number;
  /** Of block `index`: its first byte, and that of the next one. */
  start(index: number): number;
  /** Of block `index`: the bytes that it takes in the container. */
  packed(index: number): { at: number; length: number };
  /** Gives exactly the bytes of the block, or throws. Aborted, nobody wants them any more. */
  decode(index: number, packed: Uint8Array, signal: AbortSignal): Promise<Uint8Array>;
}

/** A block on its way, or there. */
interface Entry {
  readonly index: number;
  readonly bytes: number;
  readonly controller: AbortController;
  readonly done: Promise<Uint8Array>;
  readonly resolve: (block: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
  /** Those who wait for it. */
  users: number;
  isUrgent: boolean;
  state: 'waiting' | 'coming' | 'there';
}

/**
 * Blocks that a copy in order is ahead by, where the source does not say how it likes to be read.
 */
const AHEAD_DEFAULT = 2;

/** `room`: bytes of blocks that are kept or on their way, at least one block. */
export function sourceOfBlocks(source: BlockSource, table: BlockTable, room: number): BlockSource {
  const blocks = new Blocks(source, table, room);
  const chunk = table.count > 0 ? table.start(1) : 0;
  return {
    size: table.size,
    name: source.name,
    identity: source.identity,
    preferred: {
      chunk: Math.max(chunk, source.preferred?.chunk ?? 0),
      depth: source.preferred?.depth ?? AHEAD_DEFAULT,
    },
    read: (offset, into, hint) => blocks.read(offset, into, hint ?? {}),
    async close() {
      blocks.close();
      await source.close();
    },
  };
}

class Blocks {
  readonly #source: BlockSource;
  readonly #table: BlockTable;
  readonly #room: number;
  /** In the order of their last use. */
  readonly #entries = new Map<number, Entry>();
  #coming = 0;

  constructor(source: BlockSource, table: BlockTable, room: number) {
    this.#source = source;
    this.#table = table;
    this.#room = room;
  }

  async read(offset: number, into: Uint8Array, hint: ReadHint): Promise<void> {
    const end = offset + into.length;
    const parts: Promise<void>[] = [];
    for (let index = this.#find(offset); index < this.#table.count; index++) {
      const start = this.#table.start(index);
      if (start >= end) break;
      const from = Math.max(offset, start);
      const to = Math.min(end, this.#table.start(index + 1));
      const part = into.subarray(from - offset, to - offset);
      parts.push(
        this.#block(index, hint).then((block) => {
          part.set(block.subarray(from - start, to - start));
        }),
      );
    }
    if (hint.background && !hint.ahead) this.#lookAhead(end);
    await Promise.all(parts);
  }

  close(): void {
    for (const entry of this.#entries.values()) entry.controller.abort();
    this.#entries.clear();
  }

  /** The block that holds the byte at `offset`. */
  #find(offset: number): number {
    let [low, high] = [0, this.#table.count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#table.start(middle + 1) > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** While a copy takes one block, the next ones are fetched. */
  #lookAhead(end: number): void {
    const depth = this.#source.preferred?.depth ?? AHEAD_DEFAULT;
    let bytes = 0;
    for (let index = this.#find(end), ahead = 0; index < this.#table.count; index++, ahead++) {
      bytes += this.#bytes(index);
      if (ahead === depth || bytes > this.#room / 2) return;
      if (!this.#entries.has(index)) this.#enter(index, false);
    }
  }

  async #block(index: number, hint: ReadHint): Promise<Uint8Array> {
    hint.signal?.throwIfAborted();
    const entry = this.#entries.get(index) ?? this.#enter(index, !hint.background);
    this.#touch(entry);
    if (!hint.background) this.#hurry(entry);
    entry.users++;
    try {
      return await unlessAborted(entry.done, hint.signal);
    } finally {
      entry.users--;
      if (entry.users === 0 && entry.state !== 'there') this.#drop(entry);
      else this.#evict();
    }
  }

  #enter(index: number, isUrgent: boolean): Entry {
    const { promise: done, resolve, reject } = withResolvers<Uint8Array>();
    // Nobody may wait for one that was only looked ahead for.
    done.catch(() => {});
    const entry: Entry = {
      index,
      bytes: this.#bytes(index),
      controller: new AbortController(),
      done,
      resolve,
      reject,
      users: 0,
      isUrgent,
      state: 'waiting',
    };
    this.#entries.set(index, entry);
    queueMicrotask(() => this.#start());
    return entry;
  }

  #bytes(index: number): number {
    return (
      this.#table.start(index + 1) - this.#table.start(index) + this.#table.packed(index).length
    );
  }

  /**
   * One is always under way; more, as far as there is room: what a guest waits for has some of its
   * own.
   */
  #start(): void {
    const waiting = [...this.#entries.values()].filter(({ state }) => state === 'waiting');
    for (const entry of [
      ...waiting.filter(({ isUrgent }) => isUrgent),
      ...waiting.filter(({ isUrgent }) => !isUrgent),
    ]) {
      const room = entry.isUrgent ? 2 * this.#room : this.#room;
      if (this.#coming > 0 && this.#coming + entry.bytes > room) return;
      this.#coming += entry.bytes;
      entry.state = 'coming';
      void this.#fetch(entry);
    }
  }

  async #fetch(entry: Entry): Promise<void> {
    try {
      const { at, length } = this.#table.packed(entry.index);
      const packed = new Uint8Array(length);
      const { signal } = entry.controller;
      await this.#source.read(at, packed, { signal, background: !entry.isUrgent });
      signal.throwIfAborted();
      const block = await this.#table.decode(entry.index, packed, signal);
      entry.state = 'there';
      entry.resolve(block);
    } catch (error) {
      if (this.#entries.get(entry.index) === entry) this.#entries.delete(entry.index);
      entry.reject(error);
    } finally {
      this.#coming -= entry.bytes;
      this.#evict();
      this.#start();
    }
  }

  /**
   * Somebody waits in the foreground for what the background has asked for: asked once more, it
   * goes ahead, and shares what comes.
   */
  #hurry(entry: Entry): void {
    if (entry.isUrgent || entry.state === 'there') return;
    entry.isUrgent = true;
    if (entry.state !== 'coming' || this.#source.preferred === undefined) return;
    const { at, length } = this.#table.packed(entry.index);
    const { signal } = entry.controller;
    void Promise.resolve(this.#source.read(at, new Uint8Array(length), { signal })).catch(() => {});
  }

  #touch(entry: Entry): void {
    this.#entries.delete(entry.index);
    this.#entries.set(entry.index, entry);
  }

  #drop(entry: Entry): void {
    if (this.#entries.get(entry.index) === entry) this.#entries.delete(entry.index);
    entry.controller.abort();
    if (entry.state === 'waiting') entry.reject(entry.controller.signal.reason);
  }

  /** Gives up what was used longest ago, and is used by nobody now. */
  #evict(): void {
    let kept = 0;
    for (const entry of this.#entries.values()) kept += entry.bytes;
    for (const entry of this.#entries.values()) {
      if (kept <= this.#room) return;
      if (entry.state !== 'there' || entry.users > 0) continue;
      this.#entries.delete(entry.index);
      kept -= entry.bytes;
    }
  }
}

function withResolvers<T>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
} {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((ok, fail) => {
    resolve = ok;
    reject = fail;
  });
  return { promise, resolve, reject };
}

/** What the promise gives, or the signal's reason as soon as that is aborted. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const over = (): void => reject(signal.reason);
    if (signal.aborted) return over();
    signal.addEventListener('abort', over);
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', over));
  });
}
