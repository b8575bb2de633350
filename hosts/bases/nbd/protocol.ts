/**
 * The numbers and messages of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md, and of its
 * branch extension-ext-header what concerns extended headers): each message is parsed and emitted
 * here and nowhere else. All numbers are big-endian. Offsets and lengths have 64 bits; here they
 * are JavaScript numbers, exact up to 2^53, and larger ones lie outside every disk anyway.
 */

/** "Newstyle negotiation": `NBDMAGIC`, then `IHAVEOPT`, each as two words. */
export const INIT_MAGIC: readonly [number, number] = [0x4e42444d, 0x41474943];
export const OPTION_MAGIC: readonly [number, number] = [0x49484156, 0x454f5054];
/** "Fixed newstyle negotiation": before each reply to an option. */
export const OPTION_REPLY_MAGIC: readonly [number, number] = [0x0003e889, 0x045565a9];
/**
 * "Request message", "Simple reply message", "Structured reply chunk message", "Extended reply
 * chunk message".
 */
export const REQUEST_MAGIC = 0x25609513;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** "Handshake flags" and "Client flags": the client's have the same values. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** "Transmission flags". */
export const ExportFlag = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConn: 256,
  sendCache: 1024,
  sendFastZero: 2048,
  blockStatusPayload: 4096,
} as const;

/** "Option types". */
export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

/** "Option reply types". */
export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  shutdown: 0x80000007,
  blockSizeRequired: 0x80000008,
  tooBig: 0x80000009,
  extendedHeadersRequired: 0x8000000a,
} as const;

/** NBD_INFO_*: what NBD_OPT_INFO and NBD_OPT_GO tell. */
export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** "Request types". */
export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** "Command flags". */
export const CommandFlag = {
  fua: 1,
  noHole: 2,
  df: 4,
  reqOne: 8,
  fastZero: 16,
  payloadLength: 32,
} as const;

/** "Structured reply flags" and "Structured reply types". */
export const REPLY_FLAG_DONE = 1;
export const ReplyType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;
/** "Structured reply types": types with this bit tell of an error, those too that are not known. */
export const REPLY_TYPE_ERROR_BIT = 0x8000;

/** "Error values". */
export const NbdError = {
  none: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** "base:allocation metadata context". */
export const AllocationFlag = { hole: 1, zero: 2 } as const;

/** "Conventions": no string may be longer. */
export const STRING_BYTES_MAX = 4096;
export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
export const REQUEST_BYTES = 28;
export const EXTENDED_REQUEST_BYTES = 32;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_REPLY_BYTES = 20;
export const EXTENDED_REPLY_BYTES = 32;
/** "Block sizes": what holds where a server does not tell of them. */
export const BLOCK_SIZES_DEFAULT: BlockSizes = {
  minimum: 512,
  preferred: 4096,
  maximum: 32 * 1024 * 1024,
};
/**
 * Zeroes after the answer to NBD_OPT_EXPORT_NAME, for clients that did not say they can do without.
 */
export const RESERVED_BYTES = 124;
const TWO_TO_32 = 2 ** 32;

/** What NBD_INFO_BLOCK_SIZE tells, in bytes. */
export interface BlockSizes {
  minimum: number;
  preferred: number;
  maximum: number;
}

/** How requests and replies look on a connection, as the handshake has settled it. */
export type HeaderStyle = 'simple' | 'structured' | 'extended';

const encoder = new TextEncoder();

/** A run of big-endian fields. */
class Fields {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #at = 0;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.#view = new DataView(this.bytes.buffer);
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value);
    this.#at += 4;
    return this;
  }

  u64(value: number): this {
    return this.u32(Math.floor(value / TWO_TO_32)).u32(value % TWO_TO_32);
  }

  words([high, low]: readonly [number, number]): this {
    return this.u32(high).u32(low);
  }

  text(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function u64At(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_TO_32 + view.getUint32(at + 4);
}

/** What the server says first. */
export function emitGreeting(): Uint8Array {
  return new Fields(18)
    .words(INIT_MAGIC)
    .words(OPTION_MAGIC)
    .u16(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes).bytes;
}

export interface OptionHeader {
  option: number;
  length: number;
}

/** An option's header; undefined where its magic is wrong. */
export function parseOption(bytes: Uint8Array): OptionHeader | undefined {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== OPTION_MAGIC[0] || view.getUint32(4) !== OPTION_MAGIC[1])
    return undefined;
  return { option: view.getUint32(8), length: view.getUint32(12) };
}

export function emitOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  return new Fields(20 + data.length)
    .words(OPTION_REPLY_MAGIC)
    .u32(option)
    .u32(type)
    .u32(data.length)
    .text(data).bytes;
}

/** An error's data is a message for people. */
export function emitOptionError(option: number, type: number, message: string): Uint8Array {
  return emitOptionReply(option, type, clipped(message));
}

/** NBD_REP_SERVER. */
export function emitServer(name: string): Uint8Array {
  const text = encoder.encode(name);
  return new Fields(4 + text.length).u32(text.length).text(text).bytes;
}

/** The answer to NBD_OPT_EXPORT_NAME, which has no header. */
export function emitExportName(size: number, flags: number, noZeroes: boolean): Uint8Array {
  return new Fields(10 + (noZeroes ? 0 : RESERVED_BYTES)).u64(size).u16(flags).bytes;
}

export function emitInfoExport(size: number, flags: number): Uint8Array {
  return new Fields(12).u16(Info.export).u64(size).u16(flags).bytes;
}

export function emitInfoText(info: number, text: string): Uint8Array {
  const bytes = clipped(text);
  return new Fields(2 + bytes.length).u16(info).text(bytes).bytes;
}

export function emitInfoBlockSize(minimum: number, preferred: number, maximum: number): Uint8Array {
  return new Fields(14).u16(Info.blockSize).u32(minimum).u32(preferred).u32(maximum).bytes;
}

export function emitMetaContext(id: number, name: string): Uint8Array {
  const text = encoder.encode(name);
  return new Fields(4 + text.length).u32(id).text(text).bytes;
}

/** Reads the fields of an option's data; undefined once it would have to read past the end. */
export class OptionData {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  u16(): number | undefined {
    if (this.#at + 2 > this.#bytes.length) return undefined;
    this.#at += 2;
    return this.#view.getUint16(this.#at - 2);
  }

  u32(): number | undefined {
    if (this.#at + 4 > this.#bytes.length) return undefined;
    this.#at += 4;
    return this.#view.getUint32(this.#at - 4);
  }

  /**
   * A string of `length` bytes; undefined also where it is longer than a string may be, or no
   * UTF-8.
   */
  string(length: number | undefined = this.u32()): string | undefined {
    if (length === undefined || length > STRING_BYTES_MAX) return undefined;
    if (this.#at + length > this.#bytes.length) return undefined;
    this.#at += length;
    return textOf(this.#bytes.subarray(this.#at - length, this.#at));
  }
}

/** UTF-8 without NUL, or undefined. */
export function textOf(bytes: Uint8Array): string | undefined {
  if (bytes.length > STRING_BYTES_MAX || bytes.includes(0)) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

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

/** "Oldstyle negotiation": what stood in the place of `IHAVEOPT` until 2011. */
const OLDSTYLE_MAGIC: readonly [number, number] = [0x00004202, 0x81861253];

/** The server's handshake flags; otherwise what greets there in its place. */
export function parseGreeting(bytes: Uint8Array): number | 'oldstyle' | 'other' {
  const view = viewOf(bytes);
  const isWords = (at: number, [high, low]: readonly [number, number]): boolean =>
    view.getUint32(at) === high && view.getUint32(at + 4) === low;
  if (!isWords(0, INIT_MAGIC)) return 'other';
  if (isWords(8, OPTION_MAGIC)) return view.getUint16(16);
  return isWords(8, OLDSTYLE_MAGIC) ? 'oldstyle' : 'other';
}

export function emitClientFlags(flags: number): Uint8Array {
  return new Fields(CLIENT_FLAGS_BYTES).u32(flags).bytes;
}

export function emitOption(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  return new Fields(OPTION_HEADER_BYTES + data.length)
    .words(OPTION_MAGIC)
    .u32(option)
    .u32(data.length)
    .text(data).bytes;
}

/** The data of NBD_OPT_GO. */
export function emitGo(name: string, infos: readonly number[]): Uint8Array {
  const text = encoder.encode(name);
  const fields = new Fields(6 + text.length + 2 * infos.length).u32(text.length).text(text);
  fields.u16(infos.length);
  for (const info of infos) fields.u16(info);
  return fields.bytes;
}

/** The data of NBD_OPT_SET_META_CONTEXT with one query. */
export function emitMetaContextQuery(name: string, query: string): Uint8Array {
  const [text, context] = [encoder.encode(name), encoder.encode(query)];
  return new Fields(12 + text.length + context.length)
    .u32(text.length)
    .text(text)
    .u32(1)
    .u32(context.length)
    .text(context).bytes;
}

export interface OptionReplyHeader {
  option: number;
  type: number;
  length: number;
}

/** The header of a reply to an option; undefined where its magic is wrong. */
export function parseOptionReply(bytes: Uint8Array): OptionReplyHeader | undefined {
  const view = viewOf(bytes);
  const [high, low] = OPTION_REPLY_MAGIC;
  if (view.getUint32(0) !== high || view.getUint32(4) !== low) return undefined;
  return { option: view.getUint32(8), type: view.getUint32(12), length: view.getUint32(16) };
}

/** The answer to NBD_OPT_EXPORT_NAME; of NBD_INFO_EXPORT what follows its type. */
export function parseExport(bytes: Uint8Array): { size: number; flags: number } {
  const view = viewOf(bytes);
  return { size: u64At(view, 0), flags: view.getUint16(8) };
}

/** Of NBD_INFO_BLOCK_SIZE what follows its type. */
export function parseBlockSizes(bytes: Uint8Array): BlockSizes {
  const view = viewOf(bytes);
  return {
    minimum: view.getUint32(0),
    preferred: view.getUint32(4),
    maximum: view.getUint32(8),
  };
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

/**
 * A message as a string of the protocol: not longer than one may be, and no character cut in two.
 */
function clipped(message: string): Uint8Array {
  const bytes = encoder.encode(message);
  if (bytes.length <= STRING_BYTES_MAX) return bytes;
  let end = STRING_BYTES_MAX;
  while ((bytes[end] & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}
