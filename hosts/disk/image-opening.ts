/**
 * Opening one image that has been attached to the engine: by the format that was asked for, or by
 * what its bytes say; with its other files, where it lies in several.
 */
import {
  FORMAT_RAW,
  FORMAT_VMDK,
  FORMAT_VPC,
  IMAGES_MAX,
  KIND_OPEN,
  OPEN_WRITABLE,
} from '../../engine/protocol.ts';
import { MillraceError } from '../api/errors.ts';
import type { Runtime, SourceUse } from '../api/runtime.ts';
import type { Engine } from './driver/engine.ts';
import type { UnpackChoice } from './image-source.ts';
import {
  isVhdFooter,
  otherFormat,
  otherTrailer,
  PROBE_BYTES,
  TRAILER_BYTES,
} from './other-formats.ts';
import { openPartsOf } from './parts.ts';
import { rebaseCommand } from './recorded.ts';
import { startsVmdkText } from './vmdk-text.ts';

/** How the format of what was given is said: of an image that is looked at, and of a base. */
export const RAW_IMAGE = "format: 'raw', -f raw";
export const RAW_BASE = "baseFormat: 'raw', --base-format raw";

/** One letter is a drive. */
const ON_A_SERVER = /^[a-z][a-z0-9+.-]+:/i;

/** What the caller says of all images of a chain. */
export interface ImageChoice extends UnpackChoice {
  /** Open the other files of an image that lies in several. */
  follow: boolean;
  baseUse: SourceUse;
}

/** An image that has been attached, and how it is to be opened. */
export interface Attached {
  image: number;
  /** Number of the format asked for; 0 for whatever it is. */
  asked: number;
  /** As the request to open takes it. */
  argument?: number;
  /** Where it was opened, as it was given; its other files are beside that. */
  place?: string;
  /** It is a base that an image records. */
  isRecorded?: boolean;
}

/** Opens the images of one chain. */
export class ImageOpener {
  readonly #runtime: Runtime;
  readonly #engine: Engine;
  readonly #choice: ImageChoice;
  /** Number of the next file, of images that lie in several. */
  #nextFile: number = IMAGES_MAX;

  constructor(runtime: Runtime, engine: Engine, choice: ImageChoice) {
    this.#runtime = runtime;
    this.#engine = engine;
    this.#choice = choice;
  }

  /**
   * Gives the number of the format found. Raw data ends where its source does: one that comes in
   * order and does not tell its size is gone through first.
   */
  async open(attached: Attached): Promise<number> {
    const { image } = attached;
    const format = await this.#openByFormat(attached);
    const source = this.#engine.file(image);
    if (format !== FORMAT_RAW || source?.measure === undefined) return format;
    await source.measure();
    this.#engine.attach(image, source, this.#engine.name(image));
    return this.#openByFormat(attached);
  }

  /**
   * Where no format was asked for, what begins like a container or a page is not taken for raw
   * data.
   */
  async #openByFormat(attached: Attached): Promise<number> {
    const { image, asked, argument = 0 } = attached;
    const opening = this.#engine.request(KIND_OPEN, image, asked, argument);
    if (asked && asked !== FORMAT_VMDK) return opening;
    const failed = await opening.then(
      () => undefined,
      (error) => error,
    );
    if (failed !== undefined && (await this.#openParts(attached)))
      return this.#engine.request(KIND_OPEN, image, FORMAT_VMDK, argument);
    if (asked) return opening;
    const isRaw = failed === undefined && (await opening) === FORMAT_RAW;
    // Comments and empty lines may come first, which the engine does not look behind.
    if (isRaw && (await this.#openParts(attached)))
      return this.#engine.request(KIND_OPEN, image, FORMAT_VMDK, argument);
    const isUnknown = failed instanceof MillraceError && failed.code === 'EUNSUPPORTED';
    const found = isRaw || isUnknown ? await this.#otherFormat(image, isRaw) : undefined;
    if (found === undefined && isRaw && (await this.#isFixedVhd(image)))
      return this.#engine.request(KIND_OPEN, image, FORMAT_VPC, argument);
    if (found === undefined) return opening;
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot open ${this.#engine.name(image)}: ${found}${this.#asRawAdvice(attached)}`,
      { cause: failed },
    );
  }

  /** Opens the other files of an image that lies in several; false where it does not. */
  async #openParts({ image, place }: Attached): Promise<boolean> {
    if (!startsVmdkText(this.#engine.firstBytes(image, PROBE_BYTES))) return false;
    const { baseUse, ...choice } = this.#choice;
    const parted = await openPartsOf(this.#runtime, this.#engine, image, {
      ...choice,
      as: image === 0 ? undefined : baseUse,
      place,
      first: this.#nextFile,
    });
    this.#nextFile = parted.end;
    this.#engine.attach(image, parted, this.#engine.name(image));
    return true;
  }

  /** How the format raw is given to an image; nothing for an overlay that is written. */
  #asRawAdvice({ image, argument, isRecorded }: Attached): string {
    if (image === 0 && argument === OPEN_WRITABLE) return '';
    const command = rebaseCommand(this.#engine.name(image - 1), this.#engine.name(image));
    const base = isRecorded ? `baseFormat: 'raw', or ${command} --base-format raw` : RAW_BASE;
    const option = image === 0 ? RAW_IMAGE : base;
    return `; or give it the format raw, if its bytes as they are are the disk (${option})`;
  }

  async #otherFormat(image: number, isRaw: boolean): Promise<string | undefined> {
    const { size = 0 } = this.#engine.file(image) ?? {};
    const found = otherFormat(this.#engine.firstBytes(image, PROBE_BYTES), size);
    if (found || !isRaw) return found;
    // An end that cannot be read tells nothing, and may never be asked for.
    const end = this.#isAtHand(image)
      ? await this.#lastBytes(image).catch(() => undefined)
      : await this.#trailer(image, 'dmg');
    return end && otherTrailer(end);
  }

  /** A VHD of fixed size is raw data with a footer behind it. */
  async #isFixedVhd(image: number): Promise<boolean> {
    const end = await this.#trailer(image, 'vhd', 'vpc');
    return end !== undefined && isVhdFooter(end);
  }

  /** Whether its end can be read at no cost. */
  #isAtHand(image: number): boolean {
    const isPlain = this.#engine.file(image)?.container === undefined;
    return isPlain && !ON_A_SERVER.test(this.#engine.name(image));
  }

  /**
   * The last bytes of an image whose name ends in what may be there, as QEMU looks at them: of a
   * remote image it costs a request.
   */
  async #trailer(image: number, ...endings: string[]): Promise<Uint8Array | undefined> {
    const ending = /\.(\w+)(?:[?#].*)?$/.exec(this.#engine.name(image))?.[1].toLowerCase() ?? '';
    return endings.includes(ending) ? this.#lastBytes(image) : undefined;
  }

  async #lastBytes(image: number): Promise<Uint8Array | undefined> {
    const file = this.#engine.file(image);
    if (!file || file.size < TRAILER_BYTES) return undefined;
    const end = new Uint8Array(TRAILER_BYTES);
    await file.read(file.size - TRAILER_BYTES, end);
    return end;
  }
}
