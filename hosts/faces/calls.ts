/** The calls that open disks, over what a runtime brings. */
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { CachingLibrary, EngineModule, Library, WithEngine } from '../api/library.ts';
import type { BaseCacheOptions } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import type { CacheFolder } from '../disk/base-cache.ts';
import { cachingBases } from '../disk/base-cache.ts';
import { commitWith } from '../disk/commit.ts';
import { convertWith } from '../disk/convert/convert.ts';
import { checkDiskWith, createDiskWith, openDiskWith } from '../disk/open.ts';
import { rebaseWith } from '../disk/rebase.ts';
import { isHttpUrl } from '../files/location.ts';

/** The calls, over what a runtime brings. */
export function libraryOf(runtime: Runtime): Library {
  const over =
    <Options, Result>(call: (runtime: Runtime, options: Options) => Promise<Result>) =>
    async (given: Options & WithEngine): Promise<Result> => {
      const { wasm, ...options }: WithEngine = given ?? {};
      return call(withEngine(runtime, wasm), options as Options);
    };
  return {
    createDisk: over(createDiskWith),
    openDisk: over(openDiskWith),
    checkDisk: over(checkDiskWith),
    commitDisk: over(commitWith),
    rebaseDisk: over(rebaseWith),
    convertDisk: over(convertWith),
  };
}

function withEngine(runtime: Runtime, wasm: EngineModule | undefined): Runtime {
  if (wasm === undefined) return runtime;
  if (!(wasm instanceof WebAssembly.Module))
    throw new MillraceError('EINVAL', 'wasm is a WebAssembly.Module, the compiled engine');
  return { ...runtime, engine: async () => wasm };
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
    createDisk: async (given) => {
      const { baseCache, ...options } = given ?? {};
      return over(baseCache).createDisk(options);
    },
    openDisk: async (given) => {
      const { baseCache, ...options } = given ?? {};
      return over(baseCache).openDisk(options);
    },
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
