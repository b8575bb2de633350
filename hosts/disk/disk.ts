/**
 * A disk: one engine instance with the files of its images, behind the public calls. The same on
 * every runtime; it knows neither where the files are nor what format they have.
 */

import {
  CLOSE_GOES_ON,
  CLOSE_READ_ONLY,
  IMAGE_BITMAPS,
  IMAGE_SNAPSHOTS,
  KIND_CLOSE,
  KIND_FLUSH,
  KIND_REMAINING,
  OVERLAY,
} from '../../engine/protocol.ts';
import type { CheckOptions, CheckReport } from '../api/check.ts';
import type { Disk, Extent } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageInfo } from '../api/image.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JOB_OPTIONS, mustKnowOptions } from '../api/options.ts';
import type { ProfileChoice, RecordedProfile, ReplayInfo } from '../api/profile.ts';
import { DiskAccess } from './access.ts';
import { BaseRecord } from './base-record.ts';
import { check } from './check.ts';
import type { ContentId } from './content-id.ts';
import { DiskViews } from './disk-views.ts';
import type { Engine } from './driver/engine.ts';
import { extentsOf } from './driver/extents.ts';
import { chainOf, imageOf } from './driver/images.ts';
import { bitmapsOf, snapshotsOf } from './driver/snapshots.ts';
import { encryptionOf } from './encryption.ts';
import type { Named } from './find-image.ts';
import { GuestIo } from './guest-io.ts';
import { DiskJob } from './job/job.ts';
import type { JobStart } from './job/options.ts';
import type { GivenProfile } from './profile-file.ts';
import type { ProfileTools } from './profiles.ts';
import { DiskProfiles } from './profiles.ts';

/** So long a disk that is being closed waits for what still needs its bases. */
const CLOSE_WAITS_MS = 2000;
/** Bytes in which requests are cut where there are no clusters, as the engine does. */
const REQUEST_UNIT = 65536;

export class EngineDisk extends DiskViews implements Disk {
  readonly #engine: Engine;
  /** What the overlay's header says of its base. */
  readonly baseRecord: BaseRecord;
  readonly #access: DiskAccess;
  readonly #io: GuestIo;
  readonly #release: () => Promise<void>;
  readonly #findImage: (images: readonly Named[], wanted: string) => Promise<number | undefined>;
  readonly #baseless: boolean;
  readonly #clusterSize: number;
  readonly #job: DiskJob;
  readonly #content: ContentId;
  readonly #profiles: DiskProfiles;
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
    this.#baseless = options.baseless;
    this.#release = options.release;
    this.#findImage = options.findImage;
    const overlay = imageOf(engine, OVERLAY);
    const { virtualSize, format, clusterSize = REQUEST_UNIT } = overlay;
    this.#access = new DiskAccess({
      size: virtualSize,
      isReadOnly: options.readOnly,
      name: overlay.name,
    });
    this.baseRecord = new BaseRecord(engine, this.#access);
    this.#clusterSize = format === 'qcow2' ? clusterSize : REQUEST_UNIT;
    this.#profiles = new DiskProfiles({
      ...options.profiles,
      engine,
      cluster: this.#clusterSize,
    });
    this.#job = new DiskJob(engine, {
      size: () => this.#access.size,
      recordBase: options.recordBase,
      tell: (event, detail) => void this.dispatchEvent(new CustomEvent(event, { detail })),
    });
    this.#io = new GuestIo(engine, {
      access: this.#access,
      clusterSize: this.#clusterSize,
      content: options.content,
      profiles: this.#profiles,
      isJobActive: () => this.#job.isActive,
    });
    engine.onstep = () => this.#job.watch();
  }

  get size(): number {
    return this.#access.size;
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

  protected fresh(offset: number, length: number): Promise<Uint8Array> {
    return this.#io.read(offset, length);
  }

  protected fill(offset: number, into: Uint8Array): Promise<void> {
    return this.#io.fill(offset, into);
  }

  protected override described(): string {
    const { isClosed, isReadOnly } = this.#access;
    const images = isClosed ? [] : this.#chain().map(({ name, format }) => `${name} (${format})`);
    const state = isClosed ? 'closed' : images.join(' over ');
    return `Disk { ${state}, size: ${this.size}, clusterSize: ${this.clusterSize}${isReadOnly ? ', readOnly' : ''} }`;
  }

  /** With `full`, zeros take space, too, as in a job that allocates all. */
  write(offset: number, data: Uint8Array, options?: { full?: boolean }): Promise<void> {
    return this.#io.write(offset, data, options);
  }

  /** As `GuestIo.writeCompressed`. */
  writeCompressed(offset: number, data: Uint8Array, options?: { full?: boolean }): Promise<void> {
    return this.#io.writeCompressed(offset, data, options);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#io.writeZeroes(offset, length);
  }

  /**
   * Whole clusters of the range read as zeros afterwards and take no space; what is left of parts
   * of clusters stays as it is.
   */
  discard(offset: number, length: number): Promise<void> {
    return this.#io.discard(offset, length);
  }

  resize(size: number, options?: { shrink?: boolean }): Promise<void> {
    return this.#io.resize(size, options);
  }

  async flush(): Promise<void> {
    this.#access.mustBeOpen();
    if (!this.#access.isReadOnly) await this.#engine.request(KIND_FLUSH);
  }

  /** `paused`: begins as one that has been paused, and touches nothing before it is resumed. */
  async stream(options: StreamOptions & { paused?: boolean } = {}): Promise<StreamInfo> {
    mustKnowOptions('stream', options, JOB_OPTIONS);
    return this.followed(options, this.#stream(options));
  }

  async #stream(options: StreamOptions & { paused?: boolean }): Promise<StreamInfo> {
    this.#access.mustBeWritable('stream');
    // A disk that is about to be smaller is not streamed as it was.
    while (this.#io.isResizing) await this.#io.resized();
    const { base, order = 'sequential' } = options;
    const job: JobStart = { ...options };
    if (order !== 'sequential') job.ranges = await this.#profiles.rangesOf(order);
    // What is not found is the job's to refuse.
    if (typeof base === 'string') job.base = (await this.#findImage(this.#chain(), base)) ?? base;
    this.#access.mustBeOpen();
    return this.#job.start(job);
  }

  async abort(): Promise<void> {
    this.#access.mustBeOpen();
    return this.#job.abort();
  }

  async info(): Promise<StreamInfo> {
    this.#access.mustBeOpen();
    return this.#job.info();
  }

  /** Resolves when the job has no I/O in flight any more, or has ended. */
  async pause(): Promise<void> {
    this.#access.mustBeOpen();
    return this.#job.pause();
  }

  async resume(): Promise<void> {
    this.#access.mustBeOpen();
    return this.#job.resume();
  }

  async setSpeed(bytesPerSecond: number): Promise<void> {
    this.#access.mustBeOpen();
    return this.#job.setSpeed(bytesPerSecond);
  }

  async remaining(
    offset: number = 0,
    length: number = Math.max(0, this.#access.size - offset),
  ): Promise<number> {
    this.#access.mustBeOpen();
    this.#access.mustBeInside('count what remains', offset, length);
    return this.#engine.request(KIND_REMAINING, offset, length);
  }

  async *map(
    offset: number = 0,
    length: number = Math.max(0, this.#access.size - offset),
    options: { depth?: number } = {},
  ): AsyncGenerator<Extent> {
    mustKnowOptions('map', options, { depth: true });
    this.#access.mustBeOpen();
    this.#access.mustBeInside('map', offset, length);
    yield* extentsOf(
      this.#engine,
      offset,
      offset + length,
      this.#baseless ? 1 : checkedDepth(options.depth),
    );
  }

  async check(options: Pick<CheckOptions, 'repair' | 'data'> = {}): Promise<CheckReport> {
    mustKnowOptions('check', options, { repair: true, data: true });
    this.#access.mustBeOpen();
    if (options.repair) this.#access.mustBeWritable('repair');
    return check(this.#engine, this.#access.size, options);
  }

  async images(): Promise<ImageInfo[]> {
    this.#access.mustBeOpen();
    const images = this.#chain();
    const report = this.#engine.imageReport(0);
    const snapshots = report[IMAGE_SNAPSHOTS];
    if (snapshots)
      images[0].snapshots = (await snapshotsOf(this.#engine, snapshots)).map(
        ({ snapshot }) => snapshot,
      );
    const bitmaps = report[IMAGE_BITMAPS];
    if (bitmaps) images[0].bitmaps = await bitmapsOf(this.#engine, bitmaps);
    images[0].encryption = await encryptionOf(this.#engine);
    return images;
  }

  async profile(options: { wait?: boolean } = {}): Promise<RecordedProfile> {
    mustKnowOptions('profile', options, { wait: true });
    this.#access.mustBeOpen();
    return this.#profiles.profile(options);
  }

  async replay(profile?: ProfileChoice): Promise<ReplayInfo> {
    this.#access.mustBeOpen();
    return this.#profiles.replay(profile);
  }

  /** As replay, with a profile that has been loaded; it does not wait for the end. */
  beginReplay(profile: ProfileChoice, given: GivenProfile | undefined): void {
    this.#profiles.begin(profile, given);
  }

  #chain(): ImageInfo[] {
    return chainOf(this.#engine, { baseless: this.#baseless });
  }

  /**
   * Brings the overlay's file into the state of a closed one, while the disk stays open: what a
   * host does before it copies the file. It stays so until something is written.
   */
  async settle(): Promise<void> {
    this.#access.mustBeOpen();
    if (!this.#access.isReadOnly) await this.#engine.request(KIND_CLOSE, 0, 0, CLOSE_GOES_ON);
  }

  /** Lets the image at a depth of the chain be written by who opens it from now on. */
  unguard(depth: number): void {
    this.#engine.file(this.#engine.exports.imageAtDepth(depth))?.unguard?.();
  }

  /**
   * Gives up all that the overlay holds, so that its base shows: the last step of a commit, when
   * the base holds it too.
   */
  empty(): Promise<void> {
    return this.#io.empty();
  }

  /** Ends a job, writes everything, and closes the files. A second call waits for the first. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    this.#access.isClosed = true;
    return this.#closing;
  }

  async #close(): Promise<void> {
    let giveUp = (): void => {};
    this.#profiles.close();
    try {
      giveUp = this.#engine.clock.after(CLOSE_WAITS_MS, () =>
        this.#engine.bases.leave(new MillraceError('ECLOSED', 'the disk is being closed')),
      );
      await this.#job.end();
      await this.#engine.request(KIND_CLOSE, 0, 0, this.#access.isReadOnly ? CLOSE_READ_ONLY : 0);
      await this.#content.closing();
    } finally {
      giveUp();
      this.#engine.close(new MillraceError('ECLOSED', 'the disk has been closed'));
      await this.#release();
    }
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
