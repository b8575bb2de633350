// An image whose disk lies in several files, one part behind the other: the host tells which by
// `setPart`, and opens each as an image of its own, in whatever format it has, before the whole.

import { Extent, extentOf } from '../core/extent';
import { File, fileOf, PART_ZEROES } from '../core/files';
import { Image, imageOf } from '../core/image';
import { Task } from '../core/task';
import { OFFSET_MAX } from '../limits';
import {
  ECORRUPT,
  EUNSUPPORTED,
  FILES_MAX,
  FORMAT_PROBE,
  FORMAT_RAW,
  IMAGES_MAX,
  R_FORMAT_VERSION,
  R_PART_SIZE,
  R_PARTS,
  ZEROES,
} from '../protocol';
import { blocksOf } from './blocks';
import { formatOf, refuse } from './format';

/** As other images without clusters. */
const CLUSTER_BITS: u32 = 16;

/** Whether the host has told a part of it. */
export function hasParts(image: Image): bool {
  for (let file: u32 = IMAGES_MAX; file < <u32>FILES_MAX; file++)
    if (fileOf(file).partOf == image.index && fileOf(file).partBytes != 0) return true;
  return false;
}

/** Puts the image together from its parts. False: it has none, or they do not fit. */
export function openParts(t: Task, image: Image): bool {
  image.firstPart = IMAGES_MAX;
  image.partCount = 0;
  for (let file: u32 = IMAGES_MAX; file < <u32>FILES_MAX; file++) {
    if (fileOf(file).partOf != image.index || fileOf(file).partBytes == 0) continue;
    if (image.partCount++ == 0) image.firstPart = file;
  }
  if (image.partCount == 0) return refuse(t, EUNSUPPORTED, R_PARTS, image);
  image.size = 0;
  image.clusterBits = CLUSTER_BITS;
  image.unitBytes = 0;
  image.cutsLastCluster = false;
  for (let file = image.firstPart; file < image.firstPart + image.partCount; file++) {
    const part = fileOf(file);
    if (part.partOf != image.index || part.partStart != image.size || part.partBytes > OFFSET_MAX)
      return refuse(t, ECORRUPT, R_PART_SIZE, image);
    if (!openPart(t, part, imageOf(file))) return false;
    image.unitBytes = max(image.unitBytes, imageOf(file).unitBytes);
    image.size += part.partBytes;
  }
  return image.size <= OFFSET_MAX || refuse(t, ECORRUPT, R_PART_SIZE, image);
}

/** What is in a file must be as long as it is said to be. */
function openPart(t: Task, part: File, image: Image): bool {
  if (part.partAt == PART_ZEROES) return true;
  if (image.format == FORMAT_PROBE) return refuse(t, EUNSUPPORTED, R_PARTS, image);
  if (image.format == FORMAT_RAW) {
    const holds = part.partAt <= image.size && part.partBytes <= image.size - part.partAt;
    return holds || refuse(t, ECORRUPT, R_PART_SIZE, image);
  }
  if (part.partAt != 0 || part.partBytes != image.size)
    return refuse(t, ECORRUPT, R_PART_SIZE, image);
  // Streams belong to clusters of the whole, which a part need not begin with.
  return blocksOf(image).streamHeadBytes == 0 || refuse(t, EUNSUPPORTED, R_FORMAT_VERSION, image);
}

export function lookupParts(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  let first = image.firstPart;
  let end = first + image.partCount;
  while (end - first > 1) {
    const middle = (first + end) >> 1;
    if (fileOf(middle).partStart <= offset) first = middle;
    else end = middle;
  }
  const part = fileOf(first);
  const within = offset - part.partStart;
  assert(within < part.partBytes);
  length = min(length, part.partBytes - within);
  if (part.partAt == PART_ZEROES) return extentOf(ZEROES, length);
  const look = formatOf(imageOf(first).format)!.lookup;
  return look(t, imageOf(first), part.partAt + within, length);
}
