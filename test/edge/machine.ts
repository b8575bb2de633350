/**
 * A worker of the tests: one Durable Object that serves disks over a base elsewhere, and over one
 * in the bucket. `/write/OVERLAY` writes to an overlay past the disks that it serves.
 */

import type { Bucket, EdgePlaces, ObjectState, ServedDisks } from '../../hosts/edge/index.ts';
import { openDisk, serveDisks } from '../../hosts/edge/index.ts';

interface Env {
  MACHINE: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
  BUCKET: Bucket;
  BASE: string;
  TOKEN: string;
  /** A key that the bucket takes for ever to write. */
  STUCK?: string;
}

export class Machine {
  readonly #served: ServedDisks;
  readonly #places: EdgePlaces;

  constructor(state: ObjectState, env: Env) {
    this.#places = { storage: state.storage, bucket: env.BUCKET };
    const disks = {
      vda: { overlay: 'vda', base: env.BASE },
      vdb: { overlay: 'r2:vdb', base: 'r2:base.raw' },
      vdc: { overlay: 'vdc', base: env.BASE, profile: 'auto' as const },
      lost: { overlay: 'lost', base: `${env.BASE}.missing` },
    };
    this.#served = serveDisks(state, {
      disks,
      bucket: stuckAt(env.STUCK, env.BUCKET),
      token: env.TOKEN,
    });
  }

  async fetch(request: Request): Promise<Response> {
    const [, overlay] = /^\/write\/(.+)$/.exec(new URL(request.url).pathname) ?? [];
    if (overlay === undefined) return this.#served.fetch(request);
    const disk = await openDisk({ ...this.#places, overlay });
    await disk.write(0, Uint8Array.of(1));
    await disk.close();
    return new Response();
  }

  alarm(): Promise<void> {
    return this.#served.alarm();
  }
}

function stuckAt(stuck: string | undefined, bucket: Bucket): Bucket {
  return {
    head: (key) => bucket.head(key),
    get: (key, options) => bucket.get(key, options),
    put: (key, value, options) =>
      key === stuck ? new Promise(() => {}) : bucket.put(key, value, options),
    delete: (keys) => bucket.delete(keys),
  };
}

export default {
  fetch: (request: Request, env: Env): Promise<Response> =>
    env.MACHINE.get(env.MACHINE.idFromName('vm')).fetch(request),
};
