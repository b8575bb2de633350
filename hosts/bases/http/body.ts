/**
 * The body of an answer piece by piece, as it arrives, into buffers used again and again: with a
 * new one for each piece, Chromium took a third longer for a base, most of it to give them back.
 */
import type { AnswerBody, PieceReader } from './response.ts';

/**
 * The largest piece: with smaller ones browsers take more time for the same bytes, with larger ones
 * no less.
 */
const PIECE_BYTES_MAX = 512 * 1024;

/**
 * Reads a body of so many bytes, 1 at least. A piece is good until the one after the next is asked
 * for. What is no byte stream (Streams standard, section 4.2) brings buffers of its own.
 */
export function piecesOf(body: AnswerBody, bytes: number): PieceReader {
  const reader = byteReader(body);
  if (reader === undefined) return body.getReader();
  const size = Math.min(bytes, PIECE_BYTES_MAX);
  let last: ArrayBuffer | undefined;
  let free: ArrayBuffer | undefined;
  return {
    async read() {
      const { done, value } = (await reader.read(
        new Uint8Array(free ?? new ArrayBuffer(size)),
      )) as { done: boolean; value: Uint8Array<ArrayBuffer> };
      if (done) return { done };
      [last, free] = [value.buffer, last];
      return { done, value };
    },
    cancel: () => reader.cancel(),
  };
}

function byteReader(body: AnswerBody): ReadableStreamBYOBReader | undefined {
  if (!(body instanceof ReadableStream)) return undefined;
  try {
    return body.getReader({ mode: 'byob' });
  } catch {
    // A caller's own fetch may answer with any stream, and older browsers have no other.
    return undefined;
  }
}
