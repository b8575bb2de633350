// Opening an image: probing its format and reading its header. What cannot be supported is refused here, by name.

import { arenaBytes } from '../core/arena';
import { clusterBytes, Image, imageOf } from '../core/image';
import { pageGet } from '../core/pages';
import { DONE, fail, Task, WAIT } from '../core/task';
import { get32, get64, MAGIC, parseHeader } from '../formats/qcow2/header';
import { BLOCK_BYTES, CHUNK_BYTES } from '../limits';
import {
  ECORRUPT,
  EINVAL,
  EUNSUPPORTED,
  FORMAT_PROBE,
  FORMAT_QCOW2,
  FORMAT_RAW,
  OPEN_TO_CHECK,
  OPEN_WRITABLE,
  OVERLAY,
  R_BITMAPS,
  R_ENCRYPTED,
  R_EXTENDED_L2,
  R_EXTERNAL_DATA,
  R_INCOMPATIBLE,
  R_MARKED_CORRUPT,
  R_MEMORY,
  R_OTHER_FORMAT,
  R_REFCOUNT_TABLE,
  R_SIZE,
  R_SNAPSHOTS,
  R_VERSION,
} from '../protocol';

/** `offset` is the number of the image, `length` the format asked for; `value` becomes the format found. */
export function runOpen(t: Task): i32 {
  const image = imageOf(<u32>t.offset);
  let format = <u32>t.length;
  if (format == FORMAT_RAW) return raw(t, image);
  const header = pageGet(t, image.index, 0);
  if (!header) return WAIT;
  if (format == FORMAT_PROBE) {
    if (isOtherFormat(header, image.fileSize))
      return refuse(t, EUNSUPPORTED, R_OTHER_FORMAT, image);
    format = image.fileSize >= 4 && get32(header) == MAGIC ? FORMAT_QCOW2 : FORMAT_RAW;
    if (format == FORMAT_RAW) return raw(t, image);
  }
  const reason = parseHeader(header, image);
  if (reason) return refuse(t, isUnsupported(reason) ? EUNSUPPORTED : ECORRUPT, reason, image);
  if (image.refcountTableBytes == 0 && !(t.argument & OPEN_TO_CHECK))
    return refuse(t, ECORRUPT, R_REFCOUNT_TABLE, image);
  image.format = FORMAT_QCOW2;
  if (image.index == OVERLAY && t.argument & OPEN_WRITABLE) {
    if (image.corrupt) return refuse(t, ECORRUPT, R_MARKED_CORRUPT, image);
    if (image.snapshots) return refuse(t, EUNSUPPORTED, R_SNAPSHOTS, image);
    if (image.bitmaps) return refuse(t, EUNSUPPORTED, R_BITMAPS, image);
  }
  // A chunk with its scratch must fit twice: once for a guest, once for a copy.
  const chunk = max<u64>(CHUNK_BYTES, clusterBytes(image));
  if (arenaBytes() < chunk * 4 + clusterBytes(image) * 2 + BLOCK_BYTES * 4)
    return refuse(t, EINVAL, R_MEMORY, image);
  t.value = FORMAT_QCOW2;
  return DONE;
}

/** Raw images have no clusters; where one stands in the overlay's place, requests for it are cut as with the usual ones (64 KiB). */
const RAW_CLUSTER_BITS: u32 = 16;

function raw(t: Task, image: Image): i32 {
  image.format = FORMAT_RAW;
  image.clusterBits = RAW_CLUSTER_BITS;
  image.size = image.fileSize;
  image.version = 0;
  t.value = FORMAT_RAW;
  return DONE;
}

function refuse(t: Task, error: i32, reason: i32, image: Image): i32 {
  fail(t, error, reason, image.index, 0);
  return WAIT;
}

function isUnsupported(reason: i32): bool {
  return (
    reason == R_VERSION ||
    reason == R_ENCRYPTED ||
    reason == R_EXTERNAL_DATA ||
    reason == R_INCOMPATIBLE ||
    reason == R_EXTENDED_L2 ||
    reason == R_SIZE
  );
}

/** Formats that others would see where we would see raw data: VMDK, VHDX, VHD, VDI, QED, LUKS, Parallels, and qcow. */
function isOtherFormat(at: usize, bytes: u64): bool {
  if (bytes < 512) return false;
  const word = get32(at);
  const long = get64(at);
  return (
    word == 0x4b444d56 || // KDMV
    word == 0x434f5744 || // COWD
    long == 0x7668647866696c65 || // vhdxfile
    long == 0x636f6e6563746978 || // conectix
    word == 0x51454400 || // QED\0
    get32(at + 64) == 0x7f10dabe || // VDI's signature, little-endian
    (word == 0x4c554b53 && load<u16>(at, 4) == 0xbeba) || // LUKS\xba\xbe
    long == 0x576974686f757446 || // WithoutF(reeSpace)
    long == 0x576974686f754672 || // WithouFr(eSpacExt)
    (word == MAGIC && get32(at + 4) == 1) // qcow version 1
  );
}
