/**
 * Storage that misbehaves on order: a wrapper that hands every operation to a plan, which lets it
 * through, delays it, fails it, or reorders it with others. It implements the same interfaces as
 * what it wraps; a source stays a source.
 */
import type { BlockFile, BlockSource, ReadHint } from '../../hosts/api/block.ts';

/** One operation, before it has been performed. */
export interface Operation {
  kind: 'read' | 'write' | 'flush' | 'truncate' | 'discard';
  /** The name of the file. */
  file: string;
  offset: number;
  length: number;
  /** Nobody but the job waits for it. */
  background: boolean;
  /** It is fetched ahead of a guest. */
  ahead?: boolean;
  signal?: AbortSignal;
}

/** Performs an operation: all of it, or, for a write that is cut off, only its first bytes. */
export type Perform = (bytes?: number) => void | Promise<void>;

/**
 * What becomes of an operation: the plan calls `perform` when (and if) it shall happen, and settles
 * as the operation is to settle.
 */
export type Plan = (operation: Operation, perform: Perform) => void | Promise<void>;

export class FaultySource implements BlockSource {
  readonly preferred?: { chunk: number; depth: number };
  readonly identity?: string;
  readonly nextData?: BlockSource['nextData'];
  protected readonly inner: BlockSource;
  protected readonly plan: Plan;

  constructor(inner: BlockSource, plan: Plan) {
    this.inner = inner;
    this.plan = plan;
    this.preferred = inner.preferred;
    this.identity = inner.identity;
    this.nextData = inner.nextData;
  }

  get size(): number {
    return this.inner.size;
  }

  get name(): string | undefined {
    return this.inner.name;
  }

  read(offset: number, into: Uint8Array, hint: ReadHint = {}): void | Promise<void> {
    const operation = {
      ...this.operation('read', offset, into.length),
      background: hint.background ?? false,
      ahead: hint.ahead ?? false,
      signal: hint.signal,
    };
    return this.plan(operation, () => this.inner.read(offset, into, hint));
  }

  close(): void | Promise<void> {
    return this.inner.close();
  }

  protected operation(kind: Operation['kind'], offset = 0, length = 0): Operation {
    return { kind, file: this.inner.name ?? '', offset, length, background: false };
  }
}

export class FaultyFile extends FaultySource implements BlockFile {
  readonly discard?: (offset: number, length: number) => void | Promise<void>;
  readonly flushIsDear?: boolean;
  readonly #file: BlockFile;

  constructor(inner: BlockFile, plan: Plan) {
    super(inner, plan);
    this.#file = inner;
    this.flushIsDear = inner.flushIsDear;
    if (inner.discard)
      this.discard = (offset, length) =>
        this.plan(this.operation('discard', offset, length), () => inner.discard?.(offset, length));
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.plan(this.operation('write', offset, from.length), (bytes = from.length) =>
      this.#file.write(offset, from.subarray(0, bytes)),
    );
  }

  flush(): void | Promise<void> {
    return this.plan(this.operation('flush'), () => this.#file.flush());
  }

  truncate(size: number): void | Promise<void> {
    return this.plan(this.operation('truncate', size), () => this.#file.truncate(size));
  }
}

/** An operation that waits to be let go. */
export interface Held {
  operation: Operation;
  /** Performs it and settles it. */
  release(): Promise<void>;
  /** Settles it with an error; with `bytes`, after its first bytes have been performed. */
  fail(error: Error, bytes?: number): Promise<void>;
}

/**
 * A plan that holds everything until a test lets it go, in whatever order. A held read whose signal
 * is aborted leaves at once.
 */
export class Holding {
  readonly held: Held[] = [];

  readonly plan: Plan = (operation, perform) =>
    new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        this.held.splice(this.held.indexOf(entry), 1);
        operation.signal?.removeEventListener('abort', aborted);
      };
      const aborted = (): void => {
        leave();
        reject(operation.signal?.reason);
      };
      const entry: Held = {
        operation,
        async release() {
          leave();
          await settle(perform, resolve, reject);
        },
        async fail(error, bytes) {
          leave();
          if (bytes !== undefined) await perform(bytes);
          reject(error);
        },
      };
      if (operation.signal?.aborted) return reject(operation.signal.reason);
      operation.signal?.addEventListener('abort', aborted);
      this.held.push(entry);
    });

  /** Lets go everything that is held now, in the order it came. */
  async releaseAll(): Promise<void> {
    for (const entry of [...this.held]) if (this.held.includes(entry)) await entry.release();
  }
}

async function settle(
  perform: Perform,
  resolve: () => void,
  reject: (error: unknown) => void,
): Promise<void> {
  try {
    await perform();
    resolve();
  } catch (error) {
    reject(error);
  }
}
