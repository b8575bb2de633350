/** Images that are only read, which other programs may write meanwhile. */
import type { Disk } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { SnapshotChoice } from '../api/image.ts';
import type { OpenOptions } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import { contentsOf, openPlace } from './image-source.ts';
import { openDiskWith } from './open.ts';

/** How often an image is looked at that changes under the look. */
const LOOKS_MAX = 10;

/** How an image is looked at. */
export interface LookOptions
  extends Pick<
    OpenOptions,
    'followChain' | 'format' | 'forceShare' | 'memory' | 'sequential' | 'unpack'
  > {
  base?: null;
  /** Show an internal snapshot in place of the disk as it is now. */
  snapshot?: SnapshotChoice;
}

/**
 * Opens an image only to look at it: a path or a URL. The base that a local image records is opened
 * too, unless `base` is null; the one that a remote image records only with `followChain`: an image
 * from elsewhere must not make us open what its author chose.
 */
export async function openImage(
  runtime: Runtime,
  location: string,
  { snapshot, ...how }: LookOptions,
): Promise<Disk> {
  if (!isRemote(runtime, location))
    return openDiskWith(runtime, { overlay: location, readOnly: true, ...how }, { snapshot });
  const { source, member } = await openPlace(runtime, location, undefined, how);
  const { unpack, sequential } = how;
  const overlay = await contentsOf(runtime, source, { member, unpack, sequential });
  if (how.followChain)
    return openDiskWith(runtime, { overlay, readOnly: true, ...how }, { snapshot });
  const alone = { overlay, readOnly: true, ...how, base: null };
  const disk = await openDiskWith(runtime, alone, { snapshot });
  const [{ backingFile }] = await disk.images();
  if (backingFile === undefined || how.base === null) return disk;
  await disk.close();
  throw new MillraceError(
    'EUNSUPPORTED',
    `${overlay.name ?? 'the image'} has a backing file of its own, '${backingFile}', which is followed only when asked for (--follow-chain)`,
  );
}

/**
 * Reads an image that must stay as it is until all of it has been read: what is copied from it
 * would be of several moments, and what is looked for in its tables might be found though it never
 * was. Locks do not decide that: whoever writes may have none that can be seen here.
 */
export async function whileUnchanged<T>(
  runtime: Runtime,
  location: string,
  read: () => Promise<T>,
): Promise<T> {
  return besideWriters(runtime, location, async (changed) => {
    const result = await read();
    if (await changed()) throw changedMeanwhile(location);
    return result;
  });
}

/**
 * Looks at an image that another program may write meanwhile, and again if it did so at the wrong
 * moment: a file that was shorter when it was opened than when its tables were read looks cut off.
 */
export async function lookBesideWriters<T>(
  runtime: Runtime,
  location: string,
  look: () => Promise<T>,
): Promise<T> {
  for (let looks = 1; ; looks++) {
    try {
      return await besideWriters(runtime, location, look);
    } catch (error) {
      if (looks === LOOKS_MAX || !(error instanceof MillraceError) || error.code !== 'ECHANGED')
        throw error;
    }
  }
}

/** What is corrupt in an image that has changed since is not held against it. */
export async function besideWriters<T>(
  runtime: Runtime,
  location: string,
  read: (changed: () => Promise<boolean>) => Promise<T>,
): Promise<T> {
  // Every answer of a server is compared with the first one anyway.
  if (isRemote(runtime, location)) return read(async () => false);
  const before = await identityOf(runtime, location);
  const changed = async (): Promise<boolean> => (await identityOf(runtime, location)) !== before;
  try {
    return await read(changed);
  } catch (error) {
    if (error instanceof MillraceError && error.code === 'ECORRUPT' && (await changed()))
      throw changedMeanwhile(location);
    throw error;
  }
}

export function changedMeanwhile(location: string): MillraceError {
  return new MillraceError(
    'ECHANGED',
    `${location} was written by another program while it was read: run this again when nothing writes it`,
  );
}

async function identityOf(runtime: Runtime, location: string): Promise<string | undefined> {
  const { source } = await openPlace(runtime, location);
  await source.close();
  return source.identity;
}

/**
 * Closes the disk after its use. What the use failed of is told rather than what the closing then
 * failed of.
 */
export async function withDisk<T>(disk: Disk, use: (disk: Disk) => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await use(disk);
  } catch (error) {
    await disk.close().catch(() => {});
    throw error;
  }
  await disk.close();
  return result;
}

function isRemote(runtime: Runtime, location: string): boolean {
  return runtime.isRemote?.(location) ?? false;
}
