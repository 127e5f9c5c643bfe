/**
 * The numbers of the protocol, named as its document names them, and this room's bounds (NBD.md).
 *
 * Magics of 64 bits are two halves, because all arithmetic here is in 32-bit pieces.
 *
 * @module
 */

/** "NBDM", "AGIC". */
export const greetingMagic: readonly [number, number] = [0x4e42444d, 0x41474943];
/** "IHAV", "EOPT". */
export const optionMagic: readonly [number, number] = [0x49484156, 0x454f5054];
/** What an option reply begins with. */
export const optionReplyMagic: readonly [number, number] = [0x0003e889, 0x045565a9];
/** What a request begins with. */
export const requestMagic = 0x25609513;
/** What a simple reply begins with. */
export const simpleReplyMagic = 0x67446698;
/** What a chunk of a structured reply begins with. */
export const structuredReplyMagic = 0x668e33ef;

/** Octets of a request without its data. */
export const requestSize = 28;
/** Octets of a simple reply without its data. */
export const simpleReplySize = 16;
/** Octets of a chunk without its payload. */
export const chunkHeaderSize = 20;

/** Handshake flags, and the same bits in the client's answer. */
export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** Options of the haggling. */
export const option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

/** Reply types of the haggling; errors have the highest bit. */
export const optionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errTlsReqd: 0x80000005,
  errUnknown: 0x80000006,
  errShutdown: 0x80000007,
  errTooBig: 0x80000009,
} as const;

/** Kinds of information about an export. */
export const info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Transmission flags. */
export const exportFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
} as const;

/** Commands. */
export const command = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** Flags of commands. */
export const commandFlag = { fua: 1, noHole: 2, df: 4, reqOne: 8 } as const;

/** Types of chunks; errors have the highest bit. */
export const chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** The flag of the last chunk of a reply. */
export const chunkDone = 1;

/** Bits of `base:allocation`. */
export const allocation = { hole: 1, zero: 2 } as const;

/** The only metadata context that is spoken here. */
export const allocationContext = "base:allocation";

/** Most octets of data in one request. */
export const payloadSizeMax: number = 32 * 2 ** 20;
/** Most octets of an option, and of a reply to one. */
export const optionSizeMax = 65_536;
/** Most options of one connection. */
export const optionCountMax = 64;
/** Most queries of one option. */
export const queryCountMax = 64;
/** Most replies to one option. */
export const optionReplyCountMax = 4096;
/** Most octets of a name, a query or an error text. */
export const textSizeMax = 4096;
/** Most extents that one BLOCK_STATUS is answered with. */
export const extentCountMax = 1024;
/** Most extents that the client takes in one chunk: what the protocol allows. */
export const extentCountTaken: number = 2 ** 20;
/** Most chunks that the client takes in one reply. */
export const chunkCountMax = 65_536;
/** Octets of a receive buffer. */
export const slabSize: number = 256 * 1024;
/** Data of at most this size is taken as a view of the receive buffer. */
export const inlineSizeMax: number = 64 * 1024;
