/**
 * Opening and creating disks, the same way on every runtime: files are opened by the runtime, images by the engine, and the chain is
 * put together from what the caller gave or what the overlay records.
 */

import type { BlockFile, BlockSource } from '../api/block.ts';
import type {
  BaseLocation,
  CacheMode,
  CheckOptions,
  CheckReport,
  CreateOptions,
  ImageFormat,
  OpenOptions,
} from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import { CHECK_OPTIONS, CREATE_OPTIONS, mustKnowOptions, OPEN_OPTIONS } from '../api/options.ts';
import type { OverlayMode, Runtime } from '../api/runtime.ts';
import { closeAll } from './close-all.ts';
import { EngineDisk } from './disk.ts';
import { checkWith } from './driver/answers.ts';
import { Engine, Kind, REPAIR_CRASH } from './driver/engine.ts';
import { ImageField } from './driver/reports.ts';
import { mayBeSame, shortIdentity } from './identity.ts';
import {
  checkedCache,
  checkedMemory,
  checkedRecord,
  checkedShape,
  checkedSize,
  FORMAT_NUMBERS,
  formatNumber,
  mustBeLocation,
  mustBeWritable,
  overlayName,
  SECTOR_BYTES,
} from './options.ts';

const OPEN_WRITABLE = 1;
/** Bytes of a base's identity that a header takes. */
const IDENTITY_BYTES_MAX = 256;
const CHAIN_IMAGES_MAX = 32;
/** What the HTTP bases say of a 401 or 403. */
const LACKS_CREDENTIALS = /^https?:.*the server answered 40[13]\b/;
const FORMATS: readonly (ImageFormat | undefined)[] = [undefined, 'raw', 'qcow2'];

/** What an overlay records of its base beside name and format, so that another base is noticed. */
interface RecordedIdentity {
  size: number;
  identity?: string;
  /** A checksum of the base's name: what another program has given another base, which leaves this as it is, tells of that one no more. */
  of?: string;
}

/** The text that stands for the identity of a base, which is recorded by this name, in an overlay's header. */
export async function identityText(source: BlockSource, name: string): Promise<string> {
  return textOf(await recordOf(source), name);
}

function textOf(record: RecordedIdentity, name: string): string {
  const text = JSON.stringify({ ...record, of: checksum(name) });
  return new TextEncoder().encode(text).length <= IDENTITY_BYTES_MAX
    ? text
    : JSON.stringify(record);
}

/** FNV-1a, of 32 bits. */
function checksum(text: string): string {
  let sum = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) sum = Math.imul(sum ^ byte, 0x01000193) >>> 0;
  return sum.toString(16).padStart(8, '0');
}

/** An identity whose text is longer than a header takes would not be recorded at all: a digest stands for it, behind the word of its kind. */
async function recordOf({
  size,
  identity,
}: Pick<BlockSource, 'size' | 'identity'>): Promise<RecordedIdentity> {
  const whole = { size, identity };
  const encoder = new TextEncoder();
  if (identity === undefined || encoder.encode(JSON.stringify(whole)).length <= IDENTITY_BYTES_MAX)
    return whole;
  const short = shortIdentity(identity);
  if (short !== identity) return recordOf({ size, identity: short });
  // A page without a secure context has no digests; nor has it storage in which an overlay could last.
  if (crypto.subtle === undefined) return { size };
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', encoder.encode(identity)));
  const [kind] = /^(etag |modified )?/.exec(identity)!;
  return {
    size,
    identity: `${kind}sha-256:${Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')}`,
  };
}

/** How a base at `place` is recorded in an overlay: a URL without user, password and query, which may hold credentials. */
export function recordedName(runtime: Runtime, place: string, overlay: string): string {
  if (!/^https?:/i.test(place)) return runtime.record(place, overlay);
  const url = new URL(place);
  return `${url.origin}${url.pathname}`;
}

/** What the header of an image says of its base. */
interface Backing {
  name: string;
  format?: ImageFormat;
  identity?: RecordedIdentity;
}

/** Makes a new overlay over a base, or an empty disk, and opens it. */
export async function createDiskWith(
  runtime: Runtime,
  options: CreateOptions,
): Promise<EngineDisk> {
  mustKnowOptions('createDisk', options, CREATE_OPTIONS);
  mustBeLocation('overlay', options.overlay);
  const opening = await Opening.start(runtime, options.memory);
  try {
    const shape = checkedShape(options);
    const size = checkedSize(options.size);
    if (size === undefined && options.base === undefined)
      throw new MillraceError('EINVAL', 'a disk without a base needs a size');
    // The base first: what is wrong with it shows before anything is made.
    opening.reserve(overlayName(options.overlay));
    if (options.base !== undefined)
      await opening.openChain([options.base], [options.baseFormat], options.followChain ?? false);
    await opening.createOverlay(options.overlay, checkedCache(options));
    const { base, recordBase } = options;
    if (base !== undefined)
      opening.recordBase(
        1,
        typeof base === 'string' || base instanceof URL ? String(base) : base.name,
        recordBase,
      );
    const bytes = size ?? Math.ceil(opening.virtualSize(1) / SECTOR_BYTES) * SECTOR_BYTES;
    await opening.engine.request(Kind.create, 0, bytes, shape);
    opening.engine.texts.keep(0);
    return opening.finish(false, options.copyOnRead ?? true);
  } catch (error) {
    await opening.undo(true);
    throw error;
  }
}

/** Opens an existing overlay with its chain. */
export async function openDiskWith(runtime: Runtime, options: OpenOptions): Promise<EngineDisk> {
  mustKnowOptions('openDisk', options, OPEN_OPTIONS);
  const { readOnly = false, followChain = false } = options;
  mustBeLocation('overlay', options.overlay);
  const opening = await Opening.start(runtime, options.memory);
  try {
    await opening.openOverlay(
      options.overlay,
      { readOnly, cache: checkedCache(options) },
      options.format,
    );
    if (options.base === null) return await opening.finishWithoutBase(readOnly);
    const bases =
      options.base === undefined ? [] : Array.isArray(options.base) ? options.base : [options.base];
    const formats = Array.isArray(options.baseFormat) ? options.baseFormat : [options.baseFormat];
    const recorded = opening.backingOf(0);
    if (bases.length) await opening.openChain(bases, formats, followChain, recorded?.identity);
    else if (recorded) await opening.openRecorded(recorded, 0, formats[0], followChain);
    if (!readOnly) await opening.recover();
    return opening.finish(readOnly, options.copyOnRead ?? true);
  } catch (error) {
    await opening.undo(false);
    throw error;
  }
}

/**
 * Checks an image by itself, whatever state it is in: its base is not needed, and nothing is changed but what `repair` says. Undefined
 * for a raw image, which has nothing to check.
 * @throws MillraceError where the header cannot be read, or (`ECORRUPT`) a repair could lose data; nothing has been changed then.
 */
export async function checkDiskWith(
  runtime: Runtime,
  options: CheckOptions,
): Promise<CheckReport | undefined> {
  mustKnowOptions('checkDisk', options, CHECK_OPTIONS);
  const { overlay, repair, memory } = options;
  mustBeLocation('overlay', overlay);
  const opening = await Opening.start(runtime, memory);
  try {
    if (!(await opening.openToCheck(overlay, repair !== undefined))) return undefined;
    const report = await checkWith(opening.engine, opening.virtualSize(0), repair);
    // An image that is still wrong is not marked as sound.
    if (repair && !report.corruptions) await opening.engine.request(Kind.close);
    return report;
  } finally {
    await opening.undo(false);
  }
}

/** A disk on its way to being open; what has been opened is closed again if it does not get there. */
class Opening {
  readonly engine: Engine;
  readonly #runtime: Runtime;
  #overlay: BlockFile | BlockSource | undefined;
  #created: string | undefined;
  /** What would be recorded of each base, kept for when a job makes it the overlay's own. */
  readonly #identities: RecordedIdentity[] = [];
  #count = 0;

  static async start(runtime: Runtime, memory?: number): Promise<Opening> {
    const bytes = checkedMemory(memory);
    return new Opening(
      runtime,
      new Engine(await runtime.engine(), bytes, runtime.codec, runtime.clock),
    );
  }

  private constructor(runtime: Runtime, engine: Engine) {
    this.#runtime = runtime;
    this.engine = engine;
  }

  /** Keeps number 0 for an overlay that is made after its base has been opened. */
  reserve(name: string): void {
    this.engine.attach(0, nowhere, name);
    this.#count = 1;
  }

  async createOverlay(overlay: string | BlockFile, cache?: CacheMode): Promise<void> {
    const given = typeof overlay !== 'string';
    this.#overlay = given
      ? overlay
      : await this.#runtime.openOverlay(overlay, { create: true, cache });
    if (!given) this.#created = overlay;
    if (this.#overlay.size)
      throw new MillraceError('EEXIST', `cannot create ${overlayName(overlay)}: it is not empty`);
    this.engine.attach(0, this.#overlay, overlayName(overlay));
  }

  async openOverlay(
    overlay: string | BlockFile | BlockSource,
    mode: OverlayMode,
    as?: ImageFormat,
  ): Promise<void> {
    const { readOnly = false } = mode;
    mustBeWritable(overlay, !readOnly);
    await this.#attachOverlay(overlay, mode);
    const format = await this.engine.request(
      Kind.open,
      0,
      formatNumber(as),
      readOnly ? 0 : OPEN_WRITABLE,
    );
    this.engine.texts.keep(0);
    if (!readOnly && FORMATS[format] !== 'qcow2') {
      throw new MillraceError(
        'EUNSUPPORTED',
        `${overlayName(overlay)}: an overlay is a qcow2 image, and this is ${FORMATS[format]} data; open it read-only, or create an overlay over it`,
      );
    }
  }

  /** Opens an image for nothing but a check: one that is marked corrupt, or has snapshots, as well. False for a raw one. */
  async openToCheck(
    overlay: string | BlockFile | BlockSource,
    writable: boolean,
  ): Promise<boolean> {
    mustBeWritable(overlay, writable);
    await this.#attachOverlay(overlay, { readOnly: !writable });
    return FORMATS[await this.engine.request(Kind.open)] === 'qcow2';
  }

  async #attachOverlay(
    overlay: string | BlockFile | BlockSource,
    mode: OverlayMode,
  ): Promise<void> {
    this.#overlay =
      typeof overlay === 'string' ? await this.#runtime.openOverlay(overlay, mode) : overlay;
    this.engine.attach(0, this.#overlay, overlayName(overlay));
    this.#count = 1;
  }

  /** Opens the images below, from the nearest down, which must be the one that was `recorded`. A base's own base is followed only if the caller said so. */
  async openChain(
    bases: BaseLocation[],
    formats: (ImageFormat | undefined)[],
    follow: boolean,
    recorded?: RecordedIdentity,
  ): Promise<void> {
    for (let i = 0; i < bases.length; i++)
      await this.#openBase(bases[i], formats[i], i === 0 ? recorded : undefined);
    for (;;) {
      const last = this.#count - 1;
      const below = this.backingOf(last);
      if (!below) return;
      if (!follow) throw notFollowed(this.engine.name(last), below.name);
      if (this.#count >= CHAIN_IMAGES_MAX)
        throw new MillraceError(
          'EUNSUPPORTED',
          `${this.engine.name(0)}: the chain has more than ${CHAIN_IMAGES_MAX} images, or goes round in a circle`,
        );
      await this.#asRecorded(() => this.#openBase(this.resolve(below, last), below.format));
    }
  }

  /** Opens the chain that starts with the base which an image records. */
  async openRecorded(
    recorded: Backing,
    image: number,
    format: ImageFormat | undefined,
    follow: boolean,
  ): Promise<void> {
    const base = this.resolve(recorded, image);
    await this.#asRecorded(() =>
      this.#openBase(base, format ?? recorded.format, recorded.identity),
    );
    await this.openChain([], [], follow);
  }

  /** A server that wants credentials was given none: a record holds no user, password or query of a URL. */
  async #asRecorded(open: () => Promise<void>): Promise<void> {
    try {
      await open();
    } catch (error) {
      if (!(error instanceof MillraceError) || !LACKS_CREDENTIALS.test(error.message)) throw error;
      throw new MillraceError(
        error.code,
        `${error.message}; an overlay records its base's URL without user, password and query: give the URL whole (base, --from), or a header (--header, --token-file)`,
        { cause: error.cause, offset: error.offset },
      );
    }
  }

  async #openBase(
    location: BaseLocation,
    format?: ImageFormat,
    recorded?: RecordedIdentity,
  ): Promise<void> {
    const asked = formatNumber(format);
    const isPlace = typeof location === 'string' || location instanceof URL;
    if (!isPlace) mustBeLocation('base', location);
    const source = isPlace ? await this.#runtime.openSource(location, 'base') : location;
    const image = this.#count++;
    this.engine.attach(
      image,
      source,
      source.name ?? (isPlace ? String(location) : `base ${image}`),
    );
    // Before it is looked into: another base is to be called that, whatever is wrong with it besides.
    const found = await recordOf(source);
    if (recorded) checkIdentity(this.engine.name(0), recorded, found, source.name);
    this.#identities[image] = found;
    await this.engine.request(Kind.open, image, asked);
    this.engine.texts.keep(image);
  }

  /** What an image records as its base, if it has one. */
  backingOf(image: number): Backing | undefined {
    const n = this.engine.imageReport(image);
    const name = this.engine.texts.text(image, n[ImageField.nameAt], n[ImageField.nameBytes]);
    if (FORMATS[n[ImageField.format]] !== 'qcow2' || !name) return undefined;
    const format = this.engine.texts.text(image, n[ImageField.formatAt], n[ImageField.formatBytes]);
    if (format && !Object.hasOwn(FORMAT_NUMBERS, format))
      throw new MillraceError(
        'EUNSUPPORTED',
        `${this.engine.name(image)}: its backing file has the format '${format}', which is not supported`,
      );
    return {
      name,
      format: (format || undefined) as ImageFormat | undefined,
      identity: parseIdentity(
        this.engine.texts.text(image, n[ImageField.identityAt], n[ImageField.identityBytes]),
        name,
      ),
    };
  }

  resolve(backing: Backing, from: number): string {
    if (backing.name.startsWith('json:'))
      throw new MillraceError(
        'EUNSUPPORTED',
        `${this.engine.name(from)}: its backing file is given as 'json:…', which is not supported; name the base explicitly`,
      );
    return this.#runtime.resolve(backing.name, this.engine.name(from));
  }

  /** Hands over what the overlay's header is to say of its base, which was opened from `place`, or is to be named `as`. */
  recordBase(image: number, place?: string, as?: string): void {
    const name = checkedRecord(as) ?? this.#recordedName(place ?? this.engine.file(image)!.name);
    const format = FORMATS[this.engine.imageReport(image)[ImageField.format]] ?? 'raw';
    if (!this.engine.texts.setBacking(name, format, textOf(this.#identities[image], name)))
      throw new MillraceError(
        'EINVAL',
        `the name of the base is too long to be recorded: '${name}'`,
      );
  }

  #recordedName(place: string | undefined): string {
    if (!place)
      throw new MillraceError(
        'EINVAL',
        'the base has no name to be recorded: give one by recordBase',
      );
    return recordedName(this.#runtime, place, this.engine.name(0));
  }

  virtualSize(image: number): number {
    return this.engine.imageReport(image)[ImageField.size];
  }

  /**
   * Looks through the overlay's tables before anything is written by them. What a crash left behind is put right: space that nothing
   * uses, and refcounts that had not been written. It takes about a millisecond for each GiB that the overlay holds in
   * clusters of 64 KiB; the tables of smaller clusters are many, and lie all over the file.
   * @throws MillraceError `ECORRUPT` when more than that is wrong; nothing has been changed then.
   */
  async recover(): Promise<void> {
    try {
      await this.engine.request(Kind.check, 0, 0, REPAIR_CRASH);
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
    this.#setUse(copyOnRead && !readOnly && this.#count > 1, remote && !readOnly && copyOnRead);
    return this.#disk(readOnly, false);
  }

  /** In the base's place stands one as large as the disk that cannot be read: nothing absent is ever taken for zeros. */
  async finishWithoutBase(readOnly: boolean): Promise<EngineDisk> {
    const overlay = this.engine.imageReport(0);
    if (overlay[ImageField.nameBytes] > 0) {
      const name = `the base of ${this.engine.name(0)}`;
      this.engine.attach(1, unopened(name, overlay[ImageField.size]), name);
      this.#count = 2;
      await this.engine.request(Kind.open, 1, FORMAT_NUMBERS.raw);
    }
    if (!readOnly) await this.recover();
    this.#setUse(false, false);
    return this.#disk(readOnly, true);
  }

  #disk(readOnly: boolean, baseless: boolean): EngineDisk {
    return new EngineDisk(this.engine, {
      readOnly,
      baseless,
      release: () => this.#closeFiles(),
      recordBase: (image) => this.recordBase(image),
    });
  }

  #setUse(copyOnRead: boolean, readAhead: boolean): void {
    const { discard, flushIsDear = false } = this.#overlay as Partial<BlockFile>;
    this.engine.exports.setUse(copyOnRead, readAhead, discard !== undefined, flushIsDear);
  }

  async undo(remove: boolean): Promise<void> {
    this.engine.close(new MillraceError('ECLOSED', 'the disk was not opened'));
    await this.#closeFiles().catch(() => {});
    if (remove && this.#created !== undefined)
      await this.#runtime.remove(this.#created).catch(() => {});
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

/** An image from elsewhere must not make us open what its author chose. */
export function notFollowed(base: string, below: string): MillraceError {
  return new MillraceError(
    'EUNSUPPORTED',
    `${base} has a backing file of its own, '${below}', which is followed only when asked for (followChain, --follow-chain)`,
  );
}

function parseIdentity(text: string, name: string): RecordedIdentity | undefined {
  if (!text) return undefined;
  try {
    const value = JSON.parse(text.replace(/\0+$/, '')) as RecordedIdentity;
    return typeof value.size === 'number' && (value.of === undefined || value.of === checksum(name))
      ? value
      : undefined;
  } catch {
    // Not written by us, or by a version that knew another form: nothing to compare with.
    return undefined;
  }
}

function checkIdentity(
  overlay: string,
  recorded: RecordedIdentity,
  found: RecordedIdentity,
  base = 'the base',
): void {
  const sameSize = recorded.size === found.size;
  if (sameSize && mayBeSame(recorded.identity, found.identity)) return;
  const detail = sameSize
    ? `it was ${recorded.identity}, and is ${found.identity}`
    : `it had ${recorded.size} bytes, and has ${found.size}`;
  throw new MillraceError(
    'ECHANGED',
    `${base} is not the base that ${overlay} was made on (${detail}): give the right base, or rebase the overlay`,
  );
}
