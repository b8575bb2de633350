/**
 * What every disk has on top of reading and writing: streams, blobs, blocks, its end by `using`,
 * and what consoles show of it. The same where the engine is, and where a disk stands for one in a
 * worker.
 */
import type { Block, Extent, RangeOptions, ReadOptions } from '../api/disk.ts';
import { DiskTarget } from '../api/disk-events.ts';
import { MillraceError } from '../api/errors.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JobStatus } from '../api/job.ts';
import { mustKnowOptions, RANGE_OPTIONS, READ_OPTIONS } from '../api/options.ts';
import { closeWhenDisposed } from './disposed.ts';

/** Bytes that a stream reads at a time; a multiple of every cluster size but the largest. */
const VIEW_BYTES = 1024 * 1024;
/** Where consoles look for what to show: Node's and Bun's, and Deno's. */
const INSPECT: readonly symbol[] = [
  Symbol.for('nodejs.util.inspect.custom'),
  Symbol.for('Deno.customInspect'),
];

/** A range whose end is known. */
interface Range {
  from: number;
  to: number;
  signal?: AbortSignal;
}

export abstract class DiskViews extends DiskTarget {
  static {
    closeWhenDisposed(DiskViews);
    for (const symbol of INSPECT)
      Object.defineProperty(DiskViews.prototype, symbol, {
        value(this: DiskViews): string {
          return this.described();
        },
      });
  }

  declare [Symbol.asyncDispose]: () => Promise<void>;

  abstract readonly size: number;
  abstract readonly clusterSize: number;
  abstract write(offset: number, data: Uint8Array): Promise<void>;
  abstract flush(): Promise<void>;
  abstract close(): Promise<void>;
  abstract map(offset?: number, length?: number): AsyncIterable<Extent>;
  /** Fills all of `into`, which is inside the disk. */
  protected abstract fill(offset: number, into: Uint8Array): Promise<void>;
  /** A read of which nothing is known yet. */
  protected abstract fresh(offset: number, length: number): Promise<Uint8Array>;

  /** What a console shows of it. */
  protected described(): string {
    return `Disk { size: ${this.size}, clusterSize: ${this.clusterSize} }`;
  }

  read(offset: number, length: number, options: ReadOptions = {}): Promise<Uint8Array> {
    return Object.keys(options).length === 0
      ? this.fresh(offset, length)
      : this.#readWith(offset, length, options);
  }

  async #readWith(offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    mustKnowOptions('read', options, READ_OPTIONS);
    const { signal, into } = options;
    if (into !== undefined && (!(into instanceof Uint8Array) || into.length !== length))
      throw new MillraceError('EINVAL', `cannot read: into is a Uint8Array of ${length} bytes`);
    if (signal === undefined) {
      if (into === undefined) return this.fresh(offset, length);
      await this.fill(offset, into);
      return into;
    }
    // What is given up may still come: it must not go where the caller has other plans.
    const bytes = await unlessAborted('read', signal, () => this.fresh(offset, length));
    if (into === undefined) return bytes;
    into.set(bytes);
    return into;
  }

  readable(options: RangeOptions = {}): ReadableStream<Uint8Array> {
    const { from, to, signal } = this.#range('readable', options);
    let at = from;
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          if (at < to) {
            const bytes = await this.read(at, Math.min(VIEW_BYTES, to - at), { signal });
            at += bytes.length;
            controller.enqueue(bytes);
          }
          if (at >= to) controller.close();
        },
      },
      { highWaterMark: 0 },
    );
  }

  writable(options: RangeOptions = {}): WritableStream<Uint8Array> {
    const { from, to, signal } = this.#range('writable', options);
    let at = from;
    return new WritableStream<Uint8Array>({
      write: async (data) => {
        mustNotBeAborted('write', signal);
        if (data?.length > to - at)
          throw new MillraceError(
            'EINVAL',
            `cannot write ${data.length} bytes at ${at}: the range ends at ${to}`,
            { offset: at },
          );
        await this.write(at, data);
        at += data.length;
      },
      close: () => this.flush(),
    });
  }

  async blob(options: RangeOptions = {}): Promise<Blob> {
    const { from, to, signal } = this.#range('blob', options);
    const parts: Blob[] = [];
    for (let at = from; at < to; at += VIEW_BYTES) {
      const bytes = await this.read(at, Math.min(VIEW_BYTES, to - at), { signal });
      // A browser may keep it elsewhere than in memory.
      parts.push(new Blob([bytes as Uint8Array<ArrayBuffer>]));
    }
    return new Blob(parts);
  }

  async *blocks(options: RangeOptions = {}): AsyncGenerator<Block> {
    const { from, to, signal } = this.#range('blocks', options);
    for await (const { offset, length, state } of this.map(from, to - from)) {
      if (state === 'zero' || state === 'absent') continue;
      const end = offset + length;
      for (let at = offset; at < end; ) {
        // Pieces end at whole MiB of the disk.
        const size = Math.min(VIEW_BYTES - (at % VIEW_BYTES), end - at);
        yield { offset: at, data: await this.read(at, size, { signal }) };
        at += size;
      }
    }
  }

  /** Hands the job's progress to `onProgress` as long as it lasts, and its end once. */
  protected followed(
    { onProgress, nonblock }: StreamOptions,
    job: Promise<StreamInfo>,
  ): Promise<StreamInfo> {
    if (onProgress === undefined) return job;
    const ended = new AbortController();
    const { signal } = ended;
    const end = (info: StreamInfo): void => {
      if (signal.aborted) return;
      ended.abort();
      onProgress(info);
    };
    this.addEventListener(
      'progress',
      // One that comes as the job ends tells its end already, which is told below.
      ({ detail }) => detail.status === JobStatus.ACTIVE && onProgress(detail),
      { signal },
    );
    this.addEventListener('completed', ({ detail }) => end(detail), { signal });
    this.addEventListener('failed', () => ended.abort(), { signal });
    // Events of a disk in a worker may come after the result that they belong to.
    job.then(
      (info) => !nonblock && end(info),
      () => ended.abort(),
    );
    return job;
  }

  #range(what: string, options: RangeOptions): Range {
    mustKnowOptions(what, options, RANGE_OPTIONS);
    const { offset = 0, length = this.size - offset, signal } = options;
    const isInside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      length <= this.size - offset;
    if (!isInside)
      throw new MillraceError(
        'EINVAL',
        `${what}: ${length} bytes at ${offset} are not in the disk, which has ${this.size} bytes`,
        { offset },
      );
    return { from: offset, to: offset + length, signal };
  }
}

function mustNotBeAborted(what: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new MillraceError('ABORTED', `cannot ${what}: aborted`, { cause: signal.reason });
}

/** What `act` gives, unless the signal comes first. */
async function unlessAborted<T>(
  what: string,
  signal: AbortSignal,
  act: () => Promise<T>,
): Promise<T> {
  mustNotBeAborted(what, signal);
  let cancel = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    cancel = () =>
      reject(
        new MillraceError('ABORTED', `the ${what} was given up: aborted`, { cause: signal.reason }),
      );
    signal.addEventListener('abort', cancel);
  });
  try {
    return await Promise.race([act(), aborted]);
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}
