/**
 * What the engine's reasons mean, in words. The engine tells numbers (engine/errors.ts); a test
 * holds both lists against each other.
 */
import type { ErrorCode } from '../../api/errors.ts';

/** The engine's error codes, by number. */
export const ENGINE_CODES: readonly ErrorCode[] = [
  'EIO', // 0 is no error; if it is ever told as one, something failed
  'EINVAL',
  'EBUSY',
  'ENOSPC',
  'EIO',
  'ENOENT',
  'EEXIST',
  'ECORRUPT',
  'EUNSUPPORTED',
  'ECHANGED',
  'EACCES',
  'EROFS',
  'ABORTED',
  'ETIMEDOUT',
  'ECLOSED',
];

/**
 * The engine's reasons, by number: what is wrong, and what to do about it where something can be
 * done.
 */
export const ENGINE_REASONS: readonly string[] = [
  'an operation failed',
  'not a qcow2 image: the magic is missing',
  'unsupported qcow2 version: only versions 2 and 3 are known',
  'cluster size out of range: clusters are of 512 bytes to 2 MiB (16 KiB or more with extended L2 entries)',
  'the header length is out of range',
  'encrypted images are not supported',
  'images with an external data file are not supported',
  'the image needs a feature that is not supported (an unknown incompatible feature bit is set)',
  "the image is marked corrupt: repair it with 'millrace check --repair all'",
  'the refcount width is out of range: 1 to 64 bits',
  'the L1 table is too small for the disk, or larger than 32 MiB',
  'the L1 table is not aligned to clusters or lies outside the file',
  'the refcount table is missing, misplaced or too large',
  'the name of the backing file is too long or lies outside the header cluster',
  'a header extension goes past the end of the header',
  'unknown compression type',
  'the disk is larger than 2^53 - 1 bytes',
  'overlays with internal snapshots are not supported: delete them, or use the image as a base',
  'overlays with persistent bitmaps are not supported: remove them first',
  'extended L2 entries need clusters of 16 KiB or more',
  'a reserved bit is set in an L1 entry',
  'a reserved bit is set in an L2 entry',
  'an L1 or L2 entry points to an offset that is not aligned to clusters',
  'an L1 or L2 entry points outside the file; the image may have been cut off',
  "an L1 or L2 entry points into the image's own header or tables",
  'the descriptor of a compressed cluster is invalid',
  'the subcluster bitmap of an extended L2 entry contradicts itself',
  'the refcount table points to an invalid place',
  'a cluster in use has refcount 0',
  'a cluster of the overlay is shared (its refcount is not 1), so it cannot be written in place',
  'the range does not lie inside the disk',
  'the disk was opened read-only',
  'a job is active on this disk already',
  'there is no such job',
  'aborted',
  'too little memory for an image with clusters of this size: give the disk more',
  "the name of the base does not fit into the overlay's header cluster: use a shorter name or larger clusters",
  'the size is too large for this cluster size: use larger clusters',
  'a flush failed earlier, so what was written before it may be lost: close the disk and check it',
  'there is no such image in the chain below the overlay',
  'the header is cut off',
  'the snapshot table is misplaced or too large',
  'a smaller size has to be asked for explicitly: it loses data',
  "two of its entries share one place in the file, so that writing one would change the other: copy what it shows into a new image with 'millrace convert'",
  'the image has a format that is not supported (neither raw nor qcow2)',
  'it cannot be repaired without losing data: entries point behind the end of the file, which may have been cut off; copy what can still be read into a new image',
  "its refcount table or blocks are damaged: repair it with 'millrace check --repair all'",
  "part of its metadata cannot be followed, so what that uses is not known, and nothing was freed or rewritten: copy what can still be read into a new image with 'millrace convert'",
  'its refcounts cannot be rebuilt: a header extension or an autoclear bit that is not known may use clusters of the file',
];
