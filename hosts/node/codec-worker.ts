/**
 * The program of a decoding thread, as text. It is text because it has to start from wherever the
 * module that starts it is run: from TypeScript sources (Node 20 runs no .ts file in a worker),
 * from dist, or from a user's bundle (which has no file beside it). So it imports nothing of ours,
 * and only decodes: what a stream may claim has been checked before, how much it gave is checked
 * after.
 *
 * A message is a batch: `input` holds the streams one after another, `output` has room for their
 * clusters one after another; both are given back with a result for each, the number of bytes it
 * gave or the reason why it does not inflate.
 */

/**
 * States of a thread's gate, one number of shared memory. Node aborts the whole process when a
 * thread is ended between two steps of the making of a zlib stream ("close before init"), so a
 * thread is ended only while it decodes nothing, and decodes nothing once it is to be ended.
 */
export const FREE = 0;
export const DECODING = 1;
export const CLOSED = 2;

/** Data of the worker at its start. */
export interface WorkerSetup {
  /** FREE, DECODING or CLOSED. */
  gate: Int32Array;
  /** Path of the module `@foxglove/wasm-zstd`, for versions of Node without zstd (before 22.15). */
  zstd: string;
}

export interface Batch {
  id: number;
  streams: { method: 'zlib' | 'zstd'; length: number; size: number }[];
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

async function loadZstd() {
  if (zlib.zstdDecompressSync) return bounded(zlib.zstdDecompressSync);
  const { decompress, isLoaded } = require(workerData.zstd);
  await isLoaded;
  return decompress;
}

const decoders = { zlib: () => bounded(zlib.inflateRawSync), zstd: loadZstd };
const loading = {};

// Each decoded cluster is a new buffer. Left to the garbage collector, they pile up to 40 MB a
// thread and more, so each is detached as soon as it has been copied: by transfer (Node 21), or by
// sending it where nobody is. Buffers out of Node's shared pool are let be.
const nobody = new MessageChannel();
nobody.port2.close();
function free(out) {
  if (out.buffer.byteLength - out.byteLength > SPARE_BYTES || out.byteLength === 0) return;
  if (out.buffer.transfer) out.buffer.transfer(0);
  else nobody.port1.postMessage(null, [out.buffer]);
}

const { gate } = workerData;
function decode(decoder, from, into) {
  if (Atomics.compareExchange(gate, 0, ${FREE}, ${DECODING}) !== ${FREE})
    return 'this thread is being ended';
  try {
    const out = decoder(from, into.length);
    const count = out.length;
    into.set(out);
    free(out);
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
  for (const { method, length, size } of streams) {
    const decoder = await (loading[method] ??= decoders[method]());
    const into = new Uint8Array(output, to, size);
    results.push(decode(decoder, new Uint8Array(input, from, length), into));
    from += length;
    to += size;
  }
  parentPort.postMessage({ id, results, input, output }, [input, output]);
});
`;
