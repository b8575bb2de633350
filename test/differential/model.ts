/**
 * The plain model that disks are held against: for every sector, the contents it may have. Requests
 * that overlap in time may have been done in any order, a failed one may have been done or not, and
 * after a crash a sector may show anything since the last flush; within these bounds the model
 * takes no excuse.
 */

export const SECTOR = 512;
const ZEROS = Buffer.alloc(SECTOR);

/**
 * Requests that one sector is asked to take before they have all ended: their orders are counted
 * out.
 */
const OVERLAPS_MAX = 4;

/** A change that was asked for: bytes, or zeros. */
export interface Change {
  offset: number;
  length: number;
  /** None for zeros. */
  data?: Uint8Array;
  begun: number;
  /** When it ended; a change that failed may have been done or not, here or there. */
  ended?: number;
  failed?: boolean;
}

/** A read under way. */
export interface Reading {
  offset: number;
  length: number;
  begun: number;
}

interface Past {
  content: Buffer;
  /** When it ceased to be what a read could find. */
  until: number;
}

interface Sector {
  /** What it may hold, before `changes`. */
  now: Buffer[];
  /**
   * Asked for since, and not all ended (or a read is under way that may have seen less than all of
   * them).
   */
  changes: Change[];
  readers: number;
  past: Past[];
}

export class Model {
  size: number;
  #time = 0;
  /** When the last flush that succeeded had begun. */
  #flushed = 0;
  #initial: Buffer;
  #sectors = new Map<number, Sector>();

  constructor(content: Uint8Array) {
    this.#initial = Buffer.from(content);
    this.size = content.length;
  }

  /** Whether a change of this range would be one too many at once. */
  isBusy(offset: number, length: number): boolean {
    for (const [, sector] of this.#known(offset, length))
      if (sector.changes.length >= OVERLAPS_MAX) return true;
    return false;
  }

  /** Whether nothing is under way in this range. */
  isQuiet(offset: number, length: number): boolean {
    for (const [, sector] of this.#known(offset, length))
      if (sector.changes.length || sector.readers) return false;
    return true;
  }

  change(offset: number, length: number, data?: Uint8Array): Change {
    const change: Change = { offset, length, data, begun: ++this.#time };
    for (const index of indices(offset, length)) this.#at(index).changes.push(change);
    return change;
  }

  ended(change: Change, failed: boolean): void {
    change.ended = ++this.#time;
    change.failed = failed;
    for (const [index, sector] of this.#known(change.offset, change.length))
      this.#settle(index, sector);
  }

  read(offset: number, length: number): Reading {
    for (const index of indices(offset, length)) this.#at(index).readers++;
    return { offset, length, begun: ++this.#time };
  }

  /**
   * Checks what a read has found. Without `found` it failed.
   * @throws when a sector has none of the contents that it may have.
   */
  found(reading: Reading, found?: Uint8Array): void {
    this.#time++;
    for (const [index, sector] of this.#known(reading.offset, reading.length)) {
      sector.readers--;
      const seen = found && sectorOf(found, reading.offset, index);
      const certain = sector.changes.length === 0;
      if (seen) this.#mustBeOne(index, seen, this.#reachable(index, sector, reading.begun));
      this.#settle(index, sector);
      // What has been seen once has to stay.
      if (certain && seen?.bytes.length === SECTOR) sector.now = [seen.bytes];
    }
  }

  /** Called as a flush begins; the result is handed back when it has succeeded. */
  flushing(): number {
    return ++this.#time;
  }

  flushed(begun: number): void {
    this.#flushed = Math.max(this.#flushed, begun);
  }

  /** The disk has another size; what it has gained reads as zeros. */
  resized(size: number): void {
    for (const index of [...this.#sectors.keys()])
      if (index * SECTOR >= Math.min(size, this.size)) this.#sectors.delete(index);
    const content = Buffer.alloc(size);
    this.#initial.copy(content, 0, 0, Math.min(size, this.size));
    this.#initial = content;
    this.size = size;
  }

  /**
   * After a crash: checks that every sector shows something it has held since the last flush, and
   * goes on from what is there.
   */
  recover(found: Uint8Array): void {
    for (const [index, sector] of this.#sectors) {
      if (index * SECTOR >= found.length) continue;
      const allowed = this.#reachable(index, sector, this.#flushed);
      for (const { content, until } of sector.past)
        if (until >= this.#flushed) allowed.push(content);
      this.#mustBeOne(index, sectorOf(found, 0, index), allowed);
    }
    for (let at = 0; at < found.length; at += SECTOR) {
      if (this.#sectors.has(at / SECTOR)) continue;
      // What the disk has gained in a resize that nobody heard the end of is zeros.
      const expected = at < this.#initial.length ? this.#initial.subarray(at, at + SECTOR) : ZEROS;
      const bytes = Buffer.from(found.buffer, found.byteOffset + at, SECTOR);
      if (!bytes.equals(expected))
        throw new Error(
          `after a crash, sector ${at / SECTOR} shows other bytes, though it was never written`,
        );
    }
    this.#sectors.clear();
    this.#initial = Buffer.from(found);
    this.size = found.length;
    this.#flushed = ++this.#time;
  }

  /** What the disk shows, once nothing is under way. @throws when it is not certain. */
  content(): Uint8Array {
    const content = Buffer.from(this.#initial);
    for (const [index, sector] of this.#sectors) {
      if (sector.changes.length || sector.now.length !== 1)
        throw new Error(`sector ${index} is not certain`);
      sector.now[0].copy(content, index * SECTOR);
    }
    return content;
  }

  #at(index: number): Sector {
    let sector = this.#sectors.get(index);
    if (sector === undefined) {
      sector = {
        now: [this.#initial.subarray(index * SECTOR, (index + 1) * SECTOR)],
        changes: [],
        readers: 0,
        past: [],
      };
      this.#sectors.set(index, sector);
    }
    return sector;
  }

  *#known(offset: number, length: number): Generator<[number, Sector]> {
    for (const index of indices(offset, length)) {
      const sector = this.#sectors.get(index);
      if (sector) yield [index, sector];
    }
  }

  /**
   * All contents that the changes may have led to by now; those that had been done before `since`
   * are certain.
   */
  #reachable(index: number, sector: Sector, since: number): Buffer[] {
    const { changes } = sector;
    if (changes.length === 0) return sector.now;
    const certain = changes.reduce(
      (mask, change, bit) => (isDone(change) && change.ended! < since ? mask | (1 << bit) : mask),
      0,
    );
    const reached = new Map<number, Map<string, Buffer>>([
      [0, new Map(sector.now.map((content) => [keyOf(content), content]))],
    ]);
    const results = new Map<string, Buffer>();
    for (let mask = 0; mask < 1 << changes.length; mask++) {
      const contents = reached.get(mask);
      if (contents === undefined) continue;
      if ((mask & certain) === certain)
        for (const [key, content] of contents) results.set(key, content);
      changes.forEach((change, bit) => {
        if (mask & (1 << bit)) return;
        // What had ended before another began was done before it.
        const early = changes.some(
          (other, otherBit) =>
            !(mask & (1 << otherBit)) && isDone(other) && other.ended! < change.begun,
        );
        const late = changes.some(
          (other, otherBit) =>
            mask & (1 << otherBit) && change.ended !== undefined && change.ended < other.begun,
        );
        if (early || late) return;
        const next = reached.get(mask | (1 << bit)) ?? new Map<string, Buffer>();
        for (const content of contents.values()) {
          const after = applied(content, change, index);
          next.set(keyOf(after), after);
        }
        reached.set(mask | (1 << bit), next);
      });
    }
    return [...results.values()];
  }

  /**
   * When all changes have ended and nobody reads, what they may have led to is what the sector may
   * hold.
   */
  #settle(index: number, sector: Sector): void {
    if (
      sector.readers ||
      sector.changes.length === 0 ||
      sector.changes.some((change) => change.ended === undefined)
    )
      return;
    const anything = this.#reachable(index, sector, 0);
    const now = this.#reachable(index, sector, Infinity);
    const until = Math.max(...sector.changes.map((change) => change.ended!));
    sector.past = sector.past.filter((past) => past.until >= this.#flushed);
    for (const content of [...sector.now, ...anything]) sector.past.push({ content, until });
    sector.now = now;
    sector.changes = [];
  }

  #mustBeOne(index: number, seen: { bytes: Buffer; from: number }, allowed: Buffer[]): void {
    if (
      allowed.some((content) =>
        content.subarray(seen.from, seen.from + seen.bytes.length).equals(seen.bytes),
      )
    )
      return;
    const seenHex = seen.bytes.toString('hex');
    const differs = allowed.map((content) => {
      const part = content.subarray(seen.from, seen.from + seen.bytes.length);
      const at = part.findIndex((byte, place) => byte !== seen.bytes[place]);
      return `${part.subarray(at & ~7, (at & ~7) + 8).toString('hex')} at ${at & ~7} (and not ${seenHex.slice((at & ~7) * 2, (at & ~7) * 2 + 16)})`;
    });
    throw new Error(`sector ${index} (offset ${index * SECTOR}) may have ${differs.join(', or ')}`);
  }
}

function isDone(change: Change): boolean {
  return change.ended !== undefined && !change.failed;
}

/** The content with the part of a change that lies in this sector. */
function applied(content: Buffer, change: Change, index: number): Buffer {
  const start = index * SECTOR;
  const from = Math.max(change.offset, start);
  const to = Math.min(change.offset + change.length, start + SECTOR);
  const after = Buffer.from(content);
  if (change.data)
    after.set(change.data.subarray(from - change.offset, to - change.offset), from - start);
  else after.fill(0, from - start, to - start);
  return after;
}

function keyOf(content: Buffer): string {
  return content.toString('latin1');
}

function* indices(offset: number, length: number): Generator<number> {
  for (let index = Math.floor(offset / SECTOR); index * SECTOR < offset + length; index++)
    yield index;
}

/**
 * The part of a sector that was found by a read from `offset` on, and where in the sector it
 * begins.
 */
function sectorOf(
  found: Uint8Array,
  offset: number,
  index: number,
): { bytes: Buffer; from: number } {
  const from = Math.max(index * SECTOR, offset);
  const to = Math.min((index + 1) * SECTOR, offset + found.length);
  return {
    bytes: Buffer.from(found.subarray(from - offset, to - offset)),
    from: from - index * SECTOR,
  };
}
