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

export type { Emulator } from './pace.ts';

const SECTOR_BYTES = 512;
/** A write is made to last when the guest has written nothing for so long ... */
const FLUSH_QUIET_MS = 250;
/**
 * ... or at the latest after this, however busy it is: v86 tells no disk of the guest's own
 * flushes.
 */
const FLUSH_LATEST_MS = 2000;
/** Between two attempts at a request that failed. */
const RETRY_MS = 2000;
/** Of writes on their way, where nothing stops the machine: no more are taken then. */
const BACKLOG_BYTES_MAX = 256 * 1024 * 1024;
/**
 * What is kept for going back to a saved state; when the guest has overwritten more than this,
 * older states cannot be restored.
 */
const UNDO_BYTES_MAX = 256 * 1024 * 1024;

/** Detail of `read` and `write` events. */
export interface GuestAccess {
  /** Bytes, positions in the disk. */
  offset: number;
  /** Bytes. */
  length: number;
  /** How long the guest waited for it. */
  milliseconds: number;
}

/** A write that is on its way. */
interface Pending {
  offset: number;
  end: number;
  done: Promise<void>;
}

/** What a write has replaced, since a state was saved. */
interface Undo {
  offset: number;
  length: number;
  bytes?: Uint8Array;
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
  readonly #disk: Disk;
  readonly #cache: ReadCache;
  readonly #pace = new Pace();
  readonly #pending = new Set<Pending>();
  readonly #reads = new Set<Promise<void>>();
  readonly #undo: Undo[] = [];
  /** States that were saved, and how long `#undo` was then. */
  readonly #states = new Map<string, number>();
  #undoBytes = 0;
  #written = false;
  /** When the first write was taken that no flush has been asked for. */
  #unsavedSince: number | undefined;
  #flushes = 0;
  #flushing = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failing = 0;
  /** Ends the waiting of each request that is to be tried again. */
  readonly #waiting = new Set<() => void>();
  #closed = false;
  /** What the first write failed of that was given up. */
  #lost: MillraceError | undefined;
  /** The guest has written more than could be kept: it gets no answer any more. */
  #overrun = false;

  /** Use `attachDisk`, which waits until it is ready. */
  constructor(disk: Disk) {
    super();
    this.#disk = disk;
    this.#cache = new ReadCache(disk.size, (offset, length) =>
      this.#after(offset, offset + length).then(() => disk.read(offset, length)),
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
    return this.#unsavedSince !== undefined || this.#flushes > 0;
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
    const read = this.#untilItSucceeds(() => this.#cache.get(start, length), options.signal)
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
    const bytes = data.slice();
    this.#cache.wrote(start, bytes);
    this.#write(start, bytes, this.#remember(start, bytes.length)).then(() => {
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
    // Pages that are not secure contexts have no randomUUID.
    const mark = crypto.getRandomValues(new Uint32Array(4)).join('-');
    this.#states.set(mark, this.#undo.length);
    return [this.byteLength, mark];
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
    const kept = this.#states.get(mark);
    if (kept === undefined) {
      if (this.#written)
        throw new MillraceError(
          'ECHANGED',
          'the disk has been written to since this state was saved, and cannot be taken back: restart the machine from the disk instead',
        );
      return;
    }
    for (const [other, length] of this.#states) if (length > kept) this.#states.delete(other);
    const undone = this.#undo.splice(kept).reverse();
    this.#cache.clear();
    for (const undo of undone) this.#takeBack(undo);
  }

  /**
   * Waits for the requests on their way, and returns when everything written so far survives a
   * power cut.
   * @throws MillraceError when it does not.
   */
  async flush(): Promise<void> {
    await this.#save();
    await Promise.all(this.#reads);
  }

  /** Reads are not waited for: while a base cannot be reached, they do not end. */
  async #save(): Promise<void> {
    const since = this.#unsavedSince;
    this.#unsavedSince = undefined;
    clearTimeout(this.#timer);
    this.#flushes++;
    try {
      // Those that come later may never come to an end.
      await Promise.all([...this.#pending].map(({ done }) => done));
      await this.#disk.flush();
      if (this.#lost)
        throw new MillraceError(
          this.#lost.code,
          `not all that the guest wrote has been stored: ${this.#lost.message}`,
          { cause: this.#lost, reason: 'writes-lost' },
        );
    } catch (error) {
      this.#unsavedSince = since ?? this.#unsavedSince;
      throw error;
    } finally {
      this.#flushes--;
    }
    if (!this.unsaved) this.dispatchEvent(new CustomEvent('flushed'));
  }

  /**
   * Ends the use of the disk by a machine that has been stopped: everything written is made to
   * last, and reads are left alone. What has failed is tried once more. The disk stays open.
   * @throws MillraceError when something that the guest wrote could not be stored.
   */
  async close(): Promise<void> {
    this.#closed = true;
    this.#pace.of(undefined);
    for (const goOn of [...this.#waiting]) goOn();
    await this.#save();
  }

  /**
   * What was written before is still stored, in its order: the disk is as it would be after a power
   * cut.
   */
  #overrunBy(offset: number): void {
    if (this.#overrun) return;
    this.#overrun = true;
    const message = `the guest has written ${BACKLOG_BYTES_MAX} bytes that could not be stored yet, and gets no answer any more: see that 'pace' stops the machine meanwhile`;
    this.#lost ??= new MillraceError('EIO', message, { offset });
    this.dispatchEvent(new CustomEvent('error', { detail: this.#lost }));
  }

  #write(offset: number, bytes: Uint8Array, undo?: Undo): Promise<void> {
    const before = this.#after(offset, offset + bytes.length);
    const pending: Pending = { offset, end: offset + bytes.length, done: before };
    pending.done = before
      .then(async () => {
        // Given up, it is the way back that is lost, and not what is written.
        if (undo)
          undo.bytes = await this.#untilItSucceeds(() =>
            this.#disk.read(offset, bytes.length),
          ).catch(() => undefined);
        await this.#store(offset, bytes);
      })
      .finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
    this.#written = true;
    this.#isUnsaved();
    this.#flushLater();
    return pending.done;
  }

  /**
   * Every later flush fails when this is given up: v86 has been told long ago that it is written.
   */
  #store(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#untilItSucceeds(() => this.#disk.write(offset, bytes)).catch((error) => {
      this.#lost ??= asMillraceError(error);
    });
  }

  /** Settles when the writes before that touch this range have been taken. */
  #after(offset: number, end: number): Promise<void> {
    const before = [...this.#pending].filter((write) => write.offset < end && offset < write.end);
    return before.length
      ? Promise.all(before.map(({ done }) => done)).then(() => {})
      : Promise.resolve();
  }

  /** @throws what the request failed of last, when nobody waits for the answer any more. */
  async #untilItSucceeds<T>(request: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    let failed = false;
    try {
      while (true) {
        try {
          return await request();
        } catch (error) {
          if (!failed) this.#failed(error);
          failed = true;
          if (this.#closed) throw error;
          await this.#wait();
          if (signal?.aborted) throw error;
        }
      }
    } finally {
      if (failed) this.#recovered();
    }
  }

  /** Until a request is tried again: at once when the disk is closed. */
  #wait(): Promise<void> {
    return new Promise((resolve) => {
      const goOn = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(goOn);
        resolve();
      };
      const timer = setTimeout(goOn, RETRY_MS);
      this.#waiting.add(goOn);
    });
  }

  #failed(error: unknown): void {
    this.#failing++;
    if (!this.#closed)
      this.dispatchEvent(new CustomEvent('error', { detail: asMillraceError(error) }));
  }

  #recovered(): void {
    if (--this.#failing === 0 && !this.#closed) this.dispatchEvent(new CustomEvent('recovered'));
  }

  #isUnsaved(): void {
    const before = this.unsaved;
    this.#unsavedSince ??= performance.now();
    if (!before) this.dispatchEvent(new CustomEvent('unsaved'));
  }

  /** Flushes when the guest has paused; one such flush at a time, which looks again at its end. */
  #flushLater(): void {
    if (this.#flushing || this.#unsavedSince === undefined) return;
    clearTimeout(this.#timer);
    const latest = this.#unsavedSince + FLUSH_LATEST_MS - performance.now();
    this.#timer = setTimeout(
      async () => {
        this.#flushing = true;
        // Given up, it is told by closing.
        await this.#untilItSucceeds(() => this.#save()).catch(() => {});
        this.#flushing = false;
        if (!this.#closed) this.#flushLater();
      },
      Math.max(0, Math.min(FLUSH_QUIET_MS, latest)),
    );
  }

  /** Makes room for what a write replaces, when there is a state to go back to. */
  #remember(offset: number, length: number): Undo | undefined {
    if (this.#states.size === 0) return undefined;
    this.#undoBytes += length;
    if (this.#undoBytes > UNDO_BYTES_MAX) {
      this.#states.clear();
      this.#undo.length = this.#undoBytes = 0;
      return undefined;
    }
    const undo: Undo = { offset, length };
    this.#undo.push(undo);
    return undo;
  }

  /**
   * Writes back what was replaced; later requests for the range wait, as they do for every write.
   */
  #takeBack(undo: Undo): void {
    this.#undoBytes -= undo.length;
    const { offset, length } = undo;
    const before = this.#after(offset, offset + length);
    const pending: Pending = { offset, end: offset + length, done: before };
    pending.done = before
      .then(async () => {
        if (!undo.bytes) return;
        await this.#store(offset, undo.bytes);
      })
      .finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
    this.#isUnsaved();
    this.#flushLater();
  }

  #tell(type: 'read' | 'write', offset: number, length: number, from: number): void {
    const detail: GuestAccess = { offset, length, milliseconds: performance.now() - from };
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function asMillraceError(error: unknown): MillraceError {
  return error instanceof MillraceError
    ? error
    : new MillraceError('EIO', `the disk failed: ${String(error)}`, { cause: error });
}
