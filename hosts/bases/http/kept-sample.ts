/**
 * What an overlay records of an object that several servers have, and whether what is found is
 * that: an ETag is of one server, or of one node of it, and a date may be missing, or too young to
 * tell by.
 */
import type { MirroredContent } from '../../api/block.ts';
import type { HttpObject } from './request.ts';
import { checksum } from './version.ts';

/** Pieces that lie all over the object, the first and the last of them at its ends. */
const PIECES = 32;
const PIECE_BYTES = 4096;
/** Of the digest (SHA-256): it tells apart what has come about by itself, no forgeries. */
const DIGEST_BYTES = 8;

/** The ETag, the date and the server of what `identityOf` gave. */
const ETAG = /^etag ("[\s\S]*?")(?: modified (.+) at ([0-9a-f]{8}))?$/;

type Read = (offset: number, into: Uint8Array) => Promise<void>;

export class KeptSample implements MirroredContent {
  readonly #object: HttpObject;
  readonly #read: Read;
  #digest: Promise<string> | undefined;

  /** `read` gives the object's bytes. */
  constructor(object: HttpObject, read: Read) {
    this.#object = object;
    this.#read = read;
  }

  /** Only where redirects lead to it, and its date does not tell it on all servers. */
  async sample(): Promise<string | undefined> {
    const { isRedirected, version } = this.#object;
    const isTold = version?.etag === undefined && version?.lastModified === undefined;
    if (!isRedirected || isTold || version.settled || crypto.subtle === undefined) return undefined;
    return `${await (this.#digest ??= this.#digestOf(version.size))} at ${this.#server}`;
  }

  async isRecorded(identity: string, sample?: string): Promise<boolean> {
    const { version, isRedirected } = this.#object;
    const [digest, server] = sample?.split(' at ') ?? [];
    if (digest !== undefined && isRedirected && server !== this.#server)
      return crypto.subtle !== undefined && digest === (await this.#digestOf(version!.size));
    const [, etag, modified, at] = ETAG.exec(identity) ?? [];
    if (etag === undefined || !version!.settled) return false;
    const isHere = modified === version!.lastModified && at === this.#server;
    return isHere && this.#object.hasNode(etag);
  }

  /** As `identityOf` has it. */
  get #server(): string {
    return checksum(this.#object.version!.server ?? '');
  }

  async #digestOf(size: number): Promise<string> {
    const length = Math.min(PIECE_BYTES, size);
    const bytes = new Uint8Array(length * PIECES);
    const pieces = Array.from({ length: PIECES }, (_, index) => {
      const offset = Math.floor(((size - length) * index) / (PIECES - 1));
      return this.#read(offset, bytes.subarray(index * length, (index + 1) * length));
    });
    await Promise.all(pieces);
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    return Array.from(digest.subarray(0, DIGEST_BYTES), (byte) =>
      byte.toString(16).padStart(2, '0'),
    ).join('');
  }
}
