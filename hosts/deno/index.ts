/**
 * Millrace for Deno: disks over local files and HTTP bases. A disk needs `--allow-read` and
 * `--allow-write` of its folder and `--allow-net` of its base's host.
 *
 * ```ts
 * import { createDisk } from 'millrace/deno';
 * const disk = await createDisk({ overlay: 'vm.qcow2', base: 'https://images.example/debian.qcow2' });
 * await disk.read(0, 512);   // fetched now, kept in the overlay
 * await disk.stream();       // the whole base
 * await disk.close();
 * ```
 */
import type { BaseCacheOptions, CreateOptions, Disk, OpenOptions } from '../api/disk.ts';
import type { Library } from '../api/library.ts';
import { libraryOf } from '../faces/calls.ts';
import { runtimeWith } from './base-cache.ts';
import { denoRuntime } from './runtime.ts';

export type { Handler, HandlerOptions } from '../faces/http/handler.ts';
export { createHandler } from '../faces/http/handler.ts';
export * from '../faces/library.ts';
export type { OpenFileOptions } from '../files/file.ts';
export { openFile, openFileSource } from './file.ts';
export { openHttp } from './http.ts';
export { openNbd } from './nbd-base.ts';

/** What disks over bases on servers may have besides. */
export interface WithBaseCache {
  /** A folder in which what is fetched of a base is kept for the next disk over it. */
  baseCache?: BaseCacheOptions;
}

const library: Library = libraryOf(denoRuntime);

/** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
export async function createDisk(options: CreateOptions & WithBaseCache): Promise<Disk> {
  const { baseCache, ...rest } = options;
  return libraryOf(runtimeWith(baseCache)).createDisk(rest);
}

/** Opens an overlay; its base is the recorded one unless another is given. */
export async function openDisk(options: OpenOptions & WithBaseCache): Promise<Disk> {
  const { baseCache, ...rest } = options;
  return libraryOf(runtimeWith(baseCache)).openDisk(rest);
}

/**
 * Checks an image by itself, without its base, and repairs it if asked to; undefined for a raw
 * image, which has nothing to check.
 */
export const checkDisk: Library['checkDisk'] = library.checkDisk;
/** Writes what an overlay holds down into a local base of its chain, and empties the overlay. */
export const commitDisk: Library['commitDisk'] = library.commitDisk;
/** Gives an overlay another base; the disk shows the same as before. */
export const rebaseDisk: Library['rebaseDisk'] = library.rebaseDisk;
