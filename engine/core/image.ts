// The images of the chain: the overlay is image 0, its base 1, and so on down. Here is what all of
// them have; what only one format has is in a record of its own, which stands in the same place.
// Where an image lies in several files, each of those has a record too, as an image that is in no
// chain (formats/parts.ts).
import { FILES_MAX, IMAGES_MAX, OVERLAY } from '../protocol';
import { fileOf } from './files';

/** Room for an image's record, whatever its format. */
export const IMAGE_BYTES: u32 = 512;

@unmanaged
export class Image {
  /** Its number: see imageOf. */
  index: u32;
  /** Number of the file in which it begins. */
  file: u32;
  format: u32;
  /** Bytes of the disk it shows. */
  size: u64;
  /** Bytes of the unit in which it takes space, where that is not the cluster; 0: of none. */
  unitBytes: u64;
  /** Unit in which requests for it are cut, and in which it is compressed, as a power of two. */
  clusterBits: u32;
  /** Method of its compressed clusters: METHOD_DEFLATE or METHOD_ZSTD. */
  compression: u32;
  /** The last compressed cluster's stream gives what the disk has of it, and no whole cluster. */
  cutsLastCluster: bool;
  /** A compressed cluster has been seen: copies take scratch memory from the start. */
  compressedSeen: bool;
  /** Of one that lies in several files: the number of the first part's, and how many follow it. */
  firstPart: u32;
  partCount: u32;

  /**
   * What it says of its base: positions in the first page of its file, 0 where there is nothing.
   * Without bytes, there is room for it.
   */
  backingNameAt: u32;
  backingNameBytes: u32;
  backingFormatAt: u32;
  backingFormatBytes: u32;
  identityAt: u32;
  identityBytes: u32;

  /** Bytes of its file. */
  get fileSize(): u64 {
    return fileOf(this.file).size;
  }

  set fileSize(bytes: u64) {
    fileOf(this.file).size = bytes;
  }
}

let images: usize = 0;
/** Chain order: which image stands at each depth. */
let order: usize = 0;
let imageTotal: u32 = 0;

export function imagesBytes(): usize {
  return FILES_MAX * IMAGE_BYTES + IMAGES_MAX * 4;
}

export function imagesInit(at: usize): void {
  images = at;
  order = at + FILES_MAX * IMAGE_BYTES;
  imageTotal = 0;
  memory.fill(images, 0, imagesBytes());
  for (let i: u32 = 0; i < <u32>FILES_MAX; i++) {
    imageOf(i).index = i;
    imageOf(i).file = i;
  }
  for (let i: u32 = 0; i < <u32>IMAGES_MAX; i++) store<u32>(order + i * 4, i);
}

/** An image by its number, which never changes, or a part of one by that of its file. */
export function imageOf(index: u32): Image {
  assert(index < <u32>FILES_MAX);
  return changetype<Image>(images + index * IMAGE_BYTES);
}

/** The image at a depth of the chain. */
export function imageAt(depth: u32): Image {
  assert(depth < <u32>IMAGES_MAX);
  return imageOf(load<u32>(order + depth * 4));
}

/** Takes the images from depth 1 up to, but not including, `bottom` out of the chain. */
export function imagesDropped(bottom: u32): void {
  assert(bottom >= 1 && bottom <= imageTotal);
  memory.copy(order + 4, order + bottom * 4, (imageTotal - bottom) * 4);
  imageTotal -= bottom - 1;
}

export function imageCount(): u32 {
  return imageTotal;
}

export function setImageCount(count: u32): void {
  assert(count <= <u32>IMAGES_MAX);
  imageTotal = count;
}

/** The disk's own image, whatever its format: nothing is ever put above it. */
export function topImage(): Image {
  return imageOf(OVERLAY);
}

export function clusterBytes(image: Image): u64 {
  return (<u64>1) << image.clusterBits;
}

/** Bytes that the stream of the compressed cluster around `offset` of the disk gives. */
export function inflatedBytes(image: Image, offset: u64): u64 {
  const cluster = clusterBytes(image);
  return image.cutsLastCluster ? min(cluster, image.size - (offset & ~(cluster - 1))) : cluster;
}

/**
 * Where the longest image below the overlay ends: behind it, all that the overlay lacks is zeros.
 */
export function basesEnd(): u64 {
  let end: u64 = 0;
  for (let i: u32 = 1; i < imageCount(); i++) end = max(end, imageAt(i).size);
  return end;
}
