// Mending the snapshot table: an entry needs extra data (the sizes of the VM's state and of the
// disk, instructions counted) of a length that QEMU takes. The table is written anew at another
// place, and one sector of the header then leaves the old one for the new. Where the header counts
// more entries than there are, that sector is all.

import { be32, putBe32, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { STAGE_REFCOUNTS, STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { AGAIN, DONE, fail, Task, WAIT } from '../core/task';
import { AT_SNAPSHOT_COUNT, AT_SNAPSHOTS_OFFSET } from '../formats/qcow2/header';
import { Qcow2 } from '../formats/qcow2/image';
import { SNAPSHOT_BYTES } from '../formats/qcow2/snapshot';
import { SCAN_ENTRIES_MAX, SECTOR_BYTES } from '../limits';
import { settle } from '../overlay/flush';
import { allocateWhole, refcountsPerPart } from '../overlay/refcounts';
import { ENOSPC, OVERLAY, R_TOO_LARGE } from '../protocol';
import { mendedExtra, SNAPSHOT_EXTRA_WRITTEN } from './snapshots';
import { Check, corruptions } from './state';

/**
 * Of an entry: where the lengths of its id and name stand, of the VM's state in 32 bits, and of the
 * extra data.
 */
const AT_ID_BYTES: u64 = 12;
const AT_STATE_BYTES: u64 = 32;
const AT_EXTRA_BYTES: u64 = 36;
/** Words of the extra data. */
const EXTRA_STATE: u64 = 0;
const EXTRA_DISK: u64 = 1;

/**
 * Nothing else may be wrong: clusters are taken for the table. Behind a length that is out of
 * bounds, or an entry without anything, no leak may show, for a snapshot that was missed would be
 * one.
 */
export function mayMend(c: Check): bool {
  const isKnown = (c.longSnapshots | c.emptySnapshots) == 0 || c.leaks == 0;
  return c.badSnapshots != 0 && c.unread == 0 && corruptions(c) == c.badSnapshots && isKnown;
}

export function beginMend(t: Task, c: Check, image: Qcow2): void {
  t.searchFrom = 0;
  c.newTable = 0;
  c.item = 0;
  c.itemAt = image.snapshotsOffset;
  c.cursor = 0;
  c.l2 = 0;
}

/** DONE once the header refers to the new table; the old one is a leak then. */
export function mendSnapshots(t: Task, c: Check, image: Qcow2): i32 {
  const kept = image.snapshots - <u32>c.emptySnapshots;
  if (c.badSnapshots != c.emptySnapshots) {
    const next = copyTable(t, c, image, kept);
    if (next != DONE) return next;
  } else {
    c.newTable = kept ? image.snapshotsOffset : 0;
  }
  const header = pageGet(t, image.file, 0);
  if (!header) return WAIT;
  image.snapshots = kept;
  image.snapshotsOffset = c.newTable;
  putBe32(header + AT_SNAPSHOT_COUNT, kept);
  putBe64(header + AT_SNAPSHOTS_OFFSET, image.snapshotsOffset);
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  c.corruptionsFixed += c.badSnapshots;
  return DONE;
}

/** Writes the first `entries` to where the new table is. */
function copyTable(t: Task, c: Check, image: Qcow2, entries: u32): i32 {
  if (c.newTable == 0 && !takePlace(t, c, image)) return WAIT;
  let copied: u64 = 0;
  while (entries > <u32>c.item) {
    if (copied >= SCAN_ENTRIES_MAX) return AGAIN;
    const bytes = copyEntry(t, c, image);
    if (bytes == 0) return WAIT;
    copied += bytes;
  }
  return settle(t) ? DONE : WAIT;
}

function takePlace(t: Task, c: Check, image: Qcow2): bool {
  const clusters = (c.snapshotBytes + clusterBytes(image) - 1) >> image.clusterBits;
  if (clusters > refcountsPerPart(image)) {
    fail(t, ENOSPC, R_TOO_LARGE, OVERLAY, image.snapshotsOffset);
    return false;
  }
  const run = allocateWhole(t, <u32>clusters);
  if (run === null) return false;
  c.newTable = run.at;
  return true;
}

/** Copies one entry, as far as it has not been; gives its bytes, or 0 if the task waits. */
function copyEntry(t: Task, c: Check, image: Qcow2): u64 {
  const from = c.itemAt;
  const lengths = pageGet(t, image.file, from + AT_ID_BYTES);
  if (!lengths) return 0;
  const texts = <u64>(be32(lengths) >> 16) + (be32(lengths) & 0xffff);
  const extraAt = pageGet(t, image.file, from + AT_EXTRA_BYTES);
  if (!extraAt) return 0;
  const extra = <u64>be32(extraAt);
  const kept = mendedExtra(extra);
  const end = SNAPSHOT_BYTES + kept + texts;
  const bytes = (end + 7) & ~7;
  for (; c.l2 < bytes; c.l2++) {
    const value = c.l2 < end ? mendedByte(t, image, from, extra, kept, c.l2) : 0;
    if (value < 0) return 0;
    const to = pageGet(t, image.file, c.newTable + c.cursor + c.l2);
    if (!to) return 0;
    store<u8>(to, <u8>value);
    pageChanged(to, 1, STAGE_REFCOUNTS);
  }
  c.l2 = 0;
  c.cursor += bytes;
  c.itemAt = (from + SNAPSHOT_BYTES + extra + texts + 7) & ~7;
  c.item++;
  return bytes;
}

/**
 * A byte of the new entry in place of the one at `from`, whose extra data becomes `kept` bytes
 * long; -1 if the task waits.
 */
function mendedByte(t: Task, image: Qcow2, from: u64, extra: u64, kept: u64, index: u64): i32 {
  if (index >= AT_EXTRA_BYTES && index < SNAPSHOT_BYTES)
    return byteOf(kept << 32, index - AT_EXTRA_BYTES);
  if (index >= SNAPSHOT_BYTES + kept) return byteAt(t, image, from + index + extra - kept);
  const word = (index - SNAPSHOT_BYTES) >> 3;
  const isHere =
    index < AT_EXTRA_BYTES ||
    (word + 1) << 3 <= extra ||
    index >= SNAPSHOT_BYTES + SNAPSHOT_EXTRA_WRITTEN;
  if (isHere) return byteAt(t, image, from + index);
  // What an entry without the word means.
  if (word == EXTRA_DISK) return byteOf(image.size, index & 7);
  if (word != EXTRA_STATE) return 0xff;
  return (index & 7) < 4 ? 0 : byteAt(t, image, from + AT_STATE_BYTES + (index & 3));
}

/** A byte of a number as it stands on disk: the highest first. */
function byteOf(value: u64, index: u64): i32 {
  return <i32>((value >> ((7 - index) << 3)) & 0xff);
}

function byteAt(t: Task, image: Qcow2, offset: u64): i32 {
  const at = pageGet(t, image.file, offset);
  return at ? <i32>load<u8>(at) : -1;
}
