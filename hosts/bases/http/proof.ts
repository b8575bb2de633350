/**
 * What shows that an object is the known one where neither ETag nor date tell: bytes that are known
 * of it, compared with what another server has; and of one server that tells several ETags, that it
 * tells them by turns.
 */
import { Failure } from '../retry.ts';
import type { Asker } from './ask.ts';
import { Attempt } from './attempt.ts';
import type { Mirrors, Sample } from './mirrors.ts';
import { serverOf } from './mirrors.ts';
import { checkResponse } from './response.ts';
import type { Version } from './version.ts';
import { changed, sizeDifference } from './version.ts';

/**
 * So often is a server asked for a node that has answered before, and for the new one: of four that
 * answer by chance, each is met often enough but once in a thousand times. Several requests at once
 * go by several connections: a balancer may hold each to one node.
 */
const ASKS_MAX = 60;
const ASKS_AT_ONCE = 6;
/** Pieces that the new node is compared by, and their bytes, at most. */
const PIECES_MAX = 4;
const PIECE_BYTES_MAX = 4096;

export class Proof {
  readonly #asker: Asker;
  readonly #mirrors: Mirrors;
  readonly #timeoutMs: number;

  constructor(asker: Asker, mirrors: Mirrors, timeoutMs: number) {
    this.#asker = asker;
    this.#mirrors = mirrors;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Compares what is known of the object with what a server has that tells it neither by ETag nor
   * by date. It is asked directly, as the next redirect may lead elsewhere. @throws Failure
   * `ECHANGED` where it differs.
   */
  async compare(attempt: Attempt, href: string, size: number): Promise<void> {
    for (const sample of this.#mirrors.samples()) {
      await this.#ask(attempt, href, sample, size);
      attempt.progress();
    }
  }

  /**
   * Whether a server tells `etag` as well as that of `version`, both now, for one object: it stands
   * for several nodes. After a change, the old one does not come back. Their bytes are compared
   * with what is known.
   * @throws Failure `ECHANGED` where bytes, size or date differ.
   */
  async areNodes(attempt: Attempt, href: string, version: Version, etag: string): Promise<boolean> {
    const all = this.#mirrors.samples();
    const known = [...all.slice(0, 1), ...all.slice(1).slice(1 - PIECES_MAX)].map(shortened);
    const samples = known.length > 0 ? known : [await this.#first(attempt, href, version.size)];
    const compared = new Set<Sample>();
    let isTold = false;
    for (let asked = 0; asked < ASKS_MAX; asked += ASKS_AT_ONCE) {
      const left = samples.filter((sample) => !compared.has(sample));
      if (left.length === 0 && isTold) return true;
      const wanted = left.length > 0 ? left : samples;
      // Shifted each time: nodes that answer by turns would get the same pieces again and again.
      const shift = asked / ASKS_AT_ONCE;
      const asks = Array.from({ length: ASKS_AT_ONCE }, async (_, at) => {
        const sample = wanted[(at + shift) % wanted.length];
        return { sample, told: await this.#ask(attempt, href, sample, version.size) };
      });
      for (const { sample, told } of await Promise.all(asks)) {
        if (told.lastModified !== version.lastModified)
          throw changed(`its Last-Modified is ${version.lastModified} and ${told.lastModified}`);
        isTold ||= told.etag === etag;
        if (told.etag === version.etag) compared.add(sample);
      }
      attempt.progress();
    }
    return isTold && compared.size === samples.length;
  }

  /** The first bytes, where nothing has been read yet. */
  async #first(attempt: Attempt, href: string, size: number): Promise<Sample> {
    const length = Math.min(PIECE_BYTES_MAX, size);
    return { offset: 0, bytes: (await this.#read(attempt, href, 0, length, size)).bytes };
  }

  /** What the server tells of the object, whose bytes it has there. */
  async #ask(
    attempt: Attempt,
    href: string,
    { offset, bytes }: Sample,
    size: number,
  ): Promise<Version> {
    const found = await this.#read(attempt, href, offset, bytes.length, size);
    const at = found.bytes.findIndex((byte, index) => byte !== bytes[index]);
    if (at < 0) return found.version;
    throw new Failure(
      'ECHANGED',
      `the object is not the one that was opened: another server (${serverOf(href)}) has other bytes from ${offset + at} on`,
    );
  }

  async #read(
    attempt: Attempt,
    href: string,
    offset: number,
    length: number,
    size: number,
  ): Promise<{ version: Version; bytes: Uint8Array }> {
    const part = new Attempt(this.#timeoutMs, attempt.signal);
    part.target = attempt.target;
    try {
      const { headers } = await this.#asker.destination();
      headers.set('Range', `bytes=${offset}-${offset + length - 1}`);
      const response = await part.guard(this.#asker.ask(part, href, headers));
      const asked = { first: offset, end: offset + length };
      const { version, end } = checkResponse(response, asked, { size });
      if (version.size !== size) throw changed(sizeDifference(version.size, size));
      const bytes = new Uint8Array(length);
      let filled = 0;
      for await (const piece of part.pieces(response, length)) {
        this.#asker.stats.bytes += piece.length;
        if (filled + piece.length > length)
          throw new Failure('EIO', 'the server sent more bytes than the range has');
        bytes.set(piece, filled);
        filled += piece.length;
      }
      if (filled < length || end < asked.end)
        throw new Failure('EIO', 'the server ended its answer early', { transient: true });
      part.finish();
      return { version, bytes };
    } catch (error) {
      part.abandon();
      throw part.explain(error, true);
    }
  }
}

function shortened({ offset, bytes }: Sample): Sample {
  return { offset, bytes: bytes.subarray(0, PIECE_BYTES_MAX) };
}
