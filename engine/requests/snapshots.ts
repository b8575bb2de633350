// snapshots: tells of the internal snapshots of image 0 (QEMU's docs/interop/qcow2.txt,
// "Snapshots"), one a request: what they are called, and when they were made; or of its persistent
// bitmaps ("Bitmaps extension"). What a snapshot holds is shown by opening the image for it.

import { be32, be64 } from '../core/bytes';
import { takeMemory } from '../core/memory';
import { pageGet } from '../core/pages';
import { tell } from '../core/ring';
import { DONE, fail, recordOf, Task, WAIT } from '../core/task';
import { overlay, Qcow2 } from '../formats/qcow2/image';
import { PAGE_BYTES, PAGE_MASK } from '../limits';
import {
  BITMAP_FLAGS,
  BITMAP_GRANULARITY_BITS,
  BITMAP_NAME_BYTES,
  ECORRUPT,
  KIND_SNAPSHOTS,
  OP_GIVE,
  OVERLAY,
  R_SNAPSHOT_TABLE,
  R_UNREAD,
  SNAPSHOT_AT,
  SNAPSHOT_CLOCK_NANOSECONDS,
  SNAPSHOT_CLOCK_SECONDS,
  SNAPSHOT_DATE_NANOSECONDS,
  SNAPSHOT_DATE_SECONDS,
  SNAPSHOT_ICOUNT,
  SNAPSHOT_ID_BYTES,
  SNAPSHOT_NAME_BYTES,
  SNAPSHOT_NUMBERS,
  SNAPSHOT_STATE_BYTES,
  SNAPSHOT_TEXT_BYTES,
  SNAPSHOTS_OF_BITMAPS,
} from '../protocol';

/**
 * An entry's fixed part, and as much of its extra data as is told; QEMU takes no more extra data
 * than this.
 */
const FIXED_BYTES: u64 = 40;
const EXTRA_KNOWN: u64 = 24;
const EXTRA_MAX: u64 = 1024;
const AT_TEXT_BYTES: u32 = 12;
const AT_DATE: u32 = 16;
const AT_CLOCK: u32 = 24;
const AT_STATE_BYTES: u32 = 32;
const AT_EXTRA_BYTES: u32 = 36;
const AT_LONG_STATE_BYTES: u32 = 40;
const AT_ICOUNT: u32 = 56;
const NANOSECONDS: u64 = 1000000000;

/** Of an answer: numbers, then id and name, which are of 65,535 bytes at most each. */
const NUMBERS_BYTES: u32 = SNAPSHOT_NUMBERS * 8;
const ANSWER_BYTES: u32 = NUMBERS_BYTES + SNAPSHOT_TEXT_BYTES;

const FIXED: u32 = 0;
const TEXTS: u32 = 1;

/** An entry of the bitmap directory: its fixed part. */
const BITMAP_BYTES: u64 = 24;
const AT_BITMAP_FLAGS: u32 = 12;
const AT_GRANULARITY_BITS: u32 = 17;
const AT_BITMAP_NAME_BYTES: u32 = 18;
const AT_BITMAP_EXTRA_BYTES: u32 = 20;

@unmanaged
class SnapshotTask extends Task {
  /** Where the texts of the entry stand in the file, and their bytes. */
  textsAt: u64;
  textBytes: u64;
  /** Bytes of the entry's fixed part, then of its texts, that have been copied. */
  copied: u64;

  /** Where the entry stands in the file; 0: it is the first. */
  get entryAt(): u64 {
    return this.offset;
  }

  get isBitmap(): bool {
    return this.argument == SNAPSHOTS_OF_BITMAPS;
  }
}

/**
 * Gives the numbers of SNAPSHOT_DATE_SECONDS and the following, then id and name. `value` is where
 * the next entry would stand.
 */
export function runSnapshots(task: Task): i32 {
  const t = recordOf<SnapshotTask>(task, KIND_SNAPSHOTS);
  const image = overlay();
  if (t.isBitmap) return runBitmap(t, image);
  const at = t.entryAt ? t.entryAt : image.snapshotsOffset;
  if (!image.snapshots || at & 7 || at + FIXED_BYTES > image.fileSize) return refuse(t, at);
  if (!takeMemory(t, ANSWER_BYTES, 0)) return WAIT;
  const texts = t.buffer + NUMBERS_BYTES;
  if (t.state == FIXED) {
    if (!copy(t, image, at, FIXED_BYTES + EXTRA_KNOWN, texts)) return WAIT;
    const extra = tellNumbers(t, texts);
    put(t, SNAPSHOT_AT, <f64>at);
    t.textsAt = at + FIXED_BYTES + extra;
    if (extra > EXTRA_MAX || t.textsAt + t.textBytes > image.fileSize) return refuse(t, at);
    t.copied = 0;
    t.state = TEXTS;
  }
  return copy(t, image, t.textsAt, t.textBytes, texts) ? give(t) : WAIT;
}

/** As runSnapshots, with the numbers of BITMAP_FLAGS and the following, then the name. */
function runBitmap(t: SnapshotTask, image: Qcow2): i32 {
  const at = t.entryAt ? t.entryAt : image.bitmapsOffset;
  const end = min(image.bitmapsOffset + image.bitmapsBytes, image.fileSize);
  if (!image.bitmapCount || at & 7 || at + BITMAP_BYTES > end) return refuseBitmap(t, at);
  if (!takeMemory(t, ANSWER_BYTES, 0)) return WAIT;
  const texts = t.buffer + NUMBERS_BYTES;
  if (t.state == FIXED) {
    if (!copy(t, image, at, BITMAP_BYTES, texts)) return WAIT;
    put(t, BITMAP_FLAGS, be32(texts + AT_BITMAP_FLAGS));
    put(t, BITMAP_GRANULARITY_BITS, load<u8>(texts + AT_GRANULARITY_BITS));
    t.textBytes = be32(texts + AT_BITMAP_NAME_BYTES) >> 16;
    put(t, BITMAP_NAME_BYTES, <f64>t.textBytes);
    t.textsAt = at + BITMAP_BYTES + be32(texts + AT_BITMAP_EXTRA_BYTES);
    if (t.textsAt + t.textBytes > end) return refuseBitmap(t, at);
    t.copied = 0;
    t.state = TEXTS;
  }
  return copy(t, image, t.textsAt, t.textBytes, texts) ? give(t) : WAIT;
}

function give(t: SnapshotTask): i32 {
  const give = tell(OP_GIVE, t.request);
  give.address = <u32>t.buffer;
  give.length = NUMBERS_BYTES + <u32>t.textBytes;
  t.value = (t.textsAt + t.textBytes + 7) & ~7;
  return DONE;
}

function refuse(t: Task, at: u64): i32 {
  fail(t, ECORRUPT, R_SNAPSHOT_TABLE, OVERLAY, at);
  return WAIT;
}

function refuseBitmap(t: Task, at: u64): i32 {
  fail(t, ECORRUPT, R_UNREAD, OVERLAY, at);
  return WAIT;
}

/**
 * Puts the numbers of an entry into the answer, and the length of its texts into `t`; returns the
 * length of its extra data.
 */
function tellNumbers(t: SnapshotTask, entry: usize): u64 {
  const extra = be32(entry + AT_EXTRA_BYTES);
  const idBytes = be32(entry + AT_TEXT_BYTES) >> 16;
  const nameBytes = be32(entry + AT_TEXT_BYTES) & 0xffff;
  const clock = be64(entry + AT_CLOCK);
  const icount = extra >= 24 ? be64(entry + AT_ICOUNT) : u64.MAX_VALUE;
  put(t, SNAPSHOT_DATE_SECONDS, be32(entry + AT_DATE));
  put(t, SNAPSHOT_DATE_NANOSECONDS, be32(entry + AT_DATE + 4));
  put(t, SNAPSHOT_CLOCK_SECONDS, <f64>(clock / NANOSECONDS));
  put(t, SNAPSHOT_CLOCK_NANOSECONDS, <f64>(clock % NANOSECONDS));
  put(
    t,
    SNAPSHOT_STATE_BYTES,
    extra >= 8 ? <f64>be64(entry + AT_LONG_STATE_BYTES) : be32(entry + AT_STATE_BYTES),
  );
  put(t, SNAPSHOT_ICOUNT, icount == u64.MAX_VALUE ? -1 : <f64>icount);
  put(t, SNAPSHOT_ID_BYTES, idBytes);
  put(t, SNAPSHOT_NAME_BYTES, nameBytes);
  t.textBytes = idBytes + nameBytes;
  return extra;
}

function put(t: Task, index: u32, value: f64): void {
  assert(index < <u32>SNAPSHOT_NUMBERS);
  store<f64>(t.buffer + index * 8, value);
}

/**
 * Copies bytes of the image's file, as far as they have not been yet. False: the task waits or
 * has failed.
 */
function copy(t: SnapshotTask, image: Qcow2, from: u64, bytes: u64, to: usize): bool {
  assert(t.buffer != 0);
  while (t.copied < bytes) {
    const at = from + t.copied;
    const page = pageGet(t, image.file, at);
    if (!page) return false;
    const length = min(bytes - t.copied, <u64>PAGE_BYTES - (at & PAGE_MASK));
    memory.copy(to + <usize>t.copied, page, <usize>length);
    t.copied += length;
  }
  return true;
}
