/** The calls that open disks, over what a runtime brings. */
import type { BlockSource } from '../api/block.ts';
import type { BaseCacheOptions } from '../api/disk.ts';
import type { CachingLibrary, Library } from '../api/library.ts';
import type { Runtime } from '../api/runtime.ts';
import type { CacheFolder } from '../disk/base-cache.ts';
import { cachingBases } from '../disk/base-cache.ts';
import { commitWith } from '../disk/commit.ts';
import { checkDiskWith, createDiskWith, openDiskWith } from '../disk/open.ts';
import { rebaseWith } from '../disk/rebase.ts';
import { isHttpUrl } from '../files/location.ts';

/** The calls, over what a runtime brings. */
export function libraryOf(runtime: Runtime): Library {
  return {
    createDisk: (options) => createDiskWith(runtime, options),
    openDisk: (options) => openDiskWith(runtime, options),
    checkDisk: (options) => checkDiskWith(runtime, options),
    commitDisk: (options) => commitWith(runtime, options),
    rebaseDisk: (options) => rebaseWith(runtime, options),
  };
}

/** What a runtime that has folders brings besides. */
interface Caching {
  folder: CacheFolder;
  openHttp(location: string | URL, how: { lookFirst: boolean }): Promise<BlockSource>;
}

/** The calls, with a cache of bases where one is wanted. */
export function cachingLibraryOf(runtime: Runtime, caching: Caching): CachingLibrary {
  const over = (cache?: BaseCacheOptions): Library => libraryOf(withCache(runtime, caching, cache));
  return {
    ...libraryOf(runtime),
    createDisk: async ({ baseCache, ...options }) => over(baseCache).createDisk(options),
    openDisk: async ({ baseCache, ...options }) => over(baseCache).openDisk(options),
  };
}

function withCache(
  runtime: Runtime,
  { folder, openHttp }: Caching,
  cache: BaseCacheOptions | undefined,
): Runtime {
  if (cache === undefined) return runtime;
  const openSource: Runtime['openSource'] = (location, as, how) =>
    as !== undefined && isHttpUrl(String(location))
      ? openHttp(location, { ...how, lookFirst: true })
      : runtime.openSource(location, as, how);
  return cachingBases({ ...runtime, openSource }, folder, cache);
}
