/** What the engine's error codes and reasons (engine/protocol.ts) mean, in words. */
import * as protocol from '../../../engine/protocol.ts';
import type { ErrorCode } from '../../api/errors.ts';

/** The engine's error codes, by number; 0 is no error. */
const CODES: Readonly<Record<number, ErrorCode>> = {
  [protocol.EINVAL]: 'EINVAL',
  [protocol.EBUSY]: 'EBUSY',
  [protocol.ENOSPC]: 'ENOSPC',
  [protocol.EIO]: 'EIO',
  [protocol.ENOENT]: 'ENOENT',
  [protocol.EEXIST]: 'EEXIST',
  [protocol.ECORRUPT]: 'ECORRUPT',
  [protocol.EUNSUPPORTED]: 'EUNSUPPORTED',
  [protocol.ECHANGED]: 'ECHANGED',
  [protocol.EACCES]: 'EACCES',
  [protocol.EROFS]: 'EROFS',
  [protocol.ABORTED]: 'ABORTED',
  [protocol.ETIMEDOUT]: 'ETIMEDOUT',
  [protocol.ECLOSED]: 'ECLOSED',
};
const NUMBERS = new Map(Object.entries(CODES).map(([number, code]) => [code, Number(number)]));

/** What is wrong, and what to do about it where something can be done. */
const REASONS: Readonly<Record<number, string>> = {
  [protocol.R_HOST]: 'an operation failed',
  [protocol.R_MAGIC]: 'not a qcow2 image: the magic is missing',
  [protocol.R_VERSION]: 'unsupported qcow2 version: only versions 2 and 3 are known',
  [protocol.R_CLUSTER_BITS]:
    'cluster size out of range: clusters are of 512 bytes to 2 MiB (16 KiB or more with extended L2 entries)',
  [protocol.R_HEADER_LENGTH]: 'the header length is out of range',
  [protocol.R_ENCRYPTED]: 'encrypted images are not supported',
  [protocol.R_EXTERNAL_DATA]: 'images with an external data file are not supported',
  [protocol.R_INCOMPATIBLE]:
    'the image needs features that are not supported (unknown incompatible feature bits)',
  [protocol.R_MARKED_CORRUPT]:
    "the image is marked corrupt: repair it with 'millrace check --repair all'",
  [protocol.R_REFCOUNT_ORDER]: 'the refcount width is out of range: 1 to 64 bits',
  [protocol.R_L1_SIZE]: 'the L1 table is too small for the disk, or larger than 32 MiB',
  [protocol.R_L1_OFFSET]: 'the L1 table is not aligned to clusters or lies outside the file',
  [protocol.R_REFCOUNT_TABLE]: 'the refcount table is missing, misplaced or too large',
  [protocol.R_BACKING_NAME]:
    'the name of the backing file is too long or lies outside the header cluster',
  [protocol.R_EXTENSION]: 'a header extension is invalid, or goes past the end of the header',
  [protocol.R_COMPRESSION_TYPE]: 'unknown compression type',
  [protocol.R_SIZE]: 'the disk is larger than 2^53 - 1 bytes',
  [protocol.R_SNAPSHOTS]:
    'overlays with internal snapshots are not supported: delete them, or use the image as a base',
  [protocol.R_BITMAPS]: 'overlays with persistent bitmaps are not supported: remove them first',
  [protocol.R_EXTENDED_L2]: 'extended L2 entries need clusters of 16 KiB or more',
  [protocol.R_L1_ENTRY]: 'a reserved bit is set in an L1 entry',
  [protocol.R_L2_ENTRY]: 'a reserved bit is set in an L2 entry',
  [protocol.R_CLUSTER_UNALIGNED]:
    'an L1 or L2 entry points to an offset that is not aligned to clusters',
  [protocol.R_CLUSTER_OUTSIDE]:
    'an L1 or L2 entry points outside the file; the image may have been cut off',
  [protocol.R_CLUSTER_IN_METADATA]:
    "an L1 or L2 entry points into the image's own header or tables",
  [protocol.R_COMPRESSED]: 'the descriptor of a compressed cluster is invalid',
  [protocol.R_SUBCLUSTERS]: 'the subcluster bitmap of an extended L2 entry contradicts itself',
  [protocol.R_REFCOUNT_BLOCK]: 'the refcount table points to an invalid place',
  [protocol.R_REFCOUNT]: 'a cluster in use has refcount 0',
  [protocol.R_RANGE]: 'the range does not lie inside the disk',
  [protocol.R_READ_ONLY]: 'the disk was opened read-only',
  [protocol.R_JOB_ACTIVE]: 'a job is active on this disk already',
  [protocol.R_NO_JOB]: 'there is no such job',
  [protocol.R_ABORTED]: 'aborted',
  [protocol.R_MEMORY]:
    'too little memory for an image with clusters of this size: give the disk more',
  [protocol.R_HEADER_FULL]:
    "the name of the base does not fit into the overlay's header cluster: use a shorter name or larger clusters",
  [protocol.R_TOO_LARGE]: 'the size is too large for this cluster size: use larger clusters',
  [protocol.R_FLUSH_LOST]:
    'a flush failed earlier, so what was written before it may be lost: close the disk and check it',
  [protocol.R_NOT_A_BASE]: 'there is no such image in the chain below the overlay',
  [protocol.R_TRUNCATED]: 'the header is cut off',
  [protocol.R_SNAPSHOT_TABLE]: 'the snapshot table is misplaced or too large',
  [protocol.R_SHRINK]: 'a smaller size has to be asked for explicitly: it loses data',
  [protocol.R_SHARED_PLACE]:
    "two of its entries share one place in the file, so that writing one would change the other: copy what it shows into a new image with 'millrace convert'",
  [protocol.R_OTHER_FORMAT]: 'the image has a format that is not supported (neither raw nor qcow2)',
  [protocol.R_REPAIR]:
    'it cannot be repaired without losing data: entries point behind the end of the file, which may have been cut off; copy what can still be read into a new image',
  [protocol.R_DAMAGED]:
    "its refcount table or blocks are damaged: repair it with 'millrace check --repair all'",
  [protocol.R_UNREAD]:
    "part of its metadata cannot be followed, so what that uses is not known, and nothing is freed or rewritten: copy what can still be read into a new image with 'millrace convert'",
  [protocol.R_RAW_DATA]:
    'the header says that its external data file is raw (an autoclear bit), but has none',
  [protocol.R_FORMAT_HEADER]: 'its header is not one of this format, or is damaged',
  [protocol.R_FORMAT_VERSION]:
    'it needs something of its format that is not supported (a version, a method of compression, a feature)',
  [protocol.R_HEADER_CHECKSUM]: 'the checksum of its header or footer is wrong: it is damaged',
  [protocol.R_DIFFERENCING]:
    'it holds only the changes to another image (a differencing or child disk, a snapshot), which is not supported: merge the two first',
  [protocol.R_BLOCK_SIZE]: 'the size of its blocks is invalid',
  [protocol.R_BLOCK_TABLE]: 'its table of blocks is misplaced, or too small for its disk',
  [protocol.R_BLOCK_OUTSIDE]: 'an entry of its table of blocks points outside the file',
  [protocol.R_PARTS]: 'its data is in other files, which were not given',
  [protocol.R_PART_SIZE]: 'the sizes of the files that its data is in are not what it says',
  [protocol.R_LOG]:
    "its log has to be replayed first, for it was not closed: 'qemu-img check -r all' does that",
};

/** The code that the engine tells; one that it never tells is a failure all the same. */
export function codeOfNumber(number: number): ErrorCode {
  return CODES[number] ?? 'EIO';
}

/** As the engine takes an error of the host's. */
export function numberOfCode(code: ErrorCode | undefined): number {
  return (code && NUMBERS.get(code)) ?? protocol.EIO;
}

export function reasonText(reason: number): string {
  return REASONS[reason] ?? 'unknown reason';
}
