// Where in the overlay's header the texts of its base find room.

import {
  EXTENSION_HEAD_BYTES,
  extensionRoom,
  FEATURE_NAME_BYTES,
  FORMAT_BYTES_MAX,
  headerRoom,
} from '../formats/qcow2/header';
import { overlay, Qcow2 } from '../formats/qcow2/image';
import { BACKING_NAME_BYTES_MAX, SECTOR_BYTES } from '../limits';
import { IDENTITY_BYTES_MAX } from '../protocol';
import { backingTexts } from './texts';

/**
 * Where the texts are to stand in the header's page, 0: nowhere; and where its extensions will end.
 */
@unmanaged
export class Places {
  nameTo: u32;
  formatTo: u32;
  identityTo: u32;
  identityRoom: u32;
  endTo: u32;
  /** Where the names of features go on, if they give up room; 0: they stay as they are. */
  featureNamesTo: u32;
  featureNamesBytes: u32;
}

/** Those that were found last. */
export function places(): Places {
  return changetype<Places>(memory.data(offsetof<Places>(), 8));
}

/**
 * Whether the overlay's header has room for the texts; finds their places. The extensions stand
 * where they have room already, or behind the last one, or where the names of features begin, which
 * only make errors of other programs easier to read.
 */
export function backingFits(header: usize): bool {
  const texts = backingTexts();
  const p = places();
  const image = overlay();
  const end = endOfOthers(header, image);
  p.formatTo = inFirstSector(header, image.backingFormatAt, texts.formatBytes);
  p.identityTo = inFirstSector(header, image.identityAt, texts.identityBytes);
  p.identityRoom = p.identityTo ? extensionRoom(header, p.identityTo) : 0;
  p.featureNamesTo = 0;
  // When the name that bounds the extensions now has gone, what stands there must not be taken for
  // one.
  const isEnded = !image.backingNameAt || end + EXTENSION_HEAD_BYTES <= image.backingNameAt;
  if (!isEnded && end + EXTENSION_HEAD_BYTES > SECTOR_BYTES) return false;
  const addsFormat = texts.formatBytes != 0 && !p.formatTo;
  const addsIdentity = texts.identityBytes != 0 && !p.identityTo;
  if (addsFormat && image.backingFormatBytes) return false;
  if (!addsFormat && !addsIdentity) return placeName(end);
  if (addAt(end, addsFormat, addsIdentity) || addToFeatureNames(header, end, addsFormat))
    return true;
  if (!addsIdentity) return false;
  // Without room for its identity, another base by that name is not noticed. A format must be
  // there: what raw data is must not be guessed.
  p.identityTo = 0;
  return addsFormat ? addAt(end, true, false) : placeName(end);
}

/**
 * Other programs move the identity behind the first sector when they write the header: there it
 * will not stay.
 */
export function endOfOthers(header: usize, image: Qcow2): u32 {
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
  const p = places();
  let next = end;
  if (format) {
    p.formatTo = next + EXTENSION_HEAD_BYTES;
    next = p.formatTo + FORMAT_BYTES_MAX;
  }
  if (!identity) return next + EXTENSION_HEAD_BYTES <= SECTOR_BYTES && placeName(next);
  p.identityTo = next + EXTENSION_HEAD_BYTES;
  for (
    p.identityRoom = IDENTITY_BYTES_MAX;
    p.identityRoom >= backingTexts().identityBytes;
    p.identityRoom -= 8
  ) {
    next = p.identityTo + p.identityRoom;
    if (next + EXTENSION_HEAD_BYTES <= SECTOR_BYTES && placeName(next)) return true;
  }
  return false;
}

/**
 * Places new extensions where the names of features begin; the last of these stay, as far as there
 * is room for them.
 */
function addToFeatureNames(header: usize, end: u32, format: bool): bool {
  const p = places();
  const at = overlay().featureNamesAt;
  if (!at || !placeName(end)) return false;
  const tableEnd = at + extensionRoom(header, at);
  if (format) p.formatTo = at;
  p.identityTo = format ? at + FORMAT_BYTES_MAX + EXTENSION_HEAD_BYTES : at;
  const from = p.identityTo + IDENTITY_BYTES_MAX + EXTENSION_HEAD_BYTES;
  if (from > tableEnd) return false;
  p.featureNamesBytes = ((tableEnd - from) / FEATURE_NAME_BYTES) * FEATURE_NAME_BYTES;
  if (tableEnd - p.featureNamesBytes > SECTOR_BYTES) return false;
  p.featureNamesTo = tableEnd - p.featureNamesBytes;
  p.identityRoom = p.featureNamesTo - EXTENSION_HEAD_BYTES - p.identityTo;
  return true;
}

/**
 * Finds a place for the name behind the extensions, which end at `end`; false: there is none.
 * Behind the first sector it must not touch the one in use: it stands in a sector of its own, or
 * behind that, or before it.
 */
function placeName(end: u32): bool {
  const texts = backingTexts();
  const p = places();
  assert(end >= overlay().headerLength);
  const image = overlay();
  const room = headerRoom(image);
  p.endTo = end;
  p.nameTo = 0;
  if (texts.nameBytes == 0) return true;
  const from = end + EXTENSION_HEAD_BYTES;
  const behind = max(from, image.backingNameAt + image.backingNameBytes);
  const ownSector = (behind + SECTOR_BYTES - 1) & ~(SECTOR_BYTES - 1);
  if (from + texts.nameBytes <= min(room, SECTOR_BYTES)) p.nameTo = from;
  else if (ownSector + texts.nameBytes <= room) p.nameTo = ownSector;
  else if (behind + texts.nameBytes <= room) p.nameTo = behind;
  else if (from + texts.nameBytes <= image.backingNameAt) p.nameTo = from;
  return p.nameTo != 0;
}
