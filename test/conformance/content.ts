/**
 * What the fixtures hold, so that a case can tell what a disk over them has to read as. `base` is
 * one disk in several formats; `upper` is a second image with changes over it.
 */
import type { ContentKind } from '../fixtures/content.ts';
import { makeContent } from '../fixtures/content.ts';

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
/** Cluster size of the fixtures and of overlays by default. */
export const CLUSTER: number = 64 * KIB;
const SECTOR = 512;

interface Run {
  offset: number;
  length: number;
  kind: ContentKind;
  seed: number;
}

/** Bytes of the base: its last cluster is not whole. */
export const BASE_SIZE: number = 2 * MIB + 3 * SECTOR;
/** Where the base has data, in whole clusters but for the last; elsewhere it reads as zeros. */
export const BASE_RUNS: readonly Run[] = [
  { offset: 0, length: 256 * KIB, kind: 'text', seed: 1 },
  { offset: 512 * KIB, length: 256 * KIB, kind: 'random', seed: 2 },
  { offset: 1024 * KIB, length: 512 * KIB, kind: 'text', seed: 3 },
  { offset: 1984 * KIB, length: BASE_SIZE - 1984 * KIB, kind: 'random', seed: 4 },
];
/** What `upper` changes, in whole clusters. */
export const UPPER_RUNS: readonly Run[] = [
  { offset: 128 * KIB, length: 64 * KIB, kind: 'random', seed: 5 },
  { offset: 704 * KIB, length: 192 * KIB, kind: 'text', seed: 6 },
];
/** Bytes of `tail.raw`: not even a whole number of sectors, and no text, which is no image. */
export const TAIL_SIZE: number = 192 * KIB + 1003;

/** The whole base, as a guest sees it. */
export function baseContent(): Uint8Array {
  return lay(new Uint8Array(BASE_SIZE), BASE_RUNS);
}

/** The base with `upper` over it. */
export function upperContent(): Uint8Array {
  return lay(baseContent(), UPPER_RUNS);
}

export function tailContent(): Uint8Array {
  return makeContent('random', 7, TAIL_SIZE);
}

/** Bytes for a guest's own write. */
export function guestData(length: number, seed = 99): Uint8Array {
  return makeContent('random', seed, length);
}

function lay(disk: Uint8Array, runs: readonly Run[]): Uint8Array {
  for (const { offset, length, kind, seed } of runs)
    disk.set(makeContent(kind, seed, length), offset);
  return disk;
}
