/**
 * The transmission ("Transmission"): requests are read one after another, carried out side by side,
 * and answered as they end. What is in flight is bounded by not reading the next request, so that a
 * client feels it.
 */

import type { ByteReader, ByteWriter } from '../../bases/nbd/duplex.ts';
import { ConnectionEnded } from '../../bases/nbd/duplex.ts';
import type { Request } from '../../bases/nbd/messages.ts';
import { parseRequest } from '../../bases/nbd/messages.ts';
import {
  Command,
  CommandFlag,
  EXTENDED_REQUEST_BYTES,
  NbdError,
  REQUEST_BYTES,
} from '../../bases/nbd/protocol.ts';
import { answer, refusal } from './commands.ts';
import type { Agreement } from './handshake.ts';
import {
  BYTES_IN_FLIGHT_MAX,
  PAYLOAD_BYTES_MAX,
  REQUESTS_IN_FLIGHT_MAX,
  SKIP_BYTES_MAX,
} from './limits.ts';
import { Stop } from './stop.ts';

export class Transmission {
  readonly #reader: ByteReader;
  readonly #writer: ByteWriter;
  readonly #agreement: Agreement;
  /** Aborted when nobody waits for replies any more, or the server is closing. */
  readonly #stop = new Stop();
  /** What carrying out a request needs of its connection. */
  readonly #means: Parameters<typeof answer>[3];
  #isClosing = false;
  #requests = 0;
  #bytes = 0;
  /** Called whenever a request has been answered. */
  #onLess: (() => void)[] = [];

  constructor(
    reader: ByteReader,
    writer: ByteWriter,
    agreement: Agreement,
    { stop, isClosing }: { stop: Stop; isClosing: boolean },
  ) {
    this.#reader = reader;
    this.#writer = writer;
    this.#agreement = agreement;
    this.#means = { stop: this.#stop, room: (length) => writer.room(length) };
    this.#isClosing = isClosing;
    this.#stop.listen(stop.listen(() => this.#stop.give()));
  }

  /** Resolves or rejects when the client has gone and nothing of its requests is under way. */
  async run(): Promise<void> {
    try {
      const { style } = this.#agreement;
      const headerBytes = style === 'extended' ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
      for (;;) {
        const header = this.#reader.tryTake(headerBytes) ?? (await this.#reader.take(headerBytes));
        const request = parseRequest(header, style);
        // "Terminating the transmission phase": a client out of step is dropped.
        if (request === undefined) throw new ConnectionEnded('the client is out of step');
        if (request.type === Command.disconnect) break;
        if (!this.#acceptAtOnce(request)) await this.#accept(request);
      }
    } catch (error) {
      this.#stop.give();
      await this.#answered();
      throw error;
    }
    // All that was asked for before NBD_CMD_DISC is done.
    await this.#answered();
    await this.#writer.drained();
    this.#stop.give();
  }

  /**
   * From now on requests are answered NBD_ESHUTDOWN; resolves when those before have been answered.
   */
  finish(): Promise<void> {
    this.#isClosing = true;
    return this.#answered();
  }

  /** Closes the connection, whatever is under way. */
  end(): void {
    this.#reader.cancel('the server is closing');
    this.#writer.abort('the server is closing');
  }

  /** Where nothing has to be waited for. */
  #acceptAtOnce(request: Request): boolean {
    const payloadBytes = this.#payloadBytes(request);
    const bytes = heldBytes(request, payloadBytes);
    if (payloadBytes > PAYLOAD_BYTES_MAX || !this.#hasRoom(bytes)) return false;
    const payload = payloadBytes > 0 ? this.#reader.tryTake(payloadBytes) : undefined;
    if (payloadBytes > 0 && payload === undefined) return false;
    this.#requests++;
    this.#bytes += bytes;
    void this.#perform(request, payload, bytes);
    return true;
  }

  async #accept(request: Request): Promise<void> {
    const payloadBytes = this.#payloadBytes(request);
    if (payloadBytes > PAYLOAD_BYTES_MAX) return this.#passOver(request, payloadBytes);
    const bytes = heldBytes(request, payloadBytes);
    while (!this.#hasRoom(bytes)) await this.#less();
    this.#requests++;
    this.#bytes += bytes;
    let payload: Uint8Array | undefined;
    try {
      if (payloadBytes > 0)
        payload = this.#reader.tryTake(payloadBytes) ?? (await this.#reader.take(payloadBytes));
    } catch (error) {
      this.#leave(bytes);
      throw error;
    }
    void this.#perform(request, payload, bytes);
  }

  /** Bytes that follow the header. */
  #payloadBytes({ type, flags, length }: Request): number {
    const carries =
      this.#agreement.style === 'extended'
        ? (flags & CommandFlag.payloadLength) !== 0
        : type === Command.write;
    return carries ? length : 0;
  }

  /**
   * "Size constraints": too much at once is passed over, or the client dropped; memory is taken for
   * none of it.
   */
  async #passOver(request: Request, payloadBytes: number): Promise<void> {
    if (this.#agreement.style === 'extended' || payloadBytes > SKIP_BYTES_MAX)
      throw new ConnectionEnded('the client sends too much at once');
    await this.#reader.skip(payloadBytes);
    while (!this.#hasRoom(0)) await this.#less();
    this.#requests++;
    const message = `${payloadBytes} bytes at once are too many: ${PAYLOAD_BYTES_MAX} at most`;
    this.#writer.push(refusal(request, this.#agreement.style, NbdError.EINVAL, message), () =>
      this.#leave(0),
    );
  }

  #hasRoom(bytes: number): boolean {
    if (this.#requests === 0) return true;
    return this.#requests < REQUESTS_IN_FLIGHT_MAX && this.#bytes + bytes <= BYTES_IN_FLIGHT_MAX;
  }

  async #perform(request: Request, payload: Uint8Array | undefined, bytes: number): Promise<void> {
    const reply = this.#isClosing
      ? refusal(request, this.#agreement.style, NbdError.ESHUTDOWN, 'the server is closing')
      : await answer(this.#agreement, request, payload, this.#means);
    this.#writer.push(reply, () => this.#leave(bytes));
  }

  #leave(bytes: number): void {
    this.#requests--;
    this.#bytes -= bytes;
    for (const resolve of this.#onLess.splice(0)) resolve();
  }

  #less(): Promise<void> {
    return new Promise((resolve) => this.#onLess.push(resolve));
  }

  async #answered(): Promise<void> {
    while (this.#requests > 0) await this.#less();
  }
}

/** Bytes of data that a request keeps in memory. */
function heldBytes({ type, length }: Request, payloadBytes: number): number {
  return type === Command.read && length <= PAYLOAD_BYTES_MAX ? length : payloadBytes;
}
