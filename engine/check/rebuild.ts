// Rebuilding the refcounts: new refcount blocks and a new refcount table behind all that is in the
// file, filled from the references found. Nothing in use is written to; one sector of the header
// then leaves the old ones for the new.

import { putBe32, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { STAGE_REFCOUNTS, STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { AGAIN, DONE, fail, Task, WAIT } from '../core/task';
import { AT_REFCOUNT_TABLE_CLUSTERS, AT_REFCOUNT_TABLE_OFFSET } from '../formats/qcow2/header';
import { Qcow2 } from '../formats/qcow2/image';
import { PAGE_BYTES, REFCOUNT_TABLE_BYTES_MAX, SCAN_ENTRIES_MAX, SECTOR_BYTES } from '../limits';
import { settle } from '../overlay/flush';
import {
  putRefcount,
  refcountsInit,
  refcountsPerBlock,
  refcountsPerPart,
} from '../overlay/refcounts';
import { ECORRUPT, ENOSPC, OVERLAY, R_REPAIR, R_TOO_LARGE } from '../protocol';
import { referencesTo } from './count';
import { findKept, keptRefcount } from './refcounts';
import { Check, mayFree, REBUILD, REFERENCES } from './state';

/** Settles where the new blocks and the new table will stand; false if that cannot be. */
export function planRebuild(t: Task, c: Check, image: Qcow2): bool {
  // What points behind the end of the file would point to the new blocks; and what was not counted
  // cannot be written.
  if (c.outside || (c.uncounted && c.refcountMax > REFERENCES))
    return refuse(t, ECORRUPT, R_REPAIR);
  const perBlock = refcountsPerBlock(image);
  const perTableCluster = clusterBytes(image) >> 3;
  c.newFirst = c.clusters;
  c.newBlocks = 0;
  c.newTable = <u64>image.refcountTableBytes >> image.clusterBits;
  while (c.newBlocks * perBlock < c.newFirst + c.newBlocks + c.newTable) {
    c.newBlocks = (c.newFirst + c.newBlocks + c.newTable + perBlock - 1) / perBlock;
    c.newTable = max(c.newTable, (c.newBlocks + perTableCluster - 1) / perTableCluster);
    if (c.newTable << image.clusterBits > REFCOUNT_TABLE_BYTES_MAX)
      return refuse(t, ENOSPC, R_TOO_LARGE);
  }
  c.round = REBUILD;
  c.fileBytes = image.fileSize;
  c.clusters = c.newBlocks * perBlock;
  image.fileSize = (c.newFirst + c.newBlocks + c.newTable) << image.clusterBits;
  return true;
}

function refuse(t: Task, error: i32, reason: i32): bool {
  fail(t, error, reason, OVERLAY, 0);
  return false;
}

/** Writes those parts of the new blocks that count the clusters of the window. */
export function writeBlocks(t: Task, c: Check, image: Qcow2): i32 {
  assert(c.round == REBUILD);
  const end = min(c.clusters, c.windowFirst + c.windowClusters);
  const perPart = refcountsPerPart(image);
  const partBytes = <u32>min<u64>(clusterBytes(image), PAGE_BYTES);
  const inUse = c.newFirst + c.newBlocks + c.newTable;
  let scanned: u64 = 0;
  while (end > c.cursor) {
    if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
    if (!findKept(t, c, image, c.cursor)) return WAIT;
    const part = pageGet(
      t,
      image.file,
      (c.newFirst << image.clusterBits) + (c.cursor / perPart) * partBytes,
    );
    if (!part) return WAIT;
    memory.fill(part, 0, partBytes);
    for (let i: u64 = 0; i < perPart; i++) {
      const cluster = c.cursor + i;
      const isNew = cluster >= c.newFirst && cluster < inUse;
      const counted = max(referencesTo(c, cluster), keptRefcount(c, image, cluster));
      putRefcount(part, <u32>i, image.refcountOrder, isNew ? 1 : counted);
    }
    pageChanged(part, partBytes, STAGE_REFCOUNTS);
    c.cursor += perPart;
    scanned += perPart;
  }
  return DONE;
}

/** Writes the new table, sector by sector. */
export function writeTable(t: Task, c: Check, image: Qcow2): bool {
  assert(c.newTable > 0 && c.newBlocks > 0);
  const perSector: u64 = SECTOR_BYTES >> 3;
  const entries = c.newTable << (image.clusterBits - 3);
  while (entries > c.cursor) {
    const at = pageGet(
      t,
      image.file,
      ((c.newFirst + c.newBlocks) << image.clusterBits) + (c.cursor << 3),
    );
    if (!at) return false;
    for (let i: u64 = 0; i < perSector; i++) {
      const index = c.cursor + i;
      putBe64(
        at + <usize>(i << 3),
        c.newBlocks > index ? (c.newFirst + index) << image.clusterBits : 0,
      );
    }
    pageChanged(at, SECTOR_BYTES, STAGE_REFCOUNTS);
    c.cursor += perSector;
  }
  return true;
}

/**
 * Lets the header refer to the new table, once that is on disk. False: the task waits or has
 * failed.
 */
export function switchTable(t: Task, c: Check, image: Qcow2): bool {
  assert(c.newBlocks > 0);
  if (!settle(t)) return false;
  const header = pageGet(t, image.file, 0);
  if (!header) return false;
  image.refcountTableOffset = (c.newFirst + c.newBlocks) << image.clusterBits;
  image.refcountTableBytes = <u32>(c.newTable << image.clusterBits);
  putBe64(header + AT_REFCOUNT_TABLE_OFFSET, image.refcountTableOffset);
  putBe32(header + AT_REFCOUNT_TABLE_CLUSTERS, <u32>c.newTable);
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  refcountsInit();
  c.corruptionsFixed += c.wrongBlocks + c.tooLow;
  if (mayFree(c, image)) c.leaksFixed += c.leaks;
  return true;
}
