/** Disks of a machine in a Durable Object, over an image elsewhere; see wrangler.jsonc. */
import type { ObjectState, ServedDisks } from 'millrace/edge';
import { serveDisks } from 'millrace/edge';

interface Env {
  BASE: string;
  TOKEN: string;
  MACHINE: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
}

export class Machine {
  readonly #served: ServedDisks;

  constructor(state: ObjectState, { BASE, TOKEN }: Env) {
    this.#served = serveDisks(state, {
      disks: { vda: { overlay: 'vda', base: BASE } },
      token: TOKEN,
    });
  }

  fetch(request: Request): Promise<Response> {
    return this.#served.fetch(request);
  }

  /** Jobs go on by it. */
  alarm(): Promise<void> {
    return this.#served.alarm();
  }
}

export default {
  fetch: (request: Request, { MACHINE }: Env): Promise<Response> =>
    MACHINE.get(MACHINE.idFromName('vm')).fetch(request),
};
