/** What goes wrong with local files, told in the same words under every runtime that has them. */

import type { ErrorCode } from '../api/errors.ts';
import { MillraceError } from '../api/errors.ts';

/** What a path leads to. */
export type FileKind = 'file' | 'block device' | 'folder' | 'FIFO' | 'socket' | 'character device';

const CODES: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'ENOENT',
  ENOTDIR: 'ENOENT',
  EEXIST: 'EEXIST',
  EACCES: 'EACCES',
  EPERM: 'EACCES',
  // Deno's own, of a permission that the process was not given.
  NotCapable: 'EACCES',
  EROFS: 'EROFS',
  ENOSPC: 'ENOSPC',
  EDQUOT: 'ENOSPC',
  EFBIG: 'ENOSPC',
  EBUSY: 'EBUSY',
  ETXTBSY: 'EBUSY',
  EINVAL: 'EINVAL',
  EISDIR: 'EINVAL',
  ELOOP: 'EINVAL',
  ENAMETOOLONG: 'EINVAL',
};

const ADVICE: Readonly<Record<string, string>> = {
  NotCapable: '; a disk needs --allow-read and --allow-write of its folder',
  ENOSPC: '; make room on its file system',
  EDQUOT: '; the quota of its owner is used up',
  EFBIG: '; its file system or the limit of this process (ulimit -f) does not take files so large',
  EMFILE: '; raise the limit of open files (ulimit -n)',
};

/** What keeps a lock from being made, and nothing else need keep an image from being written. */
const FOLDER_IS_NOT_WRITABLE: readonly string[] = ['EACCES', 'EPERM', 'EROFS'];

/** A path, and where there is one the offset in bytes, as messages name them. */
export function placeOf(path: string, offset?: number): string {
  return offset === undefined ? `'${path}'` : `'${path}' at offset ${offset}`;
}

/** What a runtime tells of an error of the system. */
export interface SystemWords {
  /** Its name in C (`ENOENT`). */
  code: string;
  /** In words. */
  reason: string;
  cause: unknown;
}

interface SystemError extends SystemWords {
  offset?: number;
}

/**
 * An error of the system, by its name there (`ENOENT`) and its reason in words; `action` completes
 * "cannot …". What has no code of ours is `EIO`.
 */
export function systemError(action: string, place: string, error: SystemError): MillraceError {
  const { code, reason, cause, offset } = error;
  return new MillraceError(
    CODES[code] ?? 'EIO',
    `cannot ${action} ${place}: ${reason} (${code})${ADVICE[code] ?? ''}`,
    { cause, offset },
  );
}

/**
 * Why no lock can be made beside an image that `exists`, or is to be made: who did not ask for one
 * hears what it is for.
 */
export function lockError(path: string, exists: boolean, error: SystemError): MillraceError {
  const { code, message } = systemError('make the lock', placeOf(`${path}.lock`), error);
  const isFolder = FOLDER_IS_NOT_WRITABLE.includes(error.code);
  const advice = `; who writes an image has to be able to write to its folder${exists ? ': else open it read-only' : ''}`;
  return new MillraceError(code, isFolder ? message + advice : message, { cause: error.cause });
}

/**
 * Only what has bytes at offsets can be an image.
 * @throws MillraceError `EINVAL`; `EUNSUPPORTED` for a block device that is to be written.
 */
export function refuseKind(path: string, kind: FileKind, readOnly: boolean): void {
  if (kind === 'file' || (kind === 'block device' && readOnly)) return;
  if (kind === 'block device')
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot write to '${path}': a block device cannot grow; use a file as overlay`,
    );
  throw new MillraceError('EINVAL', `cannot open '${path}': it is a ${kind}, not an image`);
}
