/**
 * Compressed clusters: many at once are decoded, or encoded, by threads, few by the calling thread
 * itself.
 *
 * Threads of our own, because the asynchronous functions of node:zlib cost the main thread almost
 * as much time as they save it: with clusters of 64 KiB on two cores they gave 430 to 510 MB/s, the
 * main thread alone 440, two threads 590 with batches of 8 clusters, 650 of 16, 700 of 32.
 */
import type { Codec, Compression, Stream } from '../api/codec.ts';
import { badStream, checkCount } from '../disk/codecs/codecs.ts';
import { zstdFrame } from '../disk/codecs/zstd.ts';
import type { Act, Batch, FromThread } from './messages.ts';
import type { Thread, Threads, ThreadUser } from './threads.ts';

/** One in work and one that waits, so that a thread never waits for the main one. */
const BATCHES_PER_THREAD = 2;
/** Decoded bytes a batch: larger ones are hardly quicker, and take memory. */
const BATCH_BYTES = 1024 * 1024;
/** Decoded bytes that are sooner done here than handed to an idle thread: a guest's own reads. */
const FEW_BYTES = 128 * 1024;
/** Decoded bytes that wait when the threads are started: below it is a guest, above it a stream. */
const START_BYTES = 1024 * 1024;
interface Job {
  act: Act;
  method: Compression;
  /** The stream, of zlib with what follows it, of zstd without; or the cluster. */
  from: Uint8Array;
  /** Bytes of the cluster. */
  size: number;
  /** Does it in the calling thread. */
  doHere: () => void | Promise<void>;
  /**
   * Takes what a thread made, the first bytes of `out`: how many, or more than `out` holds; or the
   * reason why it failed.
   */
  take: (result: number | string, out: Uint8Array) => void;
  reject: (reason: unknown) => void;
}

/** A batch's place at a thread: its two buffers go to and fro, so that none is made anew. */
interface Slot {
  thread: Thread;
  input: ArrayBuffer;
  output: ArrayBuffer;
  jobs: Job[];
}

/** Without threads it decodes in the calling thread. */
export class ThreadedCodec implements Codec, ThreadUser {
  readonly #here: Codec;
  readonly #threads: Threads;
  /** Of threads that run. */
  #idle: Slot[] = [];
  readonly #busy = new Map<number, Slot>();
  #batches = 0;
  readonly #queue: Job[] = [];
  #queuedBytes = 0;
  #isScheduled = false;

  /** `here` works in the calling thread. */
  constructor(threads: Threads, here: Codec) {
    this.#threads = threads;
    this.#here = here;
    threads.use(this);
  }

  async inflate(method: Compression, from: Uint8Array, into: Uint8Array): Promise<void> {
    const stream = method === 'zstd' ? soleFrame(from, into.length) : from;
    if (stream === undefined) return this.#here.inflate(method, from, into);
    return new Promise((resolve, reject) => {
      this.#enqueue({
        act: 'inflate',
        method,
        from: stream,
        size: into.length,
        reject,
        doHere: async () => resolve(await this.#here.inflate(method, stream, into)),
        take(result, out) {
          if (typeof result === 'string') throw badStream(method, result);
          checkCount(method, result, into.length);
          into.set(out);
          resolve();
        },
      });
    });
  }

  async deflate(method: Compression, from: Uint8Array): Promise<Stream> {
    return new Promise((resolve, reject) => {
      const doHere = async (): Promise<void> => resolve(await this.#here.deflate!(method, from));
      this.#enqueue({
        act: 'deflate',
        method,
        from,
        size: from.length,
        reject,
        doHere,
        take(result, out) {
          // Whatever keeps a thread from it, this one tells of.
          if (typeof result === 'string') doHere().catch(reject);
          else resolve(result < from.length ? out.slice(0, result) : undefined);
        },
      });
    });
  }

  begun(thread: Thread): void {
    for (let i = 0; i < BATCHES_PER_THREAD; i++) {
      this.#idle.push({ thread, input: new ArrayBuffer(0), output: new ArrayBuffer(0), jobs: [] });
    }
    this.#schedule(queueMicrotask);
  }

  answered(answer: FromThread): void {
    if (answer.kind !== 'batch') return;
    const { id, results, input, output } = answer;
    const slot = this.#busy.get(id);
    // Its threads have ended meanwhile: its jobs are done elsewhere.
    if (slot === undefined) return;
    this.#busy.delete(id);
    const jobs = slot.jobs;
    let at = 0;
    for (let i = 0; i < jobs.length; i++) {
      settle(jobs[i], results[i], new Uint8Array(output, at, jobs[i].size));
      at += jobs[i].size;
    }
    slot.thread.answered();
    this.#idle.push({ thread: slot.thread, input, output, jobs: [] });
    this.#schedule(queueMicrotask);
  }

  /** What the threads had is done by the calling thread, or by the next ones. */
  ended(): void {
    this.#idle = [];
    for (const { jobs } of this.#busy.values()) for (const job of jobs) this.#enqueueAgain(job);
    this.#busy.clear();
  }

  #enqueue(job: Job): void {
    this.#queue.push(job);
    this.#queuedBytes += job.size;
    // Calls come many at once, and over HTTP piece by piece: what one turn of the event loop brings
    // is shared among the threads together.
    this.#schedule(this.#threads.list.length > 0 ? setImmediate : queueMicrotask);
  }

  #schedule(when: (run: () => void) => void): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    when(() => {
      this.#isScheduled = false;
      this.#dispatch();
    });
  }

  #dispatch(): void {
    if (this.#queuedBytes >= START_BYTES) this.#threads.startAll();
    if (this.#queuedBytes > FEW_BYTES || this.#busy.size > 0) this.#handOut();
    if (this.#queue.length === 0 || this.#busy.size > 0) return;
    // Few, or no thread has started yet: one at a time, with the event loop's turn between two.
    void this.#doHere(this.#take());
    if (this.#queue.length > 0) this.#schedule(setImmediate);
  }

  #take(): Job {
    const job = this.#queue.shift()!;
    this.#queuedBytes -= job.size;
    return job;
  }

  #enqueueAgain(job: Job): void {
    this.#queue.push(job);
    this.#queuedBytes += job.size;
    this.#schedule(setImmediate);
  }

  async #doHere({ doHere, reject }: Job): Promise<void> {
    try {
      await doHere();
    } catch (error) {
      reject(error);
    }
  }

  /** Shares what waits among the threads, the least busy first. */
  #handOut(): void {
    const share = Math.min(this.#queuedBytes / this.#threads.list.length, BATCH_BYTES);
    while (this.#queue.length > 0 && this.#idle.length > 0) {
      this.#idle.sort((a, b) => a.thread.asked - b.thread.asked);
      const slot = this.#idle.shift()!;
      for (let bytes = 0; this.#queue.length > 0 && bytes < share; ) {
        const job = this.#take();
        bytes += job.size;
        slot.jobs.push(job);
      }
      this.#send(slot);
    }
  }

  #send(slot: Slot): void {
    const id = this.#batches++;
    const streams: Batch['streams'] = [];
    slot.input = withRoom(
      slot.input,
      slot.jobs.reduce((sum, { from }) => sum + from.length, 0),
    );
    slot.output = withRoom(
      slot.output,
      slot.jobs.reduce((sum, { size }) => sum + size, 0),
    );
    const input = new Uint8Array(slot.input);
    let at = 0;
    for (const { act, method, from, size } of slot.jobs) {
      input.set(from, at);
      at += from.length;
      streams.push({ act, method, length: from.length, size });
    }
    this.#busy.set(id, slot);
    const batch: Batch = { kind: 'batch', id, streams, input: slot.input, output: slot.output };
    slot.thread.ask(batch, [slot.input, slot.output]);
  }
}

function settle(job: Job, result: number | string, out: Uint8Array): void {
  try {
    job.take(result, out);
  } catch (error) {
    job.reject(error);
  }
}

/**
 * The frame without what follows it; undefined when it does not say that it is the whole cluster,
 * and more may have to follow.
 */
function soleFrame(from: Uint8Array, size: number): Uint8Array | undefined {
  const frame = zstdFrame(from, size);
  return frame.contentSize === size ? from.subarray(0, frame.length) : undefined;
}

/**
 * Pages that nobody writes to take no memory: a batch's usual size is as good as what is needed.
 */
function withRoom(buffer: ArrayBuffer, bytes: number): ArrayBuffer {
  return buffer.byteLength >= bytes ? buffer : new ArrayBuffer(Math.max(bytes, BATCH_BYTES));
}
