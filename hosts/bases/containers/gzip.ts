/** gzip (RFC 1952) by the package `pako`, which runs everywhere. */
import type { Decompress } from './decompress.ts';
import { nextTurn } from './turn.ts';

const OUTPUT_BYTES = 64 * 1024;
const MAGIC = [0x1f, 0x8b];
const WINDOW_BITS_GZIP = 15 + 16;

/** Takes all members; what follows them and is none is left out, as gzip does. */
export async function portableGzip(): Promise<Decompress> {
  const pako = await import('./pako.ts');
  return (input) => gunzip(pako, input);
}

type Pako = typeof import('./pako.ts');

async function* gunzip(pako: Pako, input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const inflate = new GzipMembers(pako);
  for await (const bytes of input) {
    yield* inflate.push(bytes);
    if (inflate.isOver) return;
    await nextTurn();
  }
  inflate.end();
}

/** Members of a gzip file, one after another (RFC 1952, section 2.2). */
class GzipMembers {
  readonly #pako: Pako;
  readonly #stream: InstanceType<Pako['ZStream']>;
  /** The first bytes of what may be another member. */
  #start: number[] | undefined;
  /** Something else follows the last member. */
  isOver = false;

  constructor(pako: Pako) {
    this.#pako = pako;
    this.#stream = new pako.ZStream();
    pako.zlibInflateInit2(this.#stream, WINDOW_BITS_GZIP);
  }

  *push(bytes: Uint8Array): Generator<Uint8Array> {
    const stream = this.#stream;
    for (let rest = bytes; rest.length > 0 && !this.isOver; ) {
      if (this.#start !== undefined) rest = this.#another(rest);
      stream.input = rest;
      stream.next_in = 0;
      stream.avail_in = rest.length;
      yield* this.#member();
      rest = rest.subarray(rest.length - stream.avail_in);
    }
  }

  end(): void {
    if (this.#start === undefined) throw new Error('it is cut off');
  }

  *#member(): Generator<Uint8Array> {
    const { zlibInflate, Z_NO_FLUSH, Z_OK, Z_STREAM_END, Z_BUF_ERROR } = this.#pako;
    const stream = this.#stream;
    while (this.#start === undefined && !this.isOver) {
      stream.output = new Uint8Array(OUTPUT_BYTES);
      stream.next_out = 0;
      stream.avail_out = OUTPUT_BYTES;
      const status = zlibInflate(stream, Z_NO_FLUSH);
      if (status !== Z_OK && status !== Z_STREAM_END && status !== Z_BUF_ERROR)
        throw new Error(stream.msg || 'the data is wrong');
      if (stream.next_out > 0) yield stream.output.subarray(0, stream.next_out);
      if (status === Z_STREAM_END) this.#start = [];
      else if (stream.avail_out > 0) return;
    }
  }

  /** What follows a member: another one, or what is left out. */
  #another(bytes: Uint8Array): Uint8Array {
    const start = this.#start!;
    let used = 0;
    while (used < bytes.length && start.length < MAGIC.length) start.push(bytes[used++]);
    if (start.some((byte, at) => byte !== MAGIC[at])) this.isOver = true;
    if (this.isOver || start.length < MAGIC.length) return bytes.subarray(bytes.length);
    this.#start = undefined;
    this.#pako.zlibInflateReset(this.#stream);
    const whole = new Uint8Array(start.length + bytes.length - used);
    whole.set(start);
    whole.set(bytes.subarray(used), start.length);
    return whole;
  }
}
