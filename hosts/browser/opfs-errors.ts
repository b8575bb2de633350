/** What goes wrong with the browser's storage, as errors of disks. */
import type { ErrorCode, ErrorReason } from '../api/errors.ts';
import { MillraceError } from '../api/errors.ts';

export function noRoom(name: string, cause?: unknown): MillraceError {
  return new MillraceError('ENOSPC', `no room for disk '${name}' in the browser's storage`, {
    cause,
  });
}

const CODES: Record<string, [ErrorCode, string, ErrorReason?]> = {
  NotFoundError: [
    'ENOENT',
    'there is no such disk in this browser (its storage may have been cleared)',
    'no-such-disk',
  ],
  NoModificationAllowedError: ['EBUSY', 'its file is in use by another program of this site'],
  InvalidStateError: [
    'EIO',
    'the browser has taken its file away: the storage of this site was cleared, or has gone',
    'storage-cleared',
  ],
  NotAllowedError: ['EACCES', 'the browser does not allow it'],
  SecurityError: ['EACCES', 'the browser does not allow it'],
};

/** What the file system throws, by the names in its standard. */
export function fileError(error: unknown, action: string, name: string): MillraceError {
  if (error instanceof MillraceError) return error;
  const { name: kind, message } = error as Error;
  if (kind === 'QuotaExceededError') return noRoom(name, error);
  const [code, what, reason] = CODES[kind] ?? ['EIO', message, 'storage-failed'];
  return new MillraceError(code, `cannot ${action} disk '${name}': ${what}`, {
    cause: error,
    reason,
  });
}
