/**
 * The messages of NBD's transmission, requests and replies: each is parsed and emitted here and
 * nowhere else. First what a server does with them, then a client.
 */
import { clipped, Fields, u64At, viewOf } from './fields.ts';
import { textOf } from './options.ts';
import type { HeaderStyle } from './protocol.ts';
import {
  EXTENDED_REPLY_BYTES,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_BYTES,
  EXTENDED_REQUEST_MAGIC,
  REPLY_FLAG_DONE,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  ReplyType,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';

/** "Request message", compact or extended. */
export interface Request {
  flags: number;
  type: number;
  /** Sent back as it came: the two halves of 64 bits. */
  cookie: readonly [number, number];
  offset: number;
  /**
   * Bytes of the disk; with NBD_CMD_FLAG_PAYLOAD_LEN, and in a compact write, of the payload that
   * follows.
   */
  length: number;
}

/** A request's header; undefined where its magic is wrong, and the client out of step. */
export function parseRequest(bytes: Uint8Array, style: HeaderStyle): Request | undefined {
  const view = viewOf(bytes);
  const extended = style === 'extended';
  if (view.getUint32(0) !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) return undefined;
  return {
    flags: view.getUint16(4),
    type: view.getUint16(6),
    cookie: [view.getUint32(8), view.getUint32(12)],
    offset: u64At(view, 16),
    length: extended ? u64At(view, 24) : view.getUint32(24),
  };
}

/** Data of a read comes behind it. */
export function emitSimpleReply(request: Request, error: number): Uint8Array {
  return new Fields(16).u32(SIMPLE_REPLY_MAGIC).u32(error).words(request.cookie).bytes;
}

/**
 * The header of a chunk, with room for the first `inline` bytes of its payload, which are filled by
 * the caller.
 */
function chunk(
  request: Request,
  style: HeaderStyle,
  type: number,
  length: number,
  done: boolean,
  inline: number,
): Fields {
  const flags = done ? REPLY_FLAG_DONE : 0;
  if (style === 'extended')
    return new Fields(32 + inline)
      .u32(EXTENDED_REPLY_MAGIC)
      .u16(flags)
      .u16(type)
      .words(request.cookie)
      .u64(request.offset)
      .u64(length);
  return new Fields(20 + inline)
    .u32(STRUCTURED_REPLY_MAGIC)
    .u16(flags)
    .u16(type)
    .words(request.cookie)
    .u32(length);
}

export function emitNone(request: Request, style: HeaderStyle): Uint8Array {
  return chunk(request, style, ReplyType.none, 0, true, 0).bytes;
}

/** NBD_REPLY_TYPE_OFFSET_DATA; the `length` bytes of data come behind it. */
export function emitOffsetData(
  request: Request,
  style: HeaderStyle,
  offset: number,
  length: number,
  done: boolean,
): Uint8Array {
  return chunk(request, style, ReplyType.offsetData, 8 + length, done, 8).u64(offset).bytes;
}

export function emitOffsetHole(
  request: Request,
  style: HeaderStyle,
  offset: number,
  length: number,
  done: boolean,
): Uint8Array {
  return chunk(request, style, ReplyType.offsetHole, 12, done, 12).u64(offset).u32(length).bytes;
}

/** NBD_REPLY_TYPE_ERROR: why, in words of ours. */
export function emitError(
  request: Request,
  style: HeaderStyle,
  error: number,
  message: string,
): Uint8Array {
  const text = clipped(message);
  const length = 6 + text.length;
  return chunk(request, style, ReplyType.error, length, true, length)
    .u32(error)
    .u16(text.length)
    .text(text).bytes;
}

/** A run of the disk in one state of a metadata context. */
export interface Descriptor {
  length: number;
  status: number;
}

/** NBD_REPLY_TYPE_BLOCK_STATUS, or with extended headers NBD_REPLY_TYPE_BLOCK_STATUS_EXT. */
export function emitBlockStatus(
  request: Request,
  style: HeaderStyle,
  context: number,
  descriptors: readonly Descriptor[],
  done: boolean,
): Uint8Array {
  if (style === 'extended') {
    const length = 8 + 16 * descriptors.length;
    const type = ReplyType.blockStatusExtended;
    const fields = chunk(request, style, type, length, done, length);
    fields.u32(context).u32(descriptors.length);
    for (const each of descriptors) fields.u64(each.length).u64(each.status);
    return fields.bytes;
  }
  const length = 4 + 8 * descriptors.length;
  const fields = chunk(request, style, ReplyType.blockStatus, length, done, length).u32(context);
  for (const each of descriptors) fields.u32(each.length).u32(each.status);
  return fields.bytes;
}

/** The payload of NBD_CMD_BLOCK_STATUS: an effect length, and the contexts that are asked for. */
export function parseBlockStatusPayload(
  bytes: Uint8Array,
): { length: number; contexts: number[] } | undefined {
  if (bytes.length < 12 || bytes.length % 4 !== 0) return undefined;
  const view = viewOf(bytes);
  const contexts: number[] = [];
  for (let at = 8; at < bytes.length; at += 4) contexts.push(view.getUint32(at));
  return { length: u64At(view, 0), contexts };
}

export function emitRequest(request: Request, style: HeaderStyle): Uint8Array {
  const extended = style === 'extended';
  const fields = new Fields(extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES)
    .u32(extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)
    .u16(request.flags)
    .u16(request.type)
    .words(request.cookie)
    .u64(request.offset);
  return (extended ? fields.u64(request.length) : fields.u32(request.length)).bytes;
}

/** The header of a simple reply, or of a chunk. */
export type ReplyHeader = { cookie: readonly [number, number] } & (
  | { kind: 'simple'; error: number }
  | { kind: 'chunk'; type: number; done: boolean; length: number; offset?: number }
);

/** Bytes of a reply's header by its magic; undefined for what begins none in this style. */
export function replyHeaderBytes(magic: number, style: HeaderStyle): number | undefined {
  if (style === 'extended')
    return magic === EXTENDED_REPLY_MAGIC ? EXTENDED_REPLY_BYTES : undefined;
  if (magic === SIMPLE_REPLY_MAGIC) return SIMPLE_REPLY_BYTES;
  return magic === STRUCTURED_REPLY_MAGIC && style === 'structured'
    ? STRUCTURED_REPLY_BYTES
    : undefined;
}

/** A whole header, whose magic is known to be right. */
export function parseReply(bytes: Uint8Array): ReplyHeader {
  const view = viewOf(bytes);
  const cookie = [view.getUint32(8), view.getUint32(12)] as const;
  if (bytes.length === SIMPLE_REPLY_BYTES)
    return { kind: 'simple', cookie, error: view.getUint32(4) };
  const isExtended = bytes.length === EXTENDED_REPLY_BYTES;
  return {
    kind: 'chunk',
    cookie,
    done: (view.getUint16(4) & REPLY_FLAG_DONE) !== 0,
    type: view.getUint16(6),
    length: isExtended ? u64At(view, 24) : view.getUint32(16),
    offset: isExtended ? u64At(view, 16) : undefined,
  };
}

/** The offset that NBD_REPLY_TYPE_OFFSET_DATA begins with. */
export const DATA_OFFSET_BYTES = 8;

export function parseDataOffset(bytes: Uint8Array): number {
  return u64At(viewOf(bytes), 0);
}

/** The payload of NBD_REPLY_TYPE_OFFSET_HOLE. */
export const HOLE_BYTES = 12;

export function parseHole(bytes: Uint8Array): { offset: number; length: number } {
  const view = viewOf(bytes);
  return { offset: u64At(view, 0), length: view.getUint32(8) };
}

/** The payload of an error's chunk; undefined where it contradicts itself. */
export function parseError(bytes: Uint8Array): { error: number; message: string } | undefined {
  if (bytes.length < 6) return undefined;
  const view = viewOf(bytes);
  const end = 6 + view.getUint16(4);
  if (end > bytes.length) return undefined;
  return { error: view.getUint32(0), message: textOf(bytes.subarray(6, end)) ?? '' };
}

/**
 * The payload of NBD_REPLY_TYPE_BLOCK_STATUS, or of NBD_REPLY_TYPE_BLOCK_STATUS_EXT; undefined
 * where it contradicts itself.
 */
export function parseBlockStatus(
  bytes: Uint8Array,
  type: number,
): { context: number; descriptors: Descriptor[] } | undefined {
  const isExtended = type === ReplyType.blockStatusExtended;
  const [head, each] = isExtended ? [8, 16] : [4, 8];
  if (bytes.length < head + each || (bytes.length - head) % each !== 0) return undefined;
  const view = viewOf(bytes);
  const count = (bytes.length - head) / each;
  if (isExtended && view.getUint32(4) !== count) return undefined;
  const descriptors = Array.from({ length: count }, (_, index) => {
    const at = head + index * each;
    return isExtended
      ? { length: u64At(view, at), status: u64At(view, at + 8) }
      : { length: view.getUint32(at), status: view.getUint32(at + 4) };
  });
  return { context: view.getUint32(0), descriptors };
}
