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
  FEATURE_NAME_BYTES,
  FORMAT_BYTES_MAX,
  headerRoom,
} from '../formats/qcow2/header';
import { overlay, Qcow2 } from '../formats/qcow2/image';
import { BACKING_NAME_BYTES_MAX, SECTOR_BYTES } from '../limits';
import { EUNSUPPORTED, IDENTITY_BYTES_MAX, OVERLAY, R_HEADER_FULL } from '../protocol';

/**
 * What the host wants recorded as the base: name, format and identity, one behind the other, with
 * their lengths.
 */
let text: usize = 0;
let nameBytes: u32 = 0;
let formatBytes: u32 = 0;
let identityBytes: u32 = 0;

export function backingInit(at: usize): void {
  text = at;
  backingForget();
}

/** No base is to be recorded. */
export function backingForget(): void {
  nameBytes = 0;
  formatBytes = 0;
  identityBytes = 0;
}

/**
 * Called once the host has put the three texts at the text area, one behind the other. False if one
 * is too long.
 */
export function setBackingTexts(name: u32, format: u32, identity: u32): bool {
  if (name > BACKING_NAME_BYTES_MAX || format > FORMAT_BYTES_MAX) return false;
  nameBytes = name;
  formatBytes = format;
  identityBytes = identity <= <u32>IDENTITY_BYTES_MAX ? identity : 0;
  return true;
}

export function backingNameBytes(): u32 {
  return nameBytes;
}

export function backingFormatBytes(): u32 {
  return formatBytes;
}

export function backingIdentityBytes(): u32 {
  return identityBytes;
}

export function backingNameAt(): usize {
  return text;
}

export function backingFormatAt(): usize {
  return text + nameBytes;
}

export function backingIdentityAt(): usize {
  return text + nameBytes + formatBytes;
}

/**
 * Where the texts are to stand in the header's page, 0: nowhere; and where its extensions will end.
 */
let nameTo: u32 = 0;
let formatTo: u32 = 0;
let identityTo: u32 = 0;
let identityRoom: u32 = 0;
let endTo: u32 = 0;
/** Where the names of features go on, if they give up room; 0: they stay as they are. */
let featureNamesTo: u32 = 0;
let featureNamesBytes: u32 = 0;

/**
 * Whether the overlay's header has room for the texts; finds their places. The extensions stand
 * where they have room already, or behind the last one, or where the names of features begin, which
 * only make errors of other programs easier to read.
 */
export function backingFits(header: usize): bool {
  const image = overlay();
  const end = endOfOthers(header, image);
  formatTo = inFirstSector(header, image.backingFormatAt, formatBytes);
  identityTo = inFirstSector(header, image.identityAt, identityBytes);
  identityRoom = identityTo ? extensionRoom(header, identityTo) : 0;
  featureNamesTo = 0;
  // When the name that bounds the extensions now has gone, what stands there must not be taken for
  // one.
  const isEnded = !image.backingNameAt || end + EXTENSION_HEAD_BYTES <= image.backingNameAt;
  if (!isEnded && end + EXTENSION_HEAD_BYTES > SECTOR_BYTES) return false;
  const addsFormat = formatBytes != 0 && !formatTo;
  const addsIdentity = identityBytes != 0 && !identityTo;
  if (addsFormat && image.backingFormatBytes) return false;
  if (!addsFormat && !addsIdentity) return placeName(end);
  if (addAt(end, addsFormat, addsIdentity) || addToFeatureNames(header, end, addsFormat))
    return true;
  if (!addsIdentity) return false;
  // Without room for its identity, another base by that name is not noticed. A format must be
  // there: what raw data is must not be guessed.
  identityTo = 0;
  return addsFormat ? addAt(end, true, false) : placeName(end);
}

/**
 * Other programs move the identity behind the first sector when they write the header: there it
 * will not stay.
 */
function endOfOthers(header: usize, image: Qcow2): u32 {
  const at = image.identityAt;
  const isLast = at > SECTOR_BYTES && at + extensionRoom(header, at) == image.extensionsEnd;
  return isLast ? at - EXTENSION_HEAD_BYTES : image.extensionsEnd;
}

/**
 * The place `at` of an extension, if it is one in the first sector that has so much room; else 0.
 */
function inFirstSector(header: usize, at: u32, bytes: u32): u32 {
  assert(bytes <= BACKING_NAME_BYTES_MAX);
  if (at == 0 || at + extensionRoom(header, at) > SECTOR_BYTES) return 0;
  return bytes <= extensionRoom(header, at) ? at : 0;
}

/** Places new extensions behind the others, with as much room for later identities as there is. */
function addAt(end: u32, format: bool, identity: bool): bool {
  let next = end;
  if (format) {
    formatTo = next + EXTENSION_HEAD_BYTES;
    next = formatTo + FORMAT_BYTES_MAX;
  }
  if (!identity) return next + EXTENSION_HEAD_BYTES <= SECTOR_BYTES && placeName(next);
  identityTo = next + EXTENSION_HEAD_BYTES;
  for (identityRoom = IDENTITY_BYTES_MAX; identityRoom >= identityBytes; identityRoom -= 8) {
    next = identityTo + identityRoom;
    if (next + EXTENSION_HEAD_BYTES <= SECTOR_BYTES && placeName(next)) return true;
  }
  return false;
}

/**
 * Places new extensions where the names of features begin; the last of these stay, as far as there
 * is room for them.
 */
function addToFeatureNames(header: usize, end: u32, format: bool): bool {
  const at = overlay().featureNamesAt;
  if (!at || !placeName(end)) return false;
  const tableEnd = at + extensionRoom(header, at);
  if (format) formatTo = at;
  identityTo = format ? at + FORMAT_BYTES_MAX + EXTENSION_HEAD_BYTES : at;
  const from = identityTo + IDENTITY_BYTES_MAX + EXTENSION_HEAD_BYTES;
  if (from > tableEnd) return false;
  featureNamesBytes = ((tableEnd - from) / FEATURE_NAME_BYTES) * FEATURE_NAME_BYTES;
  if (tableEnd - featureNamesBytes > SECTOR_BYTES) return false;
  featureNamesTo = tableEnd - featureNamesBytes;
  identityRoom = featureNamesTo - EXTENSION_HEAD_BYTES - identityTo;
  return true;
}

/**
 * Finds a place for the name behind the extensions, which end at `end`; false: there is none.
 * Behind the first sector it must not touch the one in use: it stands in a sector of its own, or
 * behind that, or before it.
 */
function placeName(end: u32): bool {
  assert(end >= overlay().headerLength);
  const image = overlay();
  const room = headerRoom(image);
  endTo = end;
  nameTo = 0;
  if (nameBytes == 0) return true;
  const from = end + EXTENSION_HEAD_BYTES;
  const behind = max(from, image.backingNameAt + image.backingNameBytes);
  const ownSector = (behind + SECTOR_BYTES - 1) & ~(SECTOR_BYTES - 1);
  if (from + nameBytes <= min(room, SECTOR_BYTES)) nameTo = from;
  else if (ownSector + nameBytes <= room) nameTo = ownSector;
  else if (behind + nameBytes <= room) nameTo = behind;
  else if (from + nameBytes <= image.backingNameAt) nameTo = from;
  return nameTo != 0;
}

/**
 * Writes what nothing refers to yet, and takes out what would tell of the old base behind the first
 * sector. False: the task waits or has failed.
 */
export function writeBackingAhead(t: Task): bool {
  const image = overlay();
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  if (!backingFits(header)) {
    fail(t, EUNSUPPORTED, R_HEADER_FULL, OVERLAY, 0);
    return false;
  }
  // What stands in the first sector goes with what refers to it.
  const from = max(nameTo, SECTOR_BYTES);
  if (nameTo + nameBytes > from) {
    memory.copy(header + from, text + from - nameTo, nameTo + nameBytes - from);
    pageChanged(header + from, nameTo + nameBytes - from, STAGE_REFCOUNTS);
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
  const image = overlay();
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  putBe64(header + AT_BACKING_OFFSET, nameTo);
  putBe32(header + AT_BACKING_BYTES, nameBytes);
  if (image.identityAt && image.identityAt != identityTo)
    putBe32(header + image.identityAt - EXTENSION_HEAD_BYTES, EXTENSION_VOID);
  if (formatTo) {
    const room =
      formatTo == image.backingFormatAt ? extensionRoom(header, formatTo) : FORMAT_BYTES_MAX;
    putExtension(header + formatTo, EXTENSION_BACKING_FORMAT, room, backingFormatAt(), formatBytes);
  }
  if (identityTo)
    putExtension(
      header + identityTo,
      EXTENSION_IDENTITY,
      identityRoom,
      backingIdentityAt(),
      identityBytes,
    );
  if (featureNamesTo) {
    putBe32(header + featureNamesTo - EXTENSION_HEAD_BYTES, EXTENSION_FEATURE_NAMES);
    putBe32(header + featureNamesTo - EXTENSION_HEAD_BYTES + 4, featureNamesBytes);
    image.featureNamesAt = featureNamesTo;
  }
  if (endTo + EXTENSION_HEAD_BYTES <= min(headerRoom(image), SECTOR_BYTES))
    putBe64(header + endTo, EXTENSION_END);
  // As much of the name as stands in this sector.
  if (nameTo < SECTOR_BYTES)
    memory.copy(header + nameTo, text, min(nameBytes, SECTOR_BYTES - nameTo));
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  image.backingNameAt = nameTo;
  image.backingNameBytes = nameBytes;
  if (formatTo) image.backingFormatAt = formatTo;
  image.backingFormatBytes = formatTo ? formatBytes : 0;
  image.identityAt = identityTo;
  image.identityBytes = identityTo ? identityBytes : 0;
  image.extensionsEnd = endTo;
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
