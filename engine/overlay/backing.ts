// The overlay's reference to its base, in its header: the name, and two extensions with the base's
// format and its identity. What refers to them stands in the header's first sector, which storage
// writes whole or not at all, and so do both extensions: at every moment the header tells of the
// old base, the new one, or none.

import { putBe32, putBe64 } from '../core/bytes';
import { STAGE_REFCOUNTS, STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { fail, Task } from '../core/task';
import {
  AT_BACKING_BYTES,
  AT_BACKING_OFFSET,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_END,
  EXTENSION_FEATURE_NAMES,
  EXTENSION_HEAD_BYTES,
  EXTENSION_IDENTITY,
  EXTENSION_VOID,
  extensionRoom,
  FORMAT_BYTES_MAX,
  headerRoom,
} from '../formats/qcow2/header';
import { overlay } from '../formats/qcow2/image';
import { SECTOR_BYTES } from '../limits';
import { EUNSUPPORTED, OVERLAY, R_HEADER_FULL } from '../protocol';
import { backingFits, endOfOthers, places } from './places';
import { backingTexts } from './texts';

/**
 * Writes what nothing refers to yet, and takes out what would tell of the old base behind the first
 * sector. False: the task waits or has failed.
 */
export function writeBackingAhead(t: Task): bool {
  const texts = backingTexts();
  const p = places();
  const image = overlay();
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  if (!backingFits(header)) {
    fail(t, EUNSUPPORTED, R_HEADER_FULL, OVERLAY, 0);
    return false;
  }
  // What stands in the first sector goes with what refers to it.
  const from = max(p.nameTo, SECTOR_BYTES);
  if (p.nameTo + texts.nameBytes > from) {
    memory.copy(header + from, texts.nameAt + from - p.nameTo, p.nameTo + texts.nameBytes - from);
    pageChanged(header + from, p.nameTo + texts.nameBytes - from, STAGE_REFCOUNTS);
  }
  if (image.identityAt > SECTOR_BYTES) {
    const head = header + image.identityAt - EXTENSION_HEAD_BYTES;
    const end = endOfOthers(header, image);
    if (end < image.extensionsEnd) putBe64(head, EXTENSION_END);
    else putBe32(head, EXTENSION_VOID);
    pageChanged(head, EXTENSION_HEAD_BYTES, STAGE_REFCOUNTS);
    image.extensionsEnd = end;
    image.identityAt = 0;
    image.identityBytes = 0;
  }
  return true;
}

/**
 * Lets the header tell of the base whose texts have been written ahead, or of none if they are
 * empty. False: the task waits or has failed.
 */
export function referToBacking(t: Task): bool {
  const texts = backingTexts();
  const p = places();
  const image = overlay();
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  putBe64(header + AT_BACKING_OFFSET, p.nameTo);
  putBe32(header + AT_BACKING_BYTES, texts.nameBytes);
  if (image.identityAt && image.identityAt != p.identityTo)
    putBe32(header + image.identityAt - EXTENSION_HEAD_BYTES, EXTENSION_VOID);
  if (p.formatTo) {
    const room =
      p.formatTo == image.backingFormatAt ? extensionRoom(header, p.formatTo) : FORMAT_BYTES_MAX;
    putExtension(
      header + p.formatTo,
      EXTENSION_BACKING_FORMAT,
      room,
      texts.formatAt,
      texts.formatBytes,
    );
  }
  if (p.identityTo)
    putExtension(
      header + p.identityTo,
      EXTENSION_IDENTITY,
      p.identityRoom,
      texts.identityAt,
      texts.identityBytes,
    );
  if (p.featureNamesTo) {
    putBe32(header + p.featureNamesTo - EXTENSION_HEAD_BYTES, EXTENSION_FEATURE_NAMES);
    putBe32(header + p.featureNamesTo - EXTENSION_HEAD_BYTES + 4, p.featureNamesBytes);
    image.featureNamesAt = p.featureNamesTo;
  }
  if (p.endTo + EXTENSION_HEAD_BYTES <= min(headerRoom(image), SECTOR_BYTES))
    putBe64(header + p.endTo, EXTENSION_END);
  // As much of the name as stands in this sector.
  if (p.nameTo < SECTOR_BYTES)
    memory.copy(header + p.nameTo, texts.nameAt, min(texts.nameBytes, SECTOR_BYTES - p.nameTo));
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  image.backingNameAt = p.nameTo;
  image.backingNameBytes = texts.nameBytes;
  if (p.formatTo) image.backingFormatAt = p.formatTo;
  image.backingFormatBytes = p.formatTo ? texts.formatBytes : 0;
  image.identityAt = p.identityTo;
  image.identityBytes = p.identityTo ? texts.identityBytes : 0;
  image.extensionsEnd = p.endTo;
  return true;
}

/**
 * Writes an extension, with its text at `at`; without a text it means nothing, and only keeps its
 * room.
 */
export function putExtension(at: usize, type: u32, room: u32, from: usize, bytes: u32): void {
  assert(bytes <= room && (room & 7) == 0);
  // A format is told exactly. The identity, which nobody else reads, may be followed by zeros: so
  // its room stays, for a longer one.
  putBe32(at - EXTENSION_HEAD_BYTES, bytes ? type : EXTENSION_VOID);
  putBe32(at - EXTENSION_HEAD_BYTES + 4, type == EXTENSION_BACKING_FORMAT && bytes ? bytes : room);
  memory.fill(at, 0, room);
  memory.copy(at, from, bytes);
}
