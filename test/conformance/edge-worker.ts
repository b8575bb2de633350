/**
 * The conformance suite on the edge host, inside a Durable Object: the answer to a request is a
 * line of JSON for each case.
 */

import type { Bucket, ObjectState } from '../../hosts/edge/index.ts';
import { createDisk, Domain, openDisk } from '../../hosts/edge/index.ts';
import type { Adapter } from './adapter.ts';
import { outcomes } from './program.ts';

interface Env {
  SUITE: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
  BUCKET: Bucket;
}

/** One object for each place of overlays: its own storage, and the bucket. */
export class Suite {
  readonly #state: ObjectState;
  readonly #env: Env;

  constructor(state: ObjectState, env: Env) {
    this.#state = state;
    this.#env = env;
  }

  async fetch(request: Request): Promise<Response> {
    const { searchParams } = new URL(request.url);
    const places = { storage: this.#state.storage, bucket: this.#env.BUCKET };
    const prefix = searchParams.get('overlays') === 'bucket' ? 'r2:' : '';
    const host: Adapter = {
      name: 'workerd',
      createDisk: (options) => createDisk({ ...options, ...places }),
      openDisk: (options) => openDisk({ ...options, ...places }),
      Domain,
      overlay: (name) => prefix + name,
      server: searchParams.get('server')!,
    };
    const lines = outcomes(host);
    const encoder = new TextEncoder();
    return new Response(
      new ReadableStream({
        async pull(controller) {
          const { done, value } = await lines.next();
          if (done) controller.close();
          else controller.enqueue(encoder.encode(`${JSON.stringify(value)}\n`));
        },
      }),
    );
  }
}

export default {
  fetch: (request: Request, env: Env): Promise<Response> =>
    env.SUITE.get(env.SUITE.idFromName(request.url)).fetch(request),
};
