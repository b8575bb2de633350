/**
 * Short reads of what the page cache holds, at once: a thread of node:fs costs ten times what
 * copying does. preadv2(2) with RWF_NOWAIT reads what is there and never waits for the device; it
 * is called through koffi, which users add, on Linux.
 */
import { constants } from 'node:os';
import { libc } from './libc.ts';

/** Longer reads are better done by another thread, which copies while this one goes on. */
export const CACHED_READ_BYTES_MAX: number = 64 * 1024;
const RWF_NOWAIT = 8;
/** `struct iovec`: an address and a length, of 64 bits each. */
const IOVEC_WORDS = 2;

/** Fills `into` from `offset` on if all of it is cached; false if not, and then nothing is read. */
export type ReadCached = (offset: number, into: Uint8Array) => boolean;

/** How an open file is read from the page cache; undefined where that cannot be done. */
export async function cachedReadsOf(fd: number): Promise<ReadCached | undefined> {
  const functions = process.platform === 'linux' ? await libc() : undefined;
  const preadv2 = functions?.preadv2;
  if (functions === undefined || preadv2 === undefined) return undefined;
  // Reads come through a buffer of their own, whose address is known once and for all.
  const { bytes, vector, lengths } = (shared ??= bufferOf(functions.addressOf));
  let refused = false;
  return (offset, into) => {
    if (refused || into.length > CACHED_READ_BYTES_MAX) return false;
    lengths[1] = BigInt(into.length);
    const count = preadv2(fd, vector, 1, offset, RWF_NOWAIT);
    // Part of it: the rest has to be waited for, so all is.
    if (count === into.length) {
      into.set(count === bytes.length ? bytes : bytes.subarray(0, count));
      return true;
    }
    // A file system that cannot do this never will.
    if (count < 0 && functions.errno() === constants.errno.EOPNOTSUPP) refused = true;
    return false;
  };
}

interface Shared {
  bytes: Uint8Array;
  vector: Uint8Array;
  lengths: BigUint64Array;
}

let shared: Shared | undefined;

function bufferOf(addressOf: (bytes: Uint8Array) => bigint): Shared {
  const bytes = new Uint8Array(CACHED_READ_BYTES_MAX);
  const lengths = new BigUint64Array(IOVEC_WORDS);
  lengths[0] = addressOf(bytes);
  return { bytes, lengths, vector: new Uint8Array(lengths.buffer) };
}
