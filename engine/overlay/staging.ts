// The snapshot of a write-back: a copy of all changed sectors, in runs of neighbours, stage by
// stage.

import { Page, STAGES, sectorDirty, stageDirty } from '../core/page';
import { pageAt, pageChanged, pageCount, sectorsTaken } from '../core/pages';
import { PAGE_BYTES, SECTOR_BITS, SECTOR_BYTES, STAGED_RUNS_MAX, STAGING_BYTES } from '../limits';
import { OVERLAY } from '../protocol';
import { isFree } from './frees';

/** A run of neighbouring sectors in the snapshot. */
@unmanaged
export class StagedRun {
  page: Page;
  offset: u64;
  address: usize;
  bytes: u32;
  stage: u32;
}

/** Where the snapshot stands, and its runs. */
@unmanaged
class Staging {
  at: usize;
  used: u32;
  runs: usize;
  runCount: u32;
}

function staging(): Staging {
  return changetype<Staging>(memory.data(offsetof<Staging>(), 8));
}

export function stagingBytes(): usize {
  return STAGING_BYTES + STAGED_RUNS_MAX * offsetof<StagedRun>();
}

export function stagingInit(at: usize): void {
  const s = staging();
  s.at = at;
  s.used = 0;
  s.runs = at + STAGING_BYTES;
  s.runCount = 0;
}

export function stagedRuns(): u32 {
  return staging().runCount;
}

/** Copies the changed sectors, stage by stage, as far as there is room; true if that was all. */
export function snapshot(): bool {
  const s = staging();
  s.runCount = 0;
  s.used = 0;
  for (let stage: u32 = 0; stage < STAGES; stage++) {
    for (let i: u32 = 0; i < pageCount(); i++) {
      const page = pageAt(i);
      // A later stage may depend on all of an earlier one: where one does not fit, the later ones
      // wait for the next write-back.
      if (stageDirty(page, stage) && !snapshotPage(page, stage)) return false;
    }
  }
  return true;
}

function snapshotPage(page: Page, stage: u32): bool {
  assert(page.file == OVERLAY && stageDirty(page, stage));
  const s = staging();
  const sectors = PAGE_BYTES / SECTOR_BYTES;
  let first: u32 = 0;
  while (first < sectors) {
    if (!sectorDirty(page, stage, first)) {
      first++;
      continue;
    }
    let end = first + 1;
    while (end < sectors && sectorDirty(page, stage, end)) end++;
    const bytes = (end - first) << SECTOR_BITS;
    if (s.runCount == STAGED_RUNS_MAX || s.used + bytes > STAGING_BYTES) return false;
    const run = runAt(s.runCount++);
    run.page = page;
    run.offset = page.offset + (first << SECTOR_BITS);
    run.address = s.at + s.used;
    run.bytes = bytes;
    run.stage = stage;
    memory.copy(run.address, page.frame + (first << SECTOR_BITS), bytes);
    s.used += bytes;
    page.pins++;
    sectorsTaken(page, stage, first, end - first);
    first = end;
  }
  return true;
}

/**
 * Marks what was not written as changed again, so that a later write-back can try it again; but for
 * what has been freed meanwhile.
 */
export function restore(): void {
  for (let i: u32 = 0; i < stagedRuns(); i++) {
    const run = runAt(i);
    const address = run.page.frame + <usize>(run.offset - run.page.offset);
    for (let at: u32 = 0; at < run.bytes; at += SECTOR_BYTES) {
      if (!isFree(run.offset + at)) pageChanged(address + at, SECTOR_BYTES, run.stage);
    }
  }
}

/** The snapshot is needed no more. */
export function dropSnapshot(): void {
  for (let i: u32 = 0; i < stagedRuns(); i++) runAt(i).page.pins--;
  staging().runCount = 0;
}

export function runAt(index: u32): StagedRun {
  assert(index < STAGED_RUNS_MAX);
  return changetype<StagedRun>(staging().runs + index * offsetof<StagedRun>());
}
