/** A worker whose disk, in a Durable Object, is served by NBD over a WebSocket. */
import type { ObjectState } from '../../hosts/edge/index.ts';
import { createDisk } from '../../hosts/edge/index.ts';
import { overWebSocket, serveNbd } from '../../hosts/faces/nbd/index.ts';

interface Env {
  MACHINE: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
}

/** workerd's own. */
declare const WebSocketPair: new () => Record<0 | 1, WebSocket & { accept(): void }>;

export class Machine {
  readonly #state: ObjectState;

  constructor(state: ObjectState) {
    this.#state = state;
  }

  async fetch(): Promise<Response> {
    const { storage } = this.#state;
    const disk = await createDisk({ storage, overlay: 'vda', size: 1024 * 1024 });
    const { 0: client, 1: server } = new WebSocketPair();
    server.accept();
    void serveNbd({ vda: disk }, overWebSocket(server)).then(() => disk.close());
    return new Response(null, { status: 101, webSocket: client } as ResponseInit);
  }
}

export default {
  fetch: (request: Request, env: Env): Promise<Response> =>
    env.MACHINE.get(env.MACHINE.idFromName('vm')).fetch(request),
};
