/**
 * Batches of compressed clusters: each stream or cluster by itself. What a stream may claim has
 * been checked before, how much it gave is checked after.
 */
import { createRequire } from 'node:module';
import { MessageChannel } from 'node:worker_threads';
import * as nodeZlib from 'node:zlib';
import type { Compression } from '../../api/codec.ts';
import type { ZlibCompression, ZlibFunction } from '../../disk/codecs/codecs.ts';
import { DEFLATE_OPTIONS } from '../../disk/codecs/codecs.ts';
import type { Act, Batch, BatchDone, ThreadSetup } from '../messages.ts';
import { AT_WORK, FREE } from '../messages.ts';

/** Node has zstd from version 22.15 on. */
const zlib = nodeZlib as unknown as {
  inflateRawSync: ZlibFunction;
  deflateRawSync: ZlibCompression;
  zstdDecompressSync?: ZlibFunction;
  zstdCompressSync?: ZlibCompression;
};

/** Does one, with room for `size` bytes. */
type Tool = (from: Uint8Array, size: number) => Uint8Array;

const SPARE_BYTES = 64;

function bounded(decompress: ZlibFunction): Tool {
  return (from, size) => decompress(from, { chunkSize: size + SPARE_BYTES, maxOutputLength: size });
}

function onePass(compress: ZlibCompression, options: object = {}): Tool {
  return (from, size) => compress(from, { ...options, chunkSize: size });
}

export class Batches {
  readonly #gate: Int32Array;
  readonly #zstdPath: string;
  readonly #tools = new Map<string, Promise<Tool>>();

  constructor({ gate, zstd }: ThreadSetup) {
    this.#gate = gate;
    this.#zstdPath = zstd;
  }

  async done({ id, streams, input, output }: Batch): Promise<BatchDone> {
    const results: (number | string)[] = [];
    let [from, to] = [0, 0];
    for (const { act, method, length, size } of streams) {
      const tool = await this.#tool(act, method);
      const into = new Uint8Array(output, to, size);
      results.push(this.#do(tool, new Uint8Array(input, from, length), into));
      from += length;
      to += size;
    }
    return { kind: 'batch', id, results, input, output };
  }

  #do(tool: Tool, from: Uint8Array, into: Uint8Array): number | string {
    if (Atomics.compareExchange(this.#gate, 0, FREE, AT_WORK) !== FREE)
      return 'this thread is being ended';
    try {
      const out = tool(from, into.length);
      const count = out.length;
      if (count <= into.length) into.set(out);
      free(out, into.length);
      return count;
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      return code === 'ERR_BUFFER_TOO_LARGE' ? into.length + 1 : message;
    } finally {
      Atomics.store(this.#gate, 0, FREE);
      Atomics.notify(this.#gate, 0);
    }
  }

  #tool(act: Act, method: Compression): Promise<Tool> {
    const key = `${act} ${method}`;
    let tool = this.#tools.get(key);
    if (tool === undefined)
      this.#tools.set(
        key,
        (tool = act === 'inflate' ? this.#inflater(method) : this.#deflater(method)),
      );
    return tool;
  }

  async #inflater(method: Compression): Promise<Tool> {
    if (method === 'zlib') return bounded(zlib.inflateRawSync);
    if (zlib.zstdDecompressSync) return bounded(zlib.zstdDecompressSync);
    return (await this.#wasmZstd()).decompress;
  }

  async #deflater(method: Compression): Promise<Tool> {
    if (method === 'zlib') return onePass(zlib.deflateRawSync, DEFLATE_OPTIONS);
    if (zlib.zstdCompressSync) return onePass(zlib.zstdCompressSync);
    const { compress } = await this.#wasmZstd();
    return (from) => compress(from);
  }

  async #wasmZstd(): Promise<typeof import('@foxglove/wasm-zstd')> {
    const module = createRequire(this.#zstdPath)(
      this.#zstdPath,
    ) as typeof import('@foxglove/wasm-zstd');
    await module.isLoaded;
    return module;
  }
}

/** Where nobody is. */
const nobody = new MessageChannel();
nobody.port2.close();

/**
 * What comes of each is a new buffer. Left to the garbage collector, they pile up to 40 MB a thread
 * and more, so each is detached as soon as it has been copied: by transfer (Node 21), or by sending
 * it where nobody is. Buffers out of Node's shared pool are let be.
 */
function free(out: Uint8Array, size: number): void {
  const buffer = out.buffer as ArrayBuffer & { transfer?(length: number): ArrayBuffer };
  const { byteLength } = buffer;
  // A stream is the beginning of a buffer as large as its cluster.
  const isOwn =
    byteLength - out.byteLength <= SPARE_BYTES || (byteLength === size && size > Buffer.poolSize);
  if (!isOwn || out.byteLength === 0) return;
  if (buffer.transfer) buffer.transfer(0);
  else nobody.port1.postMessage(null, [buffer]);
}
