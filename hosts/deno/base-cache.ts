/** The cache of bases under Deno: what it needs of a file system, and the runtime that has it. */
import { join } from 'node:path';
import type { BaseCacheOptions } from '../api/disk.ts';
import type { Runtime } from '../api/runtime.ts';
import type { CachedImage, CacheFolder } from '../disk/base-cache.ts';
import { cachingBases } from '../disk/base-cache.ts';
import { isHttpUrl } from '../files/location.ts';
import { fileError } from './file.ts';
import { openHttp } from './http.ts';
import { denoRuntime } from './runtime.ts';

/** stat(2) counts in these. */
const STAT_BLOCK_BYTES = 512;
/** Bases may be secret. */
const FOLDER_MODE = 0o700;

export const cacheFolder: CacheFolder = {
  async make(directory) {
    try {
      await Deno.mkdir(directory, { recursive: true, mode: FOLDER_MODE });
    } catch (error) {
      throw fileError('make', directory, error);
    }
  },
  pathOf: join,
  async list(directory, ending) {
    const images: CachedImage[] = [];
    for await (const { name } of Deno.readDir(directory)) {
      const path = join(directory, name);
      // One that has just been removed is none.
      const stats = name.endsWith(ending)
        ? await Deno.stat(path).catch(() => undefined)
        : undefined;
      if (stats !== undefined)
        images.push({
          path,
          bytes: stats.blocks === null ? stats.size : stats.blocks * STAT_BLOCK_BYTES,
          usedMs: stats.mtime?.getTime() ?? 0,
        });
    }
    return images;
  },
  async touch(path) {
    await Deno.utime(path, new Date(), new Date());
  },
  remove: (path) => Deno.remove(path),
};

/** Deno's runtime, with a cache of bases where one is wanted. */
export function runtimeWith(baseCache: BaseCacheOptions | undefined): Runtime {
  if (baseCache === undefined) return denoRuntime;
  const openSource: Runtime['openSource'] = async (location, as) =>
    as !== undefined && isHttpUrl(String(location))
      ? openHttp(location, { lookFirst: true })
      : denoRuntime.openSource(location, as);
  return cachingBases({ ...denoRuntime, openSource }, cacheFolder, baseCache);
}
