// An internal snapshot in place of the disk as it is now (QEMU's docs/interop/qcow2.txt,
// "Snapshots"): it has an L1 table and a size of its own, and all else is the image's.

import { be64 } from '../../core/bytes';
import { pageGet } from '../../core/pages';
import { fail, Task } from '../../core/task';
import { OFFSET_MAX } from '../../limits';
import { ECORRUPT, R_SIZE, R_SNAPSHOT_TABLE } from '../../protocol';
import { l1Fault } from './header';
import { Qcow2 } from './image';

/**
 * An entry of the snapshot table: where the words stand that tell of its L1 table and its lengths.
 */
export const SNAPSHOT_L1_OFFSET: u64 = 0;
export const SNAPSHOT_SIZES: u64 = 8;
export const SNAPSHOT_EXTRA: u64 = 32;
export const SNAPSHOT_BYTES: u64 = 40;
/** In the extra data: bytes of the disk. */
export const SNAPSHOT_DISK: u64 = 48;
/** Version 3 wants the size of the VM state and of the disk there. */
export const SNAPSHOT_EXTRA_MIN: u64 = 16;

/**
 * Lets an image that is only read show the snapshot whose entry stands at `at` of its file. False:
 * the task waits or has failed.
 */
export function showSnapshot(t: Task, image: Qcow2, at: u64): bool {
  if (at < image.snapshotsOffset || at + SNAPSHOT_BYTES > image.fileSize || !image.snapshots)
    return refuse(t, image, R_SNAPSHOT_TABLE, at);
  const table = pageGet(t, image.file, at + SNAPSHOT_L1_OFFSET);
  if (!table) return false;
  const l1Offset = be64(table);
  const sizes = pageGet(t, image.file, at + SNAPSHOT_SIZES);
  if (!sizes) return false;
  const l1Size = <u32>(be64(sizes) >> 32);
  const lengths = pageGet(t, image.file, at + SNAPSHOT_EXTRA);
  if (!lengths) return false;
  const extra = be64(lengths) & 0xffffffff;
  // Without a size of its own, it is of a time when that of the disk could not change.
  if (extra >= SNAPSHOT_EXTRA_MIN) {
    const disk = pageGet(t, image.file, at + SNAPSHOT_DISK);
    if (!disk) return false;
    image.size = be64(disk);
  }
  image.l1Offset = l1Offset;
  image.l1Size = l1Size;
  const reason = image.size > OFFSET_MAX ? R_SIZE : l1Fault(image);
  return reason ? refuse(t, image, reason, at) : true;
}

function refuse(t: Task, image: Qcow2, reason: i32, at: u64): bool {
  fail(t, ECORRUPT, reason, image.index, at);
  return false;
}
