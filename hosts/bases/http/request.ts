/**
 * Gets one range of an object, however many requests that takes: sends, checks the answer, hands
 * the bytes on as they arrive, and after a failure that may pass asks again from the first missing
 * byte. It keeps no bytes and knows nothing of who reads them.
 */
import type { Transfer } from '../flight.ts';
import { Failure, PROGRESS_BYTES_MIN } from '../retry.ts';
import type { HttpStats } from '../traffic.ts';
import { Trouble } from '../trouble.ts';
import type { Address } from './address.ts';
import type { RequestOptions } from './ask.ts';
import { Asker } from './ask.ts';
import { Attempt, discard } from './attempt.ts';
import { InOrder } from './in-order.ts';
import { Mirrors, serverOf } from './mirrors.ts';
import { Proof } from './proof.ts';
import { Queue } from './queue.ts';
import type { ObjectParts } from './repetition.ts';
import { Repetition } from './repetition.ts';
import type { Answer, Checked } from './response.ts';
import { checkResponse, hidesSize, sizeTold, smallWhole, versionOfHead } from './response.ts';
import type { Version } from './version.ts';
import { mayBeNodes, strongEtag, versionOf } from './version.ts';

/** One object on one server. */
export class HttpObject {
  readonly #asker: Asker;
  readonly #options: RequestOptions;
  readonly #queue = new Queue();
  #version: Version | undefined;
  #sendsIfRange = true;
  readonly #mirrors = new Mirrors();
  readonly #proof: Proof;
  /** Of a server that heeds no ranges. */
  readonly inOrder: InOrder;
  readonly #trouble: Trouble | undefined;
  readonly #parts: ObjectParts;

  constructor(address: Address, options: RequestOptions) {
    this.#options = options;
    this.#asker = new Asker(address, options);
    this.#proof = new Proof(this.#asker, this.#mirrors, options.timeout);
    const { onTrouble } = options;
    if (onTrouble !== undefined)
      this.#trouble = new Trouble(
        (reason) => onTrouble(`${this.name}: ${reason}; asking again`),
        () => this.stats.bytes,
      );
    this.inOrder = new InOrder(this.#asker, options);
    this.#parts = {
      address,
      asker: this.#asker,
      mirrors: this.#mirrors,
      queue: this.#queue,
      trouble: this.#trouble,
      retries: options.retries,
    };
  }

  get name(): string {
    return this.#asker.name;
  }

  get stats(): HttpStats {
    return this.#asker.stats;
  }

  /** Undefined until the first answer. */
  get version(): Version | undefined {
    return this.#version;
  }

  /**
   * Fills `transfer` from its position to its end.
   * @throws MillraceError naming the object, the range, and after retries their number; or the
   *   reason of `cancelled`.
   */
  async fetch(transfer: Transfer, cancelled: AbortSignal): Promise<void> {
    this.#trouble?.begin();
    try {
      await this.#fetch(transfer, cancelled);
    } finally {
      this.#trouble?.end();
    }
  }

  /**
   * Learns the object's size and version without a byte of it, by HEAD; false where the server does
   * not tell both, or fails: what is wrong with it shows when bytes are asked for.
   */
  async look(): Promise<boolean> {
    const attempt = new Attempt(this.#options.timeout, new AbortController().signal);
    try {
      const { target, headers } = await this.#asker.destination();
      attempt.target = target;
      const head = await attempt.guard(this.#asker.ask(attempt, target.href, headers, 'HEAD'));
      attempt.finish();
      discard(head);
      const version = versionOfHead(head);
      if (version === undefined) return false;
      const href = head.url || target.href;
      this.#version = { ...version, server: serverOf(href) };
      this.#mirrors.learn(serverOf(href), version);
      this.#mirrors.followed(target, href);
      return true;
    } catch {
      attempt.abandon();
      return false;
    }
  }

  async #fetch(transfer: Transfer, cancelled: AbortSignal): Promise<void> {
    const repetition = new Repetition(this.#parts, transfer, this.#version !== undefined);
    while (true) {
      repetition.begin();
      const attempt = new Attempt(this.#options.timeout, cancelled);
      try {
        await this.#try(attempt, transfer);
        attempt.finish();
        this.#queue.next();
        if (transfer.position === transfer.end) return;
        repetition.succeeded();
      } catch (error) {
        attempt.abandon();
        const failure = attempt.explain(error, this.#version !== undefined);
        if (!(failure instanceof Failure && failure.busy)) this.#queue.next();
        if (!(failure instanceof Failure)) throw failure;
        const mayBeHidden = error instanceof TypeError && this.#version === undefined;
        await repetition.next(attempt, failure, mayBeHidden, cancelled);
        this.stats.retries++;
      }
    }
  }

  async #try(attempt: Attempt, transfer: Transfer): Promise<void> {
    const response = await attempt.guard(this.#send(attempt, transfer));
    attempt.progress();
    // Another origin's answer to a page: If-Range would have to be allowed there by a preflight.
    // And a server may answer 200 since it takes If-Range amiss. The answers alone are compared
    // then.
    if (response.type === 'cors' || response.status === 200) this.#sendsIfRange = false;
    const href = response.url || attempt.href!;
    const server = serverOf(href);
    if (await this.#isNewNode(attempt, response, href)) {
      this.#sendsIfRange = false;
      if (response.status === 200) {
        // To If-Range, with the ETag of another node.
        discard(response);
        return this.#try(attempt, transfer);
      }
    }
    if (this.#version === undefined && transfer.takeWhole !== undefined) {
      const whole = smallWhole(response);
      if (whole !== undefined)
        return this.#receiveWhole(attempt, response, transfer, { ...whole, server });
    }
    if (this.#version === undefined && response.status === 200) this.inOrder.learn(response);
    const { version, end, unsure } = await this.#check(attempt, response, transfer, server);
    if (unsure) await this.#proof.compare(attempt, href, this.#version!.size);
    this.#version ??= { ...version, server };
    this.#mirrors.learn(server, version);
    if (attempt.redirect === undefined) this.#mirrors.followed(attempt.target!, href);
    transfer.end = Math.min(transfer.end, version.size);
    if (transfer.position === transfer.end) return void (await response.body?.cancel());
    const bytes = end - transfer.position;
    await this.#receive(attempt, response, transfer, end);
    if (transfer.position < transfer.end && bytes < PROGRESS_BYTES_MIN) {
      throw new Failure('EIO', `the server sends ranges in pieces of ${bytes} bytes`, {
        transient: true,
      });
    }
  }

  /**
   * Whether the answer is of another node than those that have answered by this server's name so
   * far, and of the same object.
   */
  async #isNewNode(attempt: Attempt, response: Answer, href: string): Promise<boolean> {
    const { status, headers } = response;
    const known = this.#mirrors.versionOf(serverOf(href), headers.get('ETag') ?? undefined);
    if (known === undefined || (status !== 206 && status !== 200)) return false;
    const size = sizeTold(response) ?? known.size;
    const version = versionOf(headers, size);
    if (!mayBeNodes(version, known)) return false;
    return (
      (await this.#proof.areNodes(attempt, href, version, known.etag!)) &&
      this.#mirrors.learnNode(serverOf(href), version)
    );
  }

  /**
   * Whether the object, as it is told here, is the one that an overlay records by `etag` and date:
   * another node of the same server has told that.
   */
  async hasNode(etag: string): Promise<boolean> {
    const { target } = await this.#asker.destination();
    const attempt = new Attempt(this.#options.timeout, new AbortController().signal);
    attempt.target = target;
    const href = this.#mirrors.redirectOf(target)?.href ?? target.href;
    try {
      const isThere = await this.#proof.areNodes(attempt, href, this.#version!, etag);
      attempt.finish();
      return isThere && this.#mirrors.learnNode(serverOf(href), { ...this.#version!, etag });
    } catch {
      attempt.abandon();
      return false;
    }
  }

  /** Whether it has been come to by a redirect, so that other servers may have it, too. */
  get isRedirected(): boolean {
    return this.#mirrors.areMany;
  }

  /**
   * Of a server that has told nothing of the object before, the answer is held to what the first
   * one told.
   */
  async #check(
    attempt: Attempt,
    response: Answer,
    transfer: Transfer,
    server: string,
  ): Promise<Checked> {
    const told = this.#mirrors.versionOf(server, response.headers.get('ETag') ?? undefined);
    const version = told ?? this.#version;
    const elsewhere = told === undefined && version !== undefined;
    const asked = { first: transfer.position, end: transfer.end };
    const size = hidesSize(response)
      ? (version?.size ?? (await this.#asker.sizeByHead(attempt, response)))
      : undefined;
    return checkResponse(response, asked, { version, elsewhere, size });
  }

  async #send(attempt: Attempt, transfer: Transfer): Promise<Answer> {
    const { target, headers } = await this.#asker.destination();
    attempt.target = target;
    attempt.redirect = this.#mirrors.redirectOf(target);
    const href = attempt.redirect?.href ?? target.href;
    headers.set('Range', `bytes=${transfer.position}-${transfer.end - 1}`);
    const version = this.#mirrors.versionAt(href, attempt.redirect !== undefined);
    const etag = version === undefined ? undefined : strongEtag(version);
    if (etag !== undefined && this.#sendsIfRange) headers.set('If-Range', etag);
    return this.#asker.ask(attempt, href, headers);
  }

  /**
   * The bytes that end the answer are kept back until the body ends there: only then is it known to
   * be neither short nor long.
   */
  async #receive(
    attempt: Attempt,
    response: Answer,
    transfer: Transfer,
    end: number,
  ): Promise<void> {
    let last: Uint8Array | undefined;
    for await (const bytes of attempt.pieces(response, end - transfer.position)) {
      this.stats.bytes += bytes.length;
      const missing = end - transfer.position;
      if (last !== undefined || bytes.length > missing) {
        throw new Failure('EIO', 'the server sent more bytes than the range has');
      }
      if (bytes.length === missing) last = bytes;
      else this.#deliver(transfer, bytes);
    }
    if (last === undefined) {
      const missing = end - transfer.position;
      throw new Failure('EIO', `the server ended its answer ${missing} bytes early`, {
        transient: true,
      });
    }
    this.#deliver(transfer, last);
  }

  #deliver(transfer: Transfer, bytes: Uint8Array): void {
    this.#mirrors.keep(transfer.position, bytes);
    transfer.deliver(bytes);
  }

  /** The whole object, in answer to the first request: nothing is asked for after it. */
  async #receiveWhole(
    attempt: Attempt,
    response: Answer,
    transfer: Transfer,
    version: Version,
  ): Promise<void> {
    transfer.takeWhole!(version.size);
    await this.#receive(attempt, response, transfer, version.size);
    this.#version = version;
  }
}
