/**
 * What a guest does with the data of a disk: it reads, writes, discards, and changes its size.
 * Large requests are parted into pieces that the engine takes.
 */
import {
  DISCARD_TO_BASE,
  KIND_DISCARD,
  KIND_READ,
  KIND_RESIZE,
  KIND_WRITE,
  KIND_ZERO,
  OVERLAY,
  R_SHRINK,
  READ_AT_ONCE,
  WRITE_FULL,
  WRITE_ZEROES,
} from '../../engine/protocol.ts';
import { MillraceError } from '../api/errors.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { DiskAccess } from './access.ts';
import type { ContentId } from './content-id.ts';
import type { Engine } from './driver/engine.ts';
import { imageOf } from './driver/images.ts';
import { reasonText } from './driver/reasons.ts';
import type { PackTarget } from './pack.ts';
import { pack } from './pack.ts';
import { inPieces } from './pieces.ts';
import type { DiskProfiles } from './profiles.ts';
import { ResizeGate } from './resize-gate.ts';

const SECTOR_BYTES = 512;
/** Pieces of zeroes or discard: bounded so that others get between. */
const ZERO_PIECE_BYTES = 1024 ** 3;

/** What it needs of its disk. */
export interface GuestIoOwner {
  access: DiskAccess;
  clusterSize: number;
  content: ContentId;
  profiles: DiskProfiles;
  isJobActive(): boolean;
}

export class GuestIo {
  readonly #engine: Engine;
  readonly #owner: GuestIoOwner;
  readonly #gate = new ResizeGate();

  constructor(engine: Engine, owner: GuestIoOwner) {
    this.#engine = engine;
    this.#owner = owner;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#mustBeReadable(offset, length);
    const bytes = roomFor(length);
    await this.#fill(offset, bytes);
    return bytes;
  }

  async fill(offset: number, into: Uint8Array): Promise<void> {
    this.#mustBeReadable(offset, into.length);
    return this.#fill(offset, into);
  }

  #mustBeReadable(offset: number, length: number): void {
    this.#owner.access.mustBeOpen();
    this.#owner.access.mustBeInside('read', offset, length);
  }

  /** Large reads are several requests: each sees all or nothing of a write, the whole may not. */
  async #fill(offset: number, into: Uint8Array): Promise<void> {
    const ended = this.#owner.profiles.reading(offset, into.length);
    let worst = READ_AT_ONCE as number;
    await this.#pieces(offset, into.length, async (at, size) => {
      const value = await this.#engine.request(KIND_READ, at, size, 0, {
        into: into.subarray(at - offset, at - offset + size),
      });
      worst = Math.max(worst, value);
    });
    ended(worst);
  }

  /** Clusters of zeros take no space unless it is `full`. */
  async write(
    offset: number,
    data: Uint8Array,
    { full = false }: { full?: boolean } = {},
  ): Promise<void> {
    const { access, content, profiles } = this.#owner;
    access.mustBeWritable('write');
    if (data?.[Symbol.toStringTag] !== 'Uint8Array')
      throw new MillraceError('EINVAL', 'cannot write: data is a Uint8Array');
    access.mustBeInside('write', offset, data.length);
    profiles.wrote(offset, data.length);
    await content.changing(() =>
      this.#pieces(offset, data.length, (at, size) =>
        this.#engine.request(KIND_WRITE, at, size, full ? WRITE_FULL : 0, {
          data: data.subarray(at - offset, at - offset + size),
        }),
      ),
    );
  }

  /**
   * As `write`, of whole clusters, each of which is compressed where that makes it smaller; the
   * last one may be cut by the end of the disk. Zeros take no space unless it is `full`.
   */
  async writeCompressed(
    offset: number,
    data: Uint8Array,
    { full = false }: { full?: boolean } = {},
  ): Promise<void> {
    const { access, clusterSize, content, profiles } = this.#owner;
    access.mustBeWritable('write');
    access.mustBeInside('write', offset, data.length);
    const { compressionType: method = 'zlib' } = imageOf(this.#engine, OVERLAY);
    const target: PackTarget = {
      engine: this.#engine,
      method,
      clusterSize,
      full,
      write: (at, bytes) => this.write(at, bytes),
      writeZeroes: (at, length) => this.writeZeroes(at, length),
    };
    profiles.wrote(offset, data.length);
    await content.changing(() =>
      this.#pieces(offset, data.length, (at, size) =>
        pack(target, at, data.subarray(at - offset, at - offset + size)),
      ),
    );
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    const { access, content, profiles } = this.#owner;
    access.mustBeWritable('write zeroes');
    while (this.isResizing) await this.resized();
    access.mustBeInside('write zeroes', offset, length);
    profiles.wrote(offset, length);
    return this.#gate.asWide(content.changing(() => this.#writeZeroes(offset, length)));
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    const [from, to] = this.#wholeClusters(offset, length);
    const zeroes = (at: number, size: number) =>
      this.#engine.request(KIND_WRITE, at, size, WRITE_ZEROES);
    // Version 2 has no zero clusters.
    if (from >= to || imageOf(this.#engine, OVERLAY).version === 2)
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
    const { access, content, profiles } = this.#owner;
    access.mustBeWritable('discard');
    while (this.isResizing) await this.resized();
    access.mustBeInside('discard', offset, length);
    const [from, to] = this.#wholeClusters(offset, length);
    if (from >= to) return;
    profiles.wrote(from, to - from);
    await this.#gate.asWide(content.changing(() => this.#wide(KIND_DISCARD, from, to)));
  }

  /**
   * Gives up all that the overlay holds, so that its base shows: the last step of a commit, when
   * the base holds it too.
   */
  async empty(): Promise<void> {
    const { access, content } = this.#owner;
    access.mustBeWritable('empty');
    await content.changing(() => this.#wide(KIND_DISCARD, 0, access.size, DISCARD_TO_BASE));
  }

  async resize(size: number, options: { shrink?: boolean } = {}): Promise<void> {
    const { access, content } = this.#owner;
    mustKnowOptions('resize', options, { shrink: true });
    access.mustBeWritable('resize');
    if (!Number.isSafeInteger(size) || size < 0 || size % SECTOR_BYTES)
      throw new MillraceError(
        'EINVAL',
        `invalid size ${size}: must be a multiple of ${SECTOR_BYTES} bytes`,
      );
    return content.changing(() => this.#gate.resize(() => this.#resize(size, options)));
  }

  async #resize(size: number, options: { shrink?: boolean }): Promise<void> {
    const { access, clusterSize } = this.#owner;
    access.mustBeOpen();
    if (size < access.size) {
      this.#mustMayShrink(size, options);
      const clusterEnd = Math.min(access.size, Math.ceil(size / clusterSize) * clusterSize);
      await this.#writeZeroes(size, clusterEnd - size);
    }
    try {
      await this.#engine.request(KIND_RESIZE, 0, size);
    } finally {
      access.size = imageOf(this.#engine, OVERLAY).virtualSize;
    }
  }

  #mustMayShrink(size: number, { shrink }: { shrink?: boolean }): void {
    const { access, isJobActive } = this.#owner;
    if (!shrink)
      throw new MillraceError(
        'EINVAL',
        `cannot shrink the disk from ${access.size} to ${size} bytes: ${reasonText(R_SHRINK)}`,
      );
    if (isJobActive())
      throw new MillraceError(
        'EBUSY',
        'cannot shrink the disk while a job is active: abort it first',
      );
  }

  get isResizing(): boolean {
    return this.#gate.resizing !== undefined;
  }

  /** Waits for the resize under way; another may have begun then. */
  async resized(): Promise<void> {
    await this.#gate.resizing;
    this.#owner.access.mustBeOpen();
  }

  /**
   * Splits a range into requests, at cluster boundaries where it can, and keeps a few in flight.
   */
  #pieces(
    offset: number,
    length: number,
    request: (at: number, size: number) => Promise<unknown>,
  ): Promise<void> {
    const { clusterSize } = this.#owner;
    const sizes = { most: this.#engine.exports.requestBytesMax(), cluster: clusterSize };
    return inPieces(sizes, offset, length, request);
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
    const { access, clusterSize } = this.#owner;
    const end = offset + length;
    return [
      Math.ceil(offset / clusterSize) * clusterSize,
      end === access.size ? end : Math.floor(end / clusterSize) * clusterSize,
    ];
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
