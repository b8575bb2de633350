/** What a server's errors and the end of its connection mean, and whether asking again may help. */
import type { ErrorCode } from '../../api/errors.ts';
import { MillraceError } from '../../api/errors.ts';
import { Failure, transportFailure } from '../retry.ts';
import { ConnectionEnded } from './duplex.ts';
import { NbdError } from './protocol.ts';

/** What the error of a server means, and whether asking again may help. */
const MEANINGS: ReadonlyMap<number, [ErrorCode, string, boolean]> = new Map([
  [NbdError.EPERM, ['EACCES', 'the server does not allow it', false]],
  [NbdError.EIO, ['EIO', 'the server failed to read', true]],
  [NbdError.ENOMEM, ['EIO', 'the server has no memory', true]],
  [NbdError.EINVAL, ['EIO', 'the server takes the request for invalid', false]],
  [NbdError.EOVERFLOW, ['EIO', 'the server takes the request for too long', false]],
  [NbdError.ENOTSUP, ['EUNSUPPORTED', 'the server does not support it', false]],
  [NbdError.ESHUTDOWN, ['EIO', 'the server is shutting down', true]],
]);

/** What an error of the server is told as, with its words. */
export function failureOf(error: number, message: string): Failure {
  const words = message === '' ? '' : `: ${message}`;
  const [code, meaning, transient] = MEANINGS.get(error) ?? ['EIO', `error ${error}`, true];
  return new Failure(code, `${meaning}${words}`, { transient });
}

/** The connection is gone. */
export function lost(message: string, cause?: unknown): Failure {
  return new Failure('EIO', message, { transient: true, lost: true, cause });
}

/** What a connection failed of; what the runtime's sockets say is told as it is. */
export function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof MillraceError)
    return new Failure(error.code, error.message, {
      transient: error.code === 'EIO' || error.code === 'ETIMEDOUT',
      lost: true,
      cause: error,
    });
  return error instanceof ConnectionEnded
    ? lost(ended(error), error)
    : transportFailure(error, '', true);
}

function ended({ message, cause }: ConnectionEnded): string {
  const why = cause instanceof Error && !(cause instanceof ConnectionEnded) ? cause.message : '';
  return why === '' ? message : `${message} (${why})`;
}
