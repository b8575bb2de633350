// The qcow2 header and its extensions (QEMU's docs/interop/qcow2.txt, "Header" and "Header
// extensions"). All numbers on disk are big-endian. Here is parsed and emitted only; what is done
// about it is open.ts's and create.ts's.

import { be32, be64 } from '../../core/bytes';
import { clusterBytes } from '../../core/image';
import {
  BACKING_NAME_BYTES_MAX,
  L1_BYTES_MAX,
  OFFSET_MAX,
  PAGE_BYTES,
  REFCOUNT_TABLE_BYTES_MAX,
} from '../../limits';
import {
  OK,
  R_BACKING_NAME,
  R_CLUSTER_BITS,
  R_COMPRESSION_TYPE,
  R_ENCRYPTED,
  R_EXTENDED_L2,
  R_EXTENSION,
  R_HEADER_LENGTH,
  R_INCOMPATIBLE,
  R_L1_OFFSET,
  R_L1_SIZE,
  R_MAGIC,
  R_RAW_DATA,
  R_REFCOUNT_ORDER,
  R_REFCOUNT_TABLE,
  R_SIZE,
  R_SNAPSHOT_TABLE,
  R_TRUNCATED,
  R_VERSION,
} from '../../protocol';
import { Qcow2 } from './image';

/** "QFI\xfb" */
export const MAGIC: u32 = 0x514649fb;

export const AT_MAGIC: u32 = 0;
export const AT_VERSION: u32 = 4;
export const AT_BACKING_OFFSET: u32 = 8;
export const AT_BACKING_BYTES: u32 = 16;
export const AT_CLUSTER_BITS: u32 = 20;
export const AT_SIZE: u32 = 24;
export const AT_CRYPT_METHOD: u32 = 32;
export const AT_L1_SIZE: u32 = 36;
export const AT_L1_OFFSET: u32 = 40;
export const AT_REFCOUNT_TABLE_OFFSET: u32 = 48;
export const AT_REFCOUNT_TABLE_CLUSTERS: u32 = 56;
export const AT_SNAPSHOT_COUNT: u32 = 60;
export const AT_SNAPSHOTS_OFFSET: u32 = 64;
/** Version 3 only, from here on. */
export const AT_INCOMPATIBLE: u32 = 72;
export const AT_COMPATIBLE: u32 = 80;
export const AT_AUTOCLEAR: u32 = 88;
export const AT_REFCOUNT_ORDER: u32 = 96;
export const AT_HEADER_LENGTH: u32 = 100;
export const AT_COMPRESSION: u32 = 104;

export const HEADER_BYTES_V2: u32 = 72;
export const HEADER_BYTES_V3_MIN: u32 = 104;
/** The header we write: with the compression type, padded to eight bytes. */
export const HEADER_BYTES: u32 = 112;

export const INCOMPATIBLE_DIRTY: u64 = 1;
export const INCOMPATIBLE_CORRUPT: u64 = 2;
export const INCOMPATIBLE_EXTERNAL_DATA: u64 = 4;
export const INCOMPATIBLE_COMPRESSION: u64 = 8;
export const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
const INCOMPATIBLE_KNOWN: u64 = 31;
export const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;
/** The bitmaps extension tells of the disk as it is. */
const AUTOCLEAR_BITMAPS: u64 = 1;
/** The external data file is raw. */
const AUTOCLEAR_RAW_DATA: u64 = 2;
const AUTOCLEAR_KNOWN: u64 = 3;
/** Methods of encryption: AES, LUKS. */
const CRYPT_METHOD_LUKS: u32 = 2;

export const EXTENSION_END: u32 = 0;
export const EXTENSION_BACKING_FORMAT: u32 = 0xe2792aca;
/** Largest text of a format, and the room of its extension. */
export const FORMAT_BYTES_MAX: u32 = 8;
/** QEMU takes no longer one. */
const BACKING_FORMAT_BYTES_MAX: u32 = 15;
/** Where the header of LUKS stands, and its length. */
const EXTENSION_CRYPTO: u32 = 0x0537be77;
const CRYPTO_BYTES: u32 = 16;
export const EXTENSION_EXTERNAL_DATA: u32 = 0x44415441;
export const EXTENSION_BITMAPS: u32 = 0x23852875;
/** Count, padding, size and offset of the bitmap directory. */
const BITMAPS_BYTES: u32 = 24;
/**
 * What features are called, for errors of programs that do not know them: type, bit and name of
 * each.
 */
export const EXTENSION_FEATURE_NAMES: u32 = 0x6803f857;
export const FEATURE_NAME_BYTES: u32 = 48;
/** Ours ("MILR"): what identified the base when the overlay was made, as text. Others skip it. */
export const EXTENSION_IDENTITY: u32 = 0x4d494c52;
/** Ours ("MILX"): room for one of the others, which means nothing. */
export const EXTENSION_VOID: u32 = 0x4d494c58;
/** Type and length, before the text of an extension. */
export const EXTENSION_HEAD_BYTES: u32 = 8;

const CLUSTER_BITS_MIN: u32 = 9;
const CLUSTER_BITS_MAX: u32 = 21;
const CLUSTER_BITS_EXTENDED_MIN: u32 = 14;
const REFCOUNT_ORDER_MAX: u32 = 6;
const SNAPSHOTS_MAX: u32 = 65536;
/** As in QEMU: bitmaps, and bytes of their directory. */
const BITMAPS_MAX: u32 = 65535;
const BITMAP_DIRECTORY_BYTES_MAX: u64 = 1024 * <u64>BITMAPS_MAX;

/**
 * Bytes of the header's page that belong to the header: the rest of the first cluster is free for
 * extensions and the base's name.
 */
export function headerRoom(image: Qcow2): u32 {
  return <u32>min<u64>(clusterBytes(image), PAGE_BYTES);
}

/** Bytes that the extension whose text stands at `at` of the header's page takes there. */
export function extensionRoom(header: usize, at: u32): u32 {
  assert(at >= EXTENSION_HEAD_BYTES);
  return (be32(header + at - 4) + 7) & ~7;
}

/**
 * Reads the header page at `at` into `image`, whose file size is known; returns 0, or the reason
 * why it cannot be. What QEMU does not open is refused as there; encryption and an external data
 * file are open.ts's to refuse.
 */
export function parseHeader(at: usize, image: Qcow2): i32 {
  if (image.fileSize < HEADER_BYTES_V2 || be32(at + AT_MAGIC) != MAGIC) return R_MAGIC;
  image.version = be32(at + AT_VERSION);
  if (image.version != 2 && image.version != 3) return R_VERSION;
  image.clusterBits = be32(at + AT_CLUSTER_BITS);
  if (image.clusterBits < CLUSTER_BITS_MIN || image.clusterBits > CLUSTER_BITS_MAX)
    return R_CLUSTER_BITS;
  const reason = image.version == 3 ? parseVersion3(at, image) : versionTwo(image);
  if (reason) return reason;
  image.encryption = be32(at + AT_CRYPT_METHOD);
  if (image.encryption > CRYPT_METHOD_LUKS) return R_ENCRYPTED;
  image.l2EntryBits = image.extendedL2 ? 4 : 3;
  image.l2Bits = image.clusterBits - image.l2EntryBits;
  image.size = be64(at + AT_SIZE);
  if (image.size > OFFSET_MAX) return R_SIZE;
  const tables = parseTables(at, image);
  if (tables) return tables;
  const name = parseBackingName(at, image);
  return name ? name : parseExtensions(at, image);
}

function versionTwo(image: Qcow2): i32 {
  image.headerLength = HEADER_BYTES_V2;
  image.refcountOrder = 4;
  image.extendedL2 = false;
  image.compression = 0;
  image.dirty = false;
  image.autoclear = false;
  image.corrupt = false;
  image.lazyRefcounts = false;
  image.externalData = false;
  image.rawData = false;
  return OK;
}

function parseVersion3(at: usize, image: Qcow2): i32 {
  const length = be32(at + AT_HEADER_LENGTH);
  if (length < HEADER_BYTES_V3_MIN || length & 7 || length > headerRoom(image))
    return R_HEADER_LENGTH;
  if (image.fileSize < length) return R_TRUNCATED;
  image.headerLength = length;
  const incompatible = be64(at + AT_INCOMPATIBLE);
  if (incompatible & ~INCOMPATIBLE_KNOWN) {
    findFeatureNames(at, image);
    return R_INCOMPATIBLE;
  }
  image.externalData = (incompatible & INCOMPATIBLE_EXTERNAL_DATA) != 0;
  image.rawData = (be64(at + AT_AUTOCLEAR) & AUTOCLEAR_RAW_DATA) != 0;
  if (image.rawData && !image.externalData) return R_RAW_DATA;
  image.dirty = (incompatible & INCOMPATIBLE_DIRTY) != 0;
  image.autoclear = be64(at + AT_AUTOCLEAR) != 0;
  image.corrupt = (incompatible & INCOMPATIBLE_CORRUPT) != 0;
  image.extendedL2 = (incompatible & INCOMPATIBLE_EXTENDED_L2) != 0;
  if (image.extendedL2 && image.clusterBits < CLUSTER_BITS_EXTENDED_MIN) return R_EXTENDED_L2;
  image.lazyRefcounts = (be64(at + AT_COMPATIBLE) & COMPATIBLE_LAZY_REFCOUNTS) != 0;
  image.refcountOrder = be32(at + AT_REFCOUNT_ORDER);
  if (image.refcountOrder > REFCOUNT_ORDER_MAX) return R_REFCOUNT_ORDER;
  image.compression = length > AT_COMPRESSION ? load<u8>(at + AT_COMPRESSION) : 0;
  const marked = (incompatible & INCOMPATIBLE_COMPRESSION) != 0;
  if (image.compression > 1 || marked != (image.compression != 0)) return R_COMPRESSION_TYPE;
  return OK;
}

function parseTables(at: usize, image: Qcow2): i32 {
  const mask = clusterBytes(image) - 1;
  image.l1Size = be32(at + AT_L1_SIZE);
  image.l1Offset = be64(at + AT_L1_OFFSET);
  const fault = l1Fault(image);
  if (fault) return fault;
  let refcountBytes = (<u64>be32(at + AT_REFCOUNT_TABLE_CLUSTERS)) << image.clusterBits;
  if (refcountBytes > REFCOUNT_TABLE_BYTES_MAX) return R_REFCOUNT_TABLE;
  image.refcountTableOffset = be64(at + AT_REFCOUNT_TABLE_OFFSET);
  if (refcountBytes && image.refcountTableOffset & mask) return R_REFCOUNT_TABLE;
  // A table in the header is no table, and neither is one behind the end of the file: see
  // qcow2.ts. Its own last cluster may not be written to its end, so that only its start counts.
  if (image.refcountTableOffset == 0 || image.refcountTableOffset >= image.fileSize)
    refcountBytes = 0;
  image.refcountTableBytes = <u32>refcountBytes;
  image.snapshots = be32(at + AT_SNAPSHOT_COUNT);
  image.snapshotsOffset = be64(at + AT_SNAPSHOTS_OFFSET);
  if (image.snapshots > SNAPSHOTS_MAX) return R_SNAPSHOT_TABLE;
  // As in QEMU, its place counts even where there are none.
  if (
    image.snapshotsOffset & mask ||
    image.snapshotsOffset > <u64>i64.MAX_VALUE ||
    (image.snapshots && misplaced(image, image.snapshotsOffset, 1, mask))
  )
    return R_SNAPSHOT_TABLE;
  return OK;
}

/** What is wrong with the L1 table, by its place and the disk's size; 0: nothing. */
export function l1Fault(image: Qcow2): i32 {
  const bytes = (<u64>image.l1Size) << 3;
  const span = image.clusterBits + image.l2Bits;
  const needed = (image.size >> span) + (image.size & (((<u64>1) << span) - 1) ? 1 : 0);
  if (bytes > L1_BYTES_MAX || needed > image.l1Size) return R_L1_SIZE;
  const mask = clusterBytes(image) - 1;
  return image.l1Size && misplaced(image, image.l1Offset, bytes, mask) ? R_L1_OFFSET : OK;
}

/** A table must be aligned to clusters, behind the header, and inside the file. */
function misplaced(image: Qcow2, offset: u64, bytes: u64, mask: u64): bool {
  return (
    (offset & mask) != 0 ||
    offset == 0 ||
    offset > image.fileSize ||
    bytes > image.fileSize - offset
  );
}

function parseBackingName(at: usize, image: Qcow2): i32 {
  const offset = be64(at + AT_BACKING_OFFSET);
  const bytes = be32(at + AT_BACKING_BYTES);
  const room = headerRoom(image);
  image.backingNameAt = 0;
  image.backingNameBytes = 0;
  image.extensionsLimit = room;
  if (offset == 0) return OK;
  // Where it stands ends the extensions, though it be empty.
  if (bytes > BACKING_NAME_BYTES_MAX || offset < image.headerLength) return R_BACKING_NAME;
  if (offset > room || bytes > min<u64>(room, image.fileSize) - offset) return R_BACKING_NAME;
  image.extensionsLimit = <u32>offset;
  if (bytes == 0) return OK;
  image.backingNameAt = <u32>offset;
  image.backingNameBytes = bytes;
  return OK;
}

function parseExtensions(at: usize, image: Qcow2): i32 {
  image.backingFormatAt = 0;
  image.backingFormatBytes = 0;
  image.identityAt = 0;
  image.identityBytes = 0;
  image.featureNamesAt = 0;
  image.cryptoAt = 0;
  image.dataFileAt = 0;
  image.dataFileBytes = 0;
  image.voidBytes = 0;
  image.bitmaps = false;
  image.bitmapCount = 0;
  image.foreign = image.version > 2 && (be64(at + AT_AUTOCLEAR) & ~AUTOCLEAR_KNOWN) != 0;
  const end = image.extensionsLimit;
  let from = image.headerLength;
  while (from < end) {
    if (from + EXTENSION_HEAD_BYTES > end) return R_EXTENSION;
    const bytes = be32(at + from + 4);
    if (bytes > end - from - EXTENSION_HEAD_BYTES) return R_EXTENSION;
    const type = be32(at + from);
    if (type == EXTENSION_END) break;
    const reason = noteExtension(at, image, type, from + EXTENSION_HEAD_BYTES, bytes);
    if (reason) return reason;
    from += EXTENSION_HEAD_BYTES + ((bytes + 7) & ~7);
  }
  image.extensionsEnd = min(from, end);
  return image.encryption == CRYPT_METHOD_LUKS && image.cryptoAt == 0 ? R_EXTENSION : OK;
}

/** Takes note of an extension whose `bytes` stand at `from` of the header's page. */
function noteExtension(at: usize, image: Qcow2, type: u32, from: u32, bytes: u32): i32 {
  if (type == EXTENSION_BACKING_FORMAT) {
    if (bytes > BACKING_FORMAT_BYTES_MAX) return R_EXTENSION;
    image.backingFormatAt = from;
    image.backingFormatBytes = bytes;
  } else if (type == EXTENSION_IDENTITY) {
    image.identityAt = from;
    image.identityBytes = bytes;
  } else if (type == EXTENSION_VOID && bytes <= FORMAT_BYTES_MAX) {
    if (!image.backingFormatAt) image.backingFormatAt = from;
  } else if (type == EXTENSION_VOID) {
    if (!image.identityBytes && bytes > image.voidBytes) image.identityAt = from;
    image.voidBytes = max(image.voidBytes, bytes);
  } else if (type == EXTENSION_FEATURE_NAMES) {
    image.featureNamesAt = from;
  } else if (type == EXTENSION_EXTERNAL_DATA) {
    image.dataFileAt = from;
    image.dataFileBytes = bytes;
  } else if (type == EXTENSION_CRYPTO) {
    const aligned = (be64(at + from) & (clusterBytes(image) - 1)) == 0;
    if (image.encryption != CRYPT_METHOD_LUKS || bytes != CRYPTO_BYTES || !aligned)
      return R_EXTENSION;
    image.cryptoAt = from;
  } else if (type == EXTENSION_BITMAPS) {
    return noteBitmaps(at, image, from, bytes);
  } else {
    image.foreign = true;
  }
  return OK;
}

/** QEMU refuses an extension of another length whether or not what it tells still holds. */
function noteBitmaps(at: usize, image: Qcow2, from: u32, bytes: u32): i32 {
  image.bitmaps = true;
  if (bytes != BITMAPS_BYTES) return R_EXTENSION;
  if (image.version == 2 || !(be64(at + AT_AUTOCLEAR) & AUTOCLEAR_BITMAPS)) return OK;
  image.bitmapCount = be32(at + from);
  image.bitmapsBytes = be64(at + from + 8);
  image.bitmapsOffset = be64(at + from + 16);
  const isWrong =
    be32(at + from + 4) != 0 ||
    image.bitmapCount == 0 ||
    image.bitmapCount > BITMAPS_MAX ||
    image.bitmapsBytes > BITMAP_DIRECTORY_BYTES_MAX ||
    (image.bitmapsOffset & (clusterBytes(image) - 1)) != 0;
  return isWrong ? R_EXTENSION : OK;
}

/**
 * Of an image that cannot be followed any further: what its own table calls the features that it
 * needs.
 */
function findFeatureNames(at: usize, image: Qcow2): void {
  image.featureNamesAt = 0;
  const room = headerRoom(image);
  let from = image.headerLength;
  while (from + EXTENSION_HEAD_BYTES <= room) {
    const type = be32(at + from);
    const bytes = be32(at + from + 4);
    if (type == EXTENSION_END || bytes > room - from - EXTENSION_HEAD_BYTES) return;
    if (type == EXTENSION_FEATURE_NAMES) image.featureNamesAt = from + EXTENSION_HEAD_BYTES;
    from += EXTENSION_HEAD_BYTES + ((bytes + 7) & ~7);
  }
}
