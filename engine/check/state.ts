// What a check of the overlay has found, and how far it is: one record, kept with the task in
// memory that it took, so that the memory of a check does not depend on the size of the image. The
// file is looked at in windows of as many clusters as can be counted at once.

import { clusterBytes } from '../core/image';
import { Task } from '../core/task';
import { Qcow2 } from '../formats/qcow2/image';

/** Rounds over the whole image. */
export const LOOK: u32 = 0;
export const REPAIR: u32 = 1;
export const REBUILD: u32 = 2;

/**
 * The low bits of a cluster's count are the references found; the highest one says that something
 * claims the whole cluster.
 */
export const REFERENCES: u16 = 0x7fff;
export const WHOLE: u16 = 0x8000;
export const COUNT_BYTES: u32 = 2;

@unmanaged
export class Check {
  round: u32;
  /** What is being counted in this window; see count.ts. */
  part: u32;
  /** How often something has been repaired. */
  repairs: u32;

  /** Counts of `windowClusters` clusters of the file from `windowFirst` on. */
  window: usize;
  windowFirst: u64;
  windowClusters: u64;
  /** Clusters of the file, one that is referred to across the file's end included. */
  clusters: u64;
  /** The largest refcount that the image can hold. */
  refcountMax: u64;

  /** How far the current part is. */
  cursor: u64;
  /** Next entry of an L1 table; whether its L2 table has been entered, and the next entry there. */
  l1: u64;
  entered: bool;
  l2: u64;
  /** L2 tables entered by this L1 table. */
  tables: u64;
  /** Where the next cluster of a contiguous file would be; 0 at the start of an L2 table. */
  contiguous: u64;
  /**
   * Address of the part of a refcount block that was found last, 0 if there is none; whether its
   * place is no place; and, while flags are compared, the clusters whose refcounts stand there.
   */
  block: usize;
  blockUnknown: bool;
  nearFrom: u64;
  nearTo: u64;
  /** Only this L1 entry refers to the L2 table: it may be written. */
  tableAlone: bool;
  /** Whether the table is where a table can be: at the start of a cluster. */
  tableInPlace: bool;
  /** Next snapshot or bitmap, and where its entry is; its table, once that has been read. */
  item: u64;
  itemAt: u64;
  itemRead: bool;
  itemTable: u64;
  itemEntries: u64;
  itemNext: u64;
  /** Eight bytes that were read of it last. */
  word: u64;

  /**
   * Found by this look. Entries that are wrong; what is wrong with the first of them, and where in
   * the file it stands.
   */
  wrongEntries: u64;
  reason: i32;
  reasonAt: u64;
  /** Where the entry stands that is being looked at. */
  entryAt: u64;
  /** Of the wrong entries: zero clusters with a wrong place (it is not needed). */
  looseZeroes: u64;
  /**
   * What cannot be followed, so that it is not known what it uses; and where the first of it
   * stands.
   */
  unread: u64;
  unreadAt: u64;
  /**
   * Of the wrong entries: snapshots whose extra data is too short or too long, and of these the
   * long ones; and those of nothing but zeros, as there are where the header counts too many.
   */
  badSnapshots: u64;
  longSnapshots: u64;
  emptySnapshots: u64;
  /** Where the last entry ends that is none of the empty ones. */
  snapshotsEnd: u64;
  /** Bytes of a snapshot table in which each has extra data of a length that will do. */
  snapshotBytes: u64;
  /** References to what the file does not have. */
  outside: u64;
  /**
   * Entries of the refcount table that are wrong, and those whose block something else refers to as
   * well.
   */
  wrongBlocks: u64;
  sharedBlocks: u64;
  /** Refcounts below the references, and of these: without a refcount block. */
  tooLow: u64;
  missing: u64;
  leaks: u64;
  wrongFlags: u64;
  /**
   * Clusters that more than one entry claims as a whole, or one and a compressed cluster; and where
   * the first of them is.
   */
  shared: u64;
  sharedAt: u64;
  /** References above what can be counted. */
  uncounted: u64;
  allocated: u64;
  compressed: u64;
  fragmented: u64;
  /** Bytes: where the last cluster in use ends. */
  end: u64;

  corruptionsFixed: u64;
  leaksFixed: u64;

  /** The file's length before a rebuild. */
  fileBytes: u64;
  /**
   * A rebuild: first cluster of the new refcount blocks, how many, and how many clusters of the new
   * refcount table behind them.
   */
  newFirst: u64;
  newBlocks: u64;
  newTable: u64;
}

export function checkOf(t: Task): Check {
  assert(t.scratch != 0);
  return changetype<Check>(t.scratch);
}

export function corruptions(c: Check): u64 {
  return c.wrongEntries + c.wrongBlocks + c.tooLow + c.wrongFlags;
}

/**
 * Whether what nothing refers to may be given back: not where something may refer to it that is not
 * known, or that is found by way of a length that is out of bounds; and
 * where a snapshot's entry is empty, its clusters may be there still.
 */
export function mayFree(c: Check, image: Qcow2): bool {
  return !image.foreign && c.longSnapshots == 0 && c.emptySnapshots == 0;
}

/** Takes note of an entry that is wrong. */
export function wrongEntry(c: Check, reason: i32): void {
  assert(reason > 0);
  c.wrongEntries++;
  if (c.reason) return;
  c.reason = reason;
  c.reasonAt = c.entryAt;
}

/** Takes note of what cannot be followed: see `unread`. */
export function unreadAt(c: Check, at: u64): void {
  if (telling(c) && c.unread++ == 0) c.unreadAt = at;
}

/**
 * The first window of a look also tells what is wrong with the entries themselves; the others see
 * the same entries again.
 */
export function telling(c: Check): bool {
  return c.round == LOOK && c.windowFirst == 0;
}

/** Forgets what an earlier look found, but not what has been repaired since. */
export function beginLook(c: Check, image: Qcow2): void {
  c.round = LOOK;
  c.wrongEntries = 0;
  c.reason = 0;
  c.looseZeroes = 0;
  c.unread = 0;
  c.badSnapshots = 0;
  c.longSnapshots = 0;
  c.emptySnapshots = 0;
  c.snapshotBytes = 0;
  c.outside = 0;
  c.wrongBlocks = 0;
  c.sharedBlocks = 0;
  c.tooLow = 0;
  c.missing = 0;
  c.leaks = 0;
  c.wrongFlags = 0;
  c.shared = 0;
  c.uncounted = 0;
  c.allocated = 0;
  c.compressed = 0;
  c.fragmented = 0;
  c.end = clusterBytes(image);
}

export function beginTable(c: Check): void {
  c.l1 = 0;
  c.entered = false;
  c.l2 = 0;
  c.tables = 0;
}
