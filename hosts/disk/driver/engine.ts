/**
 * Drives one engine instance: starts requests, performs the I/O it asks for on the images' files,
 * and hands the completions back. It knows the ring (engine/README.md) and no image format.
 */
import {
  COMPLETION_BYTES,
  COMPLETION_DETAIL,
  COMPLETION_RESULT,
  COMPLETION_TAG,
  FLAG_BACKGROUND,
  IMAGE_FEATURE_NAMES_AT,
  INTERFACE_VERSION,
  JOB_DETAIL,
  KIND_CHECK,
  KIND_CLOSE,
  KIND_CREATE,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_MAP,
  KIND_OPEN,
  KIND_POPULATE,
  KIND_READ,
  KIND_REFER,
  KIND_REMAINING,
  KIND_RESIZE,
  KIND_SNAPSHOTS,
  KIND_STREAM,
  KIND_WRITE,
  KIND_ZERO,
  METHOD_DEFLATE,
  METHOD_ZSTD,
  OP_DECOMPRESS,
  OP_DISCARD,
  OP_DONE,
  OP_FLUSH,
  OP_GIVE,
  OP_HOLES,
  OP_READ,
  OP_TAKE,
  OP_TRUNCATE,
  OP_WRITE,
  OVERLAY,
  R_INCOMPATIBLE,
  REPAIR_CRASH,
  REPORT_NUMBERS,
  SUBMISSION_ADDRESS,
  SUBMISSION_ADDRESS2,
  SUBMISSION_BYTES,
  SUBMISSION_FILE,
  SUBMISSION_FLAGS,
  SUBMISSION_LENGTH,
  SUBMISSION_LENGTH2,
  SUBMISSION_OFFSET,
  SUBMISSION_OP,
  SUBMISSION_REQUEST,
  SUBMISSION_TAG,
} from '../../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../../api/block.ts';
import type { Clock } from '../../api/clock.ts';
import { systemClock } from '../../api/clock.ts';
import type { Codec } from '../../api/codec.ts';
import { codeOf, MillraceError } from '../../api/errors.ts';
import { BaseReads, isPromise } from './base-reads.ts';
import type { Failure } from './errors.ts';
import { ErrorLedger, messageOf } from './errors.ts';
import { unknownFeatures } from './features.ts';
import { mapHoles } from './holes.ts';
import { numberOfCode, reasonText } from './reasons.ts';
import { HeaderTexts } from './texts.ts';

/** What the engine exports; engine/README.md documents each. */
export interface Exports {
  version(): number;
  init(bytes: number): number;
  submissions(): number;
  completions(): number;
  setFile(image: number, bytes: number, tellsHoles: boolean): number;
  setPart(file: number, image: number, start: number, length: number, at: number): number;
  setUse(copyOnRead: boolean, readAhead: boolean, trims: boolean, flushesDear: boolean): void;
  text(): number;
  setBacking(name: number, format: number, identity: number): number;
  backingHasRoom(): number;
  image(index: number): number;
  imageAtDepth(depth: number): number;
  headerPage(index: number): number;
  requestBytesMax(): number;
  request(kind: number, tag: number, offset: number, length: number, argument: number): number;
  step(completed: number, now: number): number;
  submitted(): number;
  wakeAt(): number;
  stream(
    offset: number,
    length: number,
    speed: number,
    onError: number,
    keepBase: boolean,
    full: boolean,
    bottom: number,
    keepCompressed: boolean,
    ordered: boolean,
  ): number;
  streamNext(offset: number, length: number): number;
  abort(): number;
  info(): number;
  pause(): number;
  resume(): number;
  setSpeed(bytesPerSecond: number): number;
  clusterSize(): number;
}

/** Of WebAssembly memory. */
const PAGE_BYTES = 65536;
const TWO_TO_32 = 4294967296;
/** Steps in a row before others in this thread get a turn. */
const STEPS_MAX = 64;
const METHODS = { [METHOD_DEFLATE]: 'zlib', [METHOD_ZSTD]: 'zstd' } as const;

/** A request in flight, or waiting for a place in the engine's table. */
interface Pending {
  kind: number;
  offset: number;
  length: number;
  argument: number;
  /** A write's data. */
  data?: Uint8Array;
  /** Where a read's data goes. */
  into?: Uint8Array;
  resolve(value: number): void;
  reject(error: unknown): void;
}

/** The engine as it runs, with its memory. */
export interface Instance {
  readonly exports: Exports;
  readonly memory: ArrayBuffer;
  /** The memory as the ring has it. */
  readonly words: Uint32Array;
}

/**
 * The engine, with a memory of its own. Apart from the class: what is made in one function holds
 * all that the others made there need, so that a closed engine would go on holding its memory.
 */
function instantiated(
  module: WebAssembly.Module,
  memoryBytes: number,
  onBroken: (error: MillraceError) => void,
): Instance {
  const pages = Math.floor(memoryBytes / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const trap = (file: number, bytes: number, line: number, column: number): void => {
    const name = new TextDecoder('utf-16le').decode(new Uint8Array(memory.buffer, file, bytes));
    onBroken(
      new MillraceError(
        'EIO',
        `the engine stopped at an assertion (${name}, line ${line}, column ${column}): please report it`,
        { reason: 'engine-failed' },
      ),
    );
  };
  const instance = new WebAssembly.Instance(module, { env: { memory }, host: { trap } });
  const exports = instance.exports as unknown as Exports;
  if (exports.version() !== INTERFACE_VERSION)
    throw new MillraceError('EINVAL', 'the engine has another version than its host');
  if (!exports.init(memory.buffer.byteLength))
    throw new MillraceError('EINVAL', `${memoryBytes} bytes are too little memory for a disk`);
  return { exports, memory: memory.buffer, words: new Uint32Array(memory.buffer) };
}

export class Engine {
  /** Called after every round of steps: the disk looks at its job then. */
  onstep: () => void = () => {};
  /**
   * Let go when the engine is closed: whoever still holds a closed disk does not hold its memory.
   */
  #instance: Instance | undefined;
  readonly #files: (BlockSource | BlockFile | undefined)[] = [];
  readonly #names: string[] = [];
  readonly #errors: ErrorLedger;
  /** What headers say of bases. */
  readonly texts: HeaderTexts;
  readonly bases: BaseReads = new BaseReads();
  readonly #codec: Codec;
  readonly clock: Clock;
  readonly #pending = new Map<number, Pending>();
  readonly #waiting: Pending[] = [];
  readonly #completed: { tag: number; result: number; detail: number }[] = [];
  #nextTag = 1;
  #stepping = false;
  #scheduled = false;
  #cancelTimer: () => void = () => {};
  #timerAt = 0;
  #broken: MillraceError | undefined;

  constructor(
    module: WebAssembly.Module,
    memoryBytes: number,
    codec: Codec,
    clock: Clock = systemClock,
  ) {
    this.#instance = instantiated(module, memoryBytes, (broken) => (this.#broken = broken));
    this.#codec = codec;
    this.clock = clock;
    this.texts = new HeaderTexts(
      () => this.#running,
      (image) => this.imageReport(image),
    );
    this.#errors = new ErrorLedger(
      (image) => this.name(image),
      () => this.jobReport()[JOB_DETAIL],
      (failure) => this.#reasonOf(failure),
    );
  }

  #reasonOf({ reason, image }: Failure): string {
    const text = reasonText(reason);
    if (reason !== R_INCOMPATIBLE) return text;
    const namesAt = this.imageReport(image)[IMAGE_FEATURE_NAMES_AT];
    const unknown = unknownFeatures(this.firstBytes(image, PAGE_BYTES), namesAt);
    return unknown.length ? `${text}: ${unknown.join(', ')}` : text;
  }

  /** @throws MillraceError `ECLOSED` once the engine has been closed. */
  get exports(): Exports {
    return this.#running.exports;
  }

  get #running(): Instance {
    if (!this.#instance)
      throw this.#broken ?? new MillraceError('ECLOSED', 'the disk has been closed');
    return this.#instance;
  }

  /** Gives an image, or a part of one, its file; image 0 is the overlay. */
  attach(image: number, file: BlockSource | BlockFile, name: string): void {
    if (!this.exports.setFile(image, file.size, file.nextData !== undefined))
      throw new MillraceError('EUNSUPPORTED', `${name}: the chain has too many images`);
    this.#files[image] = file;
    this.#names[image] = name;
  }

  file(image: number): BlockSource | BlockFile | undefined {
    return this.#files[image];
  }

  /** Whether an image of this number has ever been given a file. */
  isAttached(image: number): boolean {
    return image in this.#names;
  }

  name(image: number): string {
    return this.#names[image] ?? `image ${image}`;
  }

  /** Takes away the file of an image that left the chain. */
  detach(image: number): BlockSource | undefined {
    const file = this.#files[image];
    this.#files[image] = undefined;
    return file;
  }

  /** Runs one request; resolves with its value. */
  request(
    kind: number,
    offset = 0,
    length = 0,
    argument = 0,
    buffers: { data?: Uint8Array; into?: Uint8Array } = {},
  ): Promise<number> {
    if (this.#broken) return Promise.reject(this.#broken);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ kind, offset, length, argument, ...buffers, resolve, reject });
      this.pump();
    });
  }

  /**
   * The engine's report on the job, by JOB_STATUS and the following; good until the engine is asked
   * for another.
   */
  jobReport(): Float64Array {
    return this.#report(this.exports.info());
  }

  /** The engine's report on an image, by IMAGE_FORMAT and the following; it stays as it is. */
  imageReport(image: number): Float64Array {
    return this.#report(this.exports.image(image)).slice();
  }

  /**
   * A copy of an image's first bytes, as it was opened by them; none where they are not in the
   * cache any more.
   */
  firstBytes(image: number, length: number): Uint8Array {
    const { exports, memory } = this.#running;
    const page = exports.headerPage(image);
    const bytes = page ? Math.min(length, this.#files[image]?.size ?? 0) : 0;
    return new Uint8Array(memory, page, bytes).slice();
  }

  /**
   * The error that a failure is told as: the host's own where there is one, else what the engine
   * found.
   */
  errorOf(failure: Failure, action: string): MillraceError {
    return this.#errors.errorOf(failure, action);
  }

  /** Lets the engine go on; called when something was asked of it or its clock has come. */
  pump(): void {
    if (this.#stepping || this.#broken) return;
    this.#stepping = true;
    try {
      let steps = 0;
      while (this.#step() && ++steps < STEPS_MAX);
      if (steps === STEPS_MAX) this.clock.after(0, () => this.pump());
      this.#setTimer();
    } catch (cause) {
      this.#break(cause);
    } finally {
      this.#stepping = false;
    }
    this.onstep();
  }

  #report(address: number): Float64Array {
    return new Float64Array(this.#running.memory, address, REPORT_NUMBERS);
  }

  /** Ends every request with `error`: the engine is used no more, and its memory is let go. */
  close(error: MillraceError): void {
    this.#cancelTimer();
    this.#broken ??= error;
    this.#rejectAll();
    this.#completed.length = 0;
    this.#instance = undefined;
    this.onstep = () => {};
  }

  /**
   * One round: start what waits, hand over what has completed, perform what is submitted. True if
   * there is more to do at once.
   */
  #step(): boolean {
    const { exports, words } = this.#running;
    this.#startWaiting(exports);
    const count = this.#completed.length;
    const at = exports.completions();
    for (let i = 0; i < count; i++) {
      const { tag, result, detail } = this.#completed[i];
      const entry = at + i * COMPLETION_BYTES;
      words[(entry + COMPLETION_TAG) >> 2] = tag;
      words[(entry + COMPLETION_RESULT) >> 2] = result;
      words[(entry + COMPLETION_DETAIL) >> 2] = detail;
    }
    this.#completed.length = 0;
    const more = exports.step(count, this.clock.now()) !== 0;
    const submitted = exports.submitted();
    const first = exports.submissions();
    for (let i = 0; i < submitted; i++) this.#perform(this.#running, first + i * SUBMISSION_BYTES);
    return more || this.#completed.length > 0 || (submitted > 0 && this.#waiting.length > 0);
  }

  #startWaiting(exports: Exports): void {
    while (this.#waiting.length) {
      const next = this.#waiting[0];
      const tag = this.#nextTag;
      if (!exports.request(next.kind, tag, next.offset, next.length, next.argument)) return;
      this.#nextTag = (tag + 1) >>> 0 || 1;
      this.#pending.set(tag, next);
      this.#waiting.shift();
    }
  }

  #perform({ words, memory }: Instance, entry: number): void {
    const tag = words[(entry + SUBMISSION_TAG) >> 2];
    const op = words[(entry + SUBMISSION_OP) >> 2];
    const file = words[(entry + SUBMISSION_FILE) >> 2];
    const flags = words[(entry + SUBMISSION_FLAGS) >> 2];
    const offsetAt = (entry + SUBMISSION_OFFSET) >> 2;
    const offset = words[offsetAt] + words[offsetAt + 1] * TWO_TO_32;
    const length = words[(entry + SUBMISSION_LENGTH) >> 2];
    const address = words[(entry + SUBMISSION_ADDRESS) >> 2];
    const request = words[(entry + SUBMISSION_REQUEST) >> 2];
    if (op === OP_DONE)
      return this.#finish(request, {
        code: tag,
        reason: flags,
        image: file,
        offset,
        detail: length,
      });
    const bytes = new Uint8Array(
      memory,
      address,
      op === OP_FLUSH || op === OP_TRUNCATE || op === OP_DISCARD ? 0 : length,
    );
    if (op === OP_GIVE) return this.#pending.get(request)?.into?.set(bytes, offset);
    try {
      const result =
        op === OP_TAKE
          ? this.#take(request, offset, bytes)
          : op === OP_DECOMPRESS
            ? this.#codec.inflate(
                METHODS[file as keyof typeof METHODS],
                bytes,
                new Uint8Array(
                  memory,
                  words[(entry + SUBMISSION_ADDRESS2) >> 2],
                  words[(entry + SUBMISSION_LENGTH2) >> 2],
                ),
              )
            : this.#io(op, this.#files[file], offset, length, bytes, flags);
      if (!isPromise(result)) this.#succeed(tag);
      else
        result.then(
          () => this.#later(() => this.#succeed(tag)),
          (error) => this.#later(() => this.#fail(tag, error)),
        );
    } catch (error) {
      this.#fail(tag, error);
    }
  }

  #take(request: number, offset: number, into: Uint8Array): void {
    const data = this.#pending.get(request)?.data;
    if (data) into.set(data.subarray(offset, offset + into.length));
  }

  #io(
    op: number,
    file: BlockSource | BlockFile | undefined,
    offset: number,
    length: number,
    bytes: Uint8Array,
    flags: number,
  ): void | Promise<void> {
    if (!file) throw new MillraceError('ECLOSED', 'the image has been closed');
    if (op === OP_HOLES) return mapHoles(file, offset, bytes, this.clock);
    if (op === OP_READ) {
      // Metadata that exists only in the engine's cache so far may lie past the end of the file:
      // there are zeros.
      const present = Math.max(0, Math.min(bytes.length, file.size - offset));
      if (present < bytes.length) bytes.fill(0, present);
      if (present === 0) return;
      const into = bytes.subarray(0, present);
      return file === this.#files[OVERLAY]
        ? file.read(offset, into, { background: (flags & FLAG_BACKGROUND) !== 0 })
        : this.bases.read(file, offset, into, flags);
    }
    const target = file as BlockFile;
    if (op === OP_WRITE) return target.write(offset, bytes);
    if (op === OP_FLUSH) return this.#flush(target);
    if (op === OP_TRUNCATE) return target.truncate(offset);
    return target.discard?.(offset, length);
  }

  #flush(file: BlockFile): void | Promise<void> {
    const failed = (error: unknown): never => {
      this.#errors.flushFailed(error);
      throw error;
    };
    try {
      const flushing = file.flush();
      return isPromise(flushing) ? Promise.resolve(flushing).catch(failed) : undefined;
    } catch (error) {
      return failed(error);
    }
  }

  #succeed(tag: number): void {
    this.#completed.push({ tag, result: 0, detail: 0 });
  }

  /**
   * Whatever it failed with, be it nothing at all: a file of the caller's own may reject without a
   * reason.
   */
  #fail(tag: number, error: unknown): void {
    const code = numberOfCode(codeOf(error));
    this.#completed.push({ tag, result: -code, detail: this.#errors.add(error) });
  }

  #later(complete: () => void): void {
    complete();
    this.#schedule();
  }

  /** As `pump`, when the caller's turn has ended. */
  pumpSoon(): void {
    this.#schedule();
  }

  /** Completions that come together are handed over together. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.pump();
    });
  }

  #finish(request: number, failure: Failure): void {
    const pending = this.#pending.get(request);
    this.#pending.delete(request);
    if (!pending) return;
    if (failure.code) pending.reject(this.#errors.errorOf(failure, actionOf(pending)));
    else pending.resolve(failure.offset);
  }

  #setTimer(): void {
    const at = this.#running.exports.wakeAt();
    if (at === this.#timerAt) return;
    this.#cancelTimer();
    this.#timerAt = at;
    if (!at) return;
    this.#cancelTimer = this.clock.after(Math.max(1, at - this.clock.now()), () => {
      this.#timerAt = 0;
      this.pump();
    });
  }

  /**
   * An assertion of the engine failed, or a host's operation threw where it must not: the disk is
   * used no more.
   */
  #break(cause: unknown): void {
    this.#broken ??= new MillraceError('EIO', `the engine failed: ${messageOf(cause)}`, {
      cause,
      reason: 'engine-failed',
    });
    this.#rejectAll();
  }

  #rejectAll(): void {
    const error = this.#broken;
    for (const pending of this.#pending.values()) pending.reject(error);
    for (const pending of this.#waiting) pending.reject(error);
    this.#pending.clear();
    this.#waiting.length = 0;
  }
}

const ACTIONS: Record<number, string> = {
  [KIND_OPEN]: 'open the image',
  [KIND_CREATE]: 'create the overlay',
  [KIND_READ]: 'read',
  [KIND_POPULATE]: 'fetch ahead',
  [KIND_WRITE]: 'write',
  [KIND_ZERO]: 'write zeroes',
  [KIND_DISCARD]: 'discard',
  [KIND_FLUSH]: 'flush',
  [KIND_RESIZE]: 'resize',
  [KIND_STREAM]: 'stream',
  [KIND_REMAINING]: 'count what remains',
  [KIND_MAP]: 'map',
  [KIND_CHECK]: 'check',
  [KIND_CLOSE]: 'close the disk',
  [KIND_REFER]: 'record another base',
  [KIND_SNAPSHOTS]: 'tell the snapshots',
};

function actionOf(pending: Pending): string {
  if (pending.kind === KIND_CHECK && pending.argument === REPAIR_CRASH) return ACTIONS[KIND_OPEN];
  const action = ACTIONS[pending.kind] ?? 'do that';
  const ranged = [KIND_READ, KIND_WRITE, KIND_POPULATE].includes(pending.kind);
  return ranged ? `${action} ${pending.length} bytes at ${pending.offset}` : action;
}
