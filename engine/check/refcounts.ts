// Comparing what refers to a cluster with what its refcount says, and repairing the difference:
// refcounts first, then the flags in L1 and L2 entries that say "the refcount is one". Refcounts
// are read here without trust in the refcount table.

import { be64, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { STAGE_L1, STAGE_L2 } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { AGAIN, DONE, Task, WAIT } from '../core/task';
import { Qcow2 } from '../formats/qcow2/image';
import { ALL_ZERO, COMPRESSED, COPIED, OFFSET_MASK, ZERO } from '../formats/qcow2/l2';
import { SCAN_ENTRIES_MAX } from '../limits';
import {
  BLOCK_OFFSET_MASK,
  getRefcount,
  partOffset,
  refcountsPerBlock,
  refcountsPerPart,
  setRefcount,
} from '../overlay/refcounts';
import { claimedWhole, countedOf, referencesTo, showsNoData } from './count';
import { Check, LOOK, mayFree, REFERENCES, REPAIR } from './state';

/**
 * Finds the part of a refcount block that holds a cluster's entry, in a file of so many bytes.
 * False: the task waits or has failed.
 */
function findPart(t: Task, c: Check, image: Qcow2, cluster: u64, fileBytes: u64): bool {
  c.block = 0;
  c.blockUnknown = false;
  const index = cluster / refcountsPerBlock(image);
  const entryAt = image.refcountTableOffset + (index << 3);
  if (index << 3 >= image.refcountTableBytes || entryAt >= fileBytes) return true;
  const at = pageGet(t, image.file, entryAt);
  if (!at) return false;
  const block = be64(at) & BLOCK_OFFSET_MASK;
  c.blockUnknown = (block & (clusterBytes(image) - 1)) != 0 || block > <u64>i64.MAX_VALUE;
  if (c.blockUnknown || block == 0) return true;
  const offset = partOffset(image, block, cluster);
  if (offset >= fileBytes) return true;
  c.block = pageGet(t, image.file, offset);
  return c.block != 0;
}

/** First cluster behind those that share a part with this one. */
function partEnd(image: Qcow2, cluster: u64): u64 {
  assert(refcountsPerPart(image) > 0);
  const perPart = refcountsPerPart(image);
  return cluster - (cluster % perPart) + perPart;
}

/**
 * Looks up, before a rebuild, the part of the old refcount blocks that a cluster's entry is in: see
 * keptRefcount. False: the task waits or has failed.
 */
export function findKept(t: Task, c: Check, image: Qcow2, cluster: u64): bool {
  c.block = 0;
  return mayFree(c, image) || findPart(t, c, image, cluster, c.fileBytes);
}

/**
 * The refcount that a cluster keeps at least, though nothing known refers to it, where something
 * unknown may: the one that it had, or one if that cannot be told.
 */
export function keptRefcount(c: Check, image: Qcow2, cluster: u64): u64 {
  if (mayFree(c, image)) return 0;
  if (c.block) return refcountInPart(c, image, cluster);
  return cluster << image.clusterBits < c.fileBytes ? 1 : 0;
}

function refcountInPart(c: Check, image: Qcow2, cluster: u64): u64 {
  return c.block
    ? getRefcount(c.block, <u32>(cluster % refcountsPerPart(image)), image.refcountOrder)
    : 0;
}

/**
 * Compares the refcounts of the clusters in the window, and in a repair sets them: downwards, or
 * also upwards if `raises`. What may be in use by what is not known is not freed.
 */
export function compareWindow(t: Task, c: Check, image: Qcow2, raises: bool): i32 {
  const end = min(c.clusters, c.windowFirst + c.windowClusters);
  let scanned: u32 = 0;
  while (end > c.cursor) {
    if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
    if (!findPart(t, c, image, c.cursor, image.fileSize)) return WAIT;
    const to = min(end, partEnd(image, c.cursor));
    if (c.blockUnknown) c.cursor = to;
    for (; to > c.cursor; c.cursor++) {
      if (++scanned > SCAN_ENTRIES_MAX) return AGAIN;
      const refcount = refcountInPart(c, image, c.cursor);
      if (c.round == LOOK) compareOne(c, image, refcount);
      else if (!repairOne(t, c, refcount, raises, mayFree(c, image))) return WAIT;
    }
  }
  return DONE;
}

function compareOne(c: Check, image: Qcow2, refcount: u64): void {
  const references = referencesTo(c, c.cursor);
  if (refcount | references) c.end = max(c.end, (c.cursor + 1) << image.clusterBits);
  if (countedOf(c, c.cursor) > 1 && claimedWhole(c, c.cursor) && c.shared++ == 0)
    c.sharedAt = c.cursor << image.clusterBits;
  if (refcount == references || uncountable(c, references)) return;
  if (refcount > references) {
    c.leaks++;
    return;
  }
  c.tooLow++;
  if (!c.block) c.missing++;
}

/** There may be more references than could be counted. */
function uncountable(c: Check, references: u64): bool {
  return references == REFERENCES && c.refcountMax > references;
}

function repairOne(t: Task, c: Check, refcount: u64, raises: bool, frees: bool): bool {
  assert(c.round == REPAIR);
  const references = referencesTo(c, c.cursor);
  if (refcount == references || uncountable(c, references)) return true;
  const lowers = refcount > references;
  if (lowers ? !frees : !raises) return true;
  if (!setRefcount(t, c.cursor, references)) return false;
  if (lowers) c.leaksFixed++;
  else c.corruptionsFixed++;
  return true;
}

/**
 * Frees what has a refcount behind the end of the file: clusters that a crash left taken before
 * anything was written there. QEMU does not see those, but they would be leaks as soon as the file
 * grows over them.
 */
export function freeBehindEnd(t: Task, c: Check, image: Qcow2): i32 {
  if (image.foreign) return DONE;
  const perBlock = refcountsPerBlock(image);
  const end = (<u64>image.refcountTableBytes >> 3) * perBlock;
  let scanned: u32 = 0;
  while (end > c.cursor) {
    if (++scanned > SCAN_ENTRIES_MAX) return AGAIN;
    if (!findPart(t, c, image, c.cursor, image.fileSize)) return WAIT;
    if (!c.block) {
      c.cursor = c.cursor - (c.cursor % perBlock) + perBlock;
      continue;
    }
    const to = partEnd(image, c.cursor);
    for (; to > c.cursor; c.cursor++) {
      if (++scanned > SCAN_ENTRIES_MAX) return AGAIN;
      if (refcountInPart(c, image, c.cursor) && !setRefcount(t, c.cursor, 0)) return WAIT;
    }
  }
  return DONE;
}

/** What comparing an entry's flag with the refcount of what it points to says. */
const FLAG_WAITS: u32 = 0;
/** The refcount stands where no refcount can. */
const FLAG_UNKNOWN: u32 = 1;
const FLAG_RIGHT: u32 = 2;
const FLAG_WRONG: u32 = 3;

/**
 * Compares the flag of an entry with the refcount of what it points to. Neighbours' refcounts stand
 * in one part, which need not be looked for again until another page is asked for.
 */
function compareFlag(t: Task, c: Check, image: Qcow2, entry: u64): u32 {
  const cluster = (entry & OFFSET_MASK) >> image.clusterBits;
  if (cluster < c.nearFrom || cluster >= c.nearTo) {
    c.nearTo = 0;
    if (!findPart(t, c, image, cluster, image.fileSize)) return FLAG_WAITS;
    c.nearTo = partEnd(image, cluster);
    c.nearFrom = c.nearTo - refcountsPerPart(image);
  }
  if (c.blockUnknown) return FLAG_UNKNOWN;
  const isAlone = refcountInPart(c, image, cluster) == 1;
  return isAlone == ((entry & COPIED) != 0) ? FLAG_RIGHT : FLAG_WRONG;
}

/**
 * The flag of an L1 entry, which in a repair is set right. What is known of the table's refcount
 * decides whether its own entries are looked at, and changed. False: the task waits or has failed.
 */
export function enterFlags(t: Task, c: Check, image: Qcow2, at: usize): bool {
  assert(!c.entered);
  const entry = be64(at);
  if ((entry & OFFSET_MASK) == 0) return true;
  c.nearTo = 0;
  const flag = compareFlag(t, c, image, entry);
  if (flag == FLAG_WAITS) return false;
  c.entered = flag != FLAG_UNKNOWN;
  const isAlone = c.entered && (flag == FLAG_RIGHT) == ((entry & COPIED) != 0);
  c.tableInPlace = (entry & OFFSET_MASK & (clusterBytes(image) - 1)) == 0;
  // A refcount that is too high, and must not be lowered, says nothing where no cluster has two
  // references.
  c.tableAlone = c.tableInPlace && (isAlone || c.shared == 0);
  c.l2 = 0;
  c.tables++;
  if (flag != FLAG_WRONG) return true;
  if (c.round == LOOK) {
    c.wrongFlags++;
    return true;
  }
  putBe64(at, entry ^ COPIED);
  pageChanged(at, 8, STAGE_L1);
  c.corruptionsFixed++;
  return true;
}

/**
 * The flags of `count` neighbouring L2 entries; in a repair they are set right: cleared wherever
 * they are wrong, and set where only one L1 entry refers to the table.
 */
export function flagsOfPage(t: Task, c: Check, image: Qcow2, l2: usize, count: u32): bool {
  assert(count > 0);
  const step = (<usize>1) << image.l2EntryBits;
  c.nearTo = 0;
  for (let at = l2; at < l2 + <usize>count * step; at += step) {
    if (!flagOfEntry(t, c, image, at)) return false;
    c.l2++;
  }
  return true;
}

function flagOfEntry(t: Task, c: Check, image: Qcow2, at: usize): bool {
  const entry = be64(at);
  if (entry & COMPRESSED || (entry & OFFSET_MASK) == 0) return true;
  if (c.round == REPAIR && c.tableAlone && dropLooseZero(c, image, at, entry)) return true;
  const flag = compareFlag(t, c, image, entry);
  if (flag == FLAG_WAITS) return false;
  if (flag != FLAG_WRONG) return true;
  if (c.round == LOOK) {
    c.wrongFlags++;
  } else if (c.tableAlone || (c.tableInPlace && entry & COPIED)) {
    putBe64(at, entry ^ COPIED);
    pageChanged(at, 8, STAGE_L2);
    c.corruptionsFixed++;
  }
  return true;
}

/** Takes the place from an entry that points nowhere proper and shows only zeros, or the base. */
function dropLooseZero(c: Check, image: Qcow2, at: usize, entry: u64): bool {
  const bitmap = image.extendedL2 ? be64(at + 8) : 0;
  if ((entry & OFFSET_MASK & (clusterBytes(image) - 1)) == 0 || !showsNoData(image, entry, bitmap))
    return false;
  putBe64(at, image.extendedL2 ? 0 : ZERO);
  if (image.extendedL2) putBe64(at + 8, bitmap & ALL_ZERO);
  pageChanged(at, (<u32>1) << image.l2EntryBits, STAGE_L2);
  c.corruptionsFixed++;
  return true;
}
