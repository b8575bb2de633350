/**
 * Overlays in an R2 bucket: each is a set of objects, `NAME/00000000` and so on, each a part of 1
 * MiB, and `NAME/manifest`, which tells the size and whose it is. Parts are kept in memory until a
 * flush stores them: a manifest that somebody else has written meanwhile is noticed before that.
 */
import type { BlockFile } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { Manifest } from './bucket-manifest.ts';
import { manifestKey, manifestOf, PART_BYTES, removeBucketFile } from './bucket-manifest.ts';
import { BucketParts } from './bucket-parts.ts';
import { patiently } from './bucket-retries.ts';
import type { Bucket } from './platform.ts';
import { enterWriter } from './writers.ts';

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

class BucketFile implements BlockFile {
  readonly name: string;
  readonly flushIsDear = true;
  readonly kept?: string;
  readonly #writer: string = crypto.randomUUID();
  readonly #bucket: Bucket;
  readonly #place: string;
  readonly #readOnly: boolean;
  readonly #release: () => void;
  readonly #parts: BucketParts;
  #size: number;
  #isNew: boolean;
  /** What is to be kept with it; undefined as long as nobody has said. */
  #toKeep: string | undefined;
  #isWritten = false;
  /** The manifest as it was stored last. */
  #stored: string | undefined;
  #etag: string | undefined;
  #flushing: Promise<void> = Promise.resolve();

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
    this.#parts = new BucketParts(bucket, place, () => this.flush());
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
      this.#bucket.put(manifestKey(this.#place), manifest, { onlyIf }),
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
    this.#parts.mustBeOpen();
    await this.#parts.read(offset, into);
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#mustBeWritable();
    this.#isWritten = true;
    await this.#parts.write(offset, from);
    this.#size = Math.max(this.#size, offset + from.length);
  }

  /** One after another: each stores what had been written when it was called. */
  flush(): Promise<void> {
    this.#parts.mustBeOpen();
    if (this.#readOnly) return Promise.resolve();
    const flushed = this.#flushing.then(() => this.#flush());
    this.#flushing = flushed.catch(() => {});
    return flushed;
  }

  async #flush(): Promise<void> {
    const changed = this.#parts.changed();
    if (changed.length === 0 && this.#manifest() === this.#stored) return;
    await this.claim(this.#etag);
    await this.#parts.store(changed);
  }

  async truncate(size: number): Promise<void> {
    this.#mustBeWritable();
    this.#isWritten = true;
    const before = this.#size;
    this.#size = size;
    if (size >= before) return;
    await this.#parts.clearRest(size);
    // The new size first: parts behind it are then nobody's.
    await this.flush();
    const [first, end] = [Math.ceil(size / PART_BYTES), Math.ceil(before / PART_BYTES)];
    for (let number = first; number < end; number++) await this.#parts.remove(number);
  }

  async close(): Promise<void> {
    if (this.#parts.isClosed) return;
    await this.#flushing;
    this.#parts.close();
    try {
      if (this.#isNew) await removeBucketFile(this.#bucket, this.#place);
    } finally {
      this.#release();
    }
  }

  #mustBeWritable(): void {
    this.#parts.mustBeOpen();
    if (this.#readOnly)
      throw new MillraceError('EROFS', `cannot write to '${this.name}': it was opened read-only`);
  }
}
