/**
 * A disk as a `File`: for libraries that read what a user has chosen (archives, file systems,
 * media) by `slice`, `arrayBuffer` and `stream`.
 *
 * ```ts
 * import { BlobReader, ZipReader } from '@zip.js/zip.js';
 * const zip = new ZipReader(new BlobReader(asFile(disk) as File));
 * ```
 *
 * It is no real Blob (`instanceof Blob` is false), so that what a browser does with blobs by itself
 * (`FileReader`, `URL.createObjectURL`, a form) fails and does not see an empty file: give that
 * `await disk.blob()`, a copy.
 */
import type { Disk } from '../../api/disk.ts';

/** As much of `File` as can be done without being one. */
export interface FileLike {
  /** Bytes. */
  readonly size: number;
  /** As it was given. */
  readonly name: string;
  /** A MIME type, or nothing. */
  readonly type: string;
  /** When it was made, in milliseconds since 1970. */
  readonly lastModified: number;
  /** A part, read when it is asked for; positions as in `Blob.slice`. */
  slice(start?: number, end?: number, type?: string): FileLike;
  /** All of it, in memory. */
  arrayBuffer(): Promise<ArrayBuffer>;
  /** All of it, in memory. */
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
  /** All of it, as UTF-8. */
  text(): Promise<string>;
  /** From start to end, read as it is pulled. */
  stream(): ReadableStream<Uint8Array>;
}

/** What the disk shows, as a file of this name. The disk stays open as long as it is used. */
export function asFile(disk: Disk, name = 'disk.img'): FileLike {
  return new DiskFile(disk, { from: 0, to: disk.size, name, type: '', lastModified: Date.now() });
}

interface Shape {
  from: number;
  to: number;
  name: string;
  type: string;
  lastModified: number;
}

class DiskFile implements FileLike {
  readonly name: string;
  readonly type: string;
  readonly lastModified: number;
  readonly size: number;
  readonly #disk: Disk;
  readonly #shape: Shape;

  constructor(disk: Disk, shape: Shape) {
    this.#disk = disk;
    this.#shape = shape;
    this.name = shape.name;
    this.type = shape.type;
    this.lastModified = shape.lastModified;
    this.size = shape.to - shape.from;
  }

  slice(start = 0, end: number = this.size, type = ''): FileLike {
    const from = this.#position(start);
    const to = Math.max(from, this.#position(end));
    const at = this.#shape.from;
    return new DiskFile(this.#disk, { ...this.#shape, from: at + from, to: at + to, type });
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const into = new Uint8Array(this.size);
    await this.#disk.read(this.#shape.from, this.size, { into });
    return into;
  }

  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  stream(): ReadableStream<Uint8Array> {
    return this.#disk.readable({ offset: this.#shape.from, length: this.size });
  }

  /** Counted from the end where it is negative, and inside. */
  #position(at: number): number {
    const whole = Math.trunc(at) || 0;
    return Math.min(this.size, Math.max(0, whole < 0 ? this.size + whole : whole));
  }
}
