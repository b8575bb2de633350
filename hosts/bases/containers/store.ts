/**
 * What has passed of a source that comes in order only: kept until the source is closed, so that it
 * is never fetched again. A little of it stays in memory, more goes to a file; zeros take no room.
 */
import type { BlockFile } from '../../api/block.ts';

/** What is no larger than this needs no file. */
const MEMORY_BYTES_MAX = 4 * 1024 * 1024;
/** Zeros of so many bytes are left out. */
const HOLE_BYTES = 64 * 1024;

/** Bytes that are written in order, and read anywhere before where they have come to. */
export class Store {
  readonly #makeFile: () => Promise<BlockFile>;
  #memory = new Uint8Array(HOLE_BYTES);
  #file: Promise<BlockFile> | undefined;
  #length = 0;

  constructor(makeFile: () => Promise<BlockFile>) {
    this.#makeFile = makeFile;
  }

  /** Bytes written. */
  get length(): number {
    return this.#length;
  }

  async append(bytes: Uint8Array): Promise<void> {
    const end = this.#length + bytes.length;
    if (this.#file === undefined && end <= MEMORY_BYTES_MAX) this.#keep(bytes, end);
    else await this.#write(bytes);
    this.#length = end;
  }

  /** `[offset, offset + into.length)` has been written. */
  async read(offset: number, into: Uint8Array): Promise<void> {
    if (this.#file === undefined) {
      into.set(this.#memory.subarray(offset, offset + into.length));
      return;
    }
    const file = await this.#file;
    // What was left out at the end is not in the file.
    const present = Math.max(0, Math.min(into.length, file.size - offset));
    into.fill(0, present);
    if (present > 0) await file.read(offset, into.subarray(0, present));
  }

  async close(): Promise<void> {
    this.#memory = new Uint8Array(0);
    await (await this.#file?.catch(() => undefined))?.close();
  }

  #keep(bytes: Uint8Array, end: number): void {
    if (end > this.#memory.length) {
      const wider = new Uint8Array(
        Math.min(MEMORY_BYTES_MAX, Math.max(end, 2 * this.#memory.length)),
      );
      wider.set(this.#memory.subarray(0, this.#length));
      this.#memory = wider;
    }
    this.#memory.set(bytes, this.#length);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    const file = await (this.#file ??= this.#moved());
    for (let at = 0; at < bytes.length; at += HOLE_BYTES) {
      const part = bytes.subarray(at, at + HOLE_BYTES);
      if (!isZero(part)) await file.write(this.#length + at, part);
    }
  }

  async #moved(): Promise<BlockFile> {
    const file = await this.#makeFile();
    if (this.#length > 0) await file.write(0, this.#memory.subarray(0, this.#length));
    this.#memory = new Uint8Array(0);
    return file;
  }
}

function isZero(bytes: Uint8Array): boolean {
  const head = Math.min(bytes.length, -bytes.byteOffset & 3);
  const count = (bytes.length - head) >> 2;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + head, count);
  for (let at = 0; at < count; at++) if (words[at] !== 0) return false;
  const isRestZero = (from: number, to: number): boolean =>
    bytes.subarray(from, to).every((byte) => byte === 0);
  return isRestZero(0, head) && isRestZero(head + 4 * count, bytes.length);
}
