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

/** What becomes of a part in the copy: it is read, is zero, or is left out. */
export type Fate = 'data' | 'zero' | 'left';

/** A part of a disk that begins where the one before it ends. */
export interface Run {
  end: number;
  fate: Fate;
}

/** A piece of a copy; what is zero need not be read. */
export interface Part extends Piece {
  zero: boolean;
}

/** What is not known to be zero is data. */
export async function* dataRuns(extents: AsyncIterable<Extent>): AsyncGenerator<Run> {
  for await (const { offset, length, state } of extents)
    yield { end: offset + length, fate: state === 'zero' || state === 'absent' ? 'left' : 'data' };
}

/**
 * What of the disk is not left out, in pieces that begin and end at multiples of a piece where they
 * can, and else at multiples of `unit`, or the end of the disk.
 */
export async function* piecesOf(
  runs: AsyncIterable<Run>,
  size: number,
  unit: number = 1,
): AsyncGenerator<Part> {
  let start = 0;
  let last: Run = { end: 0, fate: 'left' };
  const pieces = function* (end: number): Generator<Part> {
    if (last.fate !== 'left')
      for (const piece of split(start, end)) yield { ...piece, zero: last.fate === 'zero' };
    start = end;
  };
  for await (const run of inUnits(runs, size, unit)) {
    // What goes on is one run, however its image keeps it.
    if (run.fate !== last.fate) yield* pieces(last.end);
    last = run;
    if (last.end - start >= 2 * PIECE_BYTES) yield* pieces(lastBoundary(last.end));
  }
  yield* pieces(last.end);
}

/** The runs in whole units: one that is not of one fate is data. */
async function* inUnits(runs: AsyncIterable<Run>, size: number, unit: number): AsyncGenerator<Run> {
  let reached = 0;
  /** Of the unit that begins there, as far as it is known. */
  let begun: Fate | undefined;
  for await (const { end, fate } of runs) {
    if (begun !== undefined) {
      if (begun !== fate) begun = 'data';
      const unitEnd = Math.min(reached + unit, size);
      if (end < unitEnd) continue;
      yield { end: unitEnd, fate: begun };
      reached = unitEnd;
      begun = undefined;
    }
    const whole = end === size ? end : Math.floor(end / unit) * unit;
    if (whole > reached) {
      yield { end: whole, fate };
      reached = whole;
    }
    if (end > reached) begun = fate;
  }
}

/** All from `start` to `end`. */
export function* split(start: number, end: number): Generator<Piece> {
  for (let at = start; at < end; at = nextBoundary(at))
    yield { offset: at, length: Math.min(nextBoundary(at), end) - at };
}

function lastBoundary(offset: number): number {
  return Math.floor(offset / PIECE_BYTES) * PIECE_BYTES;
}

function nextBoundary(offset: number): number {
  return (Math.floor(offset / PIECE_BYTES) + 1) * PIECE_BYTES;
}
