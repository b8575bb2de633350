/** The cache of bases under Deno: what it needs of a file system. */
import { join } from 'node:path';
import type { CachedImage, CacheFolder } from '../disk/base-cache.ts';
import { fileError } from './file.ts';

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
