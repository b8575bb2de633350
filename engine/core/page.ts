// A page of the metadata cache: what it holds, and which of its sectors have changed, by stage.

import { PAGE_BYTES, SECTOR_BITS } from '../limits';

/**
 * The order in which changes reach the disk: every stage is on stable storage before the next is
 * written. First the mark that the image is not closed, then refcounts (and whatever nothing refers
 * to yet), then what makes refcount blocks reachable, then L2 tables, then L1 entries.
 */
export const STAGE_MARK: u32 = 0;
export const STAGE_REFCOUNTS: u32 = 1;
export const STAGE_ROOTS: u32 = 2;
export const STAGE_L2: u32 = 3;
export const STAGE_L1: u32 = 4;
export const STAGES: u32 = 5;

export const EMPTY: u32 = 0;
export const LOADING: u32 = 1;
export const VALID: u32 = 2;

@unmanaged
export class Page {
  state: u32;
  /** Number of the file. */
  file: u32;
  /** Position in the file, a multiple of PAGE_BYTES. */
  offset: u64;
  frame: usize;
  /** Kept in the cache while a write-back writes its sectors. */
  pins: u32;
  used: u32;
  /** Changed sectors, two words a stage. */
  dirty0: u64;
  dirty0b: u64;
  dirty1: u64;
  dirty1b: u64;
  dirty2: u64;
  dirty2b: u64;
  dirty3: u64;
  dirty3b: u64;
  dirty4: u64;
  dirty4b: u64;
}

export function sectorDirty(page: Page, stage: u32, sector: u32): bool {
  assert(stage < STAGES && sector < PAGE_BYTES >> SECTOR_BITS);
  return (
    (load<u64>(dirtyWords(page, stage) + ((sector >> 6) << 3)) & ((<u64>1) << (sector & 63))) != 0
  );
}

export function stageDirty(page: Page, stage: u32): bool {
  assert(stage < STAGES);
  const words = dirtyWords(page, stage);
  return (load<u64>(words) | load<u64>(words, 8)) != 0;
}

/** Marks the sectors from `first` to `last` as changed. */
export function setDirty(page: Page, stage: u32, first: u32, last: u32): void {
  const words = dirtyWords(page, stage);
  for (let i = first; i <= last; i++) {
    const word = words + ((i >> 6) << 3);
    store<u64>(word, load<u64>(word) | ((<u64>1) << (i & 63)));
  }
}

export function isDirty(page: Page): bool {
  return (
    (page.dirty0 |
      page.dirty0b |
      page.dirty1 |
      page.dirty1b |
      page.dirty2 |
      page.dirty2b |
      page.dirty3 |
      page.dirty3b |
      page.dirty4 |
      page.dirty4b) !=
    0
  );
}

export function clearDirty(page: Page, stage: u32, sector: u32): void {
  const word = dirtyWords(page, stage) + ((sector >> 6) << 3);
  store<u64>(word, load<u64>(word) & ~((<u64>1) << (sector & 63)));
}

function dirtyWords(page: Page, stage: u32): usize {
  return changetype<usize>(page) + offsetof<Page>('dirty0') + stage * 16;
}
