/**
 * Compresses for tests that measure sizes: by zstd where `node:zlib` has it, else by deflate, which is a little worse.
 *
 * @module
 */
import * as zlib from "node:zlib";

/** A frame of `bytes`. */
export function zstdCompress(bytes: Uint8Array): Uint8Array {
  const zstd: unknown = Reflect.get(zlib, "zstdCompressSync");
  return typeof zstd === "function" ? zlib.zstdCompressSync(bytes) : zlib.deflateSync(bytes);
}
