/** Asking a bucket: what it refuses for the moment is asked for again. */
import { MillraceError } from '../api/errors.ts';
import { Failure, RetryBudget, sleep } from '../bases/retry.ts';
import type { BucketBody, BucketObject } from './platform.ts';

/**
 * Repetitions of what the bucket has refused: it takes one write a second to a key, and says so by
 * an error; others pass as well.
 */
const RETRIES = 6;

/**
 * Does it again after a failure that may pass.
 * @throws MillraceError `EIO` when it does not, or the signal's reason.
 */
export async function patiently<T>(
  what: string,
  operation: () => Promise<T>,
  signal: AbortSignal = new AbortController().signal,
): Promise<T> {
  const budget = new RetryBudget(RETRIES);
  for (let attempts = 1; ; attempts++) {
    try {
      return await operation();
    } catch (cause) {
      const { message } = cause as Error;
      const waitMs = budget.next(new Failure('EIO', message), 0);
      if (waitMs === undefined)
        throw new MillraceError('EIO', `cannot ${what}: ${message} (${attempts} attempts)`, {
          cause,
        });
      await sleep(waitMs, signal);
    }
  }
}

/** What an object holds; null when there is none, or not the one that was asked for. */
export async function bytesOf(
  getting: Promise<BucketObject | BucketBody | null>,
): Promise<Uint8Array | null> {
  const object = await getting;
  return object !== null && 'arrayBuffer' in object
    ? new Uint8Array(await object.arrayBuffer())
    : null;
}
