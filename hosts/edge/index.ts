/**
 * Millrace for edge runtimes (workerd and its like): overlays in a Durable Object's storage or in
 * an R2 bucket, bases over HTTP or in the bucket. No file, no compilation at run time; a disk takes
 * 16 MiB of memory unless `memory` says otherwise, its overlay in a bucket up to 16 MiB more.
 *
 * ```ts
 * import { DurableObject } from 'cloudflare:workers';
 * import { serveDisks } from 'millrace/edge';
 * export class Machine extends DurableObject {
 *   served = serveDisks(this.ctx, {
 *     disks: { vda: { overlay: 'vda', base: 'https://images.example/debian.qcow2' } },
 *     token: this.env.TOKEN,
 *   });
 *   fetch(request) { return this.served.fetch(request); }
 *   alarm() { return this.served.alarm(); }
 * }
 * ```
 */
import type { CheckOptions, CheckReport } from '../api/check.ts';
import type { Disk } from '../api/disk.ts';
import type { Library } from '../api/library.ts';
import type { CreateOptions, OpenOptions } from '../api/open.ts';
import type { OptionNames } from '../api/options.ts';
import { CHECK_OPTIONS, CREATE_OPTIONS, mustKnowOptions, OPEN_OPTIONS } from '../api/options.ts';
import { libraryOf } from '../faces/calls.ts';
import type { EdgePlaces } from './runtime.ts';
import { edgeRuntime, inLittleMemory } from './runtime.ts';

export { openHttp } from '../bases/http/http.ts';
export type { Handler, HandlerOptions } from '../faces/http/handler.ts';
export { createHandler } from '../faces/http/handler.ts';
export * from '../faces/library.ts';
export type { Bucket, BucketBody, BucketObject, ObjectStorage } from './platform.ts';
export type { EdgePlaces } from './runtime.ts';
export type { ObjectState, ServeDisksOptions, ServedDisks } from './serve.ts';
export { serveDisks } from './serve.ts';

const PLACES: OptionNames<EdgePlaces> = { storage: true, bucket: true };

/** Hands a call's options over, without those that say where disks can be. */
function withPlaces<Options extends { memory?: number }, Result>(
  call: string,
  known: OptionNames<Options>,
  act: (library: Library, options: Options) => Promise<Result>,
): (options: Options & EdgePlaces) => Promise<Result> {
  return async (given) => {
    mustKnowOptions(call, given, { ...known, ...PLACES });
    const { storage, bucket, ...options } = given;
    const library = libraryOf(edgeRuntime({ storage, bucket }));
    return act(library, inLittleMemory(options as unknown as Options));
  };
}

/** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
export const createDisk: (options: CreateOptions & EdgePlaces) => Promise<Disk> = withPlaces(
  'createDisk',
  CREATE_OPTIONS,
  (library, options) => library.createDisk(options),
);
/** Opens an overlay; its base is the recorded one unless another is given. */
export const openDisk: (options: OpenOptions & EdgePlaces) => Promise<Disk> = withPlaces(
  'openDisk',
  OPEN_OPTIONS,
  (library, options) => library.openDisk(options),
);
/** Checks an image by itself, without its base, and repairs it if asked to. */
export const checkDisk: (options: CheckOptions & EdgePlaces) => Promise<CheckReport | undefined> =
  withPlaces('checkDisk', CHECK_OPTIONS, (library, options) => library.checkDisk(options));
