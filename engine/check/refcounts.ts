// Comparing what refers to a cluster with what its refcount says, and repairing the difference: refcounts first, then the flags in L1
// and L2 entries that say "the refcount is one". Refcounts are read here without trust in the refcount table.

import { clusterBytes, Image } from '../core/image';
import { pageChanged, pageGet, STAGE_L1, STAGE_L2 } from '../core/pages';
import { AGAIN, DONE, Task, WAIT } from '../core/task';
import { get64, put64 } from '../formats/qcow2/header';
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
import { Check, LOOK, REFERENCES, REPAIR } from './state';

/** The answer of the last findPart: address of the part of a refcount block, 0 if there is none; and whether its place is no place. */
let part: usize = 0;
let partUnknown: bool = false;

/** Finds the part of a refcount block that holds a cluster's entry. False: the task waits or has failed. */
function findPart(t: Task, image: Image, cluster: u64): bool {
  part = 0;
  partUnknown = false;
  const index = cluster / refcountsPerBlock(image);
  const entryAt = image.refcountTableOffset + (index << 3);
  if (index << 3 >= image.refcountTableBytes || entryAt >= image.fileSize) return true;
  const at = pageGet(t, image.index, entryAt);
  if (!at) return false;
  const block = get64(at) & BLOCK_OFFSET_MASK;
  partUnknown = (block & (clusterBytes(image) - 1)) != 0 || block > <u64>i64.MAX_VALUE;
  if (partUnknown || block == 0) return true;
  const offset = partOffset(image, block, cluster);
  if (offset >= image.fileSize) return true;
  part = pageGet(t, image.index, offset);
  return part != 0;
}

/** First cluster behind those that share a part with this one. */
function partEnd(image: Image, cluster: u64): u64 {
  const perPart = refcountsPerPart(image);
  return cluster - (cluster % perPart) + perPart;
}

function refcountInPart(image: Image, cluster: u64): u64 {
  return part
    ? getRefcount(part, <u32>(cluster % refcountsPerPart(image)), image.refcountOrder)
    : 0;
}

/** Compares the refcounts of the clusters in the window, and in a repair sets them: downwards, or also upwards if `raises`. What may be in use by what is not known is not freed. */
export function compareWindow(t: Task, c: Check, image: Image, raises: bool): i32 {
  const end = min(c.clusters, c.windowFirst + c.windowClusters);
  let scanned: u32 = 0;
  while (end > c.cursor) {
    if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
    if (!findPart(t, image, c.cursor)) return WAIT;
    const to = min(end, partEnd(image, c.cursor));
    if (partUnknown) c.cursor = to;
    for (; to > c.cursor; c.cursor++) {
      if (++scanned > SCAN_ENTRIES_MAX) return AGAIN;
      const refcount = refcountInPart(image, c.cursor);
      if (c.round == LOOK) compareOne(c, image, refcount);
      else if (!repairOne(t, c, refcount, raises, !image.foreign)) return WAIT;
    }
  }
  return DONE;
}

function compareOne(c: Check, image: Image, refcount: u64): void {
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
  if (!part) c.missing++;
}

/** There may be more references than could be counted. */
function uncountable(c: Check, references: u64): bool {
  return references == REFERENCES && c.refcountMax > references;
}

function repairOne(t: Task, c: Check, refcount: u64, raises: bool, frees: bool): bool {
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
 * Frees what has a refcount behind the end of the file: clusters that a crash left taken before anything was written there. QEMU does
 * not see those, but they would be leaks as soon as the file grows over them.
 */
export function freeBehindEnd(t: Task, c: Check, image: Image): i32 {
  if (image.foreign) return DONE;
  const perBlock = refcountsPerBlock(image);
  const end = (<u64>image.refcountTableBytes >> 3) * perBlock;
  let scanned: u32 = 0;
  while (end > c.cursor) {
    if (++scanned > SCAN_ENTRIES_MAX) return AGAIN;
    if (!findPart(t, image, c.cursor)) return WAIT;
    if (!part) {
      c.cursor = c.cursor - (c.cursor % perBlock) + perBlock;
      continue;
    }
    const to = partEnd(image, c.cursor);
    for (; to > c.cursor; c.cursor++) {
      if (++scanned > SCAN_ENTRIES_MAX) return AGAIN;
      if (refcountInPart(image, c.cursor) && !setRefcount(t, c.cursor, 0)) return WAIT;
    }
  }
  return DONE;
}

/** Clusters whose refcounts stand in `near`, so that neighbours need not be looked for again; valid until the next page is asked for. */
let nearFrom: u64 = 0;
let nearTo: u64 = 0;

/** Whether the refcount of a cluster agrees with an entry's flag. False: see `flagKnown`. */
let flagRight: bool = false;
let flagKnown: bool = false;
let flagAlone: bool = false;

/** Compares the flag of an entry with the refcount of what it points to. False: the task waits or has failed. */
function compareFlag(t: Task, image: Image, entry: u64): bool {
  const cluster = (entry & OFFSET_MASK) >> image.clusterBits;
  if (cluster < nearFrom || cluster >= nearTo) {
    nearTo = 0;
    if (!findPart(t, image, cluster)) return false;
    nearTo = partEnd(image, cluster);
    nearFrom = nearTo - refcountsPerPart(image);
  }
  flagKnown = !partUnknown;
  flagAlone = flagKnown && refcountInPart(image, cluster) == 1;
  flagRight = !flagKnown || flagAlone == ((entry & COPIED) != 0);
  return true;
}

/**
 * The flag of an L1 entry, which in a repair is set right. What is known of the table's refcount decides whether its own entries are
 * looked at, and changed. False: the task waits or has failed.
 */
export function enterFlags(t: Task, c: Check, image: Image, at: usize): bool {
  const entry = get64(at);
  if ((entry & OFFSET_MASK) == 0) return true;
  nearTo = 0;
  if (!compareFlag(t, image, entry)) return false;
  c.entered = flagKnown;
  c.tableAlone = flagAlone && (entry & OFFSET_MASK & (clusterBytes(image) - 1)) == 0;
  c.l2 = 0;
  c.tables++;
  if (flagRight) return true;
  if (c.round == LOOK) {
    c.wrongFlags++;
    return true;
  }
  put64(at, entry ^ COPIED);
  pageChanged(at, 8, STAGE_L1);
  c.corruptionsFixed++;
  return true;
}

/** The flags of `count` neighbouring L2 entries; in a repair they are set right where only one L1 entry refers to the table. */
export function flagsOfPage(t: Task, c: Check, image: Image, l2: usize, count: u32): bool {
  const step = (<usize>1) << image.l2EntryBits;
  nearTo = 0;
  for (let at = l2; at < l2 + <usize>count * step; at += step) {
    if (!flagOfEntry(t, c, image, at)) return false;
    c.l2++;
  }
  return true;
}

function flagOfEntry(t: Task, c: Check, image: Image, at: usize): bool {
  const entry = get64(at);
  if (entry & COMPRESSED || (entry & OFFSET_MASK) == 0) return true;
  if (c.round == REPAIR && c.tableAlone && dropLooseZero(c, image, at, entry)) return true;
  if (!compareFlag(t, image, entry)) return false;
  if (flagRight) return true;
  if (c.round == LOOK) {
    c.wrongFlags++;
  } else if (c.tableAlone) {
    put64(at, entry ^ COPIED);
    pageChanged(at, 8, STAGE_L2);
    c.corruptionsFixed++;
  }
  return true;
}

/** Takes the place from an entry that points nowhere proper and shows only zeros, or the base. */
function dropLooseZero(c: Check, image: Image, at: usize, entry: u64): bool {
  const bitmap = image.extendedL2 ? get64(at + 8) : 0;
  if ((entry & OFFSET_MASK & (clusterBytes(image) - 1)) == 0 || !showsNoData(image, entry, bitmap))
    return false;
  put64(at, image.extendedL2 ? 0 : ZERO);
  if (image.extendedL2) put64(at + 8, bitmap & ALL_ZERO);
  pageChanged(at, (<u32>1) << image.l2EntryBits, STAGE_L2);
  c.corruptionsFixed++;
  return true;
}
