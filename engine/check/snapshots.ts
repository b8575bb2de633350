// What internal snapshots and persistent bitmaps refer to (QEMU's docs/interop/qcow2.txt,
// "Snapshots" and "Bitmaps extension"): read only to count it. Both are lists of entries of varying
// length, each with a table of its own.

import { be64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { pageGet } from '../core/pages';
import { AGAIN, DONE, Task, WAIT } from '../core/task';
import { Qcow2 } from '../formats/qcow2/image';
import { OFFSET_MASK } from '../formats/qcow2/l2';
import {
  SNAPSHOT_BYTES,
  SNAPSHOT_DISK,
  SNAPSHOT_EXTRA,
  SNAPSHOT_EXTRA_MIN,
  SNAPSHOT_L1_OFFSET,
  SNAPSHOT_SIZES,
} from '../formats/qcow2/snapshot';
import { BITMAP_ENTRIES_MAX, L1_BYTES_MAX, SCAN_ENTRIES_MAX, SECTOR_BYTES } from '../limits';
import { entriesOfPage, refer } from './count';
import { beginTable, Check, telling, unreadAt } from './state';
import { COUNT, walkTables } from './walk';

/** QEMU takes no more extra data of a snapshot than this, and writes no less than that. */
const SNAPSHOT_EXTRA_MAX: u64 = 1024;
export const SNAPSHOT_EXTRA_WRITTEN: u64 = 24;
/** All entries together. */
const SNAPSHOT_TABLE_BYTES_MAX: u64 = 64 << 20;

/** An entry of the bitmap directory. */
const BITMAP_TABLE_OFFSET: u64 = 0;
const BITMAP_TABLE_SIZE: u64 = 8;
const BITMAP_KIND: u64 = 16;
const BITMAP_BYTES: u64 = 24;
/**
 * As QEMU has them: flags that may be set, bits of the granularity, bytes of the name, bytes of all
 * clusters together.
 */
const BITMAP_FLAGS_KNOWN: u64 = 3;
const BITMAP_IN_USE: u64 = 1;
const BITMAP_DIRTY_TRACKING: u64 = 1;
const GRANULARITY_BITS_MIN: u64 = 9;
const GRANULARITY_BITS_MAX: u64 = 31;
const BITMAP_NAME_BYTES_MAX: u64 = 1023;
const BITMAP_CLUSTERS_BYTES_MAX: u64 = 512 << 20;
/**
 * A bitmap table's entry without a cluster says that all bits are set; with one, the bit is
 * reserved like the others.
 */
const BITMAP_ALL_SET: u64 = 1;
const BITMAP_RESERVED: u64 = 0xff000000000001fe;

/** Reads eight bytes at a multiple of eight, into `c.word`. */
function readWord(t: Task, c: Check, image: Qcow2, offset: u64): bool {
  const at = pageGet(t, image.file, offset);
  if (!at) return false;
  c.word = be64(at);
  return true;
}

/** Counts the snapshots' L1 tables and what they refer to, then the snapshot table itself. */
export function countSnapshots(t: Task, c: Check, image: Qcow2): i32 {
  if (c.item == 0 && !c.itemRead) c.snapshotsEnd = image.snapshotsOffset;
  while (image.snapshots > <u32>c.item) {
    if (!c.itemRead) {
      if (!readSnapshot(t, c, image)) return WAIT;
      if (c.item == image.snapshots) break;
      beginTable(c);
    }
    const next = walkTables(t, c, image, c.itemTable, c.itemEntries, COUNT);
    if (next != DONE) return next;
    c.itemRead = false;
    c.itemAt = c.itemNext;
    c.item++;
  }
  if (image.snapshots)
    refer(c, image, image.snapshotsOffset, c.snapshotsEnd - image.snapshotsOffset, true);
  return DONE;
}

/**
 * Reads one entry of the snapshot table; where the table ends too early, the rest is skipped.
 * False: the task waits.
 */
function readSnapshot(t: Task, c: Check, image: Qcow2): bool {
  const at = (c.itemAt + 7) & ~7;
  const empty = isEmptyEntry(t, c, image, at);
  if (empty == UNKNOWN) return false;
  if (empty == EMPTY) return takeEmpty(c, at);
  // What was empty before is no end of the table.
  if (c.emptySnapshots) unreadAt(c, at);
  if (at + SNAPSHOT_BYTES > image.fileSize) return skipList(c, image.snapshots);
  if (!readWord(t, c, image, at + SNAPSHOT_L1_OFFSET)) return false;
  const table = c.word;
  if (!readWord(t, c, image, at + SNAPSHOT_SIZES)) return false;
  const entries = c.word >> 32;
  const texts = ((c.word >> 16) & 0xffff) + (c.word & 0xffff);
  if (!readWord(t, c, image, at + SNAPSHOT_EXTRA)) return false;
  const extra = c.word & 0xffffffff;
  c.itemNext = at + SNAPSHOT_BYTES + extra + texts;
  const tableBytes = c.itemNext - image.snapshotsOffset;
  if (c.itemNext > image.fileSize || tableBytes > SNAPSHOT_TABLE_BYTES_MAX)
    return skipList(c, image.snapshots);
  // Without its size, a snapshot's disk is as large as the image was then.
  c.word = 0;
  if (extra >= SNAPSHOT_EXTRA_MIN && !readWord(t, c, image, at + SNAPSHOT_DISK)) return false;
  const isShort = c.word > entries << (image.clusterBits + image.l2Bits);
  if (telling(c)) tellExtra(c, image, extra, texts);
  c.itemTable = table;
  c.itemEntries = entries;
  c.itemRead = true;
  c.snapshotsEnd = c.itemNext;
  // No L1 table stands over the header, and none has been written only in part, or has fewer
  // entries than its disk takes: its entry or the file has been spoiled.
  if (table == 0 || table + (entries << 3) > image.fileSize || isShort) unreadAt(c, at);
  const wrong = (table & (clusterBytes(image) - 1)) != 0 || entries << 3 > L1_BYTES_MAX;
  if (wrong && telling(c)) c.wrongEntries++;
  if (wrong) unreadAt(c, at);
  if (wrong || table >= image.fileSize) c.itemEntries = 0;
  if (!wrong) refer(c, image, table, entries << 3, true);
  return true;
}

const UNKNOWN: u32 = 0;
const EMPTY: u32 = 1;
const NOT_EMPTY: u32 = 2;

/** Whether an entry holds nothing but zeros, as does what is behind the file. UNKNOWN: waits. */
function isEmptyEntry(t: Task, c: Check, image: Qcow2, at: u64): u32 {
  const end = min(at + SNAPSHOT_BYTES, image.fileSize);
  for (let offset = at; offset < end; offset += 8) {
    if (!readWord(t, c, image, offset)) return UNKNOWN;
    if (c.word) return NOT_EMPTY;
  }
  return EMPTY;
}

function takeEmpty(c: Check, at: u64): bool {
  if (telling(c)) {
    c.wrongEntries++;
    c.badSnapshots++;
    c.emptySnapshots++;
  }
  c.itemNext = at + SNAPSHOT_BYTES;
  c.itemTable = 0;
  c.itemEntries = 0;
  c.itemRead = true;
  return true;
}

/** Bytes of extra data that a snapshot with `extra` of them has once it has been mended. */
export function mendedExtra(extra: u64): u64 {
  return min(max(extra, SNAPSHOT_EXTRA_WRITTEN), SNAPSHOT_EXTRA_MAX);
}

/**
 * Whether an entry's extra data is of a length that will do; and what the entry takes once it is.
 */
function tellExtra(c: Check, image: Qcow2, extra: u64, texts: u64): void {
  c.snapshotBytes = ((c.snapshotBytes + 7) & ~7) + SNAPSHOT_BYTES + mendedExtra(extra) + texts;
  const isLong = extra > SNAPSHOT_EXTRA_MAX;
  if (!isLong && (image.version == 2 || extra >= SNAPSHOT_EXTRA_MIN)) return;
  c.wrongEntries++;
  c.badSnapshots++;
  if (isLong) c.longSnapshots++;
}

/** The list cannot be followed any further. */
function skipList(c: Check, items: u64): bool {
  if (telling(c)) c.wrongEntries++;
  unreadAt(c, c.itemAt);
  c.item = items;
  return true;
}

/** Counts the bitmaps' tables and what they refer to, then the bitmap directory. */
export function countBitmaps(t: Task, c: Check, image: Qcow2): i32 {
  while (image.bitmapCount > <u32>c.item) {
    if (!c.itemRead) {
      if (!readBitmap(t, c, image)) return WAIT;
      if (c.item == image.bitmapCount) break;
    }
    const next = countBitmapTable(t, c, image);
    if (next != DONE) return next;
    c.itemRead = false;
    c.itemAt = c.itemNext;
    c.item++;
  }
  if (image.bitmapCount) refer(c, image, image.bitmapsOffset, image.bitmapsBytes, true);
  return DONE;
}

function readBitmap(t: Task, c: Check, image: Qcow2): bool {
  const end = image.bitmapsOffset + image.bitmapsBytes;
  if (c.itemAt + BITMAP_BYTES > min(end, image.fileSize)) return skipList(c, image.bitmapCount);
  if (!readWord(t, c, image, c.itemAt + BITMAP_TABLE_OFFSET)) return false;
  const table = c.word;
  if (!readWord(t, c, image, c.itemAt + BITMAP_TABLE_SIZE)) return false;
  const entries = c.word >> 32;
  const flags = c.word & 0xffffffff;
  if (!readWord(t, c, image, c.itemAt + BITMAP_KIND)) return false;
  const kind = c.word;
  const extra = kind & 0xffffffff;
  const name = (kind >> 32) & 0xffff;
  c.itemNext = (c.itemAt + BITMAP_BYTES + extra + name + 7) & ~7;
  const unaligned = (table & (clusterBytes(image) - 1)) != 0;
  if (c.itemNext > end || unaligned || table == 0 || entries > BITMAP_ENTRIES_MAX)
    return skipList(c, image.bitmapCount);
  if (telling(c) && !isBitmapSound(image, entries, flags, kind)) c.wrongEntries++;
  // QEMU takes no extra data, and none behind the last entry: what it would lead to is not known.
  const isLast = c.item + 1 == image.bitmapCount;
  if (extra || (isLast && c.itemNext != end)) {
    if (telling(c)) c.wrongEntries++;
    unreadAt(c, c.itemAt);
  }
  refer(c, image, table, entries << 3, true);
  c.itemTable = table;
  c.itemEntries = table < image.fileSize ? entries : 0;
  c.itemRead = true;
  c.l1 = 0;
  return true;
}

/**
 * Whether QEMU would open an image with this entry: `kind` is its word with the type, the
 * granularity and the name's length.
 */
function isBitmapSound(image: Qcow2, entries: u64, flags: u64, kind: u64): bool {
  const type = kind >> 56;
  const granularity = (kind >> 48) & 0xff;
  const name = (kind >> 32) & 0xffff;
  if (type != BITMAP_DIRTY_TRACKING || flags & ~BITMAP_FLAGS_KNOWN) return false;
  if (granularity < GRANULARITY_BITS_MIN || granularity > GRANULARITY_BITS_MAX) return false;
  if (name == 0 || name > BITMAP_NAME_BYTES_MAX || entries == 0) return false;
  if (entries << image.clusterBits > BITMAP_CLUSTERS_BYTES_MAX) return false;
  // One that was not stored to its end may be of another size of the disk.
  return (flags & BITMAP_IN_USE) != 0 || entries == bitmapClusters(image, granularity);
}

/**
 * Clusters of a bitmap of the disk: a bit for each 2^granularity bytes, in words of 64; QEMU sees
 * whole sectors of the disk.
 */
function bitmapClusters(image: Qcow2, granularity: u64): u64 {
  const sectors = image.size & ~(<u64>SECTOR_BYTES - 1);
  const bits = (sectors + ((<u64>1) << granularity) - 1) >> granularity;
  const bytes = ((bits + 63) >> 6) << 3;
  return (bytes + clusterBytes(image) - 1) >> image.clusterBits;
}

/** Counts the clusters of one bitmap; `l1` is how far its table has been read. */
function countBitmapTable(t: Task, c: Check, image: Qcow2): i32 {
  let scanned: u64 = 0;
  while (c.itemEntries > c.l1) {
    if (scanned >= SCAN_ENTRIES_MAX) return AGAIN;
    const offset = c.itemTable + (c.l1 << 3);
    const at = pageGet(t, image.file, offset);
    if (!at) return WAIT;
    const count = <u32>min(c.itemEntries - c.l1, entriesOfPage(offset));
    for (let i: u32 = 0; i < count; i++) countBitmapCluster(c, image, be64(at + (i << 3)));
    c.l1 += count;
    scanned += count;
  }
  return DONE;
}

function countBitmapCluster(c: Check, image: Qcow2, entry: u64): void {
  const offset = entry & OFFSET_MASK;
  const placedWrong = offset && (entry & BITMAP_ALL_SET || offset & (clusterBytes(image) - 1));
  if (entry & BITMAP_RESERVED || placedWrong) {
    if (telling(c)) c.wrongEntries++;
    return;
  }
  if (offset) refer(c, image, offset, clusterBytes(image), true);
}
