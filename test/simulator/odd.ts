/**
 * What images of other writers may hold, by QEMU's docs/interop/qcow2.txt and its check, and the
 * engine's own never do. Each is chosen by a seed's plan for an image that layout.ts and writer.ts
 * then make so.
 */
import type { Random } from '../fixtures/content.ts';

/** In any image. */
export const ODDITIES = [
  // Tables.
  'more L1 entries',
  'entries behind the end',
  'tables behind data',
  'refcount table first',
  'large refcount table',
  'holes in the refcount table',
  'counts behind the end',
  'leaks',
  'free clusters',
  // The file's end.
  'bytes behind the last cluster',
  'ends with the disk',
  'last cluster cut short',
  // Compressed clusters.
  'long streams',
  'shared streams',
  // The header.
  'short header',
  'long header',
  'unknown extension',
  'unknown features',
  // Refcounts are wrong, and the header says that they may be.
  'dirty',
] as const;

/**
 * Only in images that are read: what is shared is not written by the engine, and a flag that is
 * wrong no valid overlay has.
 */
export const ODDITIES_OF_BASES = ['shared clusters', 'wrong flags'] as const;

export type Oddity = (typeof ODDITIES)[number] | (typeof ODDITIES_OF_BASES)[number];

/** The oddities of one image, and the chance that decides on their details. */
export class Odd {
  readonly random: Random;
  readonly #kinds: readonly Oddity[];

  constructor(kinds: readonly Oddity[], random: Random) {
    this.#kinds = kinds;
    this.random = random;
  }

  is(kind: Oddity): boolean {
    return this.#kinds.includes(kind);
  }

  /** Whether it is so here: where an image has it, at one in so many places. */
  now(kind: Oddity, one: number): boolean {
    return this.is(kind) && this.random.between(1, one) === 1;
  }
}
