/** A worker whose disk, in a Durable Object, has a base by NBD over a WebSocket. */
import type { ObjectState } from '../../hosts/edge/index.ts';
import { createDisk, openDisk } from '../../hosts/edge/index.ts';

interface Env {
  MACHINE: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
}

export class Machine {
  readonly #state: ObjectState;

  constructor(state: ObjectState) {
    this.#state = state;
  }

  /** Reads from the base, opens the disk again by what is recorded, and streams. */
  async fetch(request: Request): Promise<Response> {
    const { storage } = this.#state;
    const base = new URL(request.url).searchParams.get('base')!;
    try {
      const made = await createDisk({ storage, overlay: 'vda', base });
      const first = await sha256(await made.read(1_000_000, 1000));
      await made.close();
      const disk = await openDisk({ storage, overlay: 'vda' });
      const images = await disk.images();
      await disk.stream();
      const parts: Uint8Array[] = [];
      for (let at = 0; at < disk.size; at += 1024 * 1024)
        parts.push(await disk.read(at, Math.min(1024 * 1024, disk.size - at)));
      const whole = await sha256(new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer()));
      const left = (await disk.images()).length;
      await disk.close();
      return Response.json({ first, whole, name: images[1].name, left });
    } catch (error) {
      return Response.json({ message: (error as Error).message });
    }
  }
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as BufferSource));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export default {
  fetch: (request: Request, env: Env): Promise<Response> =>
    env.MACHINE.get(env.MACHINE.idFromName(request.url)).fetch(request),
};
