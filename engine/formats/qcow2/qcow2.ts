// qcow2, versions 2 and 3: how an image of it is recognised and opened. What cannot be supported is
// refused here, by name.

import { be32 } from '../../core/bytes';
import { Image } from '../../core/image';
import { pageGet } from '../../core/pages';
import { Task } from '../../core/task';
import {
  ECORRUPT,
  EUNSUPPORTED,
  OVERLAY,
  R_BITMAPS,
  R_ENCRYPTED,
  R_EXTENDED_L2,
  R_EXTERNAL_DATA,
  R_INCOMPATIBLE,
  R_MARKED_CORRUPT,
  R_REFCOUNT_TABLE,
  R_SIZE,
  R_SNAPSHOTS,
  R_VERSION,
} from '../../protocol';
import { hasMemory, openTaskOf, refuse } from '../format';
import { AT_VERSION, HEADER_BYTES_V2, MAGIC, parseHeader } from './header';
import { qcow2Of } from './image';
import { showSnapshot } from './snapshot';

export { lookupQcow2 } from './mapping';

/** Its first version is another format. */
export function isQcow2(header: usize, image: Image): bool {
  if (image.fileSize < 4 || be32(header) != MAGIC) return false;
  return image.fileSize < HEADER_BYTES_V2 || be32(header + AT_VERSION) != 1;
}

export function openQcow2(task: Task, image: Image): bool {
  const t = openTaskOf(task);
  const header = pageGet(t, image.file, 0);
  if (!header) return false;
  const own = qcow2Of(image);
  const reason = parseHeader(header, own);
  if (reason) return refuse(t, isUnsupported(reason) ? EUNSUPPORTED : ECORRUPT, reason, image);
  if (own.refcountTableBytes == 0 && !t.isToCheck)
    return refuse(t, ECORRUPT, R_REFCOUNT_TABLE, image);
  if (!t.isToDescribe) {
    if (own.encryption) return refuse(t, EUNSUPPORTED, R_ENCRYPTED, image);
    if (own.externalData) return refuse(t, EUNSUPPORTED, R_EXTERNAL_DATA, image);
  }
  if (image.index == OVERLAY && t.isWritable) {
    if (own.corrupt) return refuse(t, ECORRUPT, R_MARKED_CORRUPT, image);
    if (own.snapshots) return refuse(t, EUNSUPPORTED, R_SNAPSHOTS, image);
    if (own.bitmaps) return refuse(t, EUNSUPPORTED, R_BITMAPS, image);
  } else if (t.snapshotAt && !showSnapshot(t, own, t.snapshotAt)) return false;
  return hasMemory(t, image);
}

function isUnsupported(reason: i32): bool {
  return (
    reason == R_VERSION ||
    reason == R_ENCRYPTED ||
    reason == R_INCOMPATIBLE ||
    reason == R_EXTENDED_L2 ||
    reason == R_SIZE
  );
}
