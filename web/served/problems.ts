/** What goes wrong on a server of disks, as a person can act on it. */
import type { ErrorCode } from '../../hosts/api/errors.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { Explanation, Remedy } from '../page/notice.ts';
import { showNotice } from '../page/notice.ts';

const BY_CODE: Partial<Record<ErrorCode, Explanation>> = {
  ETIMEDOUT: {
    title: 'The server does not answer',
    advice: 'It may have been stopped. This page goes on as soon as it answers again.',
  },
  ENOSPC: {
    title: 'There is no room left where the disk is kept',
    advice: 'Make room there, and go on.',
  },
  ECHANGED: {
    title: 'The base is another one now',
    advice:
      'The disk was made on the old one, and mixing the two would destroy it. Put the old one back.',
  },
  EBUSY: {
    title: 'Something else is under way on this disk',
    advice: 'Only one copy at a time runs on a disk: wait for it, or stop it.',
  },
  ECORRUPT: {
    title: 'The image is damaged',
    advice: 'Look at it with “millrace check”, while it is not served.',
  },
  EROFS: {
    title: 'The disk is served read-only',
    advice: 'To copy its base, start the server without “--read-only”.',
  },
  EACCES: {
    title: 'The server does not let this page in',
    advice: 'The details say why.',
  },
};
const BASE: Explanation = {
  title: 'The base cannot be read',
  advice: 'See that its server is up. What has been copied stays, and copying goes on from there.',
};
const OTHER: Explanation = { title: 'Something went wrong', advice: 'The details say what.' };

/** Shows a problem with a disk, or with the server itself. */
export function showServerProblem(
  error: unknown,
  remedies: readonly Remedy[] = [],
  device?: string,
): void {
  const known = error instanceof MillraceError;
  const explanation = known ? (error.code === 'EIO' ? BASE : BY_CODE[error.code]) : undefined;
  const { title, advice } = explanation ?? OTHER;
  const detail = known ? `${error.code}: ${error.message}` : String(error);
  showNotice({ title: device ? `${device}: ${title}` : title, advice }, detail, remedies);
}
