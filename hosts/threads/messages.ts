/** What goes between the pool and its threads. */
import type { Compression } from '../api/codec.ts';

/**
 * States of a thread's gate, one number of shared memory. Node aborts the whole process when a
 * thread is ended between two steps of the making of a zlib stream ("close before init"), so a
 * thread is ended only while it makes none, and makes none once it is to be ended.
 */
export const FREE = 0;
export const AT_WORK = 1;
export const CLOSED = 2;

/** Data of a thread at its start. */
export interface ThreadSetup {
  /** FREE, AT_WORK or CLOSED. */
  gate: Int32Array;
  /** Path of the module `@foxglove/wasm-zstd`, for versions of Node without zstd (before 22.15). */
  zstd: string;
}

export type Act = 'inflate' | 'deflate';

/**
 * Many small works at once: `input` holds the streams to inflate and the clusters to deflate one
 * after another, `output` has room for a cluster of each.
 */
export interface Batch {
  kind: 'batch';
  id: number;
  streams: { act: Act; method: Compression; length: number; size: number }[];
  input: ArrayBuffer;
  output: ArrayBuffer;
}

/**
 * Both buffers again, and a result for each: the number of bytes it gave (if it is more than the
 * cluster has, there are none of them) or the reason why it failed.
 */
export interface BatchDone {
  kind: 'batch';
  id: number;
  results: (number | string)[];
  input: ArrayBuffer;
  output: ArrayBuffer;
}

/** What a thread decodes from start to end, part by part. */
export type DecodedFormat = 'xz' | 'bzip2' | 'zstd';

/** How a decoding begins; of xz and zstd, `wasm` is the decoder. */
export interface DecodingSetup {
  format: DecodedFormat;
  wasm?: WebAssembly.Module;
}

/** Asks for what a decoding gives next; each is answered once before the next one is sent. */
export interface DecodeRequest {
  kind: 'decode';
  id: number;
  /** With the first one. */
  setup?: DecodingSetup;
  /** What comes next of the input; null: no more does; left out: go on with what is there. */
  part?: Uint8Array | null;
}

/** Nobody wants any more of it. It is not answered. */
export interface DecodeEnd {
  kind: 'end';
  id: number;
}

export interface DecodeAnswer {
  kind: 'decode';
  id: number;
  output: Uint8Array<ArrayBuffer>;
  /** Whether it goes on with what it has, needs another part, or is done. */
  state: 'more' | 'hungry' | 'over';
  failure?: { message: string; isUnsupported: boolean };
}

export type ToThread = Batch | DecodeRequest | DecodeEnd;
export type FromThread = BatchDone | DecodeAnswer;
