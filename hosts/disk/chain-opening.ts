/** The chain below an overlay on its way to being open: from the nearest base down. */
import { FORMAT_RAW, IMAGE_SIZE, IMAGES_MAX, KIND_OPEN } from '../../engine/protocol.ts';
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat } from '../api/image.ts';
import type { BaseLocation } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import type { Backing } from './backing.ts';
import {
  backingOf,
  identityOfBase,
  NAMELESS,
  notFollowed,
  ofRecorded,
  placeOf,
  recordBacking,
} from './backing.ts';
import type { Engine } from './driver/engine.ts';
import type { ImageChoice, ImageOpener } from './image-opening.ts';
import type { Expected } from './image-source.ts';
import { contentsOf, openPlace } from './image-source.ts';
import { checkedFormat, checkedRecord, mustBeLocation } from './options.ts';
import type { PartedSource } from './parts.ts';
import type { ProfiledBase } from './profiles.ts';
import type { RecordedIdentity } from './recorded.ts';
import {
  checkIdentity,
  checkParts,
  isMirrored,
  otherDate,
  recordedName,
  recordOf,
} from './recorded.ts';

/** What opening a chain needs. */
export interface ChainTools {
  runtime: Runtime;
  engine: Engine;
  opener: ImageOpener;
  choice: ImageChoice;
  /** Bytes of the disk, where they are told. */
  size: number | undefined;
  /** Told of a base of which only the date is another one: it is taken then, not refused. */
  onOtherDate: ((words: string) => void) | undefined;
  /** The images below the nearest base are taken as they are, whatever those over them record. */
  takesLower: boolean;
}

export class ChainOpening {
  readonly #tools: ChainTools;
  readonly #runtime: Runtime;
  readonly #engine: Engine;
  #count = 0;
  /** What would be recorded of each base, kept for when a job makes it the overlay's own. */
  readonly #identities: RecordedIdentity[] = [];
  /** The base that is being opened is one that an image records. */
  #isRecorded = false;
  /** By which places the bases go, and the members of archives that they are (`#NAME`). */
  readonly #places: { place: string; suffix: string }[] = [];
  /** Opens what stands beside the nearest base. */
  #beside: BlockSource['beside'];

  constructor(tools: ChainTools) {
    this.#tools = tools;
    this.#runtime = tools.runtime;
    this.#engine = tools.engine;
  }

  /** How many bases are open; the depth of the lowest. */
  get count(): number {
    return this.#count;
  }

  /** The open bases, from the nearest down. */
  sources(): BlockSource[] {
    return Array.from({ length: this.#count }, (_, above) => this.#engine.file(above + 1)!);
  }

  /**
   * Opens the images below, from the nearest down, which must be the one that was `recorded`. A
   * base's own base is followed only if the caller said so.
   */
  async open(
    bases: BaseLocation[],
    formats: (ImageFormat | undefined)[],
    follow: boolean,
    recorded?: RecordedIdentity,
  ): Promise<void> {
    for (let i = 0; i < bases.length; i++)
      await this.#openBase(
        bases[i],
        formats[i],
        i === 0 ? { recorded, size: this.#tools.size } : { recorded: this.#lowerIdentity(i) },
        i,
      );
    for (;;) {
      const last = this.#count;
      const below = backingOf(this.#engine, last);
      if (!below) return;
      if (!follow) throw notFollowed(this.#engine.name(last), below.name);
      if (last + 1 >= IMAGES_MAX)
        throw new MillraceError(
          'EUNSUPPORTED',
          `${this.#engine.name(0)}: the chain has more than ${IMAGES_MAX} images, or goes round in a circle`,
        );
      await this.#openBelow(below, last, below.format, this.#lowerIdentity(last));
    }
  }

  /** Opens the chain that starts with the base which the overlay records. */
  async openRecorded(
    recorded: Backing,
    format: ImageFormat | undefined,
    follow: boolean,
  ): Promise<void> {
    await this.#openBelow(recorded, 0, format ?? recorded.format, recorded.identity);
    await this.open([], [], follow);
  }

  /**
   * In the base's place stands one as large as the disk that cannot be read: nothing absent is ever
   * taken for zeros.
   */
  async leaveUnopened(): Promise<void> {
    const name = `the base of ${this.#engine.name(0)}`;
    this.#engine.attach(1, unopened(name, this.#engine.imageReport(0)[IMAGE_SIZE]), name);
    this.#count = 1;
    await this.#engine.request(KIND_OPEN, 1, FORMAT_RAW);
  }

  /** Of the base that the image has which is below the overlay. */
  #lowerIdentity(image: number): RecordedIdentity | undefined {
    return this.#tools.takesLower ? undefined : identityOfBase(this.#engine, image);
  }

  /** Opens the base that an image records. */
  async #openBelow(
    backing: Backing,
    image: number,
    format: ImageFormat | undefined,
    recorded?: RecordedIdentity,
  ): Promise<void> {
    const base = placeOf(this.#runtime, this.#engine, backing, image);
    const isForeign =
      backing.identity === undefined && backing.format !== undefined && !backing.isPacked;
    this.#isRecorded = true;
    try {
      await this.#openBase(base, format, { recorded, isForeign }, image);
      this.#isRecorded = false;
    } catch (error) {
      throw ofRecorded(error);
    }
  }

  /** `above` is the image that records it. */
  async #openBase(
    location: BaseLocation,
    format: ImageFormat | undefined,
    expected: Pick<Expected, 'recorded' | 'isForeign' | 'size'>,
    above = 0,
  ): Promise<void> {
    const { baseUse, follow: _, ...containers } = this.#tools.choice;
    const asked = checkedFormat(format);
    const isPlace = typeof location === 'string' || location instanceof URL;
    if (!isPlace) mustBeLocation('base', location);
    const opened = isPlace
      ? await openPlace(this.#runtime, location, baseUse, containers)
      : undefined;
    const outside = opened?.source ?? (location as BlockSource);
    if (this.#count === 0) this.#beside = outside.beside;
    const source = await contentsOf(this.#runtime, outside, {
      ...containers,
      ...expected,
      member: opened?.member,
      beside: this.#engine.name(0),
    });
    const { recorded } = expected;
    const image = ++this.#count;
    if (opened !== undefined) this.#places[image] = opened;
    this.#engine.attach(
      image,
      source,
      source.name ?? (isPlace ? String(location) : `base ${image}`),
    );
    // Before it is looked into: another base is to be called that, whatever is wrong with it
    // besides.
    const found = await recordOf(source);
    if (recorded && !(await isMirrored(recorded, found, outside)))
      this.#checkIdentity(above, recorded, found, source.name);
    await this.#tools.opener.open({
      image,
      asked,
      place: opened?.place ?? source.name,
      isRecorded: this.#isRecorded,
    });
    this.#identities[image] = {
      ...(await recordOf(this.#engine.file(image) as PartedSource)),
      sample: recorded ? recorded.sample : await outside.mirrors?.sample(),
    };
    if (recorded)
      checkParts(this.#engine.name(above), recorded, this.#identities[image], source.name);
    this.#engine.texts.keep(image);
  }

  #checkIdentity(
    above: number,
    recorded: RecordedIdentity,
    found: RecordedIdentity,
    name?: string,
  ): void {
    const { onOtherDate } = this.#tools;
    const words = onOtherDate && otherDate(recorded, found);
    if (words === undefined) checkIdentity(this.#engine.name(above), recorded, found, name);
    else onOtherDate!(words);
  }

  /**
   * Hands over what the overlay's header is to say of its base, which was opened from `place`, or
   * is to be named `as`.
   */
  recordBase(image: number, place?: string, as?: string): void {
    const name = checkedRecord(as) ?? this.#recordedName(image, place);
    recordBacking(this.#engine, image, name, this.#identities[image]);
  }

  #recordedName(image: number, given: string | undefined): string {
    const { place = given, suffix = '' } = this.#places[image] ?? {};
    const bare = given === undefined ? this.#engine.file(image)!.name : place;
    if (!bare) return NAMELESS;
    return recordedName(this.#runtime, bare, this.#engine.name(0)) + suffix;
  }

  /** The nearest base, as far as profiles are concerned. */
  profiledBase(isStored: boolean): ProfiledBase | undefined {
    if (this.#count === 0) return undefined;
    const { preferred, inOrder, container } = this.#engine.file(1)!;
    const isInOrder = inOrder !== undefined || container?.access === 'sequential';
    return {
      record: this.#identities[1],
      virtualSize: this.#engine.imageReport(1)[IMAGE_SIZE],
      isStored: isStored && !isInOrder,
      preferred,
      beside: this.#beside,
    };
  }
}

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
