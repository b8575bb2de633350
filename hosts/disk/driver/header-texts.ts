/**
 * Texts that the engine and its host exchange: what an image's header says of its base, and what it
 * is to say.
 */
import {
  IMAGE_DATA_FILE_AT,
  IMAGE_DATA_FILE_BYTES,
  IMAGE_FORMAT_AT,
  IMAGE_FORMAT_BYTES,
  IMAGE_NAME_AT,
  IMAGE_NAME_BYTES,
  TEXT_BYTES,
} from '../../../engine/protocol.ts';
import type { Instance } from './instance.ts';

/** Where an image's report tells the place of what its header says of its base. */
const TEXTS = [
  [IMAGE_NAME_AT, IMAGE_NAME_BYTES],
  [IMAGE_FORMAT_AT, IMAGE_FORMAT_BYTES],
  [IMAGE_DATA_FILE_AT, IMAGE_DATA_FILE_BYTES],
] as const;

/**
 * A longer word for a format (parallels) has no room in the header: without one, the base's first
 * bytes tell it.
 */
const FORMAT_BYTES_MAX = 8;
export class HeaderTexts {
  readonly #running: () => Instance;
  readonly #reportOf: (image: number) => Float64Array;
  /** By image, position and length. */
  readonly #texts = new Map<string, string>();

  /** `running` gives the engine, as long as there is one; `reportOf` its report on an image. */
  constructor(running: () => Instance, reportOf: (image: number) => Float64Array) {
    this.#running = running;
    this.#reportOf = reportOf;
  }

  /**
   * Text at a place of an image's header page; as it was last told, where that page is not in the
   * cache now.
   */
  text(image: number, at: number, bytes: number): string {
    if (!bytes) return '';
    const { exports, memory } = this.#running();
    const page = exports.headerPage(image);
    const place = `${image} ${at} ${bytes}`;
    if (page)
      this.#texts.set(place, new TextDecoder().decode(new Uint8Array(memory, page + at, bytes)));
    return this.#texts.get(place) ?? '';
  }

  /**
   * Called when an image has been opened, or its header has changed, and the page is in the cache:
   * its texts are known from then on.
   */
  keep(image: number): void {
    const report = this.#reportOf(image);
    for (const [at, bytes] of TEXTS) this.text(image, report[at], report[bytes]);
  }

  /** Hands over what is to be recorded as the base; false if it is too long. */
  setBacking(name: string, format: string, identity: string): boolean {
    const told = format.length <= FORMAT_BYTES_MAX ? format : '';
    const texts = [name, told, identity].map((text) => new TextEncoder().encode(text));
    const [nameBytes, formatBytes, identityBytes] = texts.map((bytes) => bytes.length);
    if (nameBytes + formatBytes + identityBytes > TEXT_BYTES) return false;
    const { exports, memory } = this.#running();
    let at = exports.text();
    for (const bytes of texts) {
      new Uint8Array(memory, at, bytes.length).set(bytes);
      at += bytes.length;
    }
    return exports.setBacking(nameBytes, formatBytes, identityBytes) !== 0;
  }
}
