/**
 * Images in an R2 bucket: a base is an object read by ranges; an overlay is a set of objects, `NAME/00000000` and so on, each a part of
 * 1 MiB, and `NAME/manifest`, which tells the size and whose it is. Parts are kept in memory until a flush stores them: a manifest
 * that somebody else has written meanwhile is noticed before that.
 */
import type { BlockFile, BlockSource } from '../block.ts';
import { MillraceError } from '../errors.ts';
import type { Bucket, BucketBody, BucketObject } from './platform.ts';
import { enterWriter } from './writers.ts';

const PART_BYTES = 1024 * 1024;
/** Parts in memory, changed or not: as much as the engine has of an edge's 128 MiB. */
const PARTS_MAX = 16;
const PUTS_IN_FLIGHT = 4;
/** As many connections as an edge has, less one for the guest. */
const PREFERRED = { chunk: PART_BYTES, depth: 5 } as const;

/** Opens an object as a base. Its ETag is its identity, and every read is held to it. @throws MillraceError `ENOENT`, `EIO`; reads also `ECHANGED`. */
export async function openBucketSource(bucket: Bucket, key: string): Promise<BlockSource> {
  const object = await orIoError(`open 'r2:${key}'`, bucket.head(key));
  if (object === null) throw new MillraceError('ENOENT', `cannot open 'r2:${key}': there is no such object in the bucket`);
  const { size, etag } = object;
  return {
    size,
    name: `r2:${key}`,
    identity: `etag "${etag}"`,
    preferred: PREFERRED,
    async read(offset, into, hint) {
      hint?.signal?.throwIfAborted();
      const what = `read ${into.length} bytes at ${offset} of 'r2:${key}'`;
      if (into.length > 0) into.set(await bytesOf(what, bucket.get(key, { range: { offset, length: into.length }, onlyIf: { etagMatches: etag } }), into.length));
    },
    close() {},
  };
}

async function bytesOf(what: string, getting: Promise<BucketObject | BucketBody | null>, length: number): Promise<Uint8Array> {
  const object = await orIoError(what, getting);
  if (object === null || !('arrayBuffer' in object)) throw new MillraceError('ECHANGED', `cannot ${what}: the object is not the one that was opened`);
  const bytes = new Uint8Array(await orIoError(what, object.arrayBuffer()));
  if (bytes.length !== length) throw new MillraceError('EIO', `cannot ${what}: ${bytes.length} bytes came`);
  return bytes;
}

interface Manifest {
  size: number;
  /** Who writes to it: another one at each opening. */
  writer: string;
}

/** A part in memory. */
interface Part {
  bytes: Uint8Array;
  /** Counts its changes; what was stored at `stored` is in the bucket. */
  changes: number;
  stored: number;
}

/**
 * Opens an overlay, or makes it. Another worker that opens it for writing takes it over, and the first one's next flush is `EBUSY`:
 * overlays in a bucket belong into the hands of one Durable Object.
 * @throws MillraceError `EBUSY` when this worker has it open for writing already, `ENOENT`, `EEXIST`, `EIO`.
 */
export async function openBucketFile(bucket: Bucket, name: string, { readOnly = false, create = false }: { readOnly?: boolean; create?: boolean } = {}): Promise<BlockFile> {
  const key = `${name}/manifest`;
  const found = await orIoError(`open 'r2:${name}'`, bucket.get(key)) as BucketBody | null;
  if (create && found) throw new MillraceError('EEXIST', `cannot create 'r2:${name}': it is there already`);
  if (!create && !found) throw new MillraceError('ENOENT', `cannot open 'r2:${name}': there is no such overlay in the bucket`);
  const size = found ? (JSON.parse(new TextDecoder().decode(await found.arrayBuffer())) as Manifest).size : 0;
  const release = readOnly ? () => {} : enterWriter(bucket, name);
  try {
    const file = new BucketFile(bucket, name, size, { readOnly, release });
    if (!readOnly) await file.claim(found?.etag);
    return file;
  } catch (error) {
    release();
    throw error;
  }
}

/** Removes an overlay and all of its parts. */
export async function removeBucketFile(bucket: Bucket, name: string): Promise<void> {
  const found = await bucket.get(`${name}/manifest`) as BucketBody | null;
  const size = found ? (JSON.parse(new TextDecoder().decode(await found.arrayBuffer())) as Manifest).size : 0;
  await bucket.delete(Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, number) => keyOf(name, number)));
  await bucket.delete(`${name}/manifest`);
}

class BucketFile implements BlockFile {
  readonly name: string;
  readonly flushIsDear = true;
  readonly #bucket: Bucket;
  readonly #place: string;
  readonly #readOnly: boolean;
  readonly #release: () => void;
  readonly #writer: string = crypto.randomUUID();
  /** By number, in the order of their last use. */
  readonly #parts = new Map<number, Promise<Part>>();
  #size: number;
  #etag: string | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(bucket: Bucket, place: string, size: number, how: { readOnly: boolean; release: () => void }) {
    this.name = `r2:${place}`;
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
    const manifest: Manifest = { size: this.#size, writer: this.#writer };
    const onlyIf = etag === undefined ? { etagDoesNotMatch: '*' } : { etagMatches: etag };
    const put = await orIoError(`flush '${this.name}'`, this.#bucket.put(`${this.#place}/manifest`, JSON.stringify(manifest), { onlyIf }));
    if (put === null) throw new MillraceError('EBUSY', `'${this.name}' has been taken over by another writer`);
    this.#etag = put.etag;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#mustBeOpen();
    await this.#each(offset, into.length, (part, from, length, at) => void into.set(part.bytes.subarray(from, from + length), at));
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#mustBeWritable();
    await this.#each(offset, from.length, (part, begin, length, at) => {
      part.bytes.set(from.subarray(at, at + length), begin);
      part.changes++;
    });
    this.#size = Math.max(this.#size, offset + from.length);
    if (this.#parts.size > PARTS_MAX) await this.#makeRoom();
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
    const parts = await Promise.all([...this.#parts].map(async ([number, part]) => ({ number, part: await part })));
    const changed = parts.filter(({ part }) => part.changes > part.stored);
    await this.claim(this.#etag);
    const lane = async (): Promise<void> => {
      for (let next = changed.shift(); next; next = changed.shift()) await this.#store(next.number, next.part);
    };
    await Promise.all(Array.from({ length: PUTS_IN_FLIGHT }, lane));
  }

  async #store(number: number, part: Part): Promise<void> {
    const changes = part.changes;
    // A copy: it may be written to while it is on its way.
    await orIoError(`write '${this.name}'`, this.#bucket.put(keyOf(this.#place, number), part.bytes.slice()));
    part.stored = changes;
  }

  async truncate(size: number): Promise<void> {
    this.#mustBeWritable();
    const before = this.#size;
    this.#size = size;
    if (size >= before) return;
    if (size % PART_BYTES) await this.#each(size, PART_BYTES - (size % PART_BYTES), (part, from) => {
      part.bytes.fill(0, from);
      part.changes++;
    });
    // The new size first: parts behind it are then nobody's.
    await this.flush();
    const [first, end] = [Math.ceil(size / PART_BYTES), Math.ceil(before / PART_BYTES)];
    for (let number = first; number < end; number++) {
      this.#parts.delete(number);
      await orIoError(`resize '${this.name}'`, this.#bucket.delete(keyOf(this.#place, number)));
    }
  }

  async close(): Promise<void> {
    await this.#flushing;
    this.#closed = true;
    this.#parts.clear();
    this.#release();
  }

  async #each(offset: number, length: number, use: (part: Part, from: number, length: number, at: number) => void): Promise<void> {
    for (let at = 0; at < length;) {
      const from = (offset + at) % PART_BYTES;
      const bytes = Math.min(PART_BYTES - from, length - at);
      await this.#use((offset + at - from) / PART_BYTES, (part) => use(part, from, bytes, at));
      at += bytes;
    }
  }

  async #use(number: number, use: (part: Part) => void): Promise<void> {
    while (true) {
      const loading = this.#part(number);
      const part = await loading;
      // One that was given up for its room meanwhile would be changed in vain.
      if (this.#parts.get(number) === loading) return use(part);
    }
  }

  #part(number: number): Promise<Part> {
    const known = this.#parts.get(number);
    const part = known ?? this.#load(number);
    // The map's order is that of use.
    this.#parts.delete(number);
    this.#parts.set(number, part);
    if (!known) part.catch(() => this.#parts.delete(number));
    return part;
  }

  async #load(number: number): Promise<Part> {
    const bytes = new Uint8Array(PART_BYTES);
    const object = await orIoError(`read '${this.name}'`, this.#bucket.get(keyOf(this.#place, number))) as BucketBody | null;
    if (object) bytes.set(new Uint8Array(await orIoError(`read '${this.name}'`, object.arrayBuffer())).subarray(0, PART_BYTES));
    return { bytes, changes: 0, stored: 0 };
  }

  /** Stores what has changed, and forgets the parts that have not been used for longest. */
  async #makeRoom(): Promise<void> {
    await this.flush();
    for (const [number, loading] of [...this.#parts].slice(0, -PARTS_MAX / 2)) {
      const part = await loading;
      if (part.changes === part.stored) this.#parts.delete(number);
    }
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new MillraceError('ECLOSED', `'${this.name}' has been closed`);
  }

  #mustBeWritable(): void {
    this.#mustBeOpen();
    if (this.#readOnly) throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }
}

function keyOf(place: string, number: number): string {
  return `${place}/${String(number).padStart(8, '0')}`;
}

async function orIoError<T>(what: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (cause) {
    throw new MillraceError('EIO', `cannot ${what}: ${(cause as Error).message}`, { cause });
  }
}
