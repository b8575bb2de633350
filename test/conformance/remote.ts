/**
 * A case's own view of a fixture on the server, whose behaviour it sets: the client's side of
 * server.ts.
 */
import type { Adapter } from './adapter.ts';

/** How a view answers; nothing set is the plain fixture. */
export interface Behaviour {
  /** A range that reaches past this offset is held back until the behaviour changes. */
  holdFrom?: number;
  /** A range that reaches past this offset is refused: 403, which no client repeats. */
  refuseFrom?: number;
  /** Another ETag: the object has changed. */
  etag?: string;
}

export interface Traffic {
  /** Requests for the fixture so far. */
  requests: number;
  /** Of them, those held back at this moment. */
  held: number;
}

export class Remote {
  readonly url: string;
  readonly #control: string;

  constructor(host: Adapter, fixture: string) {
    this.#control = `${host.server}/own/${crypto.randomUUID()}`;
    this.url = `${this.#control}/${fixture}`;
  }

  async behave(behaviour: Behaviour): Promise<void> {
    await this.#ask('', { method: 'POST', body: JSON.stringify(behaviour) });
  }

  /** Puts a file beside the fixture, under its name and an ending. */
  async putBeside(ending: string, bytes: Uint8Array): Promise<void> {
    const body = bytes as Uint8Array<ArrayBuffer>;
    const response = await fetch(`${this.url}${ending}`, { method: 'PUT', body });
    if (!response.ok) throw new Error(`the server of the fixtures answered ${response.status}`);
  }

  traffic(): Promise<Traffic> {
    return this.#ask('');
  }

  /** Resolves as soon as the server holds a request back. */
  async held(): Promise<void> {
    await this.#ask('?held=1');
  }

  async #ask(query: string, init?: RequestInit): Promise<Traffic> {
    const response = await fetch(this.#control + query, init);
    if (!response.ok)
      throw new Error(
        `the server of the fixtures answered ${response.status}: ${await response.text()}`,
      );
    return (await response.json()) as Traffic;
  }
}
