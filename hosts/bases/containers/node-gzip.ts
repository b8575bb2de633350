/**
 * gzip (RFC 1952) by node:zlib, which inflates in threads of its own. Its own reader of gzip takes
 * what follows the last member for a damaged one: the members are read here, their data there.
 */
import type { NodeTransform } from './decompress.ts';

export interface InflateOptions {
  chunkSize: number;
  readableHighWaterMark: number;
}

/** What is used of node:zlib. */
export interface NodeInflate {
  createInflateRaw(options: InflateOptions): NodeTransform & {
    /** Bytes of input that it has taken. */
    readonly bytesWritten: number;
  };
  /** From Node 20.15 on. */
  crc32(bytes: Uint8Array, before?: number): number;
}

/**
 * A piece, and what may wait to be taken while the next one is inflated: each costs a thread's turn
 * and one of the event loop.
 */
const OUTPUT_BYTES = 256 * 1024;
const WAITING_BYTES = 1024 * 1024;
export const INFLATE_OPTIONS: InflateOptions = {
  chunkSize: OUTPUT_BYTES,
  readableHighWaterMark: WAITING_BYTES,
};
const MAGIC = [0x1f, 0x8b];
const DEFLATED = 8;
const Flag = { headerSum: 2, extra: 4, name: 8, comment: 16, reserved: 0xe0 } as const;
/** Date, level and system. */
const UNUSED_BYTES = 6;
const END_BYTES = 8;

/** Takes all members; what follows them and is none is left out, as gzip does. */
export async function* gunzip(
  zlib: NodeInflate,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const bytes = new Bytes(input);
  try {
    for (let isFirst = true; await startsMember(bytes, isFirst); isFirst = false) {
      await takeHeader(zlib, bytes);
      yield* member(zlib, bytes);
    }
  } finally {
    await bytes.close();
  }
}

async function startsMember(bytes: Bytes, isFirst: boolean): Promise<boolean> {
  for (const byte of MAGIC) {
    if (!isFirst && (await bytes.some()).length === 0) return false;
    if ((await bytes.next()) === byte) continue;
    if (isFirst) throw new Error('it does not begin like gzip');
    return false;
  }
  return true;
}

async function takeHeader(zlib: NodeInflate, bytes: Bytes): Promise<void> {
  const header = [...MAGIC];
  const next = async (): Promise<number> => {
    const byte = await bytes.next();
    header.push(byte);
    return byte;
  };
  const text = async (): Promise<void> => {
    while ((await next()) !== 0);
  };
  const method = await next();
  const flags = await next();
  if (method !== DEFLATED || flags & Flag.reserved)
    throw new Error('its header has an unknown method or flag');
  for (let at = 0; at < UNUSED_BYTES; at++) await next();
  if (flags & Flag.extra) {
    const length = (await next()) | ((await next()) << 8);
    for (let at = 0; at < length; at++) await next();
  }
  if (flags & Flag.name) await text();
  if (flags & Flag.comment) await text();
  if (!(flags & Flag.headerSum)) return;
  const expected = zlib.crc32(Uint8Array.from(header)) & 0xffff;
  if (((await bytes.next()) | ((await bytes.next()) << 8)) !== expected)
    throw new Error('the check sum of its header is wrong');
}

/** The data of a member, and the check sum and size behind it. */
async function* member(zlib: NodeInflate, bytes: Bytes): AsyncGenerator<Uint8Array> {
  const inflate = zlib.createInflateRaw(INFLATE_OPTIONS);
  const feeding = feed(inflate, bytes);
  let sum = 0;
  let size = 0;
  try {
    for await (const piece of inflate) {
      sum = zlib.crc32(piece, sum);
      size = (size + piece.length) % 2 ** 32;
      yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
    }
  } finally {
    inflate.destroy();
    await feeding;
  }
  const end = new Uint8Array(END_BYTES);
  for (let at = 0; at < END_BYTES; at++) end[at] = await bytes.next();
  const view = new DataView(end.buffer);
  if (view.getUint32(0, true) !== sum) throw new Error('its check sum is wrong');
  if (view.getUint32(4, true) !== size) throw new Error('it holds another size than it tells');
}

/** Never rejects: what goes wrong ends the inflating. */
async function feed(
  inflate: ReturnType<NodeInflate['createInflateRaw']>,
  bytes: Bytes,
): Promise<void> {
  try {
    for (;;) {
      const piece = await bytes.some();
      if (piece.length === 0) return inflate.end();
      const before = inflate.bytesWritten;
      await written(inflate, piece);
      const taken = inflate.bytesWritten - before;
      bytes.skip(taken);
      // The data has ended within the piece: what follows is the end of the member.
      if (taken < piece.length) return;
    }
  } catch (error) {
    inflate.destroy(error as Error);
  }
}

/** Resolves when it takes no more of the piece. */
function written(inflate: NodeTransform, piece: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      inflate.off('close', over);
      resolve();
    };
    inflate.once('close', over);
    inflate.write(piece, over);
  });
}

/** Takes a stream as it comes, or byte by byte. */
class Bytes {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(pieces: AsyncIterable<Uint8Array>) {
    this.#pieces = pieces[Symbol.asyncIterator]();
  }

  /** What is there, which stays until it is skipped; nothing at the end. */
  async some(): Promise<Uint8Array> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#pieces.next();
      if (done) break;
      this.#rest = value;
    }
    return this.#rest;
  }

  skip(count: number): void {
    this.#rest = this.#rest.subarray(count);
  }

  async next(): Promise<number> {
    const [byte] = await this.some();
    if (byte === undefined) throw new Error('it is cut off');
    this.skip(1);
    return byte;
  }

  async close(): Promise<void> {
    await this.#pieces.return?.();
  }
}
