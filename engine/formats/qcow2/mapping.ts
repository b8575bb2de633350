// What an image says of a position: the one place where L1 and L2 tables are read. Every entry is checked before it is followed. Of raw
// images, work that can leave out holes is told of those.

import {
  clusterBytes,
  Image,
  imageAt,
  imageCount,
  inFixedMetadata,
  l2Span,
} from '../../core/image';
import { holesGet, pageGet } from '../../core/pages';
import { fail, Task } from '../../core/task';
import { HOLE_BLOCKS_MIN, PAGE_BYTES, PAGE_MASK, SECTOR_BYTES } from '../../limits';
import {
  ABSENT,
  COMPRESSED_DATA,
  DATA,
  ECORRUPT,
  FORMAT_RAW,
  HOLE_BLOCK_BITS,
  KIND_MAP,
  KIND_STREAM,
  OVERLAY,
  R_CLUSTER_IN_METADATA,
  R_CLUSTER_OUTSIDE,
  R_CLUSTER_UNALIGNED,
  R_COMPRESSED,
  R_L1_ENTRY,
  R_L2_ENTRY,
  R_SUBCLUSTERS,
  ZEROES,
} from '../../protocol';
import { get64 } from './header';
import {
  COMPRESSED,
  COPIED,
  compressedBytes,
  compressedOffset,
  L1_RESERVED,
  L2_RESERVED,
  OFFSET_MASK,
  SUBCLUSTERS,
  ZERO,
} from './l2';

/** The answer of the last lookup. */
export let foundState: u32 = ABSENT;
/** Bytes from the asked position on that are in this state (and, for data, contiguous in the file). */
export let foundLength: u64 = 0;
/** Where it is in the file: of the asked position for data, of the cluster's stream if compressed; for zeros the kept cluster or 0. */
export let foundHost: u64 = 0;
/** Bytes of the compressed stream. */
export let foundBytes: u64 = 0;
/** The image that decided, by its number and by its depth in the chain. */
export let foundImage: u32 = 0;
export let foundDepth: u32 = 0;
/** The cluster has subclusters that are absent, beside others that are not: it must be completed as a whole. */
export let foundHoles: bool = false;
/** The cluster has its own place and all of it is data: it may be written in place. */
export let foundWhole: bool = false;
/** The entry says that nothing else refers to the cluster. */
export let foundCopied: bool = false;

/** Entries that one lookup follows: nobody can use a longer run at once, and who wants to know asks again. */
const RUN_ENTRIES_MAX: u32 = 512;

/**
 * Looks up `offset` in one image, and how far (up to `length`) it goes on alike. False: the task waits or has failed.
 * The offset lies inside the image.
 */
export function lookup(t: Task | null, image: Image, offset: u64, length: u64): bool {
  foundImage = image.index;
  foundHoles = false;
  foundWhole = false;
  foundHost = 0;
  if (offset >= image.size) return found(ZEROES, length);
  length = min(length, image.size - offset);
  if (image.format == FORMAT_RAW) return lookupRaw(t, image, offset, length);
  const l1Index = offset >> (image.clusterBits + image.l2Bits);
  const l1 = pageGet(t, image.index, image.l1Offset + (l1Index << 3));
  if (!l1) return false;
  const entry = get64(l1);
  const table = entry & OFFSET_MASK;
  const span = l2Span(image);
  const toTableEnd = span - (offset & (span - 1));
  length = min(length, toTableEnd);
  if (!isTableSound(t, image, entry, image.l1Offset + (l1Index << 3))) return false;
  if (table == 0) return found(ABSENT, length);
  const at = l2EntryPlace(image, table, offset);
  const l2 = pageGet(t, image.index, at);
  if (!l2) return false;
  return image.extendedL2
    ? lookupSubclusters(t, image, l2, at, offset, length)
    : lookupClusters(t, image, l2, at, offset, length);
}

/** Whether an L1 entry, which stands at `at` of the file, points to nothing or to where a table can be. */
export function isTableSound(t: Task | null, image: Image, entry: u64, at: u64): bool {
  const table = entry & OFFSET_MASK;
  if (entry & L1_RESERVED) return corrupt(t, image, R_L1_ENTRY, at);
  if (table == 0) return true;
  if (!placed(t, image, table, clusterBytes(image), at)) return false;
  return table + clusterBytes(image) <= image.fileSize || corrupt(t, image, R_CLUSTER_OUTSIDE, at);
}

/** Whether an L2 entry, which stands at `at` of the file, has no place or one where a cluster can be. */
export function isClusterSound(t: Task, image: Image, entry: u64, at: u64): bool {
  if (entry & COMPRESSED) return compressedState(t, image, entry, at);
  const host = entry & OFFSET_MASK;
  return host == 0 || placed(t, image, host, clusterBytes(image), at);
}

/**
 * As lookup, but from image `depth` down to the one that decides, not as far as `bottom`. Past a base's end all is zeros. A task that is
 * run again does not look again into bases that had nothing there: the tables of a long chain would push each other out of the cache.
 */
export function lookupChain(
  t: Task | null,
  depth: u32,
  bottom: u32,
  offset: u64,
  length: u64,
): bool {
  for (let i = depth; i < bottom; i++) {
    if (
      t !== null &&
      i > <u32>OVERLAY &&
      i < t.passedTo &&
      t.passedAt == offset &&
      t.passedOf == imageCount()
    ) {
      length = min(length, t.passedLength);
      continue;
    }
    if (!lookup(t, imageAt(i), offset, length)) return false;
    length = foundLength;
    foundDepth = i;
    if (foundState != ABSENT) return true;
    if (t !== null && i > <u32>OVERLAY) notePassed(t, i + 1, offset, length);
  }
  foundState = ABSENT;
  foundLength = length;
  return true;
}

/** The bases above depth `to` have nothing in this range. They never change: it stays true as long as they are in the chain. */
function notePassed(t: Task, to: u32, offset: u64, length: u64): void {
  t.passedAt = offset;
  t.passedLength = length;
  t.passedTo = to;
  t.passedOf = imageCount();
}

/** Where the L2 entry for `offset` of the disk stands in the file; `table` is its L2 table. */
export function l2EntryPlace(image: Image, table: u64, offset: u64): u64 {
  const index = (offset >> image.clusterBits) & (((<u64>1) << image.l2Bits) - 1);
  return table + (index << image.l2EntryBits);
}

function found(state: u32, length: u64): bool {
  foundState = state;
  foundLength = length;
  return true;
}

/**
 * Holes are zeros. Copies read over the short ones among data: one operation costs more than they do. A guest that waits for what it
 * reads is not kept by the question where holes are.
 */
function lookupRaw(t: Task | null, image: Image, offset: u64, length: u64): bool {
  if (
    image.tellsHoles &&
    (t === null || (t.background && !t.overHoles) || t.kind == KIND_STREAM || t.kind == KIND_MAP)
  ) {
    const map = holesGet(t, image.index, offset);
    return (
      map != 0 &&
      lookupHoles(map, offset, length, t !== null && t.kind == KIND_MAP ? 1 : HOLE_BLOCKS_MIN)
    );
  }
  foundHost = offset;
  return found(DATA, length);
}

/** `map` is where the map of holes tells of `offset`; holes of less than `least` blocks count as data. */
function lookupHoles(map: usize, offset: u64, length: u64, least: u32): bool {
  const word = map & ~7;
  const block = <u32>(map - word) * 8 + (<u32>(offset >> HOLE_BLOCK_BITS) & 7);
  // The page is aligned in memory as it is in the map.
  const end = (PAGE_BYTES - <u32>(word & PAGE_MASK)) * 8;
  const within = offset & (((<u64>1) << HOLE_BLOCK_BITS) - 1);
  const holeEnd = isSet(word, block) ? block : alike(word, block, end);
  if (holeEnd - block >= least)
    return found(ZEROES, min(((<u64>(holeEnd - block)) << HOLE_BLOCK_BITS) - within, length));
  const enough = block + <u32>min<u64>((length + within) >> HOLE_BLOCK_BITS, end);
  foundHost = offset;
  return found(
    DATA,
    min(
      ((<u64>(dataEnd(word, holeEnd, end, enough, least) - block)) << HOLE_BLOCK_BITS) - within,
      length,
    ),
  );
}

/** Where the data that begins at `bit` ends, holes of less than `least` bits among it; behind `enough` it does not matter. */
function dataEnd(words: usize, bit: u32, end: u32, enough: u32, least: u32): u32 {
  let at = bit;
  while (at < end && at <= enough) {
    if (!isSet(words, at)) {
      const next = alike(words, at, end);
      if (next - at >= least) break;
      at = next;
    } else {
      at = alike(words, at, end);
    }
  }
  return at;
}

function isSet(words: usize, bit: u32): bool {
  return ((load<u8>(words + (bit >> 3)) >> <u8>(bit & 7)) & 1) != 0;
}

/** The first bit behind `bit`, before `end`, that is not like it; else `end`, which is a multiple of 64. */
function alike(words: usize, bit: u32, end: u32): u32 {
  const like: u64 = isSet(words, bit) ? u64.MAX_VALUE : 0;
  for (let at = bit; at < end; at = (at | 63) + 1) {
    const differs = (load<u64>(words + ((at >> 6) << 3)) ^ like) >> (at & 63);
    if (differs) return at + <u32>ctz(differs);
  }
  return end;
}

function lookupClusters(
  t: Task | null,
  image: Image,
  l2: usize,
  at: u64,
  offset: u64,
  length: u64,
): bool {
  const cluster = clusterBytes(image);
  const within = offset & (cluster - 1);
  const first = get64(l2);
  if (!entryState(t, image, first, at)) return false;
  const state = foundState;
  const host = foundHost;
  let run = cluster - within;
  if (state != COMPRESSED_DATA) {
    // Neighbouring entries of the same page that go on alike.
    const pageEnd = l2 + min<usize>(PAGE_BYTES - <u32>(at & PAGE_MASK), RUN_ENTRIES_MAX * 8);
    let expected = first;
    for (let next = l2 + 8; next < pageEnd && run < length; next += 8) {
      if (state == DATA) expected += cluster;
      const entry = get64(next);
      if (state == DATA ? (entry ^ expected) & ~COPIED : entry != first) break;
      run += cluster;
    }
    if (state == DATA && !inFile(t, image, host, within + min(run, length), at)) return false;
  }
  foundWhole = state == DATA;
  foundCopied = (first & COPIED) != 0;
  foundState = state;
  foundHost = state == DATA ? host + within : host;
  foundLength = min(run, length);
  return true;
}

/** Sets state and host position of one standard entry. */
function entryState(t: Task | null, image: Image, entry: u64, at: u64): bool {
  foundHost = 0;
  if (entry & COMPRESSED) return compressedState(t, image, entry, at);
  if (entry & L2_RESERVED || (entry & ZERO && image.version == 2))
    return corrupt(t, image, R_L2_ENTRY, at);
  const host = entry & OFFSET_MASK;
  if (host && !placed(t, image, host, clusterBytes(image), at)) return false;
  foundHost = host;
  foundState = entry & ZERO ? ZEROES : host ? DATA : ABSENT;
  return true;
}

function compressedState(t: Task | null, image: Image, entry: u64, at: u64): bool {
  const host = compressedOffset(image, entry);
  const bytes = compressedBytes(image, entry);
  const cluster = clusterBytes(image);
  if (entry & COPIED || host < cluster) return corrupt(t, image, R_COMPRESSED, at);
  if (host >= image.fileSize) return corrupt(t, image, R_CLUSTER_OUTSIDE, at);
  if (inFixedMetadata(image, host, bytes)) return corrupt(t, image, R_CLUSTER_IN_METADATA, at);
  foundHost = host;
  // It may claim more sectors than a stream can need: other writers are not made to count them.
  foundBytes = min(min(bytes, cluster + SECTOR_BYTES), image.fileSize - host);
  foundState = COMPRESSED_DATA;
  return true;
}

function lookupSubclusters(
  t: Task | null,
  image: Image,
  l2: usize,
  at: u64,
  offset: u64,
  length: u64,
): bool {
  const cluster = clusterBytes(image);
  const entry = get64(l2);
  const bitmap = get64(l2 + 8);
  const within = offset & (cluster - 1);
  if (entry & COMPRESSED) {
    if (bitmap) return corrupt(t, image, R_SUBCLUSTERS, at);
    if (!compressedState(t, image, entry, at)) return false;
    foundLength = min(cluster - within, length);
    return true;
  }
  const host = entry & OFFSET_MASK;
  const allocated = <u32>bitmap;
  const zero = <u32>(bitmap >> 32);
  if (entry & (L2_RESERVED | ZERO)) return corrupt(t, image, R_L2_ENTRY, at);
  if (allocated & zero || (allocated && !host)) return corrupt(t, image, R_SUBCLUSTERS, at);
  if (host && !placed(t, image, host, cluster, at)) return false;
  const subclusterBits = image.clusterBits - 5;
  const first = <u32>(within >> subclusterBits);
  const state = subclusterState(allocated, zero, first);
  let end = first + 1;
  while (end < SUBCLUSTERS && subclusterState(allocated, zero, end) == state) end++;
  const run = ((<u64>end) << subclusterBits) - within;
  foundState = state;
  foundHoles = (allocated | zero) != 0 && (allocated | zero) != 0xffffffff;
  foundWhole = allocated == 0xffffffff;
  foundCopied = (entry & COPIED) != 0;
  foundHost = state == DATA ? host + within : host;
  foundLength = min(run, length);
  return state != DATA || inFile(t, image, host, within + foundLength, at);
}

function subclusterState(allocated: u32, zero: u32, index: u32): u32 {
  const bit = (<u32>1) << index;
  return allocated & bit ? DATA : zero & bit ? ZEROES : ABSENT;
}

/** A table or cluster must be aligned, in the file, and not over the fixed metadata. */
function placed(t: Task | null, image: Image, offset: u64, bytes: u64, at: u64): bool {
  if (offset & (clusterBytes(image) - 1)) return corrupt(t, image, R_CLUSTER_UNALIGNED, at);
  if (offset >= image.fileSize) return corrupt(t, image, R_CLUSTER_OUTSIDE, at);
  if (inFixedMetadata(image, offset, bytes)) return corrupt(t, image, R_CLUSTER_IN_METADATA, at);
  return true;
}

function inFile(t: Task | null, image: Image, host: u64, bytes: u64, at: u64): bool {
  if (host + bytes > image.fileSize) return corrupt(t, image, R_CLUSTER_OUTSIDE, at);
  if (inFixedMetadata(image, host, bytes)) return corrupt(t, image, R_CLUSTER_IN_METADATA, at);
  return true;
}

function corrupt(t: Task | null, image: Image, reason: i32, at: u64): bool {
  if (t !== null) fail(t, ECORRUPT, reason, image.index, at);
  return false;
}
