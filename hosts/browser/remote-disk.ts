/**
 * A disk as the page sees it: the same calls and events, each of them a message to the worker that
 * has the engine. It keeps no data and knows no format.
 */
import type { CheckOptions, CheckReport } from '../api/check.ts';
import type { Extent } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageInfo } from '../api/image.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JOB_OPTIONS, mustKnowOptions } from '../api/options.ts';
import type { ProfileChoice, RecordedProfile, ReplayInfo } from '../api/profile.ts';
import type { HttpStats } from '../bases/http/http.ts';
import { DiskViews } from '../disk/disk-views.ts';
import type { BrowserDisk, CopyOptions } from './api.ts';
import type { Service } from './link.ts';
import { WorkerLink } from './link.ts';
import type { DiskShape, SentEvent } from './wire.ts';
import { handOver, reportTo, sendProfile } from './wire.ts';

export class RemoteDisk extends DiskViews implements BrowserDisk {
  readonly clusterSize: number;
  readonly persistent: boolean;
  readonly #link: WorkerLink;
  #size: number;
  /** Calls of `stream` so far, to tell one from another. */
  #streams = 0;
  #closing: Promise<void> | undefined;
  readonly #hidden = (): void => {
    if (document.visibilityState === 'hidden') this.#leave();
  };
  readonly #leave = (): void => {
    // The page may end any moment: nobody is left to be told how this went.
    this.#link.call((service) => service.leave()).catch(() => {});
  };

  constructor(link: WorkerLink, shape: DiskShape) {
    super();
    this.#link = link;
    this.#size = shape.size;
    this.clusterSize = shape.clusterSize;
    this.persistent = shape.persistent;
    globalThis.document?.addEventListener('visibilitychange', this.#hidden);
    globalThis.addEventListener('pagehide', this.#leave);
  }

  get size(): number {
    return this.#size;
  }

  /** Called for each event that comes from the worker. */
  heard({ millraceEvent, detail }: SentEvent): void {
    this.dispatchEvent(new CustomEvent(millraceEvent, { detail }));
  }

  protected fresh(offset: number, length: number): Promise<Uint8Array> {
    return this.#call((service) => service.read(offset, length));
  }

  protected async fill(offset: number, into: Uint8Array): Promise<void> {
    into.set(await this.fresh(offset, into.length));
  }

  /** `data` is the caller's again at once: one copy of it is made, and handed over. */
  async write(offset: number, data: Uint8Array): Promise<void> {
    if (data?.[Symbol.toStringTag] !== 'Uint8Array')
      throw new MillraceError('EINVAL', 'cannot write: data is a Uint8Array');
    // No slice: of a Buffer that is a view, and all that lies around it would be handed over.
    return this.#call((service) => service.write(offset, handOver(new Uint8Array(data))));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#call((service) => service.writeZeroes(offset, length));
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#call((service) => service.discard(offset, length));
  }

  flush(): Promise<void> {
    return this.#call((service) => service.flush());
  }

  async resize(size: number, options?: { shrink?: boolean }): Promise<void> {
    await this.#call((service) => service.resize(size, options));
    this.#size = size;
  }

  async stream(options: StreamOptions = {}): Promise<StreamInfo> {
    mustKnowOptions('stream', options, JOB_OPTIONS);
    return this.followed(options, this.#stream(options));
  }

  async #stream({ onProgress: _, ...options }: StreamOptions): Promise<StreamInfo> {
    const { signal, order, ...others } = options;
    const rest = { ...others, order: sendProfile(order) };
    if (signal?.aborted)
      throw new MillraceError('ABORTED', 'cannot stream: aborted before it started', {
        cause: signal.reason,
      });
    const number = ++this.#streams;
    const cancel = (): void =>
      void this.#call((service) => service.cancelStream(number)).catch(() => {});
    signal?.addEventListener('abort', cancel);
    const done = (): void => signal?.removeEventListener('abort', cancel);
    const started = this.#call((service) => service.stream(rest, number));
    // A job that goes on in the background is cancelled by the signal until it ends; then there is
    // nothing left to cancel.
    started.then(rest.nonblock ? () => {} : done, done);
    return started;
  }

  abort(): Promise<void> {
    return this.#call((service) => service.abort());
  }

  info(): Promise<StreamInfo> {
    return this.#call((service) => service.info());
  }

  pause(): Promise<void> {
    return this.#call((service) => service.pause());
  }

  resume(): Promise<void> {
    return this.#call((service) => service.resume());
  }

  setSpeed(bytesPerSecond: number): Promise<void> {
    return this.#call((service) => service.setSpeed(bytesPerSecond));
  }

  remaining(offset?: number, length?: number): Promise<number> {
    return this.#call((service) => service.remaining(offset, length));
  }

  async *map(
    offset: number = 0,
    length: number = Math.max(0, this.#size - offset),
    options?: { depth?: number },
  ): AsyncGenerator<Extent> {
    const end = offset + length;
    for (let at: number | undefined = offset; at !== undefined; ) {
      const from: number = at;
      const { extents, next } = await this.#call((service) =>
        service.map(from, end - from, options),
      );
      yield* extents;
      at = next;
    }
  }

  check(options?: Pick<CheckOptions, 'repair' | 'data'>): Promise<CheckReport> {
    return this.#call((service) => service.check(options));
  }

  images(): Promise<ImageInfo[]> {
    return this.#call((service) => service.images());
  }

  async profile(options: { wait?: boolean } = {}): Promise<RecordedProfile> {
    mustKnowOptions('profile', options, { wait: true });
    return this.#call((service) => service.profile(options));
  }

  replay(profile?: ProfileChoice): Promise<ReplayInfo> {
    return this.#call((service) => service.replay(sendProfile(profile)));
  }

  traffic(): Promise<HttpStats> {
    return this.#call((service) => service.traffic());
  }

  async exportQcow2(options: CopyOptions = {}): Promise<Blob> {
    mustKnowOptions('exportQcow2', options, { onProgress: true, signal: true });
    if (!this.persistent)
      throw new MillraceError(
        'EUNSUPPORTED',
        'a disk in memory has no file to export: take its bytes (readable)',
      );
    return this.#call((service) => service.exportQcow2(reportTo(options)));
  }

  async saveState(state: Blob): Promise<void> {
    if (!(state instanceof Blob))
      throw new MillraceError('EINVAL', 'cannot save a state: it is a Blob');
    return this.#call((service) => service.saveState(state));
  }

  savedState(): Promise<Blob | undefined> {
    return this.#call((service) => service.savedState());
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    globalThis.document?.removeEventListener('visibilitychange', this.#hidden);
    globalThis.removeEventListener('pagehide', this.#leave);
    try {
      await this.#link.call((service) => service.close());
    } finally {
      this.#link.end(new MillraceError('ECLOSED', 'the disk has been closed'));
    }
  }

  #call<T>(action: (service: Service) => Promise<T>): Promise<T> {
    if (this.#closing)
      return Promise.reject(new MillraceError('ECLOSED', 'the disk has been closed'));
    return this.#link.call(action);
  }
}
