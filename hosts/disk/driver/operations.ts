/** Performs the operations that the engine asks for: on the files of images, and by the codec. */
import {
  FLAG_BACKGROUND,
  METHOD_DEFLATE,
  METHOD_ZSTD,
  OP_FLUSH,
  OP_HOLES,
  OP_READ,
  OP_TRUNCATE,
  OP_WRITE,
  OVERLAY,
} from '../../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../../api/block.ts';
import type { Clock } from '../../api/clock.ts';
import type { Codec } from '../../api/codec.ts';
import { MillraceError } from '../../api/errors.ts';
import { BaseReads, isPromise } from './base-reads.ts';
import { mapHoles } from './holes.ts';
import type { Submission } from './ring.ts';

const METHODS = { [METHOD_DEFLATE]: 'zlib', [METHOD_ZSTD]: 'zstd' } as const;

/** What a file is asked for. */
type Asked = Pick<Submission, 'op' | 'file' | 'flags' | 'offset' | 'length'>;

export class Operations {
  readonly bases: BaseReads = new BaseReads();
  readonly #codec: Codec;
  readonly #clock: Clock;
  readonly #flushFailed: (error: unknown) => void;

  /** `flushFailed` is told what a flush failed of. */
  constructor(codec: Codec, clock: Clock, flushFailed: (error: unknown) => void) {
    this.#codec = codec;
    this.#clock = clock;
    this.#flushFailed = flushFailed;
  }

  inflate({ file, address2, length2 }: Submission, data: Uint8Array): void | Promise<void> {
    const into = new Uint8Array(data.buffer as ArrayBuffer, address2, length2);
    return this.#codec.inflate(METHODS[file as keyof typeof METHODS], data, into);
  }

  /** Performs an operation on the file that it is asked for. */
  onFile(
    asked: Asked,
    file: BlockSource | BlockFile | undefined,
    bytes: Uint8Array,
  ): void | Promise<void> {
    const { op, offset } = asked;
    if (!file) throw new MillraceError('ECLOSED', 'the image has been closed');
    if (op === OP_HOLES) return mapHoles(file, offset, bytes, this.#clock);
    if (op === OP_READ) return this.#read(asked, file, bytes);
    const target = file as BlockFile;
    if (op === OP_WRITE) return target.write(offset, bytes);
    if (op === OP_FLUSH) return this.#flush(target);
    if (op === OP_TRUNCATE) return target.truncate(offset);
    return target.discard?.(offset, asked.length);
  }

  /**
   * Metadata that exists only in the engine's cache so far may lie past the end of the file: there
   * are zeros.
   */
  #read(
    { file: image, flags, offset }: Asked,
    file: BlockSource,
    bytes: Uint8Array,
  ): void | Promise<void> {
    const present = Math.max(0, Math.min(bytes.length, file.size - offset));
    if (present < bytes.length) bytes.fill(0, present);
    if (present === 0) return;
    const into = bytes.subarray(0, present);
    return image === OVERLAY
      ? file.read(offset, into, { background: (flags & FLAG_BACKGROUND) !== 0 })
      : this.bases.read(file, offset, into, flags);
  }

  #flush(file: BlockFile): void | Promise<void> {
    const failed = (error: unknown): never => {
      this.#flushFailed(error);
      throw error;
    };
    try {
      const flushing = file.flush();
      return isPromise(flushing) ? Promise.resolve(flushing).catch(failed) : undefined;
    } catch (error) {
      return failed(error);
    }
  }
}
