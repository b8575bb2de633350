/**
 * One connection in the transmission phase: many requests under way, their replies in any order.
 * Every reply is checked against its request before a byte of it is kept; a server that breaks the
 * protocol loses the connection, and all that was asked for by it fails.
 */
import { Failure } from '../retry.ts';
import { hangUp } from './duplex.ts';
import { asFailure, failureOf, lost } from './failures.ts';
import { viewOf } from './fields.ts';
import type { Negotiated } from './handshake.ts';
import { broken } from './handshake.ts';
import type { Descriptor, ReplyHeader } from './messages.ts';
import {
  DATA_OFFSET_BYTES,
  emitRequest,
  HOLE_BYTES,
  parseBlockStatus,
  parseDataOffset,
  parseError,
  parseHole,
  parseReply,
  replyHeaderBytes,
} from './messages.ts';
import type { Pending } from './pending.ts';
import { claim, isWhole } from './pending.ts';
import { Command, REPLY_TYPE_ERROR_BIT, ReplyType, SIMPLE_REPLY_BYTES } from './protocol.ts';

/** How long a server has to take the good-bye. */
const CLOSE_MS_MAX = 1000;
/** Requests of one connection under way, those too that nobody waits for any more. */
const REQUESTS_MAX = 256;
/** A chunk that holds no content: descriptors, or an error with its words. */
const PAYLOAD_BYTES_MAX: number = 1024 * 1024;
/** So much within the timeout, or the end of a reply, is progress. */
const PROGRESS_BYTES_MIN = 1024;

/** What became of all connections of a base. */
export interface Traffic {
  requests: number;
  bytes: number;
}

export class Connection {
  readonly told: Negotiated;
  /** Bytes that were asked for and have not come. */
  outstanding = 0;
  readonly #traffic: Traffic;
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, Pending>();
  #nextCookie = 1;
  #failure: Failure | undefined;
  #watch: ReturnType<typeof setTimeout> | undefined;
  #progress = 0;

  /** Over a connection that has come to the export: see connect.ts. */
  constructor(told: Negotiated, timeoutMs: number, traffic: Traffic) {
    this.told = told;
    this.#timeoutMs = timeoutMs;
    this.#traffic = traffic;
    this.#receive().catch((error) => this.#end(asFailure(error)));
  }

  /** False once it has ended, for whatever reason. */
  get isOpen(): boolean {
    return this.#failure === undefined;
  }

  /** Requests under way. */
  get requests(): number {
    return this.#pending.size;
  }

  /**
   * Fills `into` from `offset` on. When `signal` is aborted it rejects with the signal's reason;
   * what still comes goes to `into` nevertheless.
   * @throws Failure
   */
  async read(offset: number, into: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#ask(Command.read, offset, into.length, into, signal);
  }

  /** What the server tells of a range, from its start on; it need not tell of all of it. */
  async blockStatus(offset: number, length: number, signal: AbortSignal): Promise<Descriptor[]> {
    const none = new Uint8Array(0);
    return (await this.#ask(Command.blockStatus, offset, length, none, signal)).descriptors;
  }

  /** Says good-bye, to a server that listens. */
  async close(): Promise<void> {
    if (!this.isOpen) return;
    const { reader, writer } = this.told;
    this.#fail(new Failure('ECLOSED', 'the base has been closed'));
    writer.push([this.#emit(Command.disconnect, 0, 0, 0)]);
    const said = writer.drained().then(() => writer.close());
    const timer = setTimeout(() => hangUp(reader, writer), CLOSE_MS_MAX);
    await said.catch(() => {});
    clearTimeout(timer);
    hangUp(reader, writer);
  }

  #ask(
    type: number,
    offset: number,
    length: number,
    into: Uint8Array,
    signal: AbortSignal,
  ): Promise<Pending> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#pending.size >= REQUESTS_MAX)
        throw new Failure('EIO', 'the server has too many requests to answer', { transient: true });
      const cookie = this.#nextCookie++;
      const abort = (): void => reject(signal.reason);
      const pending: Pending = {
        type,
        offset,
        length,
        into,
        runs: [],
        descriptors: [],
        failure: undefined,
        settle: (failure) => {
          signal.removeEventListener('abort', abort);
          this.#pending.delete(cookie);
          this.outstanding -= into.length;
          if (failure === undefined) resolve(pending);
          else reject(failure);
        },
      };
      signal.addEventListener('abort', abort);
      this.#pending.set(cookie, pending);
      this.outstanding += into.length;
      this.#traffic.requests++;
      this.told.writer.push([this.#emit(type, cookie, offset, length)], () => {
        if (!this.told.writer.isOpen) this.#end(lost('the connection broke'));
      });
      this.#watchOver();
    });
  }

  #emit(type: number, cookie: number, offset: number, length: number): Uint8Array {
    const words = [Math.floor(cookie / 2 ** 32), cookie % 2 ** 32] as const;
    return emitRequest({ flags: 0, type, cookie: words, offset, length }, this.told.style);
  }

  /** Takes replies until the connection ends. */
  async #receive(): Promise<never> {
    const { reader, style } = this.told;
    for (;;) {
      const start = await reader.take(SIMPLE_REPLY_BYTES);
      const bytes = replyHeaderBytes(viewOf(start).getUint32(0), style);
      if (bytes === undefined) throw broken('what comes is no reply');
      const whole = new Uint8Array(bytes);
      whole.set(start);
      await reader.fill(whole.subarray(start.length));
      await this.#take(parseReply(whole));
    }
  }

  async #take(header: ReplyHeader): Promise<void> {
    const cookie = header.cookie[0] * 2 ** 32 + header.cookie[1];
    const pending = this.#pending.get(cookie);
    if (pending === undefined) throw broken('a reply is to no request');
    if (header.kind === 'simple') return this.#takeSimple(pending, header.error);
    if (header.offset !== undefined && header.offset !== pending.offset)
      throw broken('a reply is to another offset than was asked for');
    if (header.type & REPLY_TYPE_ERROR_BIT) await this.#takeError(pending, header.length);
    else await this.#takeContent(pending, header.type, header.length, header.done);
    if (!header.done) return;
    if (pending.failure === undefined && !isWhole(pending)) throw broken('a reply has gaps');
    this.#finish(pending);
  }

  async #takeSimple(pending: Pending, error: number): Promise<void> {
    if (error !== 0) {
      pending.failure = failureOf(error, '');
    } else {
      const { style } = this.told;
      if (pending.type !== Command.read || style !== 'simple')
        throw broken('a reply is not of the kind that was agreed on');
      await this.#fill(pending.into);
    }
    this.#finish(pending);
  }

  async #takeError(pending: Pending, length: number): Promise<void> {
    if (length > PAYLOAD_BYTES_MAX) throw broken(`an error of ${length} bytes is too long`);
    const said = parseError(await this.told.reader.take(length));
    if (said === undefined || said.error === 0) throw broken('an error contradicts itself');
    pending.failure ??= failureOf(said.error, said.message);
  }

  async #takeContent(pending: Pending, type: number, length: number, done: boolean): Promise<void> {
    const { reader } = this.told;
    const isRead = pending.type === Command.read;
    if (type === ReplyType.none && length === 0 && done) return;
    if (type === ReplyType.offsetData && isRead && length > DATA_OFFSET_BYTES) {
      const offset = parseDataOffset(await reader.take(DATA_OFFSET_BYTES));
      await this.#fill(claim(pending, offset, length - DATA_OFFSET_BYTES));
    } else if (type === ReplyType.offsetHole && isRead && length === HOLE_BYTES) {
      const hole = parseHole(await reader.take(HOLE_BYTES));
      claim(pending, hole.offset, hole.length).fill(0);
    } else if (type === this.#statusType && !isRead && length <= PAYLOAD_BYTES_MAX) {
      const told = parseBlockStatus(await reader.take(length), type);
      if (told === undefined || told.descriptors.some((each) => each.length === 0))
        throw broken('what it tells of blocks contradicts itself');
      if (told.context !== this.told.allocation || pending.descriptors.length > 0)
        throw broken('it tells what it was not asked for');
      pending.descriptors = told.descriptors;
    } else {
      throw broken(`a part of a reply has the type ${type} and ${length} bytes`);
    }
  }

  get #statusType(): number {
    return this.told.style === 'extended' ? ReplyType.blockStatusExtended : ReplyType.blockStatus;
  }

  /** Bytes as they come: a long reply over a slow line makes progress before its end. */
  async #fill(into: Uint8Array): Promise<void> {
    await this.told.reader.fill(into, (bytes) => {
      this.#traffic.bytes += bytes;
      this.#progress += bytes;
    });
  }

  #finish(pending: Pending): void {
    this.#progress += PROGRESS_BYTES_MIN;
    pending.settle(pending.failure);
  }

  /** While something is under way, a time in which nothing comes ends the connection. */
  #watchOver(): void {
    this.#watch ??= setTimeout(() => {
      this.#watch = undefined;
      const brought = this.#progress;
      this.#progress = 0;
      if (this.#pending.size === 0) return;
      if (brought >= PROGRESS_BYTES_MIN) return this.#watchOver();
      const message = `the server has not answered within ${this.#timeoutMs / 1000} s`;
      this.#end(new Failure('ETIMEDOUT', message, { transient: true, lost: true }));
    }, this.#timeoutMs);
  }

  #end(failure: Failure): void {
    if (!this.isOpen) return;
    this.#fail(failure);
    hangUp(this.told.reader, this.told.writer);
  }

  #fail(failure: Failure): void {
    this.#failure = failure;
    clearTimeout(this.#watch);
    for (const pending of [...this.#pending.values()]) pending.settle(failure);
  }
}
