/** A disk in the pieces that a copy of it is made in, several at a time. */
import type { Extent } from '../api/disk.ts';

/** Bytes of one read, and reads in flight: together what a disk takes at once. */
export const PIECE_BYTES: number = 4 * 1024 * 1024;
const LANES = 3;

export interface Piece {
  offset: number;
  length: number;
}

/** Has each piece copied, some at a time; after a failure, or by the signal, no further one. */
export async function inLanes<P extends Piece>(
  pieces: Iterable<P> | AsyncGenerator<P>,
  signal: AbortSignal | undefined,
  copy: (piece: P) => Promise<void>,
): Promise<void> {
  let failed = false;
  const lane = async (): Promise<void> => {
    try {
      for await (const piece of pieces) {
        signal?.throwIfAborted();
        if (failed) return;
        await copy(piece);
      }
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  // Each lane takes the next piece; generators hand out one at a time.
  await Promise.all(Array.from({ length: LANES }, lane));
}

/**
 * What is not known to be zero, in pieces that begin and end at multiples of a piece where they
 * can, and else at multiples of `unit`, or the end of the disk.
 */
export async function* piecesOf(
  extents: AsyncIterable<Extent>,
  size: number,
  unit: number = 1,
): AsyncGenerator<Piece> {
  let start = 0;
  let end = 0;
  for await (const { offset, length, state } of extents) {
    if (state === 'zero' || state === 'absent') continue;
    const from = Math.floor(offset / unit) * unit;
    // Data that goes on is one run, however its image keeps it.
    if (from > end) {
      yield* split(start, end);
      start = from;
    }
    end = Math.min(Math.ceil((offset + length) / unit) * unit, size);
    for (; end - start >= 2 * PIECE_BYTES; start = nextBoundary(start))
      yield { offset: start, length: nextBoundary(start) - start };
  }
  yield* split(start, end);
}

/** All from `start` to `end`. */
export function* split(start: number, end: number): Generator<Piece> {
  for (let at = start; at < end; at = nextBoundary(at))
    yield { offset: at, length: Math.min(nextBoundary(at), end) - at };
}

function nextBoundary(offset: number): number {
  return (Math.floor(offset / PIECE_BYTES) + 1) * PIECE_BYTES;
}
