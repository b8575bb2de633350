/**
 * The page's line to one worker: calls by Comlink, and the certainty that each call ends. A worker
 * tells nobody when it dies; it holds a lock as long as it lives, which the page waits for, and
 * then rejects what is pending.
 */
import * as Comlink from 'comlink';
import { MillraceError } from '../api/errors.ts';
import type { SentEvent } from './wire.ts';
import { sendErrorsWhole } from './wire.ts';
import type { DiskService } from './worker.ts';

export type Service = Comlink.Remote<DiskService>;

/** A worker that lives answers within this, whatever it is doing. */
const ANSWER_MS_MAX = 2000;

/** Who uses a disk, as the user knows it. */
export function thisPage(): { title: string; url: string } {
  const { origin, pathname } = location;
  // Not its query, which may hold what is nobody else's business.
  return { title: globalThis.document?.title ?? '', url: origin + pathname };
}

export class WorkerLink {
  /** What messages call it. */
  readonly #what: string;
  readonly #worker: Worker;
  readonly #service: Service;
  readonly #pending = new Set<(error: MillraceError) => void>();
  readonly #watch = new AbortController();
  #ended: MillraceError | undefined;

  /** Starts a worker for the disk `name`; `heard` is called for each event of the disk. */
  constructor(name: string, heard: (event: SentEvent) => void) {
    sendErrorsWhole();
    this.#what = `the worker of disk '${name}'`;
    // The name is the emitted one; bundlers find worker.ts by it in the sources.
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      type: 'module',
      name: 'millrace',
    });
    this.#worker.addEventListener('message', ({ data }: MessageEvent) => {
      if (data?.millraceEvent !== undefined) heard(data as SentEvent);
    });
    this.#worker.addEventListener('error', (event) => {
      event.preventDefault();
      const reason = event.message
        ? `: ${event.message}`
        : "; see that its script is served, with a JavaScript type, and allowed by the page's policy";
      this.end(
        new MillraceError('EIO', `${this.#what} cannot run${reason}`, { reason: 'worker-ended' }),
      );
    });
    this.#service = Comlink.wrap<DiskService>(this.#worker);
  }

  /** Watches over the worker's life from now on. */
  async watch(): Promise<void> {
    if (!navigator.locks) return;
    const lock = `millrace/worker/${crypto.randomUUID()}`;
    await this.call((service) => service.live(lock));
    const { signal } = this.#watch;
    const died = navigator.locks.request(lock, { signal }, () => this.#confirm());
    died.catch(() => {});
  }

  /**
   * The worker's lock is free. Clearing a site's data frees locks too, so only one that does not
   * answer either is dead.
   */
  async #confirm(): Promise<void> {
    const silent = new Promise<boolean>((resolve) => setTimeout(resolve, ANSWER_MS_MAX, true));
    if (!(await Promise.race([silent, this.#service.answer().then(() => false)]))) return;
    this.end(
      new MillraceError(
        'EIO',
        `${this.#what} has ended unexpectedly: open the disk again; what was flushed is kept`,
        { reason: 'worker-ended' },
      ),
    );
  }

  /** One call. It rejects when the worker dies. */
  call<T>(action: (service: Service) => Promise<T>): Promise<T> {
    if (this.#ended) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      const answer = action(this.#service);
      this.#pending.add(reject);
      answer.then(resolve, reject).finally(() => this.#pending.delete(reject));
    });
  }

  /** Ends the worker; calls that are pending, and later ones, reject with `error`. */
  end(error: MillraceError): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#watch.abort();
    this.#worker.terminate();
    for (const reject of this.#pending) reject(error);
    this.#pending.clear();
  }
}
