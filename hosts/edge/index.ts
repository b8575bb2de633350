/**
 * Millrace for edge runtimes (workerd and its like): overlays in a Durable Object's storage or in an R2 bucket, bases over HTTP or in
 * the bucket. No file, no compilation at run time; a disk takes 16 MiB of memory unless `memory` says otherwise, its overlay in a bucket
 * up to 16 MiB more.
 *
 * ```ts
 * import { DurableObject } from 'cloudflare:workers';
 * import { serveDisks } from 'millrace/edge';
 * export class Machine extends DurableObject {
 *   served = serveDisks(this.ctx, { disks: { vda: { overlay: 'vda', base: 'https://images.example/debian.qcow2' } }, token: this.env.TOKEN });
 *   fetch(request) { return this.served.fetch(request); }
 *   alarm() { return this.served.alarm(); }
 * }
 * ```
 */
import type { CheckOptions, CheckReport, CreateOptions, Disk, OpenOptions } from '../api/disk.ts';
import { checkDiskWith, createDiskWith, openDiskWith } from '../disk/open.ts';
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

/** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
export function createDisk({
  storage,
  bucket,
  ...options
}: CreateOptions & EdgePlaces): Promise<Disk> {
  return createDiskWith(edgeRuntime({ storage, bucket }), inLittleMemory(options));
}

/** Opens an overlay; its base is the recorded one unless another is given. */
export function openDisk({ storage, bucket, ...options }: OpenOptions & EdgePlaces): Promise<Disk> {
  return openDiskWith(edgeRuntime({ storage, bucket }), inLittleMemory(options));
}

/** Checks an image by itself, without its base, and repairs it if asked to; undefined for a raw image, which has nothing to check. */
export function checkDisk({
  storage,
  bucket,
  ...options
}: CheckOptions & EdgePlaces): Promise<CheckReport | undefined> {
  return checkDiskWith(edgeRuntime({ storage, bucket }), inLittleMemory(options));
}
