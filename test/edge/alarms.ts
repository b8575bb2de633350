/**
 * A worker of the tests whose alarms come when the test says so: `/alarm` is one, and tells how
 * long after it the next was asked for; `/next` tells that without one.
 */

import type { ObjectState, ServedDisks } from '../../hosts/edge/index.ts';
import { serveDisks } from '../../hosts/edge/index.ts';

interface Env {
  ALARMS: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
  BASE: string;
  TOKEN: string;
}

export class Alarms {
  readonly #served: ServedDisks;
  readonly #state: ObjectState;
  #nextMs: number | undefined;

  constructor(state: ObjectState, env: Env) {
    this.#state = state;
    const storage = {
      sql: state.storage.sql,
      sync: () => state.storage.sync(),
      transactionSync: <T>(writes: () => T): T => state.storage.transactionSync(writes),
      setAlarm: async (time: number) => {
        this.#nextMs = time - Date.now();
      },
    };
    const disks = {
      vda: { overlay: 'vda', base: env.BASE },
      lost: { overlay: 'lost', base: `${env.BASE}.missing` },
    };
    this.#served = serveDisks({ id: state.id, storage }, { disks, token: env.TOKEN });
  }

  async fetch(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    // As an object leaves it that was evicted after some alarms in vain.
    if (pathname === '/lost')
      this.#state.storage.sql.exec(
        "INSERT INTO millrace_jobs (device, options, tries) VALUES ('lost', '', 10)",
      );
    if (!['/lost', '/alarm', '/next'].includes(pathname)) return this.#served.fetch(request);
    if (pathname !== '/next') this.#nextMs = undefined;
    if (pathname === '/alarm') await this.#served.alarm();
    return Response.json({ nextMs: this.#nextMs });
  }
}

export default {
  fetch: (request: Request, env: Env): Promise<Response> =>
    env.ALARMS.get(env.ALARMS.idFromName('vm')).fetch(request),
};
