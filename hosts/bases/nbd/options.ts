/**
 * The messages of NBD's handshake: each is parsed and emitted here and nowhere else. First what a
 * server does with them, then a client.
 */
import { clipped, encoder, Fields, u64At, viewOf } from './fields.ts';
import type { BlockSizes } from './protocol.ts';
import {
  CLIENT_FLAGS_BYTES,
  HandshakeFlag,
  INIT_MAGIC,
  Info,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  RESERVED_BYTES,
  STRING_BYTES_MAX,
} from './protocol.ts';

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

/** "Oldstyle negotiation": what stood in the place of `IHAVEOPT` until 2011. */
const OLDSTYLE_MAGIC: readonly [number, number] = [0x00004202, 0x81861253];

/** The server's handshake flags; otherwise what greets there in its place. */
export function parseGreeting(bytes: Uint8Array): number | 'oldstyle' | 'other' {
  if (!startsGreeting(bytes)) return 'other';
  if (hasWords(bytes, 8, OPTION_MAGIC)) return viewOf(bytes).getUint16(16);
  return hasWords(bytes, 8, OLDSTYLE_MAGIC) ? 'oldstyle' : 'other';
}

/** By its first eight bytes. */
export function startsGreeting(bytes: Uint8Array): boolean {
  return hasWords(bytes, 0, INIT_MAGIC);
}

function hasWords(bytes: Uint8Array, at: number, [high, low]: readonly [number, number]): boolean {
  const view = viewOf(bytes);
  return view.getUint32(at) === high && view.getUint32(at + 4) === low;
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
