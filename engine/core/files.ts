// The files of the images, by the numbers that the ring has for them. The file in which an image
// begins has the image's number; one that lies in several has more of them, from IMAGES_MAX on.

import { FILES_MAX } from '../protocol';

export const PART_ZEROES: u64 = u64.MAX_VALUE;

@unmanaged
export class File {
  /** Bytes; the overlay's grows as it is written. */
  size: u64;
  /** Its host can tell where it has holes. */
  tellsHoles: bool;
  /** What it has a part of: an image's number, and bytes of the disk that this one shows. */
  partOf: u32;
  partStart: u64;
  partBytes: u64;
  /** Where in the file they begin; PART_ZEROES: nowhere, they are zeros. */
  partAt: u64;
}

let files: usize = 0;

export function filesBytes(): usize {
  return FILES_MAX * offsetof<File>();
}

export function filesInit(at: usize): void {
  files = at;
  memory.fill(at, 0, filesBytes());
}

export function fileOf(number: u32): File {
  assert(number < <u32>FILES_MAX);
  return changetype<File>(files + number * offsetof<File>());
}
