// Growth of the refcount tables: a refcount block for clusters that have none yet, and a larger
// refcount table when the old one is full. One such task runs at a time; all others that look for
// free clusters wait for it.

import { putBe32, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { STAGE_MARK, STAGE_REFCOUNTS, STAGE_ROOTS, sectorDirty } from '../core/page';
import { pageAt, pageChanged, pageCount, pageGet, pageMake, pagesForget } from '../core/pages';
import { DONE, fail, KIND_GROW, ON_WRITEBACK, recordOf, Task, WAIT } from '../core/task';
import { wakeRefcounts } from '../core/wake';
import { AT_REFCOUNT_TABLE_CLUSTERS, AT_REFCOUNT_TABLE_OFFSET } from '../formats/qcow2/header';
import { overlay } from '../formats/qcow2/image';
import { PAGE_BYTES, REFCOUNT_TABLE_BYTES_MAX, SECTOR_BYTES } from '../limits';
import { ENOSPC, OVERLAY, R_TOO_LARGE } from '../protocol';
import { freeLater, freesHaveRoom } from './frees';
import { isMarked } from './mark';
import { moveTable } from './move';
import { nextWriteback, writebackRunning, writebackWanted } from './progress';
import { grown, isFreePlace, missingBlock, putRefcount, refcountsPerBlock } from './refcounts';
import { zeroOnDisk } from './zeropage';

const PLAN: u32 = 0;
const BLOCKS: u32 = 1;
const LINK: u32 = 2;
const COPY: u32 = 3;
const ENTER: u32 = 4;
const SETTLE: u32 = 5;
const SWITCH: u32 = 6;

/** The growth of the refcount tables. */
@unmanaged
class GrowTask extends Task {
  /** First cluster of the new metadata: refcount blocks, and behind them a new table, or none. */
  first: u64;
  blocks: u64;
  tableClusters: u64;
  /** The next of the blocks that is made, or entered into the table. */
  block: u64;
}

export function runGrow(task: Task): i32 {
  const t = recordOf<GrowTask>(task, KIND_GROW);
  const image = overlay();
  if (t.state == PLAN) {
    const perBlock = refcountsPerBlock(image);
    t.first = missingBlock() * perBlock;
    t.blocks = 1;
    t.tableClusters = 0;
    if (missingBlock() << 3 >= image.refcountTableBytes && !planTable(t, perBlock)) return WAIT;
    if (
      !isFreePlace(
        t,
        image,
        t.first << image.clusterBits,
        (t.blocks + t.tableClusters) << image.clusterBits,
      )
    )
      return WAIT;
    t.state = BLOCKS;
  }
  if (t.state == BLOCKS) {
    while (t.block < t.blocks) {
      if (!makeBlock(t, t.block)) return WAIT;
      t.zeroed = 0;
      t.block++;
    }
    t.block = 0;
    t.state = t.tableClusters ? COPY : LINK;
  }
  if (t.state == LINK) {
    if (!enterBlock(t, image.refcountTableOffset, 0, STAGE_ROOTS)) return WAIT;
    image.fileSize = max(image.fileSize, (t.first + 1) << image.clusterBits);
    return DONE;
  }
  const newTable = (t.first + t.blocks) << image.clusterBits;
  if (t.state < SETTLE && !fillTable(t, newTable)) return WAIT;
  if (t.state == SETTLE) {
    // The header's first sector must not be on its way for another reason, or it would tell of the
    // new table too early.
    if (writebackRunning() || headerPending() || !freesHaveRoom(1)) {
      writebackWanted();
      t.waits = ON_WRITEBACK;
      return WAIT;
    }
    t.state = SWITCH;
  }
  return switchTable(t, newTable);
}

/** Whatever became of it, those who wait look again; they fail if it failed. */
export function growEnded(t: Task): void {
  grown();
  wakeRefcounts(t);
}

/**
 * A new table is twice as large as the old; with the blocks that count it and themselves it stands
 * in the area that has none yet.
 */
function planTable(t: GrowTask, perBlock: u64): bool {
  const image = overlay();
  const clusters = (<u64>image.refcountTableBytes >> image.clusterBits) * 2;
  const entries = clusters << (image.clusterBits - 3);
  if (clusters << image.clusterBits > REFCOUNT_TABLE_BYTES_MAX || missingBlock() >= entries) {
    fail(t, ENOSPC, R_TOO_LARGE, OVERLAY, t.first << image.clusterBits);
    return false;
  }
  t.tableClusters = clusters;
  t.blocks = (clusters + perBlock - 2) / (perBlock - 1);
  return true;
}

/**
 * Makes block number `index` of the new ones: zeros, but for what stands in the new area itself.
 */
function makeBlock(t: GrowTask, index: u64): bool {
  assert(index < t.blocks);
  const image = overlay();
  const bytes = clusterBytes(image);
  const at = (t.first + index) << image.clusterBits;
  if (bytes > PAGE_BYTES && !zeroOnDisk(t, at, bytes)) return false;
  const part = bytes < PAGE_BYTES ? pageGet(t, OVERLAY, at) : pageMake(t, OVERLAY, at);
  if (!part) return false;
  const partBytes = <u32>min<u64>(bytes, PAGE_BYTES);
  memory.fill(part, 0, partBytes);
  const perBlock = refcountsPerBlock(image);
  const perPart = min(perBlock, ((<u64>partBytes) << 3) >> image.refcountOrder);
  const used = t.blocks + t.tableClusters - min(t.blocks + t.tableClusters, index * perBlock);
  for (let i: u64 = 0; i < min(used, perPart); i++)
    putRefcount(part, <u32>i, image.refcountOrder, 1);
  pageChanged(part, partBytes, STAGE_REFCOUNTS);
  return true;
}

/** Enters block number `index` of the new ones into a refcount table. */
function enterBlock(t: GrowTask, table: u64, index: u64, stage: u32): bool {
  assert(index < t.blocks && table != 0);
  const image = overlay();
  const at = pageGet(t, OVERLAY, table + ((missingBlock() + index) << 3));
  if (!at) return false;
  putBe64(at, (t.first + index) << image.clusterBits);
  pageChanged(at, 8, stage);
  return true;
}

/** Fills a new table: with what the old one has, and the new blocks. */
function fillTable(t: GrowTask, newTable: u64): bool {
  assert(t.state == COPY || t.state == ENTER);
  const image = overlay();
  const bytes = t.tableClusters << image.clusterBits;
  if (t.state == COPY) {
    if (!moveTable(t, image.refcountTableOffset, image.refcountTableBytes, newTable, bytes))
      return false;
    t.state = ENTER;
  }
  while (t.block < t.blocks) {
    if (!enterBlock(t, newTable, t.block, STAGE_REFCOUNTS)) return false;
    t.block++;
  }
  image.fileSize = max(image.fileSize, newTable + bytes);
  t.state = SETTLE;
  return true;
}

function headerPending(): bool {
  for (let i: u32 = 0; i < pageCount(); i++) {
    const page = pageAt(i);
    if (
      page.file == OVERLAY &&
      page.offset == 0 &&
      (sectorDirty(page, STAGE_MARK, 0) || sectorDirty(page, STAGE_REFCOUNTS, 0))
    )
      return true;
  }
  return !isMarked();
}

function switchTable(t: GrowTask, newTable: u64): i32 {
  assert(newTable != 0 && t.tableClusters > 0);
  const image = overlay();
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return WAIT;
  putBe64(header + AT_REFCOUNT_TABLE_OFFSET, newTable);
  putBe32(header + AT_REFCOUNT_TABLE_CLUSTERS, <u32>t.tableClusters);
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  pagesForget(
    OVERLAY,
    image.refcountTableOffset,
    image.refcountTableOffset + image.refcountTableBytes,
  );
  freeLater(
    image.refcountTableOffset,
    image.refcountTableBytes >> image.clusterBits,
    nextWriteback(),
  );
  image.refcountTableOffset = newTable;
  image.refcountTableBytes = <u32>(t.tableClusters << image.clusterBits);
  return DONE;
}
