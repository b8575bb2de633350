/**
 * What was fetched of a base is kept in a folder of this machine, so that the next disk over it
 * fetches nothing again: for each base an overlay of our own, whose base it is, under a name made
 * of what identifies it. A base that has changed has another name; one that nothing identifies is
 * not kept.
 *
 * The locks of overlays keep programs apart: while one has the image of a base open, others read
 * that base from its server. What a crash leaves is a valid overlay, as it always is.
 */
import type { BlockSource } from '../api/block.ts';
import type { ErrorCode } from '../api/errors.ts';
import { MillraceError } from '../api/errors.ts';
import type { BaseCacheOptions } from '../api/open.ts';
import type { OptionNames } from '../api/options.ts';
import { mustKnowOptions } from '../api/options.ts';
import type { Runtime } from '../api/runtime.ts';
import { CachedBase, RemoteBase } from './cached-base.ts';
import type { EngineDisk } from './disk.ts';
import { hex } from './hex.ts';
import { shortIdentity } from './identity.ts';
import { createDiskWith, openDiskWith } from './open.ts';

const CACHE_OPTIONS: OptionNames<BaseCacheOptions> = { directory: true, size: true };

/** An image in the folder. */
export interface CachedImage {
  path: string;
  /** What it takes on the storage. */
  bytes: number;
  /** When it was opened last, milliseconds since 1970. */
  usedMs: number;
}

/** What a runtime brings: a few operations on one folder. Failures are thrown as MillraceErrors. */
export interface CacheFolder {
  make(directory: string): Promise<void>;
  pathOf(directory: string, name: string): string;
  /** The images in it, by the ending of their names. */
  list(directory: string, ending: string): Promise<CachedImage[]>;
  /** Notes that an image has been used now. */
  touch(path: string): Promise<void>;
  remove(path: string): Promise<void>;
}

const BYTES_DEFAULT: number = 20 * 1024 ** 3;
const BYTES_MIN: number = 1024 * 1024;
/** Of our images; others in the folder are left alone. */
const ENDING = '.base.qcow2';
/**
 * After so much was fetched, or this part of the cache's size, it is looked at again whether there
 * is room.
 */
const LOOK_BYTES_MAX: number = 16 * 1024 * 1024;
const LOOK_SHARE = 1 / 4;
const SECTOR_BYTES = 512;
/** What is in a base is for the disk above its image to tell. */
const BYTES_AS_THEY_ARE = { baseFormat: 'raw', unpack: false } as const;
const ON_SERVER = /^(?!file:)[a-z][a-z0-9+.-]+:\/\//i;
/** Another program has it, or has just made it. */
const TAKEN: readonly ErrorCode[] = ['EBUSY', 'EEXIST'];
/** A file that is no image any more, or is another's: it is made anew. */
const SPOILED: readonly ErrorCode[] = ['ECORRUPT', 'EUNSUPPORTED', 'ECHANGED', 'EINVAL'];

/** The cached bases of this process, by the paths of their images: several disks share one. */
const inUse = new Map<string, { opening: Promise<CachedBase | undefined>; users: number }>();

/**
 * Opens as the runtime does, but reads bases on servers through the images in a folder. `tell` is
 * called with words for the user, once for each base that is not kept.
 */
export function cachingBases(
  runtime: Runtime,
  folder: CacheFolder,
  options: BaseCacheOptions,
  tell: (message: string) => void = () => {},
): Runtime {
  mustKnowOptions('the cache of bases', options, CACHE_OPTIONS);
  const { directory, size = BYTES_DEFAULT } = options;
  if (typeof directory !== 'string' || directory === '')
    throw new MillraceError('EINVAL', 'the cache of bases needs a directory: a path');
  if (!Number.isSafeInteger(size) || size < BYTES_MIN)
    throw new MillraceError('EINVAL', `a cache of ${size} bytes: it must be 1 MiB or more`);
  const cache = new Cache(runtime, folder, directory, size);
  const told = new Set<string>();
  const once = (name: string, why: string): void => {
    if (!told.has(name)) tell(`${name} is not kept in ${directory}: ${why}`);
    told.add(name);
  };
  return {
    ...runtime,
    async openSource(location, as, how) {
      const source = await runtime.openSource(location, as, how);
      // Local files are near enough.
      if (as === undefined || !ON_SERVER.test(String(location))) return source;
      const { name = String(location), identity } = source;
      if (source.inOrder !== undefined) {
        once(name, 'its server sends it from start to end only');
        return source;
      }
      if (identity === undefined) {
        once(name, 'nothing tells whether it has changed');
        return source;
      }
      const cached = await cache.open(source, name, identity);
      if (cached === undefined) once(name, 'another program has its image open');
      return cached ?? source;
    },
  };
}

class Cache {
  readonly #runtime: Runtime;
  readonly #folder: CacheFolder;
  readonly #directory: string;
  readonly #bytesMax: number;

  constructor(runtime: Runtime, folder: CacheFolder, directory: string, bytesMax: number) {
    this.#runtime = runtime;
    this.#folder = folder;
    this.#directory = directory;
    this.#bytesMax = bytesMax;
  }

  /** The base through its image; undefined where another program has that open. */
  async open(
    source: BlockSource,
    name: string,
    identity: string,
  ): Promise<BlockSource | undefined> {
    await this.#folder.make(this.#directory);
    const path = this.#folder.pathOf(
      this.#directory,
      `${await keyOf(source, name, identity)}${ENDING}`,
    );
    const entry = inUse.get(path) ?? { opening: this.#openImage(path, source), users: 0 };
    const isFirst = entry.users++ === 0;
    inUse.set(path, entry);
    const leave = async (): Promise<boolean> => {
      if (--entry.users > 0) return false;
      if (inUse.get(path) === entry) inUse.delete(path);
      return true;
    };
    const base = await entry.opening.catch(async (error) => {
      await leave();
      await source.close();
      throw error;
    });
    if (base === undefined) {
      await leave();
      return undefined;
    }
    if (!isFirst) await source.close();
    return base.seat(async () => {
      if (await leave()) await base.close();
    });
  }

  async #openImage(path: string, source: BlockSource): Promise<CachedBase | undefined> {
    const base = new RemoteBase(source);
    try {
      const disk = await this.#openOrMake(path, base);
      await this.#folder.touch(path);
      const hasRoom = await this.makeRoom();
      const lookBytes = Math.min(LOOK_BYTES_MAX, this.#bytesMax * LOOK_SHARE);
      return new CachedBase(disk, base, { hasRoom, lookBytes, makeRoom: () => this.makeRoom() });
    } catch (error) {
      if (error instanceof MillraceError && TAKEN.includes(error.code)) return undefined;
      throw error;
    }
  }

  async #openOrMake(path: string, base: RemoteBase): Promise<EngineDisk> {
    try {
      return await openDiskWith(this.#runtime, { ...BYTES_AS_THEY_ARE, overlay: path, base });
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      if (SPOILED.includes(error.code)) await this.#folder.remove(path);
      else if (error.code !== 'ENOENT') throw error;
    }
    const size = Math.ceil(base.size / SECTOR_BYTES) * SECTOR_BYTES;
    return createDiskWith(this.#runtime, { ...BYTES_AS_THEY_ARE, overlay: path, base, size });
  }

  /**
   * Removes what was used longest ago until all fits; false where what is in use takes too much.
   */
  async makeRoom(): Promise<boolean> {
    const images = await this.#folder.list(this.#directory, ENDING);
    let bytes = images.reduce((sum, image) => sum + image.bytes, 0);
    for (const image of images.sort((one, other) => one.usedMs - other.usedMs)) {
      if (bytes <= this.#bytesMax) break;
      if (!inUse.has(image.path) && (await this.#remove(image.path))) bytes -= image.bytes;
    }
    return bytes <= this.#bytesMax;
  }

  /** Under its lock, so that nobody has it open. */
  async #remove(path: string): Promise<boolean> {
    try {
      const file = await this.#runtime.openOverlay(path, {});
      try {
        await this.#folder.remove(path);
      } finally {
        await file.close();
      }
      return true;
    } catch {
      return false;
    }
  }
}

/**
 * A base at one place, as it is now: without what a server's answer tells of it only once it is no
 * longer new.
 */
async function keyOf({ size }: BlockSource, name: string, identity: string): Promise<string> {
  const key = JSON.stringify([name, size, shortIdentity(identity)]);
  const text = new TextEncoder().encode(key);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', text));
  return hex(digest.subarray(0, 16));
}
