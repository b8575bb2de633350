/**
 * The threads of this process, for all of its disks: they decode and encode clusters, and decode
 * containers. They are started when there is enough to do, and never keep the process alive by
 * themselves.
 */
import { availableParallelism } from 'node:os';
import type { Worker } from 'node:worker_threads';
import type { FromThread, ToThread } from './messages.ts';
import { closeGate, startWorker } from './worker.ts';

/**
 * As many as QEMU gives one image to decompress (QCOW2_MAX_THREADS); each takes about 15 MB, a few
 * more where it needs zstd in wasm.
 */
const THREADS_MAX = 4;

/** Who has threads work for it. */
export interface ThreadUser {
  /** A thread runs. */
  begun?(thread: Thread): void;
  answered(answer: FromThread): void;
  /** All threads have ended: what they had is not answered. */
  ended(): void;
}

export class Thread {
  readonly #worker: Worker;
  readonly #gate: Int32Array;
  /** What it has not answered yet. */
  asked = 0;
  /** Decodings that it has under way. */
  decodings = 0;

  constructor(worker: Worker, gate: Int32Array) {
    this.#worker = worker;
    this.#gate = gate;
  }

  /** `answered` is to be called when the answer is there, or no longer wanted. */
  ask(message: ToThread, buffers: ArrayBuffer[]): void {
    // While it has something to do, the process must not end.
    if (this.asked++ === 0) this.#worker.ref();
    this.tell(message, buffers);
  }

  answered(): void {
    if (--this.asked === 0) this.#worker.unref();
  }

  /** What is not answered. */
  tell(message: ToThread, buffers: ArrayBuffer[] = []): void {
    this.#worker.postMessage(message, buffers);
  }

  async end(): Promise<void> {
    closeGate(this.#gate);
    await this.#worker.terminate();
  }
}

/** Without any (on one core, or where they cannot be started) the calling thread does all. */
export class Threads {
  /** 0 when there are to be none. */
  #wanted: number;
  readonly #zstdPath: () => string;
  readonly #users: ThreadUser[] = [];
  #list: Thread[] = [];

  /** `zstdPath` finds the module `@foxglove/wasm-zstd`, where node:zlib has no zstd. */
  constructor(count: number = defaultThreads(), zstdPath: () => string = () => '') {
    this.#wanted = count;
    this.#zstdPath = zstdPath;
  }

  /** Those that have been started. */
  get list(): readonly Thread[] {
    return this.#list;
  }

  use(user: ThreadUser): void {
    this.#users.push(user);
  }

  startAll(): void {
    while (this.#list.length < this.#wanted && this.#start());
  }

  startOne(): void {
    if (this.#list.length === 0 && this.#wanted > 0) this.#start();
  }

  /** The least busy one, or another one where all decode; undefined where there are none. */
  forDecoding(): Thread | undefined {
    const least = this.#leastBusy();
    if (least?.decodings === 0 || this.#list.length >= this.#wanted) return least;
    return this.#start() ? this.#list[this.#list.length - 1] : least;
  }

  /** Ends them; later work may start them again. */
  async close(): Promise<void> {
    const threads = this.#list;
    this.#list = [];
    for (const user of this.#users) user.ended();
    await Promise.all(threads.map((thread) => thread.end()));
  }

  #leastBusy(): Thread | undefined {
    const [first, ...others] = this.#list;
    return others.reduce(
      (least, thread) => (thread.decodings < least.decodings ? thread : least),
      first,
    );
  }

  /** Whether it could. */
  #start(): boolean {
    const gate = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    let worker: Worker;
    try {
      worker = startWorker({ gate, zstd: this.#zstdPath() });
    } catch {
      // Not permitted (--permission without --allow-worker), or the system has no more threads.
      this.#wanted = this.#list.length;
      return false;
    }
    const thread = new Thread(worker, gate);
    this.#list.push(thread);
    worker.on('online', () => {
      if (this.#list.includes(thread)) for (const user of this.#users) user.begun?.(thread);
    });
    worker.on('message', (answer: FromThread) => {
      for (const user of this.#users) user.answered(answer);
    });
    worker.on('error', () => this.#doWithout());
    // After the listeners: whoever listens to a thread's messages waits for them.
    worker.unref();
    return true;
  }

  /** Whatever ended a thread (no memory, say) would end the next one too. */
  #doWithout(): void {
    this.#wanted = 0;
    void this.close();
  }
}

function defaultThreads(): number {
  const cores = availableParallelism();
  return cores === 1 ? 0 : Math.min(cores, THREADS_MAX);
}
