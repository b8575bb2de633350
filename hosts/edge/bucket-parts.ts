/**
 * The parts of an overlay in a bucket that are in memory: loaded when they are wanted, a few at
 * once, and forgotten when others need their room, once what has changed of them is stored.
 */
import { MillraceError } from '../api/errors.ts';
import { PART_BYTES, partKey } from './bucket-manifest.ts';
import { bytesOf, patiently } from './bucket-retries.ts';
import type { Bucket } from './platform.ts';

/**
 * Parts in memory, changed or not, those on their way counted: as much as the engine has of an
 * edge's 128 MiB.
 */
const PARTS_MAX = 16;
const LOADS_IN_FLIGHT = 4;
const PUTS_IN_FLIGHT = 4;

/** A part in memory. */
interface Part {
  bytes: Uint8Array;
  /** Counts its changes; what was stored at `stored` is in the bucket. */
  changes: number;
  stored: number;
}

export class BucketParts {
  readonly #bucket: Bucket;
  readonly #place: string;
  /** Stores all that has changed. */
  readonly #flush: () => Promise<void>;
  /** By number, in the order of their last use. */
  readonly #parts = new Map<number, Part>();
  /** Parts that somebody waits for; the first few of them are on their way. */
  readonly #loading = new Map<number, Promise<void>>();
  #loads = 0;
  readonly #loadsWaiting: (() => void)[] = [];
  #closed = false;

  constructor(bucket: Bucket, place: string, flush: () => Promise<void>) {
    this.#bucket = bucket;
    this.#place = place;
    this.#flush = flush;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Forgets all; what is being loaded comes to nobody any more. */
  close(): void {
    this.#closed = true;
    this.#parts.clear();
  }

  mustBeOpen(): void {
    if (this.#closed) throw new MillraceError('ECLOSED', `'r2:${this.#place}' has been closed`);
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#each(
      offset,
      into.length,
      ({ bytes }, from, length, at) => void into.set(bytes.subarray(from, from + length), at),
    );
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    await this.#each(offset, from.length, (part, begin, length, at) => {
      part.bytes.set(from.subarray(at, at + length), begin);
      part.changes++;
    });
  }

  /** Fills what a part has behind `offset`, where it does not begin there, with zeros. */
  async clearRest(offset: number): Promise<void> {
    if (offset % PART_BYTES === 0) return;
    await this.#each(offset, PART_BYTES - (offset % PART_BYTES), (part, from) => {
      part.bytes.fill(0, from);
      part.changes++;
    });
  }

  /** Those that have changed since they were stored. */
  changed(): [number, Part][] {
    return [...this.#parts].filter(([, part]) => isChanged(part));
  }

  /** Stores these, which are taken out of the list. */
  async store(changed: [number, Part][]): Promise<void> {
    const lane = async (): Promise<void> => {
      for (let next = changed.shift(); next; next = changed.shift()) await this.#store(...next);
    };
    // All of them, also when one fails: of two writes of one part, by this flush and the next, the
    // older could be done last.
    const lanes = await Promise.allSettled(Array.from({ length: PUTS_IN_FLIGHT }, lane));
    for (const ended of lanes) if (ended.status === 'rejected') throw ended.reason;
  }

  async #store(number: number, part: Part): Promise<void> {
    const changes = part.changes;
    // A copy: it may be written to while it is on its way.
    const bytes = part.bytes.slice();
    await patiently(`write 'r2:${this.#place}'`, () =>
      this.#bucket.put(partKey(this.#place, number), bytes),
    );
    part.stored = changes;
  }

  async remove(number: number): Promise<void> {
    this.#parts.delete(number);
    await patiently(`resize 'r2:${this.#place}'`, () =>
      this.#bucket.delete(partKey(this.#place, number)),
    );
  }

  async #each(
    offset: number,
    length: number,
    use: (part: Part, from: number, length: number, at: number) => void,
  ): Promise<void> {
    for (let at = 0; at < length; ) {
      const from = (offset + at) % PART_BYTES;
      const bytes = Math.min(PART_BYTES - from, length - at);
      await this.#use((offset + at - from) / PART_BYTES, (part) => use(part, from, bytes, at));
      at += bytes;
    }
  }

  async #use(number: number, use: (part: Part) => void): Promise<void> {
    for (let part = this.#parts.get(number); ; part = this.#parts.get(number)) {
      if (part) {
        // The map's order is that of use.
        this.#parts.delete(number);
        this.#parts.set(number, part);
        return use(part);
      }
      await this.#loaded(number);
    }
  }

  /** Resolves when the part has come into memory; it may have been given up for its room since. */
  #loaded(number: number): Promise<void> {
    const known = this.#loading.get(number);
    if (known) return known;
    const loading = this.#inTurn(async () => {
      await this.#makeRoom();
      const bytes = await this.#load(number);
      this.mustBeOpen();
      this.#parts.set(number, { bytes, changes: 0, stored: 0 });
    }).finally(() => this.#loading.delete(number));
    this.#loading.set(number, loading);
    return loading;
  }

  async #inTurn(load: () => Promise<void>): Promise<void> {
    if (this.#loads === LOADS_IN_FLIGHT)
      await new Promise<void>((resolve) => this.#loadsWaiting.push(resolve));
    else this.#loads++;
    try {
      await load();
    } finally {
      const next = this.#loadsWaiting.shift();
      if (next) next();
      else this.#loads--;
    }
  }

  async #load(number: number): Promise<Uint8Array> {
    const bytes = await patiently(`read 'r2:${this.#place}'`, () =>
      bytesOf(this.#bucket.get(partKey(this.#place, number))),
    );
    if (bytes?.length === PART_BYTES) return bytes;
    const whole = new Uint8Array(PART_BYTES);
    if (bytes) whole.set(bytes.subarray(0, PART_BYTES));
    return whole;
  }

  /**
   * Forgets parts that have not been used for long, as many as the loads under way need room for;
   * first stores what has changed of them.
   */
  async #makeRoom(): Promise<void> {
    while (this.#parts.size + this.#loads > PARTS_MAX) {
      const old = [...this.#parts].slice(0, PARTS_MAX / 2).find(([, part]) => !isChanged(part));
      if (old) this.#parts.delete(old[0]);
      else await this.#flush();
    }
  }
}

function isChanged(part: Part): boolean {
  return part.changes > part.stored;
}
