/** Brings ranges in requests that suit the server, a few of them under way. */
import type { Transfer } from '../flight.ts';
import type { Connection } from './connection.ts';

/** What one request asks for, at most: a guest's read does not wait behind a longer one. */
const PIECE_BYTES_MAX: number = 1024 * 1024;
/** Pieces of one range under way: the next is on its way while one comes. */
const PIECES_MAX = 2;
/** A preferred block that is larger is not heeded: more than a read wants would have to come. */
const PREFERRED_BYTES_MAX: number = 64 * 1024;
/** Buffers that are kept to be filled again. */
const SPARE_MAX = 8;

/** A part of a range on its way, and what the server is asked for it. */
interface Piece {
  readonly end: number;
  /** The part that was wanted, of whole blocks. */
  readonly bytes: Promise<Uint8Array>;
}

export class Pieces {
  readonly #size: number;
  /** Buffers to be filled again. */
  readonly #spare: Uint8Array[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  /**
   * From the transfer's position to its end.
   * @throws Failure, or the signal's reason
   */
  async bring(
    transfer: Transfer,
    cancelled: AbortSignal,
    connection: (signal: AbortSignal) => Promise<Connection>,
  ): Promise<void> {
    const underWay: Piece[] = [];
    let next = transfer.position;
    while (transfer.position < transfer.end) {
      while (underWay.length < PIECES_MAX && next < transfer.end) {
        const piece = this.#ask(next, transfer.end, await connection(cancelled), cancelled);
        underWay.push(piece);
        next = piece.end;
      }
      const bytes = await underWay[0].bytes;
      underWay.shift();
      transfer.deliver(bytes);
      this.#keep(bytes);
    }
  }

  #ask(from: number, to: number, connection: Connection, cancelled: AbortSignal): Piece {
    const { minimum, preferred, maximum } = connection.told.blocks;
    const block = Math.max(minimum, Math.min(preferred, PREFERRED_BYTES_MAX));
    const most = Math.max(block, floorTo(Math.min(maximum, PIECE_BYTES_MAX), block));
    const start = floorTo(from, block);
    const end = Math.min(start + most, Math.ceil(to / block) * block, this.#size);
    const buffer = this.#spare.pop() ?? new Uint8Array(PIECE_BYTES_MAX);
    const into = buffer.subarray(0, end - start);
    const wanted = buffer.subarray(from - start, Math.min(to, end) - start);
    const bytes = connection.read(start, into, cancelled).then(() => wanted);
    // One that fails before its turn is told of when that comes, or with the one before it.
    bytes.catch(() => {});
    return { end: Math.min(to, end), bytes };
  }

  /** One that was given up is not filled again: its bytes may still come. */
  #keep(bytes: Uint8Array): void {
    if (this.#spare.length < SPARE_MAX) this.#spare.push(new Uint8Array(bytes.buffer));
  }
}

function floorTo(value: number, block: number): number {
  return value - (value % block);
}
