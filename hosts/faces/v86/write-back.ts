/**
 * What the guest has written, on its way to the disk: in its order where writes touch, and made to
 * last soon after, because v86 tells no disk of the guest's own flushes.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Retries } from './retries.ts';
import { asMillraceError } from './retries.ts';
import type { Undo } from './saved-states.ts';

/** A write is made to last when the guest has written nothing for so long ... */
const FLUSH_QUIET_MS = 250;
/** ... or at the latest after this, however busy it is. */
const FLUSH_LATEST_MS = 2000;

/** A write that is on its way. */
interface Pending {
  offset: number;
  end: number;
  done: Promise<void>;
}

export class WriteBack {
  readonly #disk: Disk;
  readonly #retries: Retries;
  readonly #tell: (event: 'unsaved' | 'flushed') => void;
  readonly #pending = new Set<Pending>();
  /** When the first write was taken that no flush has been asked for. */
  #unsavedSince: number | undefined;
  #flushes = 0;
  #flushing = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What the first write failed of that was given up. */
  #lost: MillraceError | undefined;

  /** `tell` is called when there is something to be made to last, and when all has been. */
  constructor(disk: Disk, retries: Retries, tell: (event: 'unsaved' | 'flushed') => void) {
    this.#disk = disk;
    this.#retries = retries;
    this.#tell = tell;
  }

  /** True while something the guest has written would not survive a power cut. */
  get isUnsaved(): boolean {
    return this.#unsavedSince !== undefined || this.#flushes > 0;
  }

  /** Writes, and keeps in `undo` what that replaces. */
  write(offset: number, bytes: Uint8Array, undo?: Undo): Promise<void> {
    return this.#add(offset, bytes.length, async () => {
      // Given up, it is the way back that is lost, and not what is written.
      if (undo)
        undo.bytes = await this.#retries
          .untilItSucceeds(() => this.#disk.read(offset, bytes.length))
          .catch(() => undefined);
      await this.#store(offset, bytes);
    });
  }

  /**
   * Writes back what was replaced; later requests for the range wait, as they do for every write.
   */
  takeBack(undo: Undo): void {
    void this.#add(undo.offset, undo.length, async () => {
      if (undo.bytes) await this.#store(undo.offset, undo.bytes);
    });
  }

  /** Settles when the writes before that touch this range have been taken. */
  after(offset: number, end: number): Promise<void> {
    const before = [...this.#pending].filter((write) => write.offset < end && offset < write.end);
    return before.length
      ? Promise.all(before.map(({ done }) => done)).then(() => {})
      : Promise.resolve();
  }

  /** Every later flush fails of this, or of what was lost first, which is returned. */
  lose(error: MillraceError): MillraceError {
    this.#lost ??= error;
    return this.#lost;
  }

  /**
   * Makes all that was written last. Reads are not waited for: while a base cannot be reached, they
   * do not end.
   */
  async save(): Promise<void> {
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
    if (!this.isUnsaved) this.#tell('flushed');
  }

  #add(offset: number, length: number, store: () => Promise<void>): Promise<void> {
    const before = this.after(offset, offset + length);
    const pending: Pending = { offset, end: offset + length, done: before };
    pending.done = before.then(store).finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
    this.#noteUnsaved();
    this.#flushLater();
    return pending.done;
  }

  /**
   * Every later flush fails when this is given up: v86 has been told long ago that it is written.
   */
  #store(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#retries
      .untilItSucceeds(() => this.#disk.write(offset, bytes))
      .catch((error) => void this.lose(asMillraceError(error)));
  }

  #noteUnsaved(): void {
    const before = this.isUnsaved;
    this.#unsavedSince ??= performance.now();
    if (!before) this.#tell('unsaved');
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
        await this.#retries.untilItSucceeds(() => this.save()).catch(() => {});
        this.#flushing = false;
        if (!this.#retries.areGivenUp) this.#flushLater();
      },
      Math.max(0, Math.min(FLUSH_QUIET_MS, latest)),
    );
  }
}
