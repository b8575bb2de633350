/**
 * commit: writes what an overlay holds down into a base of its chain, as `qemu-img commit` does:
 * for those who keep the base and want the overlay's changes in it. The base is written in place:
 * other overlays over it show the changes too, or break.
 */

import type { BlockFile } from '../api/block.ts';
import type { CommitOptions, CommitReport } from '../api/chain.ts';
import type { Disk, Extent } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageInfo } from '../api/image.ts';
import { COMMIT_OPTIONS, mustKnowOptions } from '../api/options.ts';
import type { Runtime } from '../api/runtime.ts';
import { inLanes, PIECE_BYTES, split } from './copy-pieces.ts';
import type { EngineDisk } from './disk.ts';
import { findImage, listed } from './find-image.ts';
import { openDiskWith } from './open.ts';
import { identityText } from './recorded.ts';

const URL_SCHEME = /^[a-z][a-z0-9+.-]+:\/\//i;

/**
 * Stands for the identity of a base that is being written: it is taken as it is, so that a commit
 * that was interrupted can be run again.
 */
const BEING_WRITTEN = '{}';

/** Where the data goes. */
type Target = Pick<Disk, 'resize' | 'write' | 'writeZeroes' | 'flush' | 'close'>;

/**
 * @throws MillraceError `EINVAL` when there is no such base, `EUNSUPPORTED` when it is remote,
 *   `EBUSY` when one of the two is in use.
 */
export async function commitWith(runtime: Runtime, options: CommitOptions): Promise<CommitReport> {
  mustKnowOptions('commitDisk', options, COMMIT_OPTIONS);
  const { overlay, followChain, memory, base = 1, keep = options.base !== undefined } = options;
  // An interrupted commit has written into an image that another one records: it is to be run again
  // all the same.
  const existing = { overlay, followChain, memory, copyOnRead: false };
  const disk = await openDiskWith(runtime, existing, { takesLower: true });
  try {
    const images = await disk.images();
    const depth = await depthOf(runtime, overlay, images, base);
    const { name, virtualSize } = images[depth];
    const format = writableFormat(overlay, images[depth]);
    const recorded = images[0].backingFile ?? name;
    const identity = disk.baseRecord.identity();
    if (depth === 1) await disk.baseRecord.refer(recorded, format, BEING_WRITTEN);
    let target: Target;
    // A base that cannot be opened has not been written: it is to be noticed when it changes, as
    // before.
    try {
      disk.unguard(depth);
      target = await openTarget(runtime, images[depth], options);
    } catch (error) {
      if (depth === 1) await disk.baseRecord.refer(recorded, format, identity).catch(() => {});
      throw error;
    }
    const bytes = await writeDown(disk, target, depth, virtualSize, options.onProgress);
    const emptied = depth === 1 && !keep;
    if (emptied) await disk.empty();
    if (depth === 1) await recordAnew(runtime, disk, recorded, format, name);
    await disk.close();
    return { base: name, bytes, emptied };
  } catch (error) {
    await disk.close().catch(() => {});
    throw error;
  }
}

async function depthOf(
  runtime: Runtime,
  overlay: string,
  images: readonly ImageInfo[],
  base: string | number,
): Promise<number> {
  if (images.length === 1)
    throw new MillraceError('EINVAL', `cannot commit ${overlay}: it has no base`);
  const depth = await findImage(runtime, images, base);
  if (depth !== undefined) return depth;
  throw new MillraceError(
    'EINVAL',
    `cannot commit ${overlay} into '${base}': there is no such image in the chain below it, which has ${listed(images)}`,
  );
}

/** The format of a base that can be written. */
function writableFormat(overlay: string, { name, format, container }: ImageInfo): 'raw' | 'qcow2' {
  const refused = (why: string): MillraceError =>
    new MillraceError('EUNSUPPORTED', `cannot commit ${overlay} into ${name}: ${why}`);
  if (URL_SCHEME.test(name)) throw refused('only a local base can be written');
  if (container !== undefined)
    throw refused(
      `what is in a container (${container.formats.join(', ')}) is only read, never written`,
    );
  if (format !== 'raw' && format !== 'qcow2')
    throw refused(`images of the format ${format} are only read, never written`);
  return format;
}

/**
 * Writes everything that stands above `depth` into the target, which shows `size` bytes, and closes
 * it; gives how many bytes that were.
 */
async function writeDown(
  disk: Disk,
  target: Target,
  depth: number,
  size: number,
  onProgress: CommitOptions['onProgress'],
): Promise<number> {
  let bytes: number;
  try {
    if (size < disk.size) await target.resize(disk.size);
    bytes = await copyDown(disk, target, depth, onProgress);
    await target.flush();
  } catch (error) {
    await target.close().catch(() => {});
    throw error;
  }
  await target.close();
  return bytes;
}

/** The base is another than the one that was recorded: it has been written. */
async function recordAnew(
  runtime: Runtime,
  disk: EngineDisk,
  name: string,
  format: 'raw' | 'qcow2',
  location: string,
): Promise<void> {
  const source = await runtime.openSource(location);
  try {
    await disk.baseRecord.refer(name, format, await identityText(source, name));
  } finally {
    await source.close();
  }
}

async function openTarget(
  runtime: Runtime,
  { name, format }: ImageInfo,
  { followChain, memory }: CommitOptions,
): Promise<Target> {
  if (format === 'qcow2')
    return openDiskWith(runtime, { overlay: name, followChain, memory, copyOnRead: false });
  const file: BlockFile = await runtime.openOverlay(name, {});
  const zeros = new Uint8Array(PIECE_BYTES);
  return {
    async resize(size) {
      await file.truncate(size);
    },
    async write(offset, data) {
      await file.write(offset, data);
    },
    async writeZeroes(offset, length) {
      await file.write(offset, zeros.subarray(0, length));
    },
    async flush() {
      await file.flush();
    },
    async close() {
      await file.close();
    },
  };
}

/** Writes everything that stands above `depth` into the target; gives how many bytes that were. */
async function copyDown(
  disk: Disk,
  target: Target,
  depth: number,
  onProgress: CommitOptions['onProgress'],
): Promise<number> {
  let bytes = 0;
  let done = 0;
  const pieces = piecesIn(disk.map(0, disk.size, { depth }));
  await inLanes(pieces, undefined, async ({ offset, length, state }) => {
    if (state === 'zero') await target.writeZeroes(offset, length);
    else await target.write(offset, await disk.read(offset, length));
    bytes += length;
    done = Math.max(done, offset + length);
    onProgress?.(done, disk.size);
  });
  return bytes;
}

async function* piecesIn(extents: AsyncIterable<Extent>): AsyncGenerator<Extent> {
  for await (const extent of extents) {
    if (extent.state === 'absent') continue;
    for (const piece of split(extent.offset, extent.offset + extent.length))
      yield { ...extent, ...piece };
  }
}
