/**
 * Where a zstd frame ends and what it claims, after RFC 8878, section 3.1.1: compressed clusters
 * are followed by foreign bytes, which decoders refuse. It decodes nothing, and believes no claim
 * that would make a decoder allocate more than the cluster needs.
 */
import { MillraceError } from '../../api/errors.ts';

const MAGIC = 0xfd2fb528;
const MAGIC_BYTES = 4;
const CHECKSUM_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
/** By the two bits of their flags. */
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
/** A content size of two bytes is stored less this. */
const CONTENT_SIZE_OFFSET = 256;
const BLOCK_RLE = 1;
const BLOCK_RESERVED = 3;
/** The window is 2^(10 + exponent) bytes and some eighths of it. */
const WINDOW_LOG_MIN = 10;
/**
 * What the RFC asks every decoder to take, and advises encoders not to exceed: a decoder may have
 * to allocate that much.
 */
const WINDOW_BYTES_MAX = 8 * 1024 * 1024;

export interface ZstdFrame {
  /** Bytes of the frame, its checksum included. */
  length: number;
  /** Bytes that it claims to decode to, if it says so. */
  contentSize?: number;
}

/**
 * Finds the end of the frame at the start of `from`.
 * @throws MillraceError `ECORRUPT` when there is none, it is cut off, it needs a dictionary or a
 *   window above 8 MiB, or claims to decode to more than `limit` bytes.
 */
export function zstdFrame(from: Uint8Array, limit: number): ZstdFrame {
  const view = new DataView(from.buffer, from.byteOffset, from.byteLength);
  try {
    return walk(view, limit);
  } catch (error) {
    // A DataView throws it at its end.
    if (error instanceof RangeError) throw corrupt('it is cut off');
    throw error;
  }
}

function walk(view: DataView, limit: number): ZstdFrame {
  if (view.getUint32(0, true) !== MAGIC) throw corrupt('it does not begin with a frame');
  const descriptor = view.getUint8(MAGIC_BYTES);
  const singleSegment = (descriptor & 0x20) !== 0;
  const hasChecksum = (descriptor & 0x04) !== 0;
  if ((descriptor & 0x08) !== 0) throw corrupt('a reserved bit is set');
  let at = MAGIC_BYTES + 1;
  if (!singleSegment && windowBytes(view.getUint8(at++)) > WINDOW_BYTES_MAX)
    throw corrupt('its window is above 8 MiB');
  for (let i = DICTIONARY_ID_BYTES[descriptor & 3]; i > 0; i--) {
    if (view.getUint8(at++) !== 0) throw corrupt('it needs a dictionary');
  }
  const contentSizeFlag = descriptor >> 6;
  const contentSizeBytes =
    contentSizeFlag === 0 && singleSegment ? 1 : CONTENT_SIZE_BYTES[contentSizeFlag];
  const contentSize =
    contentSizeBytes === 0 ? undefined : readContentSize(view, at, contentSizeBytes);
  if (contentSize !== undefined && contentSize > limit)
    throw corrupt(`it claims ${contentSize} bytes where ${limit} are expected`);
  const end = skipBlocks(view, at + contentSizeBytes) + (hasChecksum ? CHECKSUM_BYTES : 0);
  if (end > view.byteLength) throw corrupt('it is cut off');
  return { length: end, contentSize };
}

function windowBytes(descriptor: number): number {
  const base = 2 ** (WINDOW_LOG_MIN + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function readContentSize(view: DataView, at: number, bytes: number): number {
  switch (bytes) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + CONTENT_SIZE_OFFSET;
    case 4:
      return view.getUint32(at, true);
    default:
      return Number(view.getBigUint64(at, true));
  }
}

/**
 * Where the blocks that start at `at` end. Each is 3 bytes or more, so that there are no more of
 * them than the view holds.
 */
function skipBlocks(view: DataView, at: number): number {
  while (true) {
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    const type = (header >> 1) & 3;
    if (type === BLOCK_RESERVED) throw corrupt('a block has a reserved type');
    at += BLOCK_HEADER_BYTES + (type === BLOCK_RLE ? 1 : header >> 3);
    if ((header & 1) !== 0) return at;
  }
}

function corrupt(reason: string): MillraceError {
  return new MillraceError('ECORRUPT', `compressed data (zstd) does not inflate: ${reason}`);
}
