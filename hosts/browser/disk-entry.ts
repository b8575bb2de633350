/**
 * The entry of a worker's disk in the catalogue, kept up to date: pages end without a word. A disk
 * whose file has been taken away has none any more, and is told so.
 */
import { MillraceError } from '../api/errors.ts';
import type { EngineDisk } from '../disk/disk.ts';
import type { RememberedJob } from './catalog.ts';
import { rememberDisk } from './catalog.ts';
import { diskExists, hasMark } from './opfs.ts';

/** How often the catalogue is told how far a job is. */
const REMEMBER_MS = 3000;

/** What the entry says of a disk. */
export interface Entered {
  /** Under which the catalogue has the disk, if it does. */
  name: string | undefined;
  /** Of the storage that has the disk. */
  mark: string | undefined;
  /** Of the nearest base. */
  identity: string | undefined;
}

export class DiskEntry {
  readonly #disk: EngineDisk;
  readonly #entered: Entered;
  #rememberedAt = 0;
  #lost: MillraceError | undefined;

  constructor(disk: EngineDisk, entered: Entered) {
    this.#disk = disk;
    this.#entered = entered;
  }

  /** Whether the catalogue has the disk. */
  get isKept(): boolean {
    return this.#entered.name !== undefined;
  }

  /** Whether it says what was so long ago. */
  get isOld(): boolean {
    return performance.now() - this.#rememberedAt > REMEMBER_MS;
  }

  /** Brings it up to date. */
  async remember(): Promise<void> {
    const { name, identity } = this.#entered;
    if (!name) return;
    this.#rememberedAt = performance.now();
    // What is remembered by this name may be another's by now.
    await this.lookForFile();
    const [overlay, base] = await this.#disk.images();
    // Opened without its base, it still refers to it: what is remembered of that stays.
    const unopened = base === undefined && overlay.backingFile !== undefined;
    const remaining = base || unopened ? await this.#disk.remaining() : 0;
    await rememberDisk(name, {
      size: this.#disk.size,
      remaining,
      lastUsed: Date.now(),
      ...(unopened ? {} : { base: base && { name: base.name, identity } }),
    });
  }

  /** Notes the job that is under way, or that none is. */
  async rememberJob(job: RememberedJob | undefined): Promise<void> {
    const { name } = this.#entered;
    if (name && !this.#lost) await rememberDisk(name, { job });
  }

  /** @throws MillraceError `EIO` when the disk's file was found gone. */
  mustHaveFile(): void {
    if (this.#lost) throw this.#lost;
  }

  /**
   * When a site's data are cleared, Chromium lets an open file be written on, and throws it away
   * when it is closed; Firefox does so at once.
   * @throws MillraceError `EIO` when the disk's file is gone.
   */
  async lookForFile(): Promise<void> {
    const { name, mark } = this.#entered;
    if (!name) return;
    if (
      !this.#lost &&
      (await diskExists(name)) &&
      (mark === undefined || (await hasMark(mark, name)))
    )
      return;
    const message = `disk '${name}' is in storage no more: the data of this site were cleared while it was open; before you close it, export what the browser still has of it`;
    throw (this.#lost = new MillraceError('EIO', message, { reason: 'storage-cleared' }));
  }
}
