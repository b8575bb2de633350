/**
 * A run of another source's bytes, or several with holes between them: a member of an archive,
 * which may be sparse.
 */
import type { BlockSource, ReadHint } from '../../api/block.ts';

/** Bytes `[offset, offset + length)`, which stand in the source from `at` on. All else is zeros. */
export interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly at: number;
}

/** The pieces are in order and do not overlap, and lie inside both `size` and the source. */
export function sourceOfPieces(
  source: BlockSource,
  size: number,
  pieces: readonly Piece[],
): BlockSource {
  const read = (offset: number, into: Uint8Array, hint?: ReadHint): Promise<void> =>
    readPieces(source, pieces, offset, into, hint);
  const isWhole = pieces.length === 1 && pieces[0].length === size;
  const tellsHoles = !isWhole || source.nextData !== undefined;
  return {
    size,
    name: source.name,
    identity: source.identity,
    preferred: source.preferred,
    read,
    nextData: tellsHoles ? (offset) => nextDataIn(source, pieces, offset) : undefined,
    close: () => source.close(),
  };
}

async function readPieces(
  source: BlockSource,
  pieces: readonly Piece[],
  offset: number,
  into: Uint8Array,
  hint?: ReadHint,
): Promise<void> {
  const end = offset + into.length;
  const reads: (void | Promise<void>)[] = [];
  let filled = offset;
  for (let index = firstBehind(pieces, offset); index < pieces.length; index++) {
    const piece = pieces[index];
    if (piece.offset >= end) break;
    const from = Math.max(offset, piece.offset);
    const to = Math.min(end, piece.offset + piece.length);
    into.fill(0, filled - offset, from - offset);
    const part = into.subarray(from - offset, to - offset);
    reads.push(source.read(piece.at + from - piece.offset, part, hint));
    filled = to;
  }
  into.fill(0, filled - offset);
  await Promise.all(reads);
}

async function nextDataIn(
  source: BlockSource,
  pieces: readonly Piece[],
  offset: number,
): Promise<{ start: number; end: number } | undefined> {
  for (let index = firstBehind(pieces, offset); index < pieces.length; index++) {
    const piece = pieces[index];
    const from = Math.max(offset, piece.offset);
    const end = piece.offset + piece.length;
    if (source.nextData === undefined) return { start: from, end };
    const shift = piece.offset - piece.at;
    const data = await source.nextData(from - shift);
    if (data !== undefined && data.start + shift < end)
      return { start: data.start + shift, end: Math.min(end, data.end + shift) };
  }
  return undefined;
}

/** The first piece that ends behind `offset`. */
function firstBehind(pieces: readonly Piece[], offset: number): number {
  let [low, high] = [0, pieces.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pieces[middle].offset + pieces[middle].length > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
