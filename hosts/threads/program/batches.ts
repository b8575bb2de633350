/**
 * Batches of compressed clusters: each stream or cluster by itself. What a stream may claim has
 * been checked before, how much it gave is checked after.
 */
import { createRequire } from 'node:module';
import { MessageChannel } from 'node:worker_threads';
import * as nodeZlib from 'node:zlib';
import type { Compression } from '../../api/codec.ts';
import { messageOf } from '../../api/errors.ts';
import type { Decoder, Encoder } from '../../disk/codecs/codecs.ts';
import type { InflatingZlib, ZlibCompression, ZlibFunction } from '../../disk/codecs/node-zlib.ts';
import {
  DEFLATE_OPTIONS,
  inflateDecoder,
  zlibDecoder,
  zlibEncoder,
} from '../../disk/codecs/node-zlib.ts';
import type { Act, Batch, BatchDone, ThreadSetup } from '../messages.ts';
import { AT_WORK, FREE } from '../messages.ts';

/** Node has zstd from version 22.15 on. */
const zlib = nodeZlib as unknown as InflatingZlib & {
  deflateRawSync: ZlibCompression;
  zstdDecompressSync?: ZlibFunction;
  zstdCompressSync?: ZlibCompression;
};

/** Does one of either act: gives how many bytes came of it; more than `into` has: too many. */
type Tool = Decoder;

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
      return tool(from, into);
    } catch (error) {
      return messageOf(error);
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
    if (method === 'zlib') {
      let decoder: Decoder | undefined;
      // Made where the gate is held, as a stream is made for it.
      return (from, into) => (decoder ??= inflateDecoder(zlib))(from, into);
    }
    if (zlib.zstdDecompressSync) return zlibDecoder(zlib.zstdDecompressSync);
    const { decompress } = await this.#wasmZstd();
    return (from, into) => moved(decompress(from, into.length), into);
  }

  async #deflater(method: Compression): Promise<Tool> {
    const encode = await this.#encoder(method);
    return (from, into) => moved(encode(from), into);
  }

  async #encoder(method: Compression): Promise<Encoder> {
    if (method === 'zlib') return zlibEncoder(zlib.deflateRawSync, DEFLATE_OPTIONS);
    if (zlib.zstdCompressSync) return zlibEncoder(zlib.zstdCompressSync);
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

/** Into its place, if there is room; gives how many bytes it has. */
function moved(out: Uint8Array, into: Uint8Array): number {
  const count = out.length;
  if (count <= into.length) into.set(out);
  free(out, into.length);
  return count;
}

/** Where nobody is. */
const nobody = new MessageChannel();
nobody.port2.close();

/**
 * What comes of most tools is a new buffer. Left to the garbage collector, they pile up to 40 MB a
 * thread and more, so each is detached as soon as it has been copied: by transfer (Node 21), or by
 * sending it where nobody is. Buffers out of Node's shared pool are let be.
 */
function free(out: Uint8Array, size: number): void {
  const buffer = out.buffer as ArrayBuffer & { transfer?(length: number): ArrayBuffer };
  const { byteLength } = buffer;
  // A stream is the beginning of a buffer as large as its cluster.
  const isOwn = byteLength === out.byteLength || (byteLength === size && size > Buffer.poolSize);
  if (!isOwn || out.byteLength === 0) return;
  if (buffer.transfer) buffer.transfer(0);
  else nobody.port1.postMessage(null, [buffer]);
}
