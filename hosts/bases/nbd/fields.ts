/**
 * Fields of NBD's messages. All numbers are big-endian. Offsets and lengths have 64 bits; here they
 * are JavaScript numbers, exact up to 2^53, and larger ones lie outside every disk anyway.
 */
import { STRING_BYTES_MAX } from './protocol.ts';

const TWO_TO_32 = 2 ** 32;
export const encoder: TextEncoder = new TextEncoder();

/** A run of big-endian fields. */
export class Fields {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #at = 0;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.#view = new DataView(this.bytes.buffer);
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value);
    this.#at += 4;
    return this;
  }

  u64(value: number): this {
    return this.u32(Math.floor(value / TWO_TO_32)).u32(value % TWO_TO_32);
  }

  words([high, low]: readonly [number, number]): this {
    return this.u32(high).u32(low);
  }

  text(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function u64At(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_TO_32 + view.getUint32(at + 4);
}

/**
 * A message as a string of the protocol: not longer than one may be, and no character cut in two.
 */
export function clipped(message: string): Uint8Array {
  const bytes = encoder.encode(message);
  if (bytes.length <= STRING_BYTES_MAX) return bytes;
  let end = STRING_BYTES_MAX;
  while ((bytes[end] & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}
