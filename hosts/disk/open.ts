/**
 * Opening and creating disks, the same way on every runtime: files are opened by the runtime,
 * images by the engine, and the chain is put together from what the caller gave or what the overlay
 * records.
 */

import { KIND_CLOSE, KIND_CREATE } from '../../engine/protocol.ts';
import type { BlockSource } from '../api/block.ts';
import type { CheckOptions, CheckReport } from '../api/check.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat, ImageInfo, SnapshotChoice } from '../api/image.ts';
import type { BaseLocation, CreateOptions, OpenOptions } from '../api/open.ts';
import { CHECK_OPTIONS, CREATE_OPTIONS, mustKnowOptions, OPEN_OPTIONS } from '../api/options.ts';
import type { Runtime } from '../api/runtime.ts';
import { backingOf } from './backing.ts';
import { check } from './check.ts';
import type { EngineDisk } from './disk.ts';
import { Opening } from './opening.ts';
import {
  checkedCache,
  checkedShape,
  checkedSize,
  mustBeLocation,
  overlayName,
  SECTOR_BYTES,
} from './options.ts';

/** Makes a new overlay over a base, or an empty disk, and opens it. */
export async function createDiskWith(
  runtime: Runtime,
  options: CreateOptions,
): Promise<EngineDisk> {
  mustKnowOptions('createDisk', options, CREATE_OPTIONS);
  mustBeLocation('overlay', options.overlay);
  const opening = await Opening.start(runtime, options);
  try {
    const shape = checkedShape(options);
    const size = checkedSize(options.size);
    if (size === undefined && options.base === undefined)
      throw new MillraceError('EINVAL', 'a disk without a base needs a size');
    // The base first: what is wrong with it shows before anything is made.
    opening.reserve(overlayName(options.overlay));
    if (options.base !== undefined)
      await opening.chain.open([options.base], [options.baseFormat], options.followChain ?? false);
    await opening.loadProfile(options.profile);
    await opening.createOverlay(options.overlay, checkedCache(options));
    const { base, recordBase } = options;
    if (base !== undefined)
      opening.chain.recordBase(
        1,
        typeof base === 'string' || base instanceof URL ? String(base) : base.name,
        recordBase,
      );
    const bytes = size ?? Math.ceil(opening.virtualSize(1) / SECTOR_BYTES) * SECTOR_BYTES;
    await opening.engine.request(KIND_CREATE, 0, bytes, shape);
    opening.engine.texts.keep(0);
    await opening.publish();
    return opening.finish(false, options.copyOnRead ?? true);
  } catch (error) {
    await opening.undo();
    throw error;
  }
}

/** What callers within Millrace say, and are told, of a disk that is opened. */
interface Told {
  /** The overlay itself is not there, whatever becomes of its base. */
  missing?: () => void;
  /** As `OpeningOptions` has them. */
  onOtherDate?: (words: string) => void;
  takesLower?: boolean;
  /** What is shown in place of the disk as it is now; of one that is opened to be read. */
  snapshot?: SnapshotChoice;
}

/** Opens an overlay with its chain; with `create`, one that is not there is made. */
export async function openDiskWith(
  runtime: Runtime,
  options: OpenOptions,
  told?: Told,
): Promise<EngineDisk> {
  mustKnowOptions('openDisk', options, OPEN_OPTIONS);
  const { create, ...existing } = options;
  if (create === undefined) return openExisting(runtime, existing, told);
  if (options.readOnly)
    throw new MillraceError('EINVAL', 'openDisk has create or readOnly, not both');
  const { overlay, copyOnRead, forceShare, cache, memory, profile, record } = existing;
  // An object is no record: it has to be given again.
  if (isObject(create.base)) existing.base ??= create.base;
  let isMissing = isObject(overlay) && overlay.size === 0;
  if (!isMissing)
    try {
      return await openExisting(runtime, existing, { missing: () => (isMissing = true) });
    } catch (error) {
      if (!isMissing) throw error;
    }
  try {
    const how = { overlay, copyOnRead, forceShare, cache, memory };
    const made = { profile, record, ...create, ...how };
    return await createDiskWith(runtime, made as CreateOptions);
  } catch (error) {
    // Somebody else may have been quicker.
    if ((error as MillraceError).code !== 'EEXIST' || isObject(overlay)) throw error;
    return openExisting(runtime, existing);
  }
}

function isObject(location: BaseLocation | undefined): location is BlockSource {
  return typeof location === 'object' && !(location instanceof URL);
}

async function openExisting(
  runtime: Runtime,
  options: Omit<OpenOptions, 'create'>,
  { missing, snapshot, ...taken }: Told = {},
): Promise<EngineDisk> {
  const { readOnly = false, followChain = false } = options;
  mustBeLocation('overlay', options.overlay);
  const opening = await Opening.start(runtime, { ...options, ...taken });
  try {
    await opening
      .openOverlay(options.overlay, { readOnly, cache: checkedCache(options) }, options.format)
      .catch((error) => {
        if ((error as MillraceError).code === 'ENOENT') missing?.();
        throw error;
      });
    if (snapshot !== undefined) await opening.showSnapshot(snapshot);
    if (options.base === null) return await opening.finishWithoutBase(readOnly);
    const bases =
      options.base === undefined ? [] : Array.isArray(options.base) ? options.base : [options.base];
    const formats = Array.isArray(options.baseFormat) ? options.baseFormat : [options.baseFormat];
    const recorded = backingOf(opening.engine, 0);
    if (bases.length) await opening.chain.open(bases, formats, followChain, recorded?.identity);
    else if (recorded) await opening.chain.openRecorded(recorded, formats[0], followChain);
    if (!readOnly) await opening.recover();
    await opening.loadProfile(options.profile);
    return opening.finish(readOnly, options.copyOnRead ?? true);
  } catch (error) {
    await opening.undo();
    throw error;
  }
}

/**
 * What an image is, and the bytes of it that are not populated, without its base. The other files
 * of one that lies in several are opened with `followChain`. That is told of
 * one as well whose data cannot be read: of one with an external data file, what is populated is
 * not.
 * @throws MillraceError where the header cannot be read.
 */
export async function describeImageWith(
  runtime: Runtime,
  overlay: string | BlockSource,
  { format, followChain }: { format?: ImageFormat; followChain?: boolean } = {},
): Promise<{ image: ImageInfo; remaining?: number }> {
  const opening = await Opening.start(runtime, { followChain });
  try {
    await opening.openToDescribe(overlay, format);
    const disk = await opening.finishWithoutBase(true);
    const [image] = await disk.images();
    return { image, remaining: image.dataFile ? undefined : await disk.remaining() };
  } finally {
    await opening.undo();
  }
}

/**
 * Checks an image by itself, whatever state it is in: its base is not needed, and nothing is
 * changed but what `repair` says. Undefined for a raw image, which has nothing to check.
 * @throws MillraceError where the header cannot be read, or (`ECORRUPT`) a repair could lose data;
 *   nothing has been changed then.
 */
export async function checkDiskWith(
  runtime: Runtime,
  options: CheckOptions,
): Promise<CheckReport | undefined> {
  mustKnowOptions('checkDisk', options, CHECK_OPTIONS);
  const { overlay, repair, data, format, memory, onProgress } = options;
  mustBeLocation('overlay', overlay);
  const opening = await Opening.start(runtime, { memory });
  try {
    if (!(await opening.openToCheck(overlay, repair !== undefined, format))) return undefined;
    const report = await check(opening.engine, opening.virtualSize(0), {
      repair,
      data,
      onProgress,
    });
    // An image that is still wrong is not marked as sound.
    if (repair && !report.corruptions) await opening.engine.request(KIND_CLOSE);
    return report;
  } finally {
    await opening.undo();
  }
}
