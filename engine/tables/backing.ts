// The overlay's reference to its base, in its header. The fields that point to the name stand in the header's first sector, which
// storage writes whole or not at all: at every moment the header names the old base, the new one, or none.
import { EUNSUPPORTED, R_HEADER_FULL } from '../errors';
import {
  AT_BACKING_BYTES, AT_BACKING_OFFSET, EXTENSION_BACKING_FORMAT, EXTENSION_IDENTITY, EXTENSION_VOID, put32, put64,
} from '../format/header';
import { OVERLAY, clusterBytes, overlay } from '../core/image';
import { BACKING_NAME_BYTES_MAX, PAGE_BYTES, SECTOR_BYTES } from '../limits';
import { STAGE_REFCOUNTS, STAGE_ROOTS, pageChanged, pageGet } from '../core/pages';
import { Task, fail } from '../core/task';

/** Largest text of a base's identity that a header takes. */
export const IDENTITY_BYTES_MAX: u32 = 256;
const FORMAT_BYTES_MAX: u32 = 8;

/** What the host wants recorded as the base: name, format and identity, one behind the other, with their lengths. */
let text: usize = 0;
let nameBytes: u32 = 0;
let formatBytes: u32 = 0;
let identityBytes: u32 = 0;

export function backingInit(at: usize): void {
  text = at;
  nameBytes = 0;
  formatBytes = 0;
  identityBytes = 0;
}

/** Called once the host has put the three texts at the text area, one behind the other. False if one is too long. */
export function setBackingTexts(name: u32, format: u32, identity: u32): bool {
  if (name > BACKING_NAME_BYTES_MAX || format > FORMAT_BYTES_MAX) return false;
  nameBytes = name;
  formatBytes = format;
  identityBytes = identity <= IDENTITY_BYTES_MAX ? identity : 0;
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

/** Where a new name can stand without touching the one in use: a sector of its own, or behind the old one. 0: there is no room. */
function roomForName(): u32 {
  const image = overlay();
  const room = <u32>min<u64>(clusterBytes(image), PAGE_BYTES);
  const behind = max(image.extensionsEnd + 8, image.backingNameAt + image.backingNameBytes);
  const at = room > SECTOR_BYTES ? (behind + SECTOR_BYTES - 1) & ~(SECTOR_BYTES - 1) : (behind + 7) & ~7;
  if (at + nameBytes <= room) return at;
  // The old name may stand far back: before it there may be room as well, be it in the sector of the fields that will point to it.
  const front = (image.extensionsEnd + 8 + 7) & ~7;
  return front + nameBytes <= image.backingNameAt ? front : 0;
}

/** Writes the name of the new base where nothing refers to it yet. False: the task waits or has failed. */
export function writeBackingName(t: Task): bool {
  const at = roomForName();
  if (!at) {
    fail(t, EUNSUPPORTED, R_HEADER_FULL, OVERLAY, 0);
    return false;
  }
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  memory.copy(header + at, text, nameBytes);
  pageChanged(header + at, nameBytes, STAGE_REFCOUNTS);
  t.argument = at;
  return true;
}

/** Lets the header refer to the name written before (`t.argument`), or to no base at all. False: the task waits or has failed. */
export function referToBacking(t: Task, none: bool): bool {
  const image = overlay();
  const header = pageGet(t, OVERLAY, 0);
  if (!header) return false;
  image.backingNameAt = none ? 0 : <u32>t.argument;
  image.backingNameBytes = none ? 0 : nameBytes;
  put64(header + AT_BACKING_OFFSET, image.backingNameAt);
  put32(header + AT_BACKING_BYTES, image.backingNameBytes);
  setExtension(header, image.backingFormatAt, EXTENSION_BACKING_FORMAT, text + nameBytes, none ? 0 : formatBytes);
  setExtension(header, image.identityAt, EXTENSION_IDENTITY, text + nameBytes + formatBytes, none ? 0 : identityBytes);
  pageChanged(header, SECTOR_BYTES, STAGE_ROOTS);
  return true;
}

/** Gives an extension that stands in the first sector a new text, or makes it mean nothing if that is empty or does not fit. */
function setExtension(header: usize, at: u32, type: u32, from: usize, bytes: u32): void {
  if (!at) return;
  const head = header + at - 8;
  const room = (bswap<u32>(load<u32>(head, 4)) + 7) & ~7;
  if (at + room > SECTOR_BYTES) return;
  if (bytes == 0 || bytes > room) {
    put32(head, EXTENSION_VOID);
    return;
  }
  put32(head, type);
  // The identity, which nobody else reads, may be followed by zeros: so its room stays, for a longer one.
  put32(head + 4, type == EXTENSION_IDENTITY ? room : bytes);
  memory.fill(header + at, 0, room);
  memory.copy(header + at, from, bytes);
}
