/**
 * NBD, both sides of it: a server for anything with `readAt` and `writeAt`, and a client with many requests in
 * flight. What is spoken, every bound and every error stand in NBD.md.
 *
 * @module
 */
export {
  type Extent,
  type MaybePromise,
  type NbdBackend,
  type NbdTransport,
  transportOf,
} from "./backend.ts";
export { BufferPool } from "./buffers.ts";
export { listNbdExports, NbdClient, type NbdClientOptions } from "./client.ts";
export type { NbdExportInfo } from "./client_handshake.ts";
export { exportFlag } from "./constants.ts";
export { errorNumberOf, NbdError, type NbdErrorName } from "./errors.ts";
export {
  defaultLimits,
  type NbdEnd,
  type NbdLimits,
  type NbdTally,
  serveNbd,
  type ServeNbdOptions,
} from "./server.ts";
export type { NbdExport, NbdExports, NbdServerTls } from "./server_handshake.ts";
