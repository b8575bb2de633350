/**
 * Millrace for Node (and Bun): disks over local files and HTTP bases.
 *
 * ```ts
 * import { createDisk } from 'millrace';
 * const base = 'https://images.example/debian.qcow2';
 * const disk = await createDisk({ overlay: 'vm.qcow2', base });
 * await disk.read(0, 512);   // fetched now, kept in the overlay
 * await disk.stream();       // the whole base
 * await disk.close();
 * ```
 */
import type { CachingLibrary } from '../api/library.ts';
import { cachingLibraryOf } from '../faces/calls.ts';
import { cacheFolder } from './base-cache.ts';
import { openHttp } from './http.ts';
import { nodeRuntime } from './runtime.ts';

export type { CachingLibrary, EngineModule, WithBaseCache, WithEngine } from '../api/library.ts';
export type { Handler, HandlerOptions, Listening } from '../faces/http/handler.ts';
export { createHandler } from '../faces/http/handler.ts';
export * from '../faces/library.ts';
export type { OpenFileOptions } from '../files/file.ts';
export { openFile, openFileSource } from './file.ts';
export { openHttp } from './http.ts';
export { openNbd } from './nbd-base.ts';
export type { ListenOptions } from './serve.ts';
export { listen, nodeListener } from './serve.ts';

const library: CachingLibrary = cachingLibraryOf(nodeRuntime, { folder: cacheFolder, openHttp });

/** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
export const createDisk: CachingLibrary['createDisk'] = library.createDisk;
/** Opens an overlay; its base is the recorded one unless another is given. */
export const openDisk: CachingLibrary['openDisk'] = library.openDisk;
/**
 * Checks an image by itself, without its base, and repairs it if asked to; undefined for a raw
 * image, which has nothing to check.
 */
export const checkDisk: CachingLibrary['checkDisk'] = library.checkDisk;
/** Writes what an overlay holds down into a local base of its chain, and empties the overlay. */
export const commitDisk: CachingLibrary['commitDisk'] = library.commitDisk;
/** Gives an overlay another base; the disk shows the same as before. */
export const rebaseDisk: CachingLibrary['rebaseDisk'] = library.rebaseDisk;
/** Copies all that a disk shows, its base included, into a file that stands alone. */
export const convertDisk: CachingLibrary['convertDisk'] = library.convertDisk;
