/** A disk that is served from a Durable Object, opened as it stands there, or made at first. */
import type { Disk } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { CreateOptions, OpenOptions } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import { createDiskWith, openDiskWith } from '../disk/open.ts';
import { inLittleMemory } from './runtime.ts';

export async function openOrCreate(
  runtime: Runtime,
  options: CreateOptions & { overlay: string },
): Promise<Disk> {
  try {
    return await openAgain(runtime, options);
  } catch (error) {
    if (!isMissing(error) || (await exists(runtime, options.overlay))) throw error;
    return createDiskWith(runtime, inLittleMemory(options));
  }
}

/**
 * Opens a disk whose overlay is there. As long as that records a base, the base comes from where
 * the options say, as it did at first: what is recorded of a URL has no user, password or query,
 * which may be what opens it.
 */
async function openAgain(
  runtime: Runtime,
  options: CreateOptions & { overlay: string },
): Promise<Disk> {
  const { overlay, base, baseFormat, followChain, copyOnRead, profile, record, memory } = options;
  const kept = { overlay, followChain, copyOnRead, profile, record, memory };
  const asRecorded = inLittleMemory(kept);
  if (base === undefined || !(await recordsBase(runtime, asRecorded)))
    return openDiskWith(runtime, asRecorded);
  try {
    return await openDiskWith(runtime, { ...asRecorded, base, baseFormat });
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'ECHANGED') throw error;
    // A job may have made an image further down the chain the base: then only what is recorded
    // leads there.
    return openDiskWith(runtime, asRecorded).catch(() => {
      throw error;
    });
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof MillraceError && error.code === 'ENOENT';
}

/**
 * The overlay may be there, and its base not. One that cannot be looked at is taken to be there.
 */
async function exists(runtime: Runtime, overlay: string): Promise<boolean> {
  try {
    await (await runtime.openOverlay(overlay, { readOnly: true })).close();
    return true;
  } catch (error) {
    return !isMissing(error);
  }
}

async function recordsBase(runtime: Runtime, { overlay, memory }: OpenOptions): Promise<boolean> {
  const disk = await openDiskWith(runtime, { overlay, memory, base: null, readOnly: true });
  try {
    return (await disk.images())[0].backingFile !== undefined;
  } finally {
    await disk.close();
  }
}
