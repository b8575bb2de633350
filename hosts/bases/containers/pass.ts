/**
 * A source whose bytes come in order only. One pass goes from its start to its end, as far as
 * somebody wants it and a little farther; a read in front of it waits until it has come by, and
 * what has passed is kept, so that it is never fetched again.
 *
 * The last piece is held back until the end has come behind it: only then have the check sums been
 * compared that stand there, and whoever copies all of the source must not be done before.
 */
import type { BlockFile, BlockSource, ContainerInfo, Flow, ReadHint } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import { unlessAborted } from './blocks.ts';
import { corrupt } from './bytes.ts';
import { Store } from './store.ts';
import type { ByteStream } from './stream.ts';

/**
 * How far the pass goes ahead of what was wanted, once more than the first bytes has been wanted:
 * no farther than what is wanted next is still in memory (store.ts).
 */
const AHEAD_BYTES = 6 * 1024 * 1024;
const FIRST_BYTES = 1024 * 1024;
/** Where a source ends that does not tell: not known before it has been measured. */
export const SIZE_UNKNOWN: number = 2 ** 52;
/** The same, where nobody is going to measure it. */
export const SIZE_UNMEASURED: number = SIZE_UNKNOWN - 512;
/** What is measured may be a bomb. A larger disk needs to be told its size. */
const MEASURED_BYTES_MAX = 256 * 1024 ** 3;

interface Waiting {
  end: number;
  urgent: boolean;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** What the decoders of a pass read from, which may have to wait for somebody to want more. */
export class PassFlow implements Flow {
  readonly #controller = new AbortController();
  /** Told of what could not be had; until there is one, whoever opens the source is. */
  onfailed: (error: unknown) => Promise<void> = (error) => Promise.reject(error);
  isUrgent: () => boolean = () => true;

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  failed(error: unknown): Promise<void> {
    return this.signal.aborted ? Promise.reject(this.signal.reason) : this.onfailed(error);
  }

  end(reason: unknown): void {
    this.#controller.abort(reason);
  }
}

export class Pass implements BlockSource {
  readonly name: string | undefined;
  readonly identity: string | undefined;
  readonly preferred: { chunk: number; depth: number };
  readonly #stream: ByteStream;
  readonly #flow: PassFlow;
  readonly #store: Store;
  readonly #info: () => ContainerInfo;
  #size: number;
  /** The size is the stream's own; where it is not, it is where a disk over it ends. */
  readonly #isExact: boolean;
  #isMeasured: boolean;
  /** Bytes that have been decoded, and how many of them may be read. */
  #decoded = 0;
  #passed = 0;
  #ended: { error?: unknown } | undefined;
  #waiting = new Set<Waiting>();
  /** How far it goes though nobody waits. */
  #goal = 0;
  readonly #ahead: number;
  /** Those who go on when something is wanted. */
  #sleeping: (() => void)[] = [];
  #running: Promise<void> | undefined;

  /** `sizeMax` stands for a size that the stream does not tell. */
  constructor(
    stream: ByteStream,
    flow: PassFlow,
    makeFile: () => Promise<BlockFile>,
    { sizeMax, unmeasured, info }: { sizeMax?: number; unmeasured?: boolean; info: ContainerInfo },
  ) {
    const { name, identity, preferred } = stream.source;
    this.name = name;
    this.identity = identity;
    this.preferred = preferred ?? { chunk: 1024 * 1024, depth: 2 };
    this.#stream = stream;
    this.#flow = flow;
    this.#store = new Store(makeFile);
    // A server that sends from start to end only would end an answer that nobody takes.
    this.#ahead = stream.source.inOrder === undefined ? AHEAD_BYTES : Number.POSITIVE_INFINITY;
    this.#isExact = stream.size !== undefined;
    const end = sizeMax ?? (unmeasured ? SIZE_UNMEASURED : SIZE_UNKNOWN);
    this.#isMeasured = this.#isExact || end < SIZE_UNKNOWN;
    this.#size = stream.size ?? end;
    this.#info = () => ({ ...info, access: 'sequential', passed: this.#passed });
    flow.onfailed = (error) => this.#failed(error);
    flow.isUrgent = () => [...this.#waiting].some(({ urgent }) => urgent);
  }

  get size(): number {
    return this.#size;
  }

  get container(): ContainerInfo {
    return this.#info();
  }

  get measure(): (() => Promise<number>) | undefined {
    return this.#isMeasured ? undefined : () => this.#measure();
  }

  async read(offset: number, into: Uint8Array, hint: ReadHint = {}): Promise<void> {
    hint.signal?.throwIfAborted();
    const end = offset + into.length;
    if (end > this.#passed) await this.#until(end, hint);
    const present = Math.max(0, Math.min(into.length, this.#passed - offset));
    // The disk may be larger than what it is made on.
    into.fill(0, present);
    if (present > 0) await this.#store.read(offset, into.subarray(0, present));
    hint.signal?.throwIfAborted();
  }

  verify(signal?: AbortSignal): Promise<void> {
    return this.#until(Number.POSITIVE_INFINITY, { signal, background: true });
  }

  async close(): Promise<void> {
    const error = new MillraceError('ECLOSED', `${this.name}: the base has been closed`);
    this.#flow.end(error);
    this.#ended ??= { error };
    for (const { reject } of this.#waiting) reject(error);
    this.#waiting.clear();
    this.#wake();
    // A server that does not answer holds up nobody: what reads from it has been aborted.
    await this.#running;
    await this.#stream.close().catch(() => {});
    await this.#store.close();
    await this.#stream.source.close();
  }

  /** Resolves when all before `end` may be read, or the pass has come to its end. */
  async #until(end: number, hint: ReadHint): Promise<void> {
    if (this.#ended !== undefined) return this.#afterEnd();
    let entry: Waiting | undefined;
    const passed = new Promise<void>((resolve, reject) => {
      entry = { end, urgent: !hint.background, resolve, reject };
      this.#waiting.add(entry);
    });
    this.#wake();
    this.#running ??= this.#run();
    try {
      await unlessAborted(passed, hint.signal);
    } finally {
      this.#waiting.delete(entry!);
    }
  }

  #afterEnd(): void {
    const { error } = this.#ended!;
    if (error !== undefined) throw error;
  }

  async #measure(): Promise<number> {
    await this.#until(MEASURED_BYTES_MAX, {});
    if (this.#ended === undefined)
      throw new MillraceError(
        'EUNSUPPORTED',
        `${this.name}: it does not tell its size, and has more than ${MEASURED_BYTES_MAX / 1024 ** 3} GiB: give the disk's size (size, --size)`,
      );
    this.#isMeasured = true;
    return (this.#size = this.#passed);
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    try {
      await this.#take();
      this.#ended ??= {};
    } catch (error) {
      this.#ended ??= { error };
    }
    const { error } = this.#ended;
    if (error === undefined) this.#passed = Math.min(this.#decoded, this.#size);
    for (const { resolve, reject } of this.#waiting)
      error === undefined ? resolve() : reject(error);
    this.#waiting.clear();
  }

  async #take(): Promise<void> {
    for await (const piece of this.#stream) {
      this.#release();
      await this.#keep(piece);
      while (this.#ended === undefined && this.#decoded >= this.#wanted()) await this.#asleep();
      if (this.#ended !== undefined) return;
    }
    if (this.#isExact && this.#decoded !== this.#size) throw this.#otherSize();
  }

  async #keep(piece: Uint8Array): Promise<void> {
    const room = this.#size - this.#decoded;
    if (this.#isExact && piece.length > room) throw this.#otherSize();
    if (room > 0) await this.#store.append(piece.subarray(0, room));
    this.#decoded += piece.length;
  }

  #otherSize(): MillraceError {
    const { formats } = this.#info();
    return corrupt(
      this.name,
      formats.join(', '),
      `it holds another number of bytes than the ${this.#size} that it claims`,
    );
  }

  /** What was decoded before is followed by more: it may be read. */
  #release(): void {
    this.#passed = Math.min(this.#decoded, this.#size);
    for (const waiting of this.#waiting) {
      if (waiting.end > this.#passed) continue;
      this.#waiting.delete(waiting);
      if (waiting.end > FIRST_BYTES) this.#goal = Math.max(this.#goal, waiting.end + this.#ahead);
      waiting.resolve();
    }
  }

  /** More than what may be read by then, as the last piece is held back. */
  #wanted(): number {
    let most = this.#goal;
    for (const { end } of this.#waiting) most = Math.max(most, end + 1);
    return this.#waiting.size > 0 ? Math.max(most, this.#decoded + 1) : most;
  }

  #asleep(): Promise<void> {
    return new Promise((resolve) => {
      this.#sleeping.push(resolve);
    });
  }

  #wake(): void {
    for (const resolve of this.#sleeping.splice(0)) resolve();
  }

  /** Who waits is told; the next one who does makes it try again, from where it stands. */
  async #failed(error: unknown): Promise<void> {
    for (const { reject } of this.#waiting) reject(error);
    this.#waiting.clear();
    await this.#asleep();
    this.#flow.signal.throwIfAborted();
  }
}
