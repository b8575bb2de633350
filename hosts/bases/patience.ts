/** How long a caller has a server asked, and how often again. */
import { MillraceError } from '../api/errors.ts';

/** The longest a timer can run. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;
const RETRIES_DEFAULT = 6;
const RETRIES_MAX = 100;

/** @throws MillraceError `EINVAL` for an invalid option. */
export function checkedPatience(
  options: { timeout?: number; retries?: number },
  timeoutDefaultMs: number,
): { timeout: number; retries: number } {
  return {
    timeout: within('timeout', options.timeout ?? timeoutDefaultMs, 1, TIMEOUT_MAX_MS),
    retries: within('retries', options.retries ?? RETRIES_DEFAULT, 0, RETRIES_MAX),
  };
}

/**
 * The value of an option that is a whole number.
 * @throws MillraceError `EINVAL` for another one
 */
export function within(option: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new MillraceError(
    'EINVAL',
    `${option} must be a whole number from ${min} to ${max}, not ${value}`,
  );
}
