/**
 * A client of our own, from the specification: what today's programs do not speak (extended
 * headers), what only old ones do, and what none would send. It shares no code with the server.
 */

import type { StreamConnection } from '../../hosts/bases/nbd/duplex.ts';
import type { NbdServer } from '../../hosts/faces/nbd/server.ts';

/** Nothing that is waited for takes so long. */
const ANSWER_MS_MAX = 10_000;
const LATE = 'no answer in time';

export interface OptionReply {
  option: number;
  type: number;
  data: Buffer;
}

/** A simple reply, or a chunk. */
export interface Reply {
  magic: number;
  cookie: bigint;
  /** Of a simple reply. */
  error: number;
  flags: number;
  type: number;
  /** Of an extended reply. */
  offset: bigint;
  data: Buffer;
}

export const MAGIC = {
  simple: 0x67446698,
  structured: 0x668e33ef,
  extended: 0x6e8a278c,
} as const;

/** Both ends of a connection in memory; what one end does not read holds up the other. */
export function pair(): { near: StreamConnection; far: StreamConnection } {
  const strategy = { highWaterMark: 1 };
  const there = new TransformStream<Uint8Array, Uint8Array>(undefined, strategy, strategy);
  const back = new TransformStream<Uint8Array, Uint8Array>(undefined, strategy, strategy);
  return {
    near: { readable: back.readable, writable: there.writable },
    far: { readable: there.readable, writable: back.writable },
  };
}

export class Client {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #buffer: Buffer = Buffer.alloc(0);
  /** Resolves when the server has ended the connection. */
  readonly served: Promise<void>;
  style: 'simple' | 'structured' | 'extended' = 'simple';

  /** Of a server, or of one that is at the other end of a connection. */
  constructor(server: NbdServer | StreamConnection) {
    const { near, far } = 'serve' in server ? pair() : { near: server };
    this.served = far && 'serve' in server ? server.serve(far) : Promise.resolve();
    this.#reader = near.readable.getReader();
    this.#writer = near.writable.getWriter();
    this.#writer.closed.catch(() => {});
  }

  /** The server's greeting is read and answered with these flags. */
  static async greeted(server: NbdServer | StreamConnection, flags = 3): Promise<Client> {
    const client = new Client(server);
    const greeting = await client.take(18);
    if (
      greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT' ||
      greeting.readUInt16BE(16) !== 3
    )
      throw new Error(`not a greeting: ${greeting.toString('hex')}`);
    await client.send(u32(flags));
    return client;
  }

  /** In transmission, with replies of this style. */
  static async ready(
    server: NbdServer | StreamConnection,
    style: Client['style'],
    contexts: string[] = [],
    name = 'vda',
  ): Promise<Client> {
    const client = await Client.greeted(server);
    if (style !== 'simple') {
      const [reply] = await client.option(style === 'extended' ? 11 : 8);
      if (reply.type !== 1) throw new Error(`refused: ${reply.type}`);
    }
    client.style = style;
    if (contexts.length > 0) await client.option(10, metaContexts(name, contexts));
    const replies = await client.option(7, goData(name));
    if (replies.at(-1)!.type !== 1) throw new Error(`refused: ${replies.at(-1)!.data}`);
    return client;
  }

  async send(...parts: Uint8Array[]): Promise<void> {
    await this.#writer.write(Buffer.concat(parts)).catch(() => {});
  }

  async close(): Promise<void> {
    await Promise.allSettled([this.#writer.close(), this.#reader.cancel()]);
  }

  /** @throws when the server ends before, or does not answer in time. */
  async take(length: number): Promise<Buffer> {
    while (this.#buffer.length < length) {
      const { done, value } = await inTime(this.#reader.read());
      if (done) throw new Error('the server has ended the connection');
      this.#buffer = Buffer.concat([this.#buffer, value]);
    }
    const bytes = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return bytes;
  }

  /** Whether the server ends the connection rather than say anything more. */
  async isEnded(): Promise<boolean> {
    return this.take(1).then(
      () => false,
      (error: Error | undefined) => error?.message !== LATE,
    );
  }

  /** Sends an option, and gathers its replies up to the final one. */
  async option(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<OptionReply[]> {
    await this.send(optionHeader(option, data.length), data);
    return this.optionReplies();
  }

  async optionReplies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    for (;;) {
      const header = await this.take(20);
      if (header.toString('hex', 0, 8) !== '0003e889045565a9') throw new Error('no option reply');
      const reply = {
        option: header.readUInt32BE(8),
        type: header.readUInt32BE(12),
        data: await this.take(header.readUInt32BE(16)),
      };
      replies.push(reply);
      if (reply.type === 1 || reply.type >= 0x80000000) return replies;
    }
  }

  request(
    type: number,
    offset: number | bigint,
    length: number | bigint,
    {
      flags = 0,
      cookie = 1n,
      payload,
    }: { flags?: number; cookie?: bigint; payload?: Uint8Array } = {},
  ): Promise<void> {
    return this.send(
      request(this.style, type, BigInt(offset), BigInt(length), flags, cookie),
      payload ?? Buffer.alloc(0),
    );
  }

  /** One reply or chunk; `dataLength` is what a simple reply to a read carries. */
  async reply(dataLength = 0): Promise<Reply> {
    const magic = (await this.take(4)).readUInt32BE();
    if (magic === MAGIC.simple) {
      const rest = await this.take(12);
      const error = rest.readUInt32BE(0);
      const data = await this.take(error === 0 ? dataLength : 0);
      return { magic, cookie: rest.readBigUInt64BE(4), error, flags: 1, type: 0, offset: 0n, data };
    }
    const isExtended = magic === MAGIC.extended;
    if (!isExtended && magic !== MAGIC.structured) throw new Error(`magic ${magic.toString(16)}`);
    const rest = await this.take(isExtended ? 28 : 16);
    const length = isExtended ? Number(rest.readBigUInt64BE(20)) : rest.readUInt32BE(12);
    const data = await this.take(length);
    const type = rest.readUInt16BE(2);
    return {
      magic,
      cookie: rest.readBigUInt64BE(4),
      error: type & 0x8000 ? data.readUInt32BE(0) : 0,
      flags: rest.readUInt16BE(0),
      type,
      offset: isExtended ? rest.readBigUInt64BE(12) : 0n,
      data,
    };
  }

  /** All chunks of one reply. */
  async chunks(dataLength = 0): Promise<Reply[]> {
    const chunks = [await this.reply(dataLength)];
    while (!(chunks.at(-1)!.flags & 1)) chunks.push(await this.reply());
    return chunks;
  }

  /** Reads through whichever replies there are. */
  async read(offset: number, length: number, flags = 0): Promise<Buffer> {
    await this.request(0, offset, length, { flags });
    const into = Buffer.alloc(length, 0xee);
    for (const chunk of await this.chunks(length)) {
      if (chunk.error) throw new Error(`error ${chunk.error}: ${chunk.data.subarray(6)}`);
      if (chunk.magic === MAGIC.simple) chunk.data.copy(into);
      else if (chunk.type === 1)
        chunk.data.copy(into, Number(chunk.data.readBigUInt64BE(0)) - offset, 8);
      else if (chunk.type === 2) {
        const at = Number(chunk.data.readBigUInt64BE(0)) - offset;
        into.fill(0, at, at + chunk.data.readUInt32BE(8));
      }
    }
    return into;
  }
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function optionHeader(option: number, length: number): Buffer {
  return Buffer.concat([Buffer.from('IHAVEOPT'), u32(option), u32(length)]);
}

export function goData(name: string, infos: number[] = []): Buffer {
  const text = Buffer.from(name);
  const bytes = Buffer.alloc(2 + 2 * infos.length);
  bytes.writeUInt16BE(infos.length);
  for (const [index, info] of infos.entries()) bytes.writeUInt16BE(info, 2 + 2 * index);
  return Buffer.concat([u32(text.length), text, bytes]);
}

export function metaContexts(name: string, queries: string[]): Buffer {
  const string = (text: string): Buffer[] => [u32(Buffer.byteLength(text)), Buffer.from(text)];
  return Buffer.concat([...string(name), u32(queries.length), ...queries.flatMap(string)]);
}

export function request(
  style: Client['style'],
  type: number,
  offset: bigint,
  length: bigint,
  flags: number,
  cookie: bigint,
): Buffer {
  const extended = style === 'extended';
  const bytes = Buffer.alloc(extended ? 32 : 28);
  bytes.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeBigUInt64BE(offset, 16);
  if (extended) bytes.writeBigUInt64BE(length, 24);
  else bytes.writeUInt32BE(Number(length), 24);
  return bytes;
}

async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(LATE)), ANSWER_MS_MAX);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
