/** The server that this page came from, as `createHandler` answers for it (hosts/faces/http). */
import type { Disk, Extent } from '../../hosts/api/disk.ts';
import type { ErrorCode } from '../../hosts/api/errors.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { StreamInfo, StreamOptions } from '../../hosts/api/job.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import type { ShownDisk } from '../disk/panel.ts';

/** A disk as the server lists it. */
export interface Listed {
  device: string;
  /** Bytes. */
  size: number;
  clusterSize: number;
}

/** The token is missing, or not the right one. */
export class TokenNeeded extends MillraceError {}

export class Server {
  token: string | undefined;

  async disks(): Promise<ServedDisk[]> {
    const listed = await this.ask<Listed[]>('/disks');
    return listed.map((disk) => new ServedDisk(this, disk));
  }

  /** GET, or POST with what is sent as JSON. @throws MillraceError as the server tells it. */
  async ask<T>(path: string, sent?: object): Promise<T> {
    const headers: Record<string, string> = {};
    if (this.token !== undefined) headers.Authorization = `Bearer ${this.token}`;
    let response: Response;
    let answer: unknown;
    try {
      response = await fetch(path, {
        headers,
        method: sent ? 'POST' : 'GET',
        body: sent && JSON.stringify(sent),
      });
      answer = await response.json();
    } catch (cause) {
      throw new MillraceError('ETIMEDOUT', `the server does not answer: ${String(cause)}`, {
        cause,
      });
    }
    if (response.ok) return answer as T;
    const { code, message } = answer as { code: ErrorCode; message: string };
    throw response.status === 401
      ? new TokenNeeded(code, message)
      : new MillraceError(code, message);
  }
}

/**
 * A disk on the server. Its job is looked at when `info` is asked for, and events are made of what
 * has changed since: a stream of them for each disk would take up the connections that a browser
 * grants one server.
 */
export class ServedDisk extends EventTarget implements ShownDisk {
  readonly device: string;
  readonly size: number;
  readonly clusterSize: number;
  readonly #server: Server;
  readonly #path: string;
  #last: StreamInfo | undefined;

  constructor(server: Server, { device, size, clusterSize }: Listed) {
    super();
    this.#server = server;
    this.#path = `/disks/${encodeURIComponent(device)}`;
    this.device = device;
    this.size = size;
    this.clusterSize = clusterSize;
  }

  async info(): Promise<StreamInfo> {
    return this.#noticed(await this.#server.ask<StreamInfo>(`${this.#path}/info`));
  }

  async remaining(): Promise<number> {
    return (await this.#server.ask<{ remaining: number }>(this.#path)).remaining;
  }

  async *map(
    offset: number = 0,
    length: number = this.size - offset,
    { depth }: { depth?: number } = {},
  ): ReturnType<Disk['map']> {
    const wanted = new URLSearchParams({ offset: String(offset), length: String(length) });
    if (depth !== undefined) wanted.set('depth', String(depth));
    yield* await this.#server.ask<Extent[]>(`${this.#path}/map?${wanted}`);
  }

  async stream(options: StreamOptions = {}): Promise<StreamInfo> {
    return this.#noticed(await this.#server.ask<StreamInfo>(`${this.#path}/stream`, options));
  }

  async abort(): Promise<void> {
    await this.#tell('abort');
  }

  async pause(): Promise<void> {
    await this.#tell('pause');
  }

  async resume(): Promise<void> {
    await this.#tell('resume');
  }

  async setSpeed(speed: number): Promise<void> {
    await this.#tell('speed', { speed });
  }

  async #tell(what: string, sent: object = {}): Promise<void> {
    this.#noticed(await this.#server.ask<StreamInfo>(`${this.#path}/${what}`, sent));
  }

  #noticed(info: StreamInfo): StreamInfo {
    const before = this.#last;
    this.#last = info;
    const type = whatHappened(before, info);
    if (type) this.dispatchEvent(new CustomEvent(type, { detail: info }));
    return info;
  }
}

/** Undefined where nothing did, and for what is seen first: it may be long ago. */
function whatHappened(before: StreamInfo | undefined, info: StreamInfo): string | undefined {
  if (before === undefined) return undefined;
  if (info.status === before.status && info.paused === before.paused)
    return info.status === JobStatus.ACTIVE ? 'progress' : undefined;
  if (info.status === JobStatus.COMPLETED) return 'completed';
  if (info.status === JobStatus.FAILED) return 'failed';
  if (info.paused) return 'paused';
  return before.paused ? 'resumed' : 'progress';
}
