/**
 * The program of a thread that decodes and encodes, as text. It is text because it has to start
 * from wherever the module that starts it is run: from TypeScript sources (Node 20 runs no .ts file
 * in a worker), from dist, or from a user's bundle (which has no file beside it). So it imports
 * nothing of ours, and only does the work: what a stream may claim has been checked before, how
 * much it gave is checked after.
 *
 * A message is a batch: `input` holds the streams to inflate and the clusters to deflate one after
 * another, `output` has room for a cluster of each; both are given back with a result for each, the
 * number of bytes it gave (if it is more than the cluster has, there are none of them) or the
 * reason why it failed.
 */
import { DEFLATE_OPTIONS } from '../disk/codecs/codecs.ts';

/**
 * States of a thread's gate, one number of shared memory. Node aborts the whole process when a
 * thread is ended between two steps of the making of a zlib stream ("close before init"), so a
 * thread is ended only while it does nothing, and does nothing once it is to be ended.
 */
export const FREE = 0;
export const AT_WORK = 1;
export const CLOSED = 2;

/** Data of the worker at its start. */
export interface WorkerSetup {
  /** FREE, AT_WORK or CLOSED. */
  gate: Int32Array;
  /** Path of the module `@foxglove/wasm-zstd`, for versions of Node without zstd (before 22.15). */
  zstd: string;
}

export type Act = 'inflate' | 'deflate';

export interface Batch {
  id: number;
  streams: { act: Act; method: 'zlib' | 'zstd'; length: number; size: number }[];
  input: ArrayBuffer;
  output: ArrayBuffer;
}

export interface BatchDone {
  id: number;
  results: (number | string)[];
  input: ArrayBuffer;
  output: ArrayBuffer;
}

export const codecWorkerProgram: string = /* js */ `
'use strict';
const { parentPort, workerData, MessageChannel } = require('node:worker_threads');
const zlib = require('node:zlib');

const SPARE_BYTES = 64;
const bounded = (decompress) => (from, size) =>
  decompress(from, { chunkSize: size + SPARE_BYTES, maxOutputLength: size });

const onePass = (compress, options) => (from, size) =>
  compress(from, { ...options, chunkSize: size });

async function wasmZstd() {
  const module = require(workerData.zstd);
  await module.isLoaded;
  return module;
}

const makers = {
  inflate: {
    zlib: () => bounded(zlib.inflateRawSync),
    zstd: async () =>
      zlib.zstdDecompressSync ? bounded(zlib.zstdDecompressSync) : (await wasmZstd()).decompress,
  },
  deflate: {
    zlib: () => onePass(zlib.deflateRawSync, ${JSON.stringify(DEFLATE_OPTIONS)}),
    async zstd() {
      if (zlib.zstdCompressSync) return onePass(zlib.zstdCompressSync);
      const { compress } = await wasmZstd();
      return (from) => compress(from);
    },
  },
};
const loading = { inflate: {}, deflate: {} };

// What comes of each is a new buffer. Left to the garbage collector, they pile up to 40 MB a thread
// and more, so each is detached as soon as it has been copied: by transfer (Node 21), or by sending
// it where nobody is. Buffers out of Node's shared pool are let be.
const nobody = new MessageChannel();
nobody.port2.close();
function free(out, size) {
  const { byteLength } = out.buffer;
  // A stream is the beginning of a buffer as large as its cluster.
  const isOwn =
    byteLength - out.byteLength <= SPARE_BYTES ||
    (byteLength === size && size > Buffer.poolSize);
  if (!isOwn || out.byteLength === 0) return;
  if (out.buffer.transfer) out.buffer.transfer(0);
  else nobody.port1.postMessage(null, [out.buffer]);
}

const { gate } = workerData;
function act(tool, from, into) {
  if (Atomics.compareExchange(gate, 0, ${FREE}, ${AT_WORK}) !== ${FREE})
    return 'this thread is being ended';
  try {
    const out = tool(from, into.length);
    const count = out.length;
    if (count <= into.length) into.set(out);
    free(out, into.length);
    return count;
  } catch (error) {
    return error.code === 'ERR_BUFFER_TOO_LARGE' ? into.length + 1 : error.message;
  } finally {
    Atomics.store(gate, 0, ${FREE});
    Atomics.notify(gate, 0);
  }
}

parentPort.on('message', async ({ id, streams, input, output }) => {
  const results = [];
  let from = 0;
  let to = 0;
  for (const { act: name, method, length, size } of streams) {
    const tool = await (loading[name][method] ??= makers[name][method]());
    const into = new Uint8Array(output, to, size);
    results.push(act(tool, new Uint8Array(input, from, length), into));
    from += length;
    to += size;
  }
  parentPort.postMessage({ id, results, input, output }, [input, output]);
});
`;
