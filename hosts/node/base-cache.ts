/** The cache of bases under Node and Bun: what it needs of a file system. */
import { mkdir, readdir, rm, stat, utimes } from 'node:fs/promises';
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
      await mkdir(directory, { recursive: true, mode: FOLDER_MODE });
    } catch (error) {
      throw fileError('make', directory, error);
    }
  },
  pathOf: join,
  async list(directory, ending) {
    const names = (await readdir(directory)).filter((name) => name.endsWith(ending));
    const images = await Promise.all(names.map((name) => look(join(directory, name))));
    return images.filter((image) => image !== undefined);
  },
  async touch(path) {
    await utimes(path, new Date(), new Date());
  },
  remove: (path) => rm(path, { force: true }),
};

/** Undefined for one that has just been removed. */
async function look(path: string): Promise<CachedImage | undefined> {
  const stats = await stat(path).catch(() => undefined);
  return (
    stats && { path, bytes: stats.blocks * STAT_BLOCK_BYTES, usedMs: Math.floor(stats.mtimeMs) }
  );
}
