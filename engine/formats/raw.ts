// Raw images: the file is the disk. Work that can leave out holes is told of those.

import { be32 } from '../core/bytes';
import { dataExtent, Extent, extentOf } from '../core/extent';
import { fileOf } from '../core/files';
import { Image } from '../core/image';
import { holesGet } from '../core/pages';
import { Task } from '../core/task';
import { HOLE_BLOCKS_MIN, PAGE_BYTES, PAGE_MASK } from '../limits';
import { HOLE_BLOCK_BITS, ZEROES } from '../protocol';

/**
 * Raw images have no clusters; where one stands in the overlay's place, requests for it are cut as
 * with the usual ones (64 KiB).
 */
const RAW_CLUSTER_BITS: u32 = 16;

/**
 * What no other format takes for its own is raw, but for what others would see as something else.
 */
export function isRaw(header: usize, image: Image): bool {
  return !isOtherFormat(header, image.fileSize);
}

export function openRaw(_t: Task, image: Image): bool {
  image.clusterBits = RAW_CLUSTER_BITS;
  image.size = image.fileSize;
  return true;
}

/**
 * Holes are zeros. Copies read over the short ones among data: one operation costs more than they
 * do. A guest that waits for what it reads is not kept by the question where holes are.
 */
export function lookupRaw(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  const least = t === null ? HOLE_BLOCKS_MIN : t.overHoles ? 0 : t.holeBlocksMin;
  if (least == 0 || !fileOf(image.file).tellsHoles) return dataExtent(length, image.file, offset);
  const map = holesGet(t, image.file, offset);
  return map ? lookupHoles(map, image.file, offset, length, least) : null;
}

/**
 * `map` is where the map of holes tells of `offset`; holes of less than `least` blocks count as
 * data.
 */
function lookupHoles(map: usize, file: u32, offset: u64, length: u64, least: u32): Extent {
  assert(least > 0);
  const word = map & ~7;
  const block = <u32>(map - word) * 8 + (<u32>(offset >> HOLE_BLOCK_BITS) & 7);
  // The page is aligned in memory as it is in the map.
  const end = (PAGE_BYTES - <u32>(word & PAGE_MASK)) * 8;
  const within = offset & (((<u64>1) << HOLE_BLOCK_BITS) - 1);
  const holeEnd = isSet(word, block) ? block : alike(word, block, end);
  if (holeEnd - block >= least)
    return extentOf(ZEROES, min(((<u64>(holeEnd - block)) << HOLE_BLOCK_BITS) - within, length));
  const enough = block + <u32>min<u64>((length + within) >> HOLE_BLOCK_BITS, end);
  const blocks: u64 = dataEnd(word, holeEnd, end, enough, least) - block;
  return dataExtent(min((blocks << HOLE_BLOCK_BITS) - within, length), file, offset);
}

/**
 * Where the data that begins at `bit` ends, holes of less than `least` bits among it; behind
 * `enough` it does not matter.
 */
function dataEnd(words: usize, bit: u32, end: u32, enough: u32, least: u32): u32 {
  assert(bit <= end);
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

/**
 * The first bit behind `bit`, before `end`, that is not like it; else `end`, which is a multiple of
 * 64.
 */
function alike(words: usize, bit: u32, end: u32): u32 {
  const like: u64 = isSet(words, bit) ? u64.MAX_VALUE : 0;
  for (let at = bit; at < end; at = (at | 63) + 1) {
    const differs = (load<u64>(words + ((at >> 6) << 3)) ^ like) >> (at & 63);
    if (differs) return at + <u32>ctz(differs);
  }
  return end;
}

/** Formats that others would see where we would see raw data: VMDK 3, LUKS, and qcow version 1. */
function isOtherFormat(at: usize, bytes: u64): bool {
  if (bytes < 512) return false;
  const word = be32(at);
  return (
    word == 0x434f5744 || // COWD
    (word == 0x4c554b53 && load<u16>(at, 4) == 0xbeba) || // LUKS\xba\xbe
    (word == 0x514649fb && be32(at + 4) == 1) // QFI\xfb
  );
}
