/**
 * Drives one engine instance: starts requests, performs the I/O it asks for on the images' files,
 * and hands the completions back. It knows the ring (engine/README.md) and no image format.
 */
import {
  IMAGE_FEATURE_NAMES_AT,
  JOB_DETAIL,
  OP_DECOMPRESS,
  OP_DISCARD,
  OP_DONE,
  OP_FLUSH,
  OP_GIVE,
  OP_TAKE,
  OP_TRUNCATE,
  R_INCOMPATIBLE,
  REPORT_NUMBERS,
  SUBMISSION_BYTES,
} from '../../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../../api/block.ts';
import type { Clock } from '../../api/clock.ts';
import { systemClock } from '../../api/clock.ts';
import type { Codec } from '../../api/codec.ts';
import { codeOf, MillraceError, messageOf } from '../../api/errors.ts';
import type { BaseReads } from './base-reads.ts';
import { isPromise } from './base-reads.ts';
import type { Failure } from './error-ledger.ts';
import { ErrorLedger } from './error-ledger.ts';
import { unknownFeatures } from './features.ts';
import { HeaderTexts } from './header-texts.ts';
import type { Exports, Instance } from './instance.ts';
import { instantiate, PAGE_BYTES } from './instance.ts';
import { Operations } from './operations.ts';
import { numberOfCode, reasonText } from './reasons.ts';
import { actionOf, Requests } from './requests.ts';
import type { Completion, Submission } from './ring.ts';
import { submissionAt, writeCompletions } from './ring.ts';

/** Steps in a row before others in this thread get a turn. */
const STEPS_MAX = 64;

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
  readonly codec: Codec;
  readonly clock: Clock;
  readonly #requests = new Requests();
  readonly #operations: Operations;
  readonly #completed: Completion[] = [];
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
    this.#instance = instantiate(module, memoryBytes, (broken) => (this.#broken = broken));
    this.codec = codec;
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
    this.#operations = new Operations(codec, clock, (error) => this.#errors.flushFailed(error));
  }

  /** The reads of bases, which can be cancelled. */
  get bases(): BaseReads {
    return this.#operations.bases;
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
      this.#requests.add({ kind, offset, length, argument, ...buffers, resolve, reject });
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

  #report(address: number): Float64Array {
    return new Float64Array(this.#running.memory, address, REPORT_NUMBERS);
  }

  #reasonOf({ reason, image }: Failure): string {
    const text = reasonText(reason);
    if (reason !== R_INCOMPATIBLE) return text;
    const namesAt = this.imageReport(image)[IMAGE_FEATURE_NAMES_AT];
    const unknown = unknownFeatures(this.firstBytes(image, PAGE_BYTES), namesAt);
    return unknown.length ? `${text}: ${unknown.join(', ')}` : text;
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

  /**
   * As `pump`, when the caller's turn has ended: completions that come together are handed over
   * together.
   */
  pumpSoon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.pump();
    });
  }

  /** Ends every request with `error`: the engine is used no more, and its memory is let go. */
  close(error: MillraceError): void {
    this.#cancelTimer();
    this.#broken ??= error;
    this.#requests.rejectAll(this.#broken);
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
    this.#requests.start(exports);
    const count = this.#completed.length;
    writeCompletions(words, exports.completions(), this.#completed);
    this.#completed.length = 0;
    const more = exports.step(count, this.clock.now()) !== 0;
    const submitted = exports.submitted();
    const first = exports.submissions();
    for (let i = 0; i < submitted; i++) this.#perform(this.#running, first + i * SUBMISSION_BYTES);
    return more || this.#completed.length > 0 || (submitted > 0 && this.#requests.areWaiting);
  }

  #perform({ words, memory }: Instance, entry: number): void {
    const asked = submissionAt(words, entry);
    const { op, tag, request } = asked;
    if (op === OP_DONE) return this.#finish(asked);
    const hasBytes = op !== OP_FLUSH && op !== OP_TRUNCATE && op !== OP_DISCARD;
    const bytes = new Uint8Array(memory, asked.address, hasBytes ? asked.length : 0);
    if (op === OP_GIVE) return this.#requests.give(request, asked.offset, bytes);
    try {
      const result = this.#operate(asked, bytes);
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

  #operate(asked: Submission, bytes: Uint8Array): void | Promise<void> {
    if (asked.op === OP_TAKE) return this.#requests.take(asked.request, asked.offset, bytes);
    if (asked.op === OP_DECOMPRESS) return this.#operations.inflate(asked, bytes);
    return this.#operations.onFile(asked, this.#files[asked.file], bytes);
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
    this.pumpSoon();
  }

  /** A request has ended: its code stands for the tag, its value or place for the offset. */
  #finish({ request: tag, tag: code, flags: reason, file, offset, length }: Submission): void {
    const request = this.#requests.remove(tag);
    if (!request) return;
    if (!code) return request.resolve(offset);
    const failure: Failure = { code, reason, image: file, offset, detail: length };
    request.reject(this.#errors.errorOf(failure, actionOf(request)));
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
    this.#requests.rejectAll(this.#broken);
  }
}
