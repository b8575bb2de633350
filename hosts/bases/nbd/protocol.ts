/**
 * The numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md, and of its branch
 * extension-ext-header what concerns extended headers). The messages are in options.ts and
 * messages.ts.
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
/** Of it, those that tell that it is one. */
export const MAGIC_BYTES = 8;
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

/** What NBD_INFO_BLOCK_SIZE tells, in bytes. */
export interface BlockSizes {
  minimum: number;
  preferred: number;
  maximum: number;
}

/** How requests and replies look on a connection, as the handshake has settled it. */
export type HeaderStyle = 'simple' | 'structured' | 'extended';
