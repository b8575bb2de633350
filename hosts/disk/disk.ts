/**
 * A disk: one engine instance with the files of its images, behind the public calls. The same on
 * every runtime; it knows neither where the files are nor what format they have.
 */

import {
  CLOSE_GOES_ON,
  CLOSE_READ_ONLY,
  DISCARD_TO_BASE,
  IMAGE_BITMAPS,
  IMAGE_IDENTITY_AT,
  IMAGE_IDENTITY_BYTES,
  IMAGE_SNAPSHOTS,
  KIND_CLOSE,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_READ,
  KIND_REFER,
  KIND_REMAINING,
  KIND_RESIZE,
  KIND_WRITE,
  KIND_ZERO,
  R_HEADER_FULL,
  R_SHRINK,
  READ_AT_ONCE,
  WRITE_ZEROES,
} from '../../engine/protocol.ts';
import type { CheckOptions, CheckReport } from '../api/check.ts';
import type { Disk, Extent } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageInfo } from '../api/image.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JOB_OPTIONS, mustKnowOptions } from '../api/options.ts';
import type { ProfileChoice, RecordedProfile, ReplayInfo } from '../api/profile.ts';
import { check } from './check.ts';
import type { ContentId } from './content-id.ts';
import { DiskViews } from './disk-views.ts';
import type { Engine } from './driver/engine.ts';
import { extentsOf } from './driver/extents.ts';
import { imageOf } from './driver/images.ts';
import { reasonText } from './driver/reasons.ts';
import { bitmapsOf, snapshotsOf } from './driver/snapshots.ts';
import { encryptionOf } from './encryption.ts';
import type { Named } from './find-image.ts';
import type { JobStart } from './job.ts';
import { DiskJob } from './job.ts';
import { inPieces } from './pieces.ts';
import type { GivenProfile, ProfileTools } from './profiles.ts';
import { DiskProfiles } from './profiles.ts';
import { ResizeGate } from './resize-gate.ts';

/** So long a disk that is being closed waits for what still needs its bases. */
const CLOSE_WAITS_MS = 2000;
const SECTOR_BYTES = 512;
/** Bytes in which requests are cut where there are no clusters, as the engine does. */
const REQUEST_UNIT = 65536;
/** Pieces of zeroes or discard: bounded so that others get between. */
const ZERO_PIECE_BYTES = 1024 ** 3;

export class EngineDisk extends DiskViews implements Disk {
  readonly #engine: Engine;
  readonly #readOnly: boolean;
  readonly #release: () => Promise<void>;
  readonly #findImage: (images: readonly Named[], wanted: string) => Promise<number | undefined>;
  readonly #baseless: boolean;
  readonly #clusterSize: number;
  readonly #job: DiskJob;
  readonly #gate = new ResizeGate();
  readonly #content: ContentId;
  readonly #profiles: DiskProfiles;
  #size: number;
  #closing: Promise<void> | undefined;

  /**
   * `release` closes the files and gives locks back; `recordBase` hands over what the header is to
   * say of an image as the base; `findImage` tells the depth of the one that goes by a name. All
   * images of the engine are open; `baseless` says that what lies below the overlay only stands for
   * a base that was left unopened.
   */
  constructor(
    engine: Engine,
    options: {
      readOnly: boolean;
      baseless: boolean;
      content: ContentId;
      release: () => Promise<void>;
      recordBase: (image: number) => void;
      findImage: (images: readonly Named[], wanted: string) => Promise<number | undefined>;
      profiles: Omit<ProfileTools, 'engine' | 'cluster'>;
    },
  ) {
    super();
    this.#engine = engine;
    this.#content = options.content;
    this.#readOnly = options.readOnly;
    this.#baseless = options.baseless;
    this.#release = options.release;
    this.#findImage = options.findImage;
    const { virtualSize, format, clusterSize = REQUEST_UNIT } = imageOf(this.#engine, 0);
    this.#size = virtualSize;
    this.#clusterSize = format === 'qcow2' ? clusterSize : REQUEST_UNIT;
    this.#profiles = new DiskProfiles({
      ...options.profiles,
      engine,
      cluster: this.#clusterSize,
    });
    this.#job = new DiskJob(engine, {
      size: () => this.#size,
      recordBase: options.recordBase,
      tell: (event, detail) => void this.dispatchEvent(new CustomEvent(event, { detail })),
    });
    engine.onstep = () => this.#job.watch();
  }

  get size(): number {
    return this.#size;
  }

  get clusterSize(): number {
    return this.#clusterSize;
  }

  /**
   * Grows with every change of what the guest sees, at its begin and at its end: the same before
   * and after a read, it saw no change.
   */
  get changes(): number {
    return this.#content.changes;
  }

  /** Tells what the guest sees now from what it sees at other times, across openings. */
  contentId(): Promise<string> {
    return this.#content.tell();
  }

  protected async fresh(offset: number, length: number): Promise<Uint8Array> {
    this.#mustBeOpen();
    this.#mustBeInside('read', offset, length);
    const bytes = roomFor(length);
    await this.#readInto(offset, bytes);
    return bytes;
  }

  protected async fill(offset: number, into: Uint8Array): Promise<void> {
    this.#mustBeOpen();
    this.#mustBeInside('read', offset, into.length);
    return this.#readInto(offset, into);
  }

  protected override described(): string {
    const images = this.#closing
      ? []
      : this.#chain().map(({ name, format }) => `${name} (${format})`);
    const state = this.#closing ? 'closed' : images.join(' over ');
    return `Disk { ${state}, size: ${this.size}, clusterSize: ${this.clusterSize}${this.#readOnly ? ', readOnly' : ''} }`;
  }

  /** Large reads are several requests: each sees all or nothing of a write, the whole may not. */
  async #readInto(offset: number, into: Uint8Array): Promise<void> {
    const ended = this.#profiles.reading(offset, into.length);
    let worst = READ_AT_ONCE as number;
    await this.#pieces(offset, into.length, async (at, size) => {
      const value = await this.#engine.request(KIND_READ, at, size, 0, {
        into: into.subarray(at - offset, at - offset + size),
      });
      worst = Math.max(worst, value);
    });
    ended(worst);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#mustBeWritable('write');
    if (data?.[Symbol.toStringTag] !== 'Uint8Array')
      throw new MillraceError('EINVAL', 'cannot write: data is a Uint8Array');
    this.#mustBeInside('write', offset, data.length);
    this.#profiles.wrote(offset, data.length);
    await this.#content.changing(() =>
      this.#pieces(offset, data.length, (at, size) =>
        this.#engine.request(KIND_WRITE, at, size, 0, {
          data: data.subarray(at - offset, at - offset + size),
        }),
      ),
    );
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#mustBeWritable('write zeroes');
    while (this.#gate.resizing) await this.#resized();
    this.#mustBeInside('write zeroes', offset, length);
    this.#profiles.wrote(offset, length);
    return this.#gate.asWide(this.#content.changing(() => this.#writeZeroes(offset, length)));
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    const [from, to] = this.#wholeClusters(offset, length);
    const zeroes = (at: number, size: number) =>
      this.#engine.request(KIND_WRITE, at, size, WRITE_ZEROES);
    // Version 2 has no zero clusters.
    if (from >= to || imageOf(this.#engine, 0).version === 2)
      return this.#pieces(offset, length, zeroes);
    await this.#pieces(offset, from - offset, zeroes);
    await this.#wide(KIND_ZERO, from, to);
    await this.#pieces(to, offset + length - to, zeroes);
  }

  /**
   * Whole clusters of the range read as zeros afterwards and take no space; what is left of parts
   * of clusters stays as it is.
   */
  async discard(offset: number, length: number): Promise<void> {
    this.#mustBeWritable('discard');
    while (this.#gate.resizing) await this.#resized();
    this.#mustBeInside('discard', offset, length);
    const [from, to] = this.#wholeClusters(offset, length);
    if (from >= to) return;
    this.#profiles.wrote(from, to - from);
    await this.#gate.asWide(this.#content.changing(() => this.#wide(KIND_DISCARD, from, to)));
  }

  async flush(): Promise<void> {
    this.#mustBeOpen();
    if (!this.#readOnly) await this.#engine.request(KIND_FLUSH);
  }

  async resize(size: number, options: { shrink?: boolean } = {}): Promise<void> {
    mustKnowOptions('resize', options, { shrink: true });
    this.#mustBeWritable('resize');
    if (!Number.isSafeInteger(size) || size < 0 || size % SECTOR_BYTES)
      throw new MillraceError(
        'EINVAL',
        `a disk of ${size} bytes cannot be: a size is a multiple of ${SECTOR_BYTES}`,
      );
    return this.#content.changing(() => this.#gate.resize(() => this.#resize(size, options)));
  }

  async #resize(size: number, options: { shrink?: boolean }): Promise<void> {
    this.#mustBeOpen();
    if (size < this.#size) {
      if (!options.shrink)
        throw new MillraceError(
          'EINVAL',
          `cannot shrink the disk from ${this.#size} to ${size} bytes: ${reasonText(R_SHRINK)}`,
        );
      if (this.#job.isActive)
        throw new MillraceError(
          'EBUSY',
          'cannot shrink the disk while a job is active: abort it first',
        );
      const clusterEnd = Math.min(
        this.#size,
        Math.ceil(size / this.#clusterSize) * this.#clusterSize,
      );
      await this.#writeZeroes(size, clusterEnd - size);
    }
    try {
      await this.#engine.request(KIND_RESIZE, 0, size);
    } finally {
      this.#size = imageOf(this.#engine, 0).virtualSize;
    }
  }

  /** `paused`: begins as one that has been paused, and touches nothing before it is resumed. */
  async stream(options: StreamOptions & { paused?: boolean } = {}): Promise<StreamInfo> {
    mustKnowOptions('stream', options, JOB_OPTIONS);
    return this.followed(options, this.#stream(options));
  }

  async #stream(options: StreamOptions & { paused?: boolean }): Promise<StreamInfo> {
    this.#mustBeWritable('stream');
    // A disk that is about to be smaller is not streamed as it was.
    while (this.#gate.resizing) await this.#resized();
    const { base, order = 'sequential' } = options;
    const job: JobStart = { ...options };
    if (order !== 'sequential') job.ranges = await this.#profiles.rangesOf(order);
    // What is not found is the job's to refuse.
    if (typeof base === 'string') job.base = (await this.#findImage(this.#chain(), base)) ?? base;
    this.#mustBeOpen();
    return this.#job.start(job);
  }

  async abort(): Promise<void> {
    this.#mustBeOpen();
    return this.#job.abort();
  }

  async info(): Promise<StreamInfo> {
    this.#mustBeOpen();
    return this.#job.info();
  }

  /** Resolves when the job has no I/O in flight any more, or has ended. */
  async pause(): Promise<void> {
    this.#mustBeOpen();
    return this.#job.pause();
  }

  async resume(): Promise<void> {
    this.#mustBeOpen();
    return this.#job.resume();
  }

  async setSpeed(bytesPerSecond: number): Promise<void> {
    this.#mustBeOpen();
    return this.#job.setSpeed(bytesPerSecond);
  }

  async remaining(
    offset: number = 0,
    length: number = Math.max(0, this.#size - offset),
  ): Promise<number> {
    this.#mustBeOpen();
    this.#mustBeInside('count what remains', offset, length);
    return this.#engine.request(KIND_REMAINING, offset, length);
  }

  async *map(
    offset: number = 0,
    length: number = Math.max(0, this.#size - offset),
    options: { depth?: number } = {},
  ): AsyncGenerator<Extent> {
    mustKnowOptions('map', options, { depth: true });
    this.#mustBeOpen();
    this.#mustBeInside('map', offset, length);
    yield* extentsOf(
      this.#engine,
      offset,
      offset + length,
      this.#baseless ? 1 : checkedDepth(options.depth),
    );
  }

  async check(options: Pick<CheckOptions, 'repair' | 'data'> = {}): Promise<CheckReport> {
    mustKnowOptions('check', options, { repair: true, data: true });
    this.#mustBeOpen();
    if (options.repair) this.#mustBeWritable('repair');
    return check(this.#engine, this.#size, options);
  }

  async images(): Promise<ImageInfo[]> {
    this.#mustBeOpen();
    const images = this.#chain();
    const report = this.#engine.imageReport(0);
    const snapshots = report[IMAGE_SNAPSHOTS];
    if (snapshots) images[0].snapshots = await snapshotsOf(this.#engine, snapshots);
    const bitmaps = report[IMAGE_BITMAPS];
    if (bitmaps) images[0].bitmaps = await bitmapsOf(this.#engine, bitmaps);
    images[0].encryption = await encryptionOf(this.#engine);
    return images;
  }

  async profile(options: { wait?: boolean } = {}): Promise<RecordedProfile> {
    mustKnowOptions('profile', options, { wait: true });
    this.#mustBeOpen();
    return this.#profiles.profile(options);
  }

  async replay(profile?: ProfileChoice): Promise<ReplayInfo> {
    this.#mustBeOpen();
    return this.#profiles.replay(profile);
  }

  /** As replay, with a profile that has been loaded; it does not wait for the end. */
  beginReplay(profile: ProfileChoice, given: GivenProfile | undefined): void {
    this.#profiles.begin(profile, given);
  }

  #chain(): ImageInfo[] {
    const images = [imageOf(this.#engine, 0)];
    for (let depth = 1; !this.#baseless && this.#engine.exports.imageAtDepth(depth) >= 0; depth++)
      images.push(imageOf(this.#engine, this.#engine.exports.imageAtDepth(depth)));
    return images;
  }

  /**
   * Brings the overlay's file into the state of a closed one, while the disk stays open: what a
   * host does before it copies the file. It stays so until something is written.
   */
  async settle(): Promise<void> {
    this.#mustBeOpen();
    if (!this.#readOnly) await this.#engine.request(KIND_CLOSE, 0, 0, CLOSE_GOES_ON);
  }

  /** Lets the image at a depth of the chain be written by who opens it from now on. */
  unguard(depth: number): void {
    this.#engine.file(this.#engine.exports.imageAtDepth(depth))?.unguard?.();
  }

  /**
   * Gives up all that the overlay holds, so that its base shows: the last step of a commit, when
   * the base holds it too.
   */
  async empty(): Promise<void> {
    this.#mustBeWritable('empty');
    await this.#content.changing(() => this.#wide(KIND_DISCARD, 0, this.#size, DISCARD_TO_BASE));
  }

  /** What the header says that identifies the base, as `refer` takes it. */
  recordedIdentity(): string {
    const image = this.#engine.imageReport(0);
    return this.#engine.texts
      .text(0, image[IMAGE_IDENTITY_AT], image[IMAGE_IDENTITY_BYTES])
      .replace(/\0+$/, '');
  }

  /** Refuses what `refer` could not record, before work is put into it. */
  mustHaveRoom(name: string, format: string, identity: string): void {
    this.#mustBeWritable('record another base');
    if (!this.#engine.texts.setBacking(name, format, identity))
      throw new MillraceError(
        'EINVAL',
        `the name of the base is too long to be recorded: '${name}'`,
      );
    if (!this.#engine.exports.backingHasRoom())
      throw new MillraceError(
        'EUNSUPPORTED',
        `${this.#engine.name(0)}: ${reasonText(R_HEADER_FULL)}`,
      );
  }

  /**
   * Records another base, or none by an empty name. The images of this disk stay as they are: close
   * it, and open it anew.
   */
  async refer(name: string, format: string, identity: string): Promise<void> {
    this.mustHaveRoom(name, format, identity);
    await this.#engine.request(KIND_REFER);
    this.#engine.texts.keep(0);
  }

  /** Ends a job, writes everything, and closes the files. A second call waits for the first. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    let giveUp = (): void => {};
    this.#profiles.close();
    try {
      giveUp = this.#engine.clock.after(CLOSE_WAITS_MS, () =>
        this.#engine.bases.leave(new MillraceError('ECLOSED', 'the disk is being closed')),
      );
      await this.#job.end();
      await this.#engine.request(KIND_CLOSE, 0, 0, this.#readOnly ? CLOSE_READ_ONLY : 0);
      await this.#content.closing();
    } finally {
      giveUp();
      this.#engine.close(new MillraceError('ECLOSED', 'the disk has been closed'));
      await this.#release();
    }
  }

  /**
   * Splits a range into requests, at cluster boundaries where it can, and keeps a few in flight.
   */
  #pieces(
    offset: number,
    length: number,
    request: (at: number, size: number) => Promise<unknown>,
  ): Promise<void> {
    const sizes = { most: this.#engine.exports.requestBytesMax(), cluster: this.#clusterSize };
    return inPieces(sizes, offset, length, request);
  }

  async #resized(): Promise<void> {
    await this.#gate.resizing;
    this.#mustBeOpen();
  }

  async #wide(kind: number, from: number, to: number, argument = 0): Promise<void> {
    for (let at = from; at < to; at += ZERO_PIECE_BYTES)
      await this.#engine.request(kind, at, Math.min(ZERO_PIECE_BYTES, to - at), argument);
  }

  /**
   * The whole clusters within a range; the last cluster of the disk counts as whole where the disk
   * ends in it.
   */
  #wholeClusters(offset: number, length: number): [number, number] {
    const cluster = this.#clusterSize;
    const end = offset + length;
    return [
      Math.ceil(offset / cluster) * cluster,
      end === this.#size ? end : Math.floor(end / cluster) * cluster,
    ];
  }

  #mustBeOpen(): void {
    if (this.#closing) throw new MillraceError('ECLOSED', 'the disk has been closed');
  }

  #mustBeWritable(action: string): void {
    this.#mustBeOpen();
    if (this.#readOnly)
      throw new MillraceError(
        'EROFS',
        `cannot ${action}: ${this.#engine.name(0)} was opened read-only`,
      );
  }

  #mustBeInside(action: string, offset: number, length: number): void {
    const inside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      length <= this.#size - offset;
    if (!inside)
      throw new MillraceError(
        'EINVAL',
        `cannot ${action} ${length} bytes at ${offset}: the disk has ${this.#size} bytes`,
        { offset },
      );
  }
}

function roomFor(length: number): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new MillraceError(
      'EINVAL',
      `cannot read ${length} bytes at once: that is more than there is memory for; read them in pieces`,
      { cause },
    );
  }
}

/**
 * Chains are far shorter than what a depth may be; the engine takes 32 bits, where 0 means all of
 * the chain.
 */
function checkedDepth(depth: number = 0): number {
  if (!Number.isSafeInteger(depth) || depth < 0)
    throw new MillraceError(
      'EINVAL',
      `cannot map to a depth of ${depth}: it is a number of images, or 0 for all`,
    );
  return Math.min(depth, 0xffffffff);
}
