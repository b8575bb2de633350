/**
 * A disk on its way to being open: its engine, its overlay and the chain below (chain-opening.ts),
 * and what undoes it all if it does not get there.
 */
import {
  FORMAT_QCOW2,
  IMAGE_NAME_BYTES,
  IMAGE_SIZE,
  KIND_CHECK,
  KIND_OPEN,
  OPEN_TO_CHECK,
  OPEN_TO_DESCRIBE,
  OPEN_WRITABLE,
  OVERLAY,
  REPAIR_CRASH,
} from '../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat, SnapshotChoice } from '../api/image.ts';
import type { CacheMode } from '../api/open.ts';
import type { ProfileChoice, RecordOptions } from '../api/profile.ts';
import type { OverlayMode, Runtime } from '../api/runtime.ts';
import { ChainOpening } from './chain-opening.ts';
import { closeAll } from './close-all.ts';
import { ContentId } from './content-id.ts';
import { EngineDisk } from './disk.ts';
import { Engine } from './driver/engine.ts';
import { formatName } from './driver/formats.ts';
import { findImage } from './find-image.ts';
import { asOfSnapshot, findSnapshot } from './find-snapshot.ts';
import type { ImageChoice } from './image-opening.ts';
import { ImageOpener } from './image-opening.ts';
import type { UnpackChoice } from './image-source.ts';
import { contentsOf, openPlace } from './image-source.ts';
import { checkedFormat, checkedMemory, mustBeWritable, overlayName } from './options.ts';
import type { GivenProfile } from './profile-file.ts';
import { loadProfile } from './profile-file.ts';
import { checkedRecording } from './profiles.ts';

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
  /** The images below the nearest base are taken as they are, whatever those over them record. */
  takesLower?: boolean;
}

/**
 * A disk on its way to being open; what has been opened is closed again if it does not get there.
 */
export class Opening {
  readonly engine: Engine;
  /** The images below the overlay. */
  readonly chain: ChainOpening;
  readonly #runtime: Runtime;
  /** An overlay that was made here, and is not under its name yet. */
  #made: BlockFile | undefined;
  /** Where the overlay was opened, as it was given. */
  #given: string | undefined;
  readonly #choice: UnpackChoice;
  readonly #opener: ImageOpener;
  readonly #record: OpeningOptions['record'];
  #profile: { choice: ProfileChoice; given?: GivenProfile } | undefined;

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
    { forceShare, unpack, sequential, followChain, record, ...told }: OpeningOptions,
  ) {
    this.#runtime = runtime;
    this.engine = engine;
    this.#choice = { unpack, sequential };
    const choice: ImageChoice = {
      ...this.#choice,
      follow: followChain ?? false,
      baseUse: forceShare ? 'shared' : 'base',
    };
    this.#opener = new ImageOpener(runtime, engine, choice);
    this.chain = new ChainOpening({
      runtime,
      engine,
      opener: this.#opener,
      choice,
      size: told.size,
      onOtherDate: told.onOtherDate,
      takesLower: told.takesLower ?? false,
    });
    this.#record = record;
  }

  /** Keeps number 0 for an overlay that is made after its base has been opened. */
  reserve(name: string): void {
    this.engine.attach(0, nowhere, name);
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

  /**
   * Lets the image that was opened to be read show an internal snapshot, in its place.
   * @throws MillraceError `ENOENT` for one that is not there, `EUNSUPPORTED` where there can be
   *   none.
   */
  async showSnapshot(wanted: SnapshotChoice): Promise<void> {
    const { at, label } = await findSnapshot(this.engine, wanted);
    await this.engine.request(KIND_OPEN, OVERLAY, FORMAT_QCOW2, at).catch((error) => {
      throw asOfSnapshot(error, label);
    });
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

  /** Loads the boot profile that the disk is to replay: one that cannot be had shows here. */
  async loadProfile(choice: ProfileChoice | undefined): Promise<void> {
    if (choice === undefined) return;
    const given = await loadProfile(choice, (location) => this.#runtime.openSource(location));
    this.#profile = { choice, given };
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
    const isStored = copyOnRead && !readOnly && this.chain.sources().length > 0;
    this.#setUse(isStored, remote && !readOnly && copyOnRead);
    const disk = this.#disk(readOnly, false, isStored);
    if (this.#profile) disk.beginReplay(this.#profile.choice, this.#profile.given);
    return disk;
  }

  /** As finish, with the base left unopened. */
  async finishWithoutBase(readOnly: boolean): Promise<EngineDisk> {
    if (this.engine.imageReport(0)[IMAGE_NAME_BYTES] > 0) await this.chain.leaveUnopened();
    if (!readOnly) await this.recover();
    this.#setUse(false, false);
    return this.#disk(readOnly, true, false);
  }

  #disk(readOnly: boolean, baseless: boolean, isStored: boolean): EngineDisk {
    return new EngineDisk(this.engine, {
      readOnly,
      baseless,
      content: new ContentId(this.engine.file(0)!, baseless ? [] : this.chain.sources(), readOnly),
      release: () => this.#closeFiles(),
      recordBase: (image) => this.chain.recordBase(image),
      findImage: (images, wanted) => findImage(this.#runtime, images, wanted),
      profiles: {
        base: baseless ? undefined : this.chain.profiledBase(isStored),
        open: (location) => this.#runtime.openSource(location),
        record: this.#record,
      },
    });
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
    const images = this.chain.count + 1;
    await closeAll(Array.from({ length: images }, (_, image) => this.engine.detach(image)));
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
