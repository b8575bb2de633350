/** Large requests of a guest in pieces that the engine takes. */

/** Pieces of one large read or write in flight. */
const PIECES_IN_FLIGHT = 8;

export interface PieceSizes {
  /** Bytes that the engine takes in one request. */
  most: number;
  /** Bytes of a cluster. */
  cluster: number;
}

/** Splits a range into requests, at cluster boundaries where it can, and keeps a few in flight. */
export async function inPieces(
  { most, cluster }: PieceSizes,
  offset: number,
  length: number,
  request: (at: number, size: number) => Promise<unknown>,
): Promise<void> {
  const end = offset + length;
  if (length > 0 && length <= most) return void (await request(offset, length));
  let at = offset;
  const lane = async (): Promise<void> => {
    while (at < end) {
      const from = at;
      const boundary = Math.floor((from + most) / cluster) * cluster;
      at = Math.min(end, boundary > from ? boundary : from + most);
      await request(from, at - from);
    }
  };
  // After a failure no further piece begins, and the caller hears of it when those under way have
  // ended: none of a write's pieces may come after what the caller does next.
  const stopping = (): Promise<void> =>
    lane().catch((error) => {
      at = end;
      throw error;
    });
  for (const result of await Promise.allSettled(
    Array.from({ length: PIECES_IN_FLIGHT }, stopping),
  )) {
    if (result.status === 'rejected') throw result.reason;
  }
}
