/**
 * What crosses between a page and its worker: orders, errors with their codes, and sources and
 * files that stay on the page while the worker reads them. Data goes by transfer, never by copy.
 */
import * as Comlink from 'comlink';
import type { BlockFile, BlockSource } from '../api/block.ts';
import type { DiskEvent } from '../api/disk.ts';
import type { ErrorCode, ErrorReason } from '../api/errors.ts';
import { codeOf, MillraceError } from '../api/errors.ts';
import type { StreamInfo } from '../api/job.ts';
import type { CreateOptions, OpenOptions } from '../api/open.ts';
import type { CopyOptions } from './api.ts';
import type { Holder } from './lock.ts';

/** A base as it is sent: a URL or name, a blob, or a source on the page. */
export type SentBase = string | Blob | SentSource;

/** A source or file on the page, behind a port. */
export interface SentSource {
  port: MessagePort;
  size: number;
  name?: string;
  identity?: string;
  preferred?: { chunk: number; depth: number };
  flushIsDear?: boolean;
  discards: boolean;
}

/** An order to open a disk, or to create one. */
export interface Order {
  create: boolean;
  options: Omit<CreateOptions, 'overlay' | 'base'> | Omit<OpenOptions, 'overlay' | 'base'>;
  overlay: string | SentSource;
  /** With which one is made that is to be opened and is not there. */
  make?: { options: object; base?: SentBase };
  /** None: the recorded one. `null`: the base stays unopened. */
  bases: SentBase[] | null;
  holder: Holder;
  wait: boolean;
}

/** A disk once it is open. */
export interface DiskShape {
  size: number;
  clusterSize: number;
  persistent: boolean;
}

/**
 * An event of the disk. It goes by the same port as the answers, so that it keeps its place among
 * them.
 */
export interface SentEvent {
  millraceEvent: DiskEvent;
  detail: StreamInfo;
}

interface SentError {
  code: ErrorCode;
  reason?: ErrorReason;
  message: string;
  offset?: number;
  stack?: string;
  /** Of the cause, what can be sent. */
  cause?: { name: string; message: string };
}

/** What Comlink hands to its handler of thrown values. */
interface Thrown {
  value: unknown;
}

/**
 * Comlink sends of an error its message only: teaches it to send ours whole, and of others the
 * code. It is called on both sides.
 */
export function sendErrorsWhole(): void {
  const usual = Comlink.transferHandlers.get('throw') as Comlink.TransferHandler<Thrown, object>;
  Comlink.transferHandlers.set('throw', {
    canHandle: usual.canHandle,
    serialize(thrown: Thrown): [object, Transferable[]] {
      const { value } = thrown;
      if (value instanceof MillraceError) return [{ millrace: packed(value) }, []];
      const [sent, ports] = usual.serialize(thrown) as [{ value: object }, Transferable[]];
      const code = codeOf(value);
      // A source of the page's own may fail with a code that counts.
      if (value instanceof Error && code !== 'EIO') Object.assign(sent.value, { code });
      return [sent, ports];
    },
    deserialize(sent: object): never {
      if ('millrace' in sent) throw unpacked(sent.millrace as SentError);
      return usual.deserialize(sent) as never;
    },
  });
}

function packed(error: MillraceError): SentError {
  const { code, reason, message, offset, stack, cause } = error;
  return {
    code,
    reason,
    message,
    offset,
    stack,
    cause: cause instanceof Error ? { name: cause.name, message: cause.message } : undefined,
  };
}

function unpacked({ code, message, stack, cause: sent, ...about }: SentError): MillraceError {
  const cause = sent && Object.assign(new Error(sent.message), { name: sent.name });
  return Object.assign(new MillraceError(code, message, { ...about, cause }), { stack });
}

/** A boot profile as it is sent: a relative URL means what it means to the page. */
export function sendProfile<Choice extends string | URL | Uint8Array | undefined>(
  profile: Choice,
): Exclude<Choice, URL> | string {
  if (profile instanceof URL) return profile.href;
  if (typeof profile === 'string' && /^\.{0,2}\//.test(profile))
    return new URL(profile, document.baseURI).href;
  return profile as Exclude<Choice, URL>;
}

/** Bytes that the other side may have; the array is of no use here afterwards. */
export function handOver(bytes: Uint8Array): Uint8Array {
  return Comlink.transfer(bytes, [bytes.buffer as ArrayBuffer]);
}

/**
 * How the worker tells the page which part of a copy is done; it rejects when the copy is to be
 * given up.
 */
export type Report = (done: number) => Promise<void>;

export function reportTo({ onProgress, signal }: CopyOptions): Report {
  return Comlink.proxy(async (done: number) => {
    if (signal?.aborted)
      throw new MillraceError('ABORTED', 'the copy was given up', { cause: signal.reason });
    onProgress?.(done);
  });
}

/** The page's end of a source that is sent: each call is a message from the worker. */
class SourceDoor {
  readonly #source: BlockSource | BlockFile;

  constructor(source: BlockSource | BlockFile) {
    this.#source = source;
  }

  async read(
    offset: number,
    length: number,
    background: boolean,
    ahead: boolean,
  ): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.#source.read(offset, bytes, { background, ahead });
    return handOver(bytes);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    await (this.#source as BlockFile).write(offset, bytes);
  }

  async flush(): Promise<void> {
    await (this.#source as BlockFile).flush();
  }

  async truncate(size: number): Promise<void> {
    await (this.#source as BlockFile).truncate(size);
  }

  async discard(offset: number, length: number): Promise<void> {
    await (this.#source as BlockFile).discard?.(offset, length);
  }

  async close(): Promise<void> {
    await this.#source.close();
  }
}

/** Puts a source or file of the page behind a port, which is to be sent along. */
export function sendSource(source: BlockSource | BlockFile): SentSource {
  const { port1, port2 } = new MessageChannel();
  Comlink.expose(new SourceDoor(source), port1);
  const {
    size,
    name,
    identity,
    preferred,
    flushIsDear,
    discard,
  }: BlockSource & Partial<BlockFile> = source;
  return {
    port: port2,
    size,
    name,
    identity,
    preferred,
    flushIsDear,
    discards: discard !== undefined,
  };
}

/** The worker's end of it. */
export function receiveSource({ port, size, discards, ...about }: SentSource): BlockFile {
  const door = Comlink.wrap<SourceDoor>(port);
  let end = size;
  return {
    ...about,
    get size() {
      return end;
    },
    async read(offset, into, hint) {
      hint?.signal?.throwIfAborted();
      const { background = false, ahead = false } = hint ?? {};
      const bytes = await door.read(offset, into.length, background, ahead);
      // Nobody may wait for it any more, and its place may be another's.
      hint?.signal?.throwIfAborted();
      into.set(bytes);
    },
    async write(offset, from) {
      await door.write(offset, handOver(new Uint8Array(from)));
      end = Math.max(end, offset + from.length);
    },
    flush: () => door.flush(),
    async truncate(size) {
      await door.truncate(size);
      end = size;
    },
    discard: discards ? (offset, length) => door.discard(offset, length) : undefined,
    async close() {
      await door.close();
      door[Comlink.releaseProxy]();
    },
  };
}
