/**
 * Errors as a person can act on them: what happened in a sentence, what to do about it, and the
 * exact words of the error below.
 */
import type { ErrorCode, ErrorReason } from '../../hosts/api/errors.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { Explanation, Remedy } from './notice.ts';
import { showNotice } from './notice.ts';

const BY_CODE: Partial<Record<ErrorCode, Explanation>> = {
  ENOSPC: {
    title: 'There is no room left in this browser',
    advice:
      'Delete a disk that is no longer needed (in another tab while a machine runs here), or make room on the device; the machine waits, and goes on by itself. A copy that is paused goes on by “Resume”.',
  },
  ECHANGED: {
    title: 'The image on the server is another one now',
    advice:
      'This disk was made on the old image, and mixing the two would destroy it. Put the old image back, or boot the new one as another disk. What was written here is not lost: “Export qcow2” in the list saves it, to be used with the old image.',
  },
  EBUSY: {
    title: 'Another tab has this disk',
    advice: 'Only one tab at a time can use a disk. Close it there, or wait here until it is free.',
  },
  EEXIST: {
    title: 'That name is taken',
    advice: 'Choose another name, or delete the disk that has it.',
  },
  ECORRUPT: {
    title: 'The image is damaged',
    advice:
      'Its tables contradict each other, so it is not used. Fetch it again from where it came.',
  },
  EUNSUPPORTED: {
    title: 'This cannot be used as it is',
    advice: 'The details say what is not supported and what to do about it.',
  },
  EACCES: {
    title: 'The server or the browser refuses access',
    advice: 'See that the address needs no sign-in, or sign in there first.',
  },
  ENOENT: { title: 'There is nothing at that address', advice: 'See that the address is right.' },
  ETIMEDOUT: {
    title: 'The server does not answer',
    advice:
      'See that it is up and that you are online. The machine waits, and goes on when it answers.',
  },
  EINVAL: { title: 'That is not possible', advice: 'The details say why.' },
};
const OFFLINE: Explanation = {
  title: 'The image cannot be reached',
  advice:
    'See that you are online and the server is up; a page by https: cannot read from http:. A machine that runs waits, and goes on when the server answers.',
};
const OTHER: Explanation = {
  title: 'Something went wrong',
  advice: 'The details say what. Reload the page to try again; what was saved is kept.',
};

/** Where an error tells which of the causes of its code it is. */
const BY_REASON: Readonly<Record<ErrorReason, Explanation>> = {
  'base-needed': {
    title: 'The file that this disk began with is needed again',
    advice:
      'Not all of it had been copied into this browser, and a page may not open files by itself. Choose the same file again.',
  },
  'no-such-disk': {
    title: 'There is no such disk in this browser',
    advice:
      'It was deleted or renamed, or the browser has cleared the storage of this site. The list below has what there is.',
  },
  cors: {
    title: 'The server does not let this page read the image',
    advice:
      'It must send “Access-Control-Allow-Origin”, “Access-Control-Allow-Headers: Range” and “Access-Control-Expose-Headers: Content-Range, ETag” (CORS). Whoever runs the server can add them. An address that leads nowhere can look the same from here: see that it is right, or download the image and drop the file here.',
  },
  policy: OTHER,
  'no-ranges': {
    title: 'The server cannot send parts of a file',
    advice:
      'Booting at once needs byte ranges (RFC 9110). Serve the image from a server that has them, or download it and drop the file here.',
  },
  'writes-lost': {
    title: 'Not all that the machine wrote was saved',
    advice:
      'It was switched off while this browser could not store it; the details say why. What was saved before is kept.',
  },
  'state-outdated': {
    title: 'The machine cannot go on from where it was suspended',
    advice:
      'Its disk has changed since, or the browser ended without closing it. Going on would mix the two and destroy the disk. What is on the disk is kept: boot it.',
  },
  'storage-cleared': {
    title: 'The browser has cleared the storage of this disk',
    advice:
      '“Export qcow2” or “Export raw” saves what it still has of it. Do so before you switch the machine off or leave this page: then the disk is gone.',
  },
  'storage-failed': {
    title: 'The storage of this browser fails',
    advice: 'The details say how. Reload the page to try again; what was saved is kept.',
  },
  'worker-ended': {
    title: 'The part of the page that has the disk has ended',
    advice:
      'The browser may have been short of memory. Reload the page to boot the disk again; what was saved is kept.',
  },
  'engine-failed': OTHER,
};

/** What is thrown when an image holds nothing that boots. */
export class NotAnImage extends Error {}

const NOT_AN_IMAGE: Explanation = {
  title: 'This is not a disk image that boots',
  advice:
    'Its first sector is no boot record. See that the address leads to the image itself, and not to a page about it.',
};

/** What is thrown when a file does not come into the guest, or out of it. */
export class GuestProblem extends Error {}

const NOT_COPIED: Explanation = {
  title: 'The file was not copied',
  advice:
    'It goes by the shell on the serial console: log in there, wait for its prompt, and try again. The details say what went wrong.',
};

/** What is thrown when the emulator does not take a state. */
export class NotRestored extends Error {}

const NOT_RESTORED: Explanation = {
  title: 'The machine cannot go on from its saved state',
  advice:
    'The state may be of another version of the emulator. What is on the disk is kept: boot it.',
};

/** Whether a disk lacks a base that only the user can give. */
export function needsFile(error: unknown): boolean {
  return error instanceof MillraceError && error.reason === 'base-needed';
}

/** Whether a machine cannot go on from its state, but can be booted. */
export function needsBoot(error: unknown): boolean {
  return (
    error instanceof NotRestored ||
    (error instanceof MillraceError && error.reason === 'state-outdated')
  );
}

export function explain(error: unknown): Explanation {
  if (error instanceof NotAnImage) return NOT_AN_IMAGE;
  if (error instanceof GuestProblem) return NOT_COPIED;
  if (error instanceof NotRestored) return NOT_RESTORED;
  if (!(error instanceof MillraceError)) return OTHER;
  if (error.reason !== undefined) return BY_REASON[error.reason];
  return error.code === 'EIO' ? OFFLINE : (BY_CODE[error.code] ?? OTHER);
}

/** Shows a problem, until `hideNotice`. */
export function showProblem(error: unknown, remedies: readonly Remedy[] = []): void {
  const detail = error instanceof MillraceError ? `${error.code}: ${error.message}` : String(error);
  showNotice(explain(error), detail, remedies);
}
