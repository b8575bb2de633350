/**
 * A Millrace disk as a hard disk of v86, the x86 emulator: `const hda = await attachDisk(disk)`,
 * `const machine = new V86({ hda, … })`, `hda.pace(machine)`. It works with a disk of any runtime,
 * in pages and in Node. The guest never sees an error of its disk: a request that fails is told to
 * the page and tried again until it succeeds, and the machine waits meanwhile. It must never hand
 * on a byte that is older than the guest's writes before. What others write to the disk meanwhile,
 * the guest may not see.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { ReadCache } from './cache.ts';
import type { Emulator } from './pace.ts';
import { Pace } from './pace.ts';
import { Retries } from './retries.ts';
import { SavedStates } from './saved-states.ts';
import { WriteBack } from './write-back.ts';

export type { Emulator } from './pace.ts';

const SECTOR_BYTES = 512;
/** Of writes on their way, where nothing stops the machine: no more are taken then. */
const BACKLOG_BYTES_MAX = 256 * 1024 * 1024;
/** Detail of `read` and `write` events. */
export interface GuestAccess {
  /** Bytes, positions in the disk. */
  offset: number;
  /** Bytes. */
  length: number;
  /** How long the guest waited for it. */
  milliseconds: number;
}

/**
 * Makes an open disk ready for v86. The boot profile that stands beside its base is fetched ahead,
 * unless the disk was opened with a `profile`, `none` say.
 * @throws MillraceError when its first sector cannot be read.
 */
export async function attachDisk(disk: Disk): Promise<V86Disk> {
  // Nothing of it is needed, and a disk of the page's own need not know it.
  (disk as Partial<Disk>).replay?.().catch(() => {});
  const hda = new V86Disk(disk);
  await hda.ready();
  return hda;
}

/**
 * What v86 takes as `hda` or `hdb`. Its events: `read` and `write`, when a request of the guest has
 * ended (`detail` is a GuestAccess); `unsaved`, when the guest writes and everything before has
 * been made to last; `flushed`, when all that was written has been made to last; `error`, once for
 * each request that has to be tried again, and when no more is taken (`detail` is the
 * MillraceError); `recovered`, when no request is failing any more.
 */
export class V86Disk extends EventTarget {
  /** Bytes of the disk. */
  readonly byteLength: number;
  /** v86's own types know an image by its URL only; nothing is ever loaded from this one. */
  readonly url: string = 'millrace:';
  /** Set by v86, and called by `load`. */
  onload: ((event: object) => void) | undefined;
  readonly #cache: ReadCache;
  readonly #pace = new Pace();
  readonly #retries: Retries;
  readonly #writes: WriteBack;
  readonly #states = new SavedStates();
  readonly #reads = new Set<Promise<void>>();
  /** The guest has written more than could be kept: it gets no answer any more. */
  #overrun = false;

  /** Use `attachDisk`, which waits until it is ready. */
  constructor(disk: Disk) {
    super();
    this.#retries = new Retries({
      failed: (error) => this.dispatchEvent(new CustomEvent('error', { detail: error })),
      recovered: () => this.dispatchEvent(new CustomEvent('recovered')),
    });
    this.#writes = new WriteBack(disk, this.#retries, (event) =>
      this.dispatchEvent(new CustomEvent(event)),
    );
    this.#cache = new ReadCache(disk.size, (offset, length) =>
      this.#writes.after(offset, offset + length).then(() => disk.read(offset, length)),
    );
    this.byteLength = disk.size;
  }

  /** Fetches the first sector, which v86 asks for without waiting. */
  async ready(): Promise<void> {
    await this.#cache.get(0, Math.min(SECTOR_BYTES, this.byteLength));
  }

  /**
   * Stops the machine that has this disk while the disk cannot follow, and lets it go on when it
   * can: while more than 16 MiB of what the guest wrote is on its way, and while a request takes
   * longer than 10 s. Without it a guest may take its disk for a broken one, and of one that writes
   * without DMA, which v86 does not let wait, no more than 256 MiB are kept: then the disk stops,
   * as if it were unplugged. Take it back by `undefined` before the machine is destroyed.
   */
  pace(emulator: Emulator | undefined): void {
    this.#pace.of(emulator);
  }

  /** True while something the guest has written would not survive a power cut. */
  get unsaved(): boolean {
    return this.#writes.isUnsaved;
  }

  /** v86 waits for `onload` before it starts the machine. */
  load(): void {
    this.onload?.({});
  }

  /** Reads for v86. A request that the guest has given up (`signal`) is tried no more. */
  get(
    start: number,
    length: number,
    done: (data: Uint8Array) => void,
    options: { signal?: AbortSignal } = {},
  ): void {
    if (this.#overrun) return;
    const from = performance.now();
    const here = this.#cache.look(start, length);
    this.#cache.readAhead(start, length);
    if (here) {
      done(here);
      this.#tell('read', start, length, from);
      return;
    }
    const request = this.#pace.begin();
    const read = this.#retries
      .untilItSucceeds(() => this.#cache.get(start, length), options.signal)
      .then(
        (bytes) => {
          done(bytes);
          this.#tell('read', start, length, from);
        },
        () => {
          // Nobody waits for the answer any more.
        },
      )
      .finally(() => {
        this.#reads.delete(read);
        this.#pace.end(request);
      });
    this.#reads.add(read);
  }

  /** Writes for v86, which uses the memory of `data` again at once. */
  set(start: number, data: Uint8Array, done: () => void): void {
    if (this.#pace.backlog > BACKLOG_BYTES_MAX) this.#overrunBy(start);
    if (this.#overrun) return;
    const from = performance.now();
    const request = this.#pace.begin(data.length);
    const bytes = new Uint8Array(data);
    this.#cache.wrote(start, bytes);
    this.#writes.write(start, bytes, this.#states.wrote(start, bytes.length)).then(() => {
      this.#pace.end(request);
      done();
      this.#tell('write', start, bytes.length, from);
    });
  }

  /** As `get`: v86 asks this way for the first sectors before it starts the machine. */
  get_and_cache(
    start: number,
    length: number,
    done: (data: Uint8Array) => void,
    options?: { signal?: AbortSignal },
  ): void {
    this.get(start, length, done, options);
  }

  /**
   * What can be had without waiting: the first sector, where v86 looks for the disk's geometry, and
   * what else is in memory.
   */
  get_from_cache(start: number, length: number): Uint8Array | undefined {
    return this.#cache.look(start, length)?.slice();
  }

  /**
   * The disk's part of a state that v86 saves: a mark, no data. Call `flush` between the emulator's
   * `stop` and `save_state`, so that no request is on its way. While this object lives, restoring a
   * state takes the disk back to where it was, from what writes since then have replaced (up to 256
   * MiB). Later, or elsewhere, a state fits only the disk as it was left when the state was saved.
   */
  get_state(): [number, string] {
    return [this.byteLength, this.#states.save()];
  }

  /**
   * Takes up what `get_state` gave.
   * @throws MillraceError `EINVAL` for a state of a disk of another size; `ECHANGED` when the disk
   *   cannot be taken back to that state.
   */
  set_state([byteLength, mark]: [number, string]): void {
    if (byteLength !== this.byteLength)
      throw new MillraceError(
        'EINVAL',
        `the saved state is of a disk of ${byteLength} bytes, and this one has ${this.byteLength}`,
      );
    const undone = this.#states.goBack(mark);
    if (undone === undefined) return;
    this.#cache.clear();
    for (const undo of undone) this.#writes.takeBack(undo);
  }

  /**
   * Waits for the requests on their way, and returns when everything written so far survives a
   * power cut.
   * @throws MillraceError when it does not.
   */
  async flush(): Promise<void> {
    await this.#writes.save();
    await Promise.all(this.#reads);
  }

  /**
   * Ends the use of the disk by a machine that has been stopped: everything written is made to
   * last, and reads are left alone. What has failed is tried once more. The disk stays open.
   * @throws MillraceError when something that the guest wrote could not be stored.
   */
  async close(): Promise<void> {
    this.#pace.of(undefined);
    this.#retries.giveUp();
    await this.#writes.save();
  }

  /**
   * What was written before is still stored, in its order: the disk is as it would be after a power
   * cut.
   */
  #overrunBy(offset: number): void {
    if (this.#overrun) return;
    this.#overrun = true;
    const message = `the guest has written ${BACKLOG_BYTES_MAX} bytes that could not be stored yet, and gets no answer any more: see that 'pace' stops the machine meanwhile`;
    const lost = this.#writes.lose(new MillraceError('EIO', message, { offset }));
    this.dispatchEvent(new CustomEvent('error', { detail: lost }));
  }

  #tell(type: 'read' | 'write', offset: number, length: number, from: number): void {
    const detail: GuestAccess = { offset, length, milliseconds: performance.now() - from };
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
