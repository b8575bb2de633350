/**
 * The page's line to one worker: calls by Comlink, and the certainty that each call ends. A worker
 * tells nobody when it dies; it holds a lock as long as it lives, which the page waits for, and
 * then rejects what is pending.
 */
import * as Comlink from 'comlink';
import { MillraceError } from '../api/errors.ts';
import type { ProgramOptions } from './api.ts';
import type { SentEngine } from './start.ts';
import { engineOf, PolicyWatch, startWorker } from './start.ts';
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

  /**
   * Starts a worker for the disk `name`; `heard` is called for each event of the disk.
   * @throws MillraceError `EACCES` when the page's policy forbids it, `EIO` when it cannot run.
   */
  static async start(
    name: string,
    heard: (event: SentEvent) => void,
    program: ProgramOptions,
  ): Promise<WorkerLink> {
    const what = `the worker of disk '${name}'`;
    const policy = new PolicyWatch();
    try {
      const engine = await engineOf(program);
      const link = new WorkerLink(what, await startWorker(what, program), heard, policy);
      await link.#begin(engine).catch((error: MillraceError) => {
        link.end(error);
        throw error;
      });
      return link;
    } finally {
      policy.end();
    }
  }

  private constructor(
    what: string,
    worker: Worker,
    heard: (event: SentEvent) => void,
    policy: PolicyWatch,
  ) {
    sendErrorsWhole();
    this.#what = what;
    this.#worker = worker;
    worker.addEventListener('message', ({ data }: MessageEvent) => {
      if (data?.millraceEvent !== undefined) heard(data as SentEvent);
    });
    worker.addEventListener('error', (event) => {
      event.preventDefault();
      const reason = event.message
        ? `: ${event.message}`
        : "; see that its script is served, with a JavaScript type, and allowed by the page's policy";
      const ended = new MillraceError('EIO', `${what} cannot run${reason}`, {
        reason: 'worker-ended',
      });
      void policy.explain(what).then((forbidden) => this.end(forbidden ?? ended));
    });
    this.#service = Comlink.wrap<DiskService>(worker);
  }

  /** Gives the worker its engine, and watches over its life from now on. */
  async #begin(engine: SentEngine): Promise<void> {
    // Where there are no locks, there is no secure context either, and no randomUUID.
    const lock = navigator.locks && `millrace/worker/${crypto.randomUUID()}`;
    await this.call((service) => service.begin(engine, lock));
    if (lock === undefined) return;
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
