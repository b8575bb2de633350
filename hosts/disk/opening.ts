/**
 * A disk on its way to being open: its engine, its chain of images, and what undoes it all if it
 * does not get there.
 */
import {
  FORMAT_QCOW2,
  FORMAT_RAW,
  IMAGE_NAME_BYTES,
  IMAGE_SIZE,
  IMAGES_MAX,
  KIND_CHECK,
  KIND_OPEN,
  OPEN_TO_CHECK,
  OPEN_TO_DESCRIBE,
  OPEN_WRITABLE,
  REPAIR_CRASH,
} from '../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat } from '../api/image.ts';
import type { BaseLocation, CacheMode } from '../api/open.ts';
import type { ProfileChoice, RecordOptions } from '../api/profile.ts';
import type { OverlayMode, Runtime, SourceUse } from '../api/runtime.ts';
import type { Backing } from './backing.ts';
import { backingOf, NAMELESS, notFollowed, ofRecorded, placeOf, recordBacking } from './backing.ts';
import { closeAll } from './close-all.ts';
import { ContentId } from './content-id.ts';
import type { Expected, UnpackChoice } from './contents.ts';
import { contentsOf, openPlace } from './contents.ts';
import { EngineDisk } from './disk.ts';
import { Engine } from './driver/engine.ts';
import { formatName } from './driver/formats.ts';
import { findImage } from './find-image.ts';
import { ImageOpener } from './image-opening.ts';
import {
  checkedFormat,
  checkedMemory,
  checkedRecord,
  mustBeLocation,
  mustBeWritable,
  overlayName,
} from './options.ts';
import type { PartedSource } from './parts.ts';
import type { GivenProfile } from './profile-file.ts';
import { loadProfile } from './profile-file.ts';
import type { ProfiledBase } from './profiles.ts';
import { checkedRecording } from './profiles.ts';
import type { RecordedIdentity } from './recorded.ts';
import {
  checkIdentity,
  checkParts,
  isMirrored,
  otherDate,
  recordedName,
  recordOf,
} from './recorded.ts';

/** What the caller says of the disk and its bases. */
export interface OpeningOptions extends UnpackChoice {
  memory?: number;
  forceShare?: boolean;
  /** Bytes of the disk, where they are told. */
  size?: number;
  /** Open what an image names: the base of a base, and the other files of one in several. */
  followChain?: boolean;
  record?: boolean | RecordOptions;
  /** Told of a base of which only the date is another one: it is taken then, not refused. */
  onOtherDate?: (words: string) => void;
}

/**
 * A disk on its way to being open; what has been opened is closed again if it does not get there.
 */
export class Opening {
  readonly engine: Engine;
  readonly #runtime: Runtime;
  /** An overlay that was made here, and is not under its name yet. */
  #made: BlockFile | undefined;
  /** What would be recorded of each base, kept for when a job makes it the overlay's own. */
  readonly #identities: RecordedIdentity[] = [];
  /** The base that is being opened is one that an image records. */
  #isRecorded = false;
  /** By which places the bases go, and the members of archives that they are (`#NAME`). */
  readonly #places: { place: string; suffix: string }[] = [];
  /** Where the overlay was opened, as it was given. */
  #given: string | undefined;
  readonly #choice: UnpackChoice;
  readonly #opener: ImageOpener;
  /** Bytes of the disk, where they are told. */
  #size: number | undefined;
  #count = 0;
  readonly #baseUse: SourceUse;
  readonly #record: OpeningOptions['record'];
  readonly #onOtherDate: OpeningOptions['onOtherDate'];
  #profile: { choice: ProfileChoice; given?: GivenProfile } | undefined;
  /** Opens what stands beside the nearest base. */
  #beside: BlockSource['beside'];

  /** `forceShare` takes bases that another program has open for writing, too. */
  static async start(runtime: Runtime, options: OpeningOptions = {}): Promise<Opening> {
    const bytes = checkedMemory(options.memory);
    checkedRecording(options.record ?? false);
    const engine = new Engine(await runtime.engine(), bytes, runtime.codec, runtime.clock);
    return new Opening(runtime, engine, options);
  }

  private constructor(
    runtime: Runtime,
    engine: Engine,
    { forceShare, unpack, sequential, size, followChain, record, onOtherDate }: OpeningOptions,
  ) {
    this.#runtime = runtime;
    this.engine = engine;
    this.#baseUse = forceShare ? 'shared' : 'base';
    this.#choice = { unpack, sequential };
    this.#size = size;
    const follow = followChain ?? false;
    this.#opener = new ImageOpener(runtime, engine, {
      ...this.#choice,
      follow,
      baseUse: this.#baseUse,
    });
    this.#record = record;
    this.#onOtherDate = onOtherDate;
  }

  /** Keeps number 0 for an overlay that is made after its base has been opened. */
  reserve(name: string): void {
    this.engine.attach(0, nowhere, name);
    this.#count = 1;
  }

  async createOverlay(overlay: string | BlockFile, cache?: CacheMode): Promise<void> {
    const given = typeof overlay !== 'string';
    const file = given
      ? overlay
      : await this.#runtime.openOverlay(overlay, { create: true, cache });
    if (!given) this.#made = file;
    if (file.size)
      throw new MillraceError('EEXIST', `cannot create ${overlayName(overlay)}: it is not empty`);
    this.engine.attach(0, file, overlayName(overlay));
  }

  /**
   * The overlay is whole: it comes to be there. One that the caller gave is the caller's to
   * publish.
   */
  async publish(): Promise<void> {
    await this.#made?.publish?.();
  }

  async openOverlay(
    overlay: string | BlockFile | BlockSource,
    mode: OverlayMode,
    as?: ImageFormat,
  ): Promise<void> {
    const { readOnly = false } = mode;
    mustBeWritable(overlay, !readOnly);
    await this.#attachOverlay(overlay, mode);
    const format = await this.#openOverlay(as, readOnly ? 0 : OPEN_WRITABLE);
    this.engine.texts.keep(0);
    if (!readOnly && format !== FORMAT_QCOW2) {
      throw new MillraceError(
        'EUNSUPPORTED',
        `${overlayName(overlay)}: an overlay is a qcow2 image, and this is ${formatName(format)} data; open it read-only, or create an overlay over it`,
      );
    }
  }

  /** Opens an image for nothing but a description: one whose data cannot be read, too. */
  async openToDescribe(overlay: string | BlockSource, as?: ImageFormat): Promise<void> {
    await this.#attachOverlay(overlay, { readOnly: true });
    await this.#openOverlay(as, OPEN_TO_DESCRIBE);
    this.engine.texts.keep(0);
  }

  /**
   * Opens an image for nothing but a check: one that is marked corrupt, or has snapshots, as well.
   * False for a raw one.
   */
  async openToCheck(
    overlay: string | BlockFile | BlockSource,
    writable: boolean,
    as?: ImageFormat,
  ): Promise<boolean> {
    mustBeWritable(overlay, writable);
    await this.#attachOverlay(overlay, { readOnly: !writable });
    return (await this.#openOverlay(as, OPEN_TO_CHECK)) === FORMAT_QCOW2;
  }

  #openOverlay(as: ImageFormat | undefined, argument: number): Promise<number> {
    const asked = checkedFormat(as);
    return this.#opener.open({ image: 0, asked, argument, place: this.#given });
  }

  async #attachOverlay(
    overlay: string | BlockFile | BlockSource,
    mode: OverlayMode,
  ): Promise<void> {
    const file = mode.readOnly
      ? await this.#toRead(overlay, mode)
      : await this.#toWrite(overlay, mode);
    this.#given = typeof overlay === 'string' ? overlay : overlay.name;
    this.engine.attach(0, file, overlayName(overlay));
    this.#count = 1;
  }

  async #toWrite(
    overlay: string | BlockFile | BlockSource,
    mode: OverlayMode,
  ): Promise<BlockSource> {
    return typeof overlay === 'string' ? this.#runtime.openOverlay(overlay, mode) : overlay;
  }

  /** What is only read may be in a container. */
  async #toRead(
    overlay: string | BlockFile | BlockSource,
    mode: OverlayMode,
  ): Promise<BlockSource> {
    if (typeof overlay !== 'string') return contentsOf(this.#runtime, overlay, this.#choice);
    const openSource = (place: string | URL): Promise<BlockSource> =>
      this.#runtime.openOverlay(String(place), mode);
    const { source, member } = await openPlace({ ...this.#runtime, openSource }, overlay);
    return contentsOf(this.#runtime, source, { ...this.#choice, member });
  }

  /**
   * Opens the images below, from the nearest down, which must be the one that was `recorded`. A
   * base's own base is followed only if the caller said so.
   */
  async openChain(
    bases: BaseLocation[],
    formats: (ImageFormat | undefined)[],
    follow: boolean,
    recorded?: RecordedIdentity,
  ): Promise<void> {
    for (let i = 0; i < bases.length; i++)
      await this.#openBase(bases[i], formats[i], i === 0 ? { recorded, size: this.#size } : {});
    for (;;) {
      const last = this.#count - 1;
      const below = this.backingOf(last);
      if (!below) return;
      if (!follow) throw notFollowed(this.engine.name(last), below.name);
      if (this.#count >= IMAGES_MAX)
        throw new MillraceError(
          'EUNSUPPORTED',
          `${this.engine.name(0)}: the chain has more than ${IMAGES_MAX} images, or goes round in a circle`,
        );
      await this.#openBelow(below, last, below.format);
    }
  }

  /** Opens the chain that starts with the base which the overlay records. */
  async openRecorded(
    recorded: Backing,
    format: ImageFormat | undefined,
    follow: boolean,
  ): Promise<void> {
    await this.#openBelow(recorded, 0, format ?? recorded.format, recorded.identity);
    await this.openChain([], [], follow);
  }

  /** Loads the boot profile that the disk is to replay: one that cannot be had shows here. */
  async loadProfile(choice: ProfileChoice | undefined): Promise<void> {
    if (choice === undefined) return;
    const given = await loadProfile(choice, (location) => this.#runtime.openSource(location));
    this.#profile = { choice, given };
  }

  /** Opens the base that an image records. */
  async #openBelow(
    backing: Backing,
    image: number,
    format: ImageFormat | undefined,
    recorded?: RecordedIdentity,
  ): Promise<void> {
    const base = placeOf(this.#runtime, this.engine, backing, image);
    const isForeign =
      backing.identity === undefined && backing.format !== undefined && !backing.isPacked;
    this.#isRecorded = true;
    try {
      await this.#openBase(base, format, { recorded, isForeign });
      this.#isRecorded = false;
    } catch (error) {
      throw ofRecorded(error);
    }
  }

  async #openBase(
    location: BaseLocation,
    format: ImageFormat | undefined,
    expected: Pick<Expected, 'recorded' | 'isForeign' | 'size'>,
  ): Promise<void> {
    const asked = checkedFormat(format);
    const isPlace = typeof location === 'string' || location instanceof URL;
    if (!isPlace) mustBeLocation('base', location);
    const opened = isPlace
      ? await openPlace(this.#runtime, location, this.#baseUse, this.#choice)
      : undefined;
    const outside = opened?.source ?? (location as BlockSource);
    if (this.#count === 1) this.#beside = outside.beside;
    const source = await contentsOf(this.#runtime, outside, {
      ...this.#choice,
      ...expected,
      member: opened?.member,
      beside: this.engine.name(0),
    });
    const { recorded } = expected;
    const image = this.#count++;
    if (opened !== undefined) this.#places[image] = opened;
    this.engine.attach(
      image,
      source,
      source.name ?? (isPlace ? String(location) : `base ${image}`),
    );
    // Before it is looked into: another base is to be called that, whatever is wrong with it
    // besides.
    const found = await recordOf(source);
    if (recorded && !(await isMirrored(recorded, found, outside)))
      this.#checkIdentity(recorded, found, source.name);
    await this.#opener.open({
      image,
      asked,
      place: opened?.place ?? source.name,
      isRecorded: this.#isRecorded,
    });
    this.#identities[image] = {
      ...(await recordOf(this.engine.file(image) as PartedSource)),
      sample: recorded ? recorded.sample : await outside.mirrors?.sample(),
    };
    if (recorded) checkParts(this.engine.name(0), recorded, this.#identities[image], source.name);
    this.engine.texts.keep(image);
  }

  #checkIdentity(recorded: RecordedIdentity, found: RecordedIdentity, name?: string): void {
    const words = this.#onOtherDate && otherDate(recorded, found);
    if (words === undefined) checkIdentity(this.engine.name(0), recorded, found, name);
    else this.#onOtherDate!(words);
  }

  /** What an image records as its base, if it has one. */
  backingOf(image: number): Backing | undefined {
    return backingOf(this.engine, image);
  }

  /**
   * Hands over what the overlay's header is to say of its base, which was opened from `place`, or
   * is to be named `as`.
   */
  recordBase(image: number, place?: string, as?: string): void {
    const name = checkedRecord(as) ?? this.#recordedName(image, place);
    recordBacking(this.engine, image, name, this.#identities[image]);
  }

  #recordedName(image: number, given: string | undefined): string {
    const { place = given, suffix = '' } = this.#places[image] ?? {};
    const bare = given === undefined ? this.engine.file(image)!.name : place;
    if (!bare) return NAMELESS;
    return recordedName(this.#runtime, bare, this.engine.name(0)) + suffix;
  }

  virtualSize(image: number): number {
    return this.engine.imageReport(image)[IMAGE_SIZE];
  }

  /**
   * Looks through the overlay's tables before anything is written by them. What a crash left behind
   * is put right: space that nothing uses, and refcounts that had not been written. It takes about
   * a millisecond for each GiB that the overlay holds in clusters of 64 KiB; the tables of smaller
   * clusters are many, and lie all over the file.
   * @throws MillraceError `ECORRUPT` when more than that is wrong; nothing has been changed then.
   */
  async recover(): Promise<void> {
    try {
      await this.engine.request(KIND_CHECK, 0, 0, REPAIR_CRASH);
    } catch (error) {
      if (!(error instanceof MillraceError) || error.code !== 'ECORRUPT') throw error;
      throw new MillraceError(
        'ECORRUPT',
        `${error.message}; nothing was written, look at it with 'millrace check'`,
        { cause: error, offset: error.offset },
      );
    }
  }

  finish(readOnly: boolean, copyOnRead: boolean): EngineDisk {
    const remote = this.engine.file(1)?.preferred !== undefined;
    const isStored = copyOnRead && !readOnly && this.#count > 1;
    this.#setUse(isStored, remote && !readOnly && copyOnRead);
    const disk = this.#disk(readOnly, false, isStored);
    if (this.#profile) disk.beginReplay(this.#profile.choice, this.#profile.given);
    return disk;
  }

  /**
   * In the base's place stands one as large as the disk that cannot be read: nothing absent is ever
   * taken for zeros.
   */
  async finishWithoutBase(readOnly: boolean): Promise<EngineDisk> {
    const overlay = this.engine.imageReport(0);
    if (overlay[IMAGE_NAME_BYTES] > 0) {
      const name = `the base of ${this.engine.name(0)}`;
      this.engine.attach(1, unopened(name, overlay[IMAGE_SIZE]), name);
      this.#count = 2;
      await this.engine.request(KIND_OPEN, 1, FORMAT_RAW);
    }
    if (!readOnly) await this.recover();
    this.#setUse(false, false);
    return this.#disk(readOnly, true, false);
  }

  #disk(readOnly: boolean, baseless: boolean, isStored: boolean): EngineDisk {
    return new EngineDisk(this.engine, {
      readOnly,
      baseless,
      content: new ContentId(this.engine.file(0)!, baseless ? [] : this.#bases(), readOnly),
      release: () => this.#closeFiles(),
      recordBase: (image) => this.recordBase(image),
      findImage: (images, wanted) => findImage(this.#runtime, images, wanted),
      profiles: {
        base: baseless || this.#count < 2 ? undefined : this.#profiledBase(isStored),
        open: (location) => this.#runtime.openSource(location),
        record: this.#record,
      },
    });
  }

  #profiledBase(isStored: boolean): ProfiledBase {
    const { preferred, inOrder, container } = this.engine.file(1)!;
    const isInOrder = inOrder !== undefined || container?.access === 'sequential';
    return {
      record: this.#identities[1],
      virtualSize: this.virtualSize(1),
      isStored: isStored && !isInOrder,
      preferred,
      beside: this.#beside,
    };
  }

  #bases(): BlockSource[] {
    return Array.from({ length: this.#count - 1 }, (_, above) => this.engine.file(above + 1)!);
  }

  #setUse(copyOnRead: boolean, readAhead: boolean): void {
    const { discard, flushIsDear = false } = this.engine.file(0) as Partial<BlockFile>;
    this.engine.exports.setUse(copyOnRead, readAhead, discard !== undefined, flushIsDear);
  }

  /** Of an overlay that was not published, nothing is left. */
  async undo(): Promise<void> {
    this.engine.close(new MillraceError('ECLOSED', 'the disk was not opened'));
    await this.#closeFiles().catch(() => {});
  }

  async #closeFiles(): Promise<void> {
    await closeAll(Array.from({ length: this.#count }, (_, image) => this.engine.detach(image)));
  }
}

/** Stands for an overlay that has not been made yet. */
const nowhere: BlockSource = {
  size: 0,
  read() {
    throw new MillraceError('EIO', 'the overlay has not been created yet');
  },
  close() {},
};

/** Stands for a base that is not to be opened. */
function unopened(name: string, size: number): BlockSource {
  return {
    name,
    size,
    read() {
      throw new MillraceError('ENOENT', `cannot read from ${name}: the disk was opened without it`);
    },
    close() {},
  };
}
