/** What the browser lets this site keep, for how long, and what to say when that is used up. */
import { MillraceError } from '../api/errors.ts';

/**
 * Asks the browser not to clear this site's disks when it runs short of room; true if it has
 * agreed. Some browsers ask the user, so call it on a click.
 */
export async function persistDisks(): Promise<boolean> {
  const { storage } = navigator;
  if (typeof storage?.persist !== 'function') return false;
  return (await storage.persisted()) || (await storage.persist());
}

/**
 * Bytes in use by this site, and the bytes it may use in all. Browsers tell both a little vaguely,
 * on purpose.
 */
export async function storageRoom(): Promise<{ used: number; quota: number }> {
  const { usage = 0, quota = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  return { used: usage, quota };
}

/**
 * Adds to an `ENOSPC` how much this site uses, how much is free where the browser tells the truth
 * of it (some name a quota that has little to do with the real one), and how much more is needed:
 * `missing` is what the running job still has to store, in bytes.
 */
export async function explainNoRoom(error: unknown, missing: number): Promise<Error> {
  if (!(error instanceof MillraceError) || error.code !== 'ENOSPC') return error as Error;
  const { used, quota } = await storageRoom();
  const free = Math.max(0, quota - used);
  const told = free < missing ? ` of the ${mebibytes(quota)} it may use` : '';
  const need =
    missing > 0 ? `, and ${mebibytes(missing)} more are needed to populate the rest` : '';
  const message = `${error.message}: this site uses ${mebibytes(used)}${told}${need}; delete other disks or make room on the device`;
  return new MillraceError('ENOSPC', message, { cause: error.cause });
}

const MEBIBYTE = 1024 * 1024;

function mebibytes(bytes: number): string {
  return `${(bytes / MEBIBYTE).toFixed(1)} MiB`;
}
