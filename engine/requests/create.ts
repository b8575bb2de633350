// Creating an overlay: a qcow2 version 3 image with empty tables, laid out as header, refcount
// table, refcount blocks, L1 table. The file is empty before; until the header is written, last, it
// is no image at all.

import { putBe32, putBe64 } from '../core/bytes';
import { clusterBytes } from '../core/image';
import { STAGE_REFCOUNTS, STAGE_ROOTS } from '../core/page';
import { pageChanged, pageGet } from '../core/pages';
import { ioBegin } from '../core/ring';
import { DONE, fail, ON_IO, ON_SLOT, recordOf, Task, WAIT, wait } from '../core/task';
import {
  AT_BACKING_BYTES,
  AT_BACKING_OFFSET,
  AT_CLUSTER_BITS,
  AT_COMPATIBLE,
  AT_COMPRESSION,
  AT_HEADER_LENGTH,
  AT_INCOMPATIBLE,
  AT_L1_OFFSET,
  AT_L1_SIZE,
  AT_MAGIC,
  AT_REFCOUNT_ORDER,
  AT_REFCOUNT_TABLE_CLUSTERS,
  AT_REFCOUNT_TABLE_OFFSET,
  AT_SIZE,
  AT_VERSION,
  COMPATIBLE_LAZY_REFCOUNTS,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_HEAD_BYTES,
  EXTENSION_IDENTITY,
  FORMAT_BYTES_MAX,
  HEADER_BYTES,
  headerRoom,
  INCOMPATIBLE_COMPRESSION,
  INCOMPATIBLE_EXTENDED_L2,
  MAGIC,
  parseHeader,
} from '../formats/qcow2/header';
import { overlay, Qcow2 } from '../formats/qcow2/image';
import { L1_BYTES_MAX, PAGE_BYTES, REFCOUNT_TABLE_BYTES_MAX, SECTOR_BYTES } from '../limits';
import { putExtension } from '../overlay/backing';
import { flushed } from '../overlay/flush';
import { putRefcount, refcountsPerBlock } from '../overlay/refcounts';
import { backingTexts } from '../overlay/texts';
import {
  CREATE_COMPRESSION_SHIFT,
  CREATE_EXTENDED_L2_SHIFT,
  CREATE_LAZY_REFCOUNTS_SHIFT,
  CREATE_REFCOUNT_ORDER_SHIFT,
  EINVAL,
  FORMAT_QCOW2,
  IDENTITY_BYTES_MAX,
  KIND_CREATE,
  METHOD_ZSTD,
  OK,
  OP_TRUNCATE,
  OVERLAY,
  R_CLUSTER_BITS,
  R_COMPRESSION_TYPE,
  R_HEADER_FULL,
  R_REFCOUNT_ORDER,
  R_TOO_LARGE,
} from '../protocol';

const PLAN: u32 = 0;
const LENGTH: u32 = 1;
const BLOCKS: u32 = 2;
const TABLE: u32 = 3;
const HEADER: u32 = 4;
const FLUSH: u32 = 5;

const REFCOUNT_ORDER_MAX: u64 = 6;
/** Room for an identity where the header is one sector; the longest that servers usually give. */
const IDENTITY_BYTES_SMALL: u32 = 96;

/** The texts of backing.ts tell the base. */
@unmanaged
class CreateTask extends Task {
  /** Refcount blocks, and how many of them the table has. */
  blocks: u64;
  entered: u64;
  /** Clusters that have been counted in them. */
  counted: u64;

  /** Bytes of the disk. */
  get size(): u64 {
    return this.length;
  }

  get clusterBits(): u32 {
    return <u32>(this.argument & 255);
  }

  get refcountOrder(): u32 {
    return <u32>((this.argument >> CREATE_REFCOUNT_ORDER_SHIFT) & 255);
  }

  get extendedL2(): bool {
    return ((this.argument >> CREATE_EXTENDED_L2_SHIFT) & 1) != 0;
  }

  get compression(): u32 {
    return <u32>((this.argument >> CREATE_COMPRESSION_SHIFT) & 127);
  }

  /**
   * Others may write refcounts late while the header says that the image is in use; here they are
   * always written before what needs them.
   */
  get lazyRefcounts(): bool {
    return ((this.argument >> CREATE_LAZY_REFCOUNTS_SHIFT) & 1) != 0;
  }
}

export function runCreate(task: Task): i32 {
  const t = recordOf<CreateTask>(task, KIND_CREATE);
  const image = overlay();
  if (t.state == PLAN) {
    const reason = plan(t, image);
    if (reason) {
      fail(t, EINVAL, reason, OVERLAY, 0);
      return WAIT;
    }
    t.state = LENGTH;
  }
  if (t.state == LENGTH) {
    // The L1 table is all zeros: the file need only be that long.
    image.fileSize = image.l1Offset + align((<u64>image.l1Size) << 3, image);
    const s = ioBegin(t, OP_TRUNCATE, OVERLAY, image.fileSize, 0, 0);
    if (s === null) return wait(t, ON_SLOT);
    t.state = BLOCKS;
  }
  if (t.pending) return wait(t, ON_IO);
  if (t.state == BLOCKS) {
    while (t.counted < image.fileSize >> image.clusterBits) if (!fillPart(t, image)) return WAIT;
    t.state = TABLE;
  }
  if (t.state == TABLE) {
    while (t.entered < t.blocks) {
      const at = pageGet(t, OVERLAY, image.refcountTableOffset + (t.entered << 3));
      if (!at) return WAIT;
      putBe64(at, firstBlock(image) + (t.entered << image.clusterBits));
      pageChanged(at, 8, STAGE_REFCOUNTS);
      t.entered++;
    }
    t.state = HEADER;
  }
  if (t.state == HEADER) {
    const header = pageGet(t, OVERLAY, 0);
    if (!header) return WAIT;
    const bytes = writeHeader(header, image);
    if (!bytes) {
      fail(t, EINVAL, R_HEADER_FULL, OVERLAY, 0);
      return WAIT;
    }
    pageChanged(header, bytes, STAGE_ROOTS);
    t.state = FLUSH;
    image.format = FORMAT_QCOW2;
    const reason = parseHeader(header, image);
    assert(reason == OK);
    image.cleaning = true;
  }
  if (!flushed(t)) return WAIT;
  image.cleaning = false;
  return DONE;
}

/**
 * Settles the layout: cluster counts depend on each other, since refcount blocks count themselves.
 */
function plan(t: CreateTask, image: Qcow2): i32 {
  image.version = 3;
  image.clusterBits = t.clusterBits;
  image.refcountOrder = t.refcountOrder;
  image.extendedL2 = t.extendedL2;
  image.compression = t.compression;
  image.lazyRefcounts = t.lazyRefcounts;
  image.size = t.size;
  if (image.clusterBits < 9 || image.clusterBits > 21) return R_CLUSTER_BITS;
  if (image.extendedL2 && image.clusterBits < 14) return R_CLUSTER_BITS;
  if (image.refcountOrder > REFCOUNT_ORDER_MAX) return R_REFCOUNT_ORDER;
  if (image.compression > <u32>METHOD_ZSTD) return R_COMPRESSION_TYPE;
  image.l2EntryBits = image.extendedL2 ? 4 : 3;
  image.l2Bits = image.clusterBits - image.l2EntryBits;
  const span = image.clusterBits + image.l2Bits;
  const entries = (image.size + ((<u64>1) << span) - 1) >> span;
  if (entries << 3 > L1_BYTES_MAX) return R_TOO_LARGE;
  image.l1Size = <u32>entries;
  const l1Clusters = align(entries << 3, image) >> image.clusterBits;
  // Room for the refcounts of everything that the disk can take when it is full, so that the table
  // need never grow.
  const dataClusters = (image.size >> image.clusterBits) + (entries << 1) + l1Clusters + 16;
  const perBlock = refcountsPerBlock(image);
  const tableBytes = align(
    ((dataClusters + dataClusters / (perBlock - 1)) / perBlock + 2) << 3,
    image,
  );
  const tableClusters = max<u64>(1, min(tableBytes, REFCOUNT_TABLE_BYTES_MAX) >> image.clusterBits);
  let blocks: u64 = 1;
  while (blocks * perBlock < 1 + tableClusters + blocks + l1Clusters) blocks++;
  image.refcountTableOffset = clusterBytes(image);
  image.refcountTableBytes = <u32>(tableClusters << image.clusterBits);
  image.l1Offset = firstBlock(image) + (blocks << image.clusterBits);
  t.blocks = blocks;
  return 0;
}

function firstBlock(image: Qcow2): u64 {
  return image.refcountTableOffset + image.refcountTableBytes;
}

function align(bytes: u64, image: Qcow2): u64 {
  const mask = clusterBytes(image) - 1;
  return (bytes + mask) & ~mask;
}

/** Counts the clusters in use that have not been yet, as far as one page of refcounts goes. */
function fillPart(t: CreateTask, image: Qcow2): bool {
  assert(t.counted < image.fileSize >> image.clusterBits);
  const used = image.fileSize >> image.clusterBits;
  const byte = (t.counted << image.refcountOrder) >> 3;
  const at = pageGet(t, OVERLAY, firstBlock(image) + byte);
  if (!at) return false;
  const pageEnd = PAGE_BYTES - <u32>((firstBlock(image) + byte) % PAGE_BYTES);
  const room = ((<u64>pageEnd) << 3) >> image.refcountOrder;
  const count = min(used - t.counted, room);
  for (let i: u64 = 0; i < count; i++) putRefcount(at, <u32>i, image.refcountOrder, 1);
  pageChanged(at, <u32>(((count << image.refcountOrder) + 7) >> 3), STAGE_REFCOUNTS);
  t.counted += count;
  return true;
}

/**
 * Writes header, extensions and the base's name; returns the bytes used, or 0 if they do not fit
 * into the first cluster.
 */
function writeHeader(at: usize, image: Qcow2): u32 {
  assert(image.l1Offset != 0 && image.refcountTableOffset != 0);
  const room = headerRoom(image);
  memory.fill(at, 0, room);
  putBe32(at + AT_MAGIC, MAGIC);
  putBe32(at + AT_VERSION, 3);
  putBe32(at + AT_CLUSTER_BITS, image.clusterBits);
  putBe64(at + AT_SIZE, image.size);
  putBe32(at + AT_L1_SIZE, image.l1Size);
  putBe64(at + AT_L1_OFFSET, image.l1Offset);
  putBe64(at + AT_REFCOUNT_TABLE_OFFSET, image.refcountTableOffset);
  putBe32(at + AT_REFCOUNT_TABLE_CLUSTERS, image.refcountTableBytes >> image.clusterBits);
  putBe64(
    at + AT_INCOMPATIBLE,
    (image.extendedL2 ? INCOMPATIBLE_EXTENDED_L2 : 0) |
      (image.compression ? INCOMPATIBLE_COMPRESSION : 0),
  );
  putBe64(at + AT_COMPATIBLE, image.lazyRefcounts ? COMPATIBLE_LAZY_REFCOUNTS : 0);
  store<u8>(at + AT_COMPRESSION, <u8>image.compression);
  putBe32(at + AT_REFCOUNT_ORDER, image.refcountOrder);
  putBe32(at + AT_HEADER_LENGTH, HEADER_BYTES);
  return writeBacking(at, room);
}

/** The extensions have room for what another base may need. */
function writeBacking(at: usize, room: u32): u32 {
  const texts = backingTexts();
  const name = texts.nameBytes;
  const formatAt = HEADER_BYTES + EXTENSION_HEAD_BYTES;
  const identityAt = formatAt + FORMAT_BYTES_MAX + EXTENSION_HEAD_BYTES;
  const identityLeast = (texts.identityBytes + 7) & ~7;
  // The end of the extensions is eight zero bytes.
  const others = identityAt + EXTENSION_HEAD_BYTES + name;
  if (others + identityLeast > room) return 0;
  const wanted = room > SECTOR_BYTES ? IDENTITY_BYTES_MAX : IDENTITY_BYTES_SMALL;
  const identityRoom = max(identityLeast, min(wanted, (room - others) & ~7));
  putExtension(
    at + formatAt,
    EXTENSION_BACKING_FORMAT,
    FORMAT_BYTES_MAX,
    texts.formatAt,
    texts.formatBytes,
  );
  putExtension(
    at + identityAt,
    EXTENSION_IDENTITY,
    identityRoom,
    texts.identityAt,
    texts.identityBytes,
  );
  const end = identityAt + identityRoom + EXTENSION_HEAD_BYTES;
  if (!name) return end;
  putBe64(at + AT_BACKING_OFFSET, end);
  putBe32(at + AT_BACKING_BYTES, name);
  memory.copy(at + end, texts.nameAt, name);
  return end + name;
}
