/**
 * Overlays in an R2 bucket: each is a set of objects, `NAME/00000000` and so on, each a part of 1
 * MiB, and `NAME/manifest`, which tells the size and whose it is. Parts are kept in memory until a
 * flush stores them: a manifest that somebody else has written meanwhile is noticed before that.
 */
import type { BlockFile } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import { bytesOf, patiently } from './bucket-retries.ts';
import type { Bucket, BucketBody } from './platform.ts';
import { enterWriter } from './writers.ts';

const PART_BYTES = 1024 * 1024;
/**
 * Parts in memory, changed or not, those on their way counted: as much as the engine has of an
 * edge's 128 MiB.
 */
const PARTS_MAX = 16;
const LOADS_IN_FLIGHT = 4;
const PUTS_IN_FLIGHT = 4;
/** As many keys as a bucket deletes at once. */
const DELETED_MAX = 1000;

interface Manifest {
  size: number;
  /** Who writes to it: another one at each opening. */
  writer: string;
  /** It is still being made, or was when its maker ended. */
  isNew?: true;
  /** A text that stands by it. */
  kept?: string;
}

/** A part in memory. */
interface Part {
  bytes: Uint8Array;
  /** Counts its changes; what was stored at `stored` is in the bucket. */
  changes: number;
  stored: number;
}

/**
 * Opens an overlay, or makes it: it is there only once it has been published. Another worker that
 * opens it for writing takes it over, and the first one's next flush is `EBUSY`: overlays in a
 * bucket belong into the hands of one Durable Object.
 * @throws MillraceError `EBUSY` when this worker has it open for writing already, `ENOENT`,
 *   `EEXIST`, `EIO`.
 */
export async function openBucketFile(
  bucket: Bucket,
  name: string,
  { readOnly = false, create = false }: { readOnly?: boolean; create?: boolean } = {},
): Promise<BlockFile> {
  const known = await manifestOf(bucket, name);
  const found = known?.isNew ? undefined : known;
  if (create && found)
    throw new MillraceError('EEXIST', `cannot create 'r2:${name}': it is there already`);
  if (!create && !found)
    throw new MillraceError(
      'ENOENT',
      `cannot open 'r2:${name}': there is no such overlay in the bucket`,
    );
  const release = readOnly ? () => {} : enterWriter(bucket, name);
  try {
    // Of a worker that ended before it was whole.
    if (create && known) await removeBucketFile(bucket, name);
    const file = new BucketFile(bucket, name, found?.size ?? 0, {
      readOnly,
      release,
      isNew: create,
      kept: found?.kept,
    });
    if (!readOnly) await file.claim(found?.etag);
    return file;
  } catch (error) {
    release();
    throw error;
  }
}

/** Removes an overlay and all of its parts; the manifest last, which tells how many there are. */
async function removeBucketFile(bucket: Bucket, name: string): Promise<void> {
  const size = (await manifestOf(bucket, name))?.size ?? 0;
  const keys = [
    ...Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, number) => keyOf(name, number)),
    `${name}/manifest`,
  ];
  for (let at = 0; at < keys.length; at += DELETED_MAX) {
    await patiently(`remove 'r2:${name}'`, () => bucket.delete(keys.slice(at, at + DELETED_MAX)));
  }
}

async function manifestOf(
  bucket: Bucket,
  name: string,
): Promise<(Manifest & { etag: string }) | undefined> {
  const found = await patiently(`open 'r2:${name}'`, async () => {
    const object = (await bucket.get(`${name}/manifest`)) as BucketBody | null;
    return (
      object && { text: new TextDecoder().decode(await object.arrayBuffer()), etag: object.etag }
    );
  });
  if (!found) return undefined;
  try {
    return { ...(JSON.parse(found.text) as Manifest), etag: found.etag };
  } catch (cause) {
    throw new MillraceError('ECORRUPT', `cannot open 'r2:${name}': its manifest cannot be read`, {
      cause,
    });
  }
}

class BucketFile implements BlockFile {
  readonly name: string;
  readonly flushIsDear = true;
  readonly kept?: string;
  readonly #writer: string = crypto.randomUUID();
  readonly #bucket: Bucket;
  readonly #place: string;
  readonly #readOnly: boolean;
  readonly #release: () => void;
  /** By number, in the order of their last use. */
  readonly #parts = new Map<number, Part>();
  /** Parts that somebody waits for; the first few of them are on their way. */
  readonly #loading = new Map<number, Promise<void>>();
  #loads = 0;
  readonly #loadsWaiting: (() => void)[] = [];
  #size: number;
  #isNew: boolean;
  /** What is to be kept with it; undefined as long as nobody has said. */
  #toKeep: string | undefined;
  #isWritten = false;
  /** The manifest as it was stored last. */
  #stored: string | undefined;
  #etag: string | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(
    bucket: Bucket,
    place: string,
    size: number,
    how: { readOnly: boolean; release: () => void; isNew: boolean; kept?: string },
  ) {
    this.name = `r2:${place}`;
    this.kept = how.kept;
    this.#isNew = how.isNew;
    this.#bucket = bucket;
    this.#place = place;
    this.#size = size;
    this.#readOnly = how.readOnly;
    this.#release = how.release;
  }

  get size(): number {
    return this.#size;
  }

  /** Writes the manifest, if it is still the one that was last seen. */
  async claim(etag: string | undefined): Promise<void> {
    const manifest = this.#manifest();
    const onlyIf = etag === undefined ? { etagDoesNotMatch: '*' } : { etagMatches: etag };
    const put = await patiently(`flush '${this.name}'`, () =>
      this.#bucket.put(`${this.#place}/manifest`, manifest, { onlyIf }),
    );
    if (put === null) {
      // A write that was told as failed may have been done all the same.
      const found = await manifestOf(this.#bucket, this.#place);
      if (found?.writer === this.#writer) return this.claim(found.etag);
      throw new MillraceError('EBUSY', `'${this.name}' has been taken over by another writer`);
    }
    this.#etag = put.etag;
    this.#stored = manifest;
  }

  /** What is kept stays as long as nothing is written but by who keeps it. */
  #manifest(): string {
    const manifest: Manifest = { size: this.#size, writer: this.#writer };
    if (this.#isNew) manifest.isNew = true;
    const kept = this.#toKeep ?? (this.#isWritten ? undefined : this.kept);
    if (kept) manifest.kept = kept;
    return JSON.stringify(manifest);
  }

  async keep(text: string): Promise<void> {
    this.#mustBeWritable();
    this.#toKeep = text;
    await this.flush();
  }

  async publish(): Promise<void> {
    await this.flush();
    this.#isNew = false;
    await this.flush();
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#mustBeOpen();
    await this.#each(
      offset,
      into.length,
      (part, from, length, at) => void into.set(part.bytes.subarray(from, from + length), at),
    );
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#mustBeWritable();
    this.#isWritten = true;
    await this.#each(offset, from.length, (part, begin, length, at) => {
      part.bytes.set(from.subarray(at, at + length), begin);
      part.changes++;
    });
    this.#size = Math.max(this.#size, offset + from.length);
  }

  /** One after another: each stores what had been written when it was called. */
  flush(): Promise<void> {
    this.#mustBeOpen();
    if (this.#readOnly) return Promise.resolve();
    const flushed = this.#flushing.then(() => this.#flush());
    this.#flushing = flushed.catch(() => {});
    return flushed;
  }

  async #flush(): Promise<void> {
    const changed = [...this.#parts].filter(([, part]) => isChanged(part));
    if (changed.length === 0 && this.#manifest() === this.#stored) return;
    await this.claim(this.#etag);
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
    await patiently(`write '${this.name}'`, () =>
      this.#bucket.put(keyOf(this.#place, number), bytes),
    );
    part.stored = changes;
  }

  async truncate(size: number): Promise<void> {
    this.#mustBeWritable();
    this.#isWritten = true;
    const before = this.#size;
    this.#size = size;
    if (size >= before) return;
    if (size % PART_BYTES)
      await this.#each(size, PART_BYTES - (size % PART_BYTES), (part, from) => {
        part.bytes.fill(0, from);
        part.changes++;
      });
    // The new size first: parts behind it are then nobody's.
    await this.flush();
    const [first, end] = [Math.ceil(size / PART_BYTES), Math.ceil(before / PART_BYTES)];
    for (let number = first; number < end; number++) {
      this.#parts.delete(number);
      await patiently(`resize '${this.name}'`, () =>
        this.#bucket.delete(keyOf(this.#place, number)),
      );
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.#flushing;
    this.#closed = true;
    this.#parts.clear();
    try {
      if (this.#isNew) await removeBucketFile(this.#bucket, this.#place);
    } finally {
      this.#release();
    }
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
      this.#mustBeOpen();
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
    const bytes = await patiently(`read '${this.name}'`, () =>
      bytesOf(this.#bucket.get(keyOf(this.#place, number))),
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
      else await this.flush();
    }
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new MillraceError('ECLOSED', `'${this.name}' has been closed`);
  }

  #mustBeWritable(): void {
    this.#mustBeOpen();
    if (this.#readOnly)
      throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }
}

function keyOf(place: string, number: number): string {
  return `${place}/${String(number).padStart(8, '0')}`;
}

function isChanged(part: Part): boolean {
  return part.changes > part.stored;
}
