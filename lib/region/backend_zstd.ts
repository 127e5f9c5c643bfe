/**
 * Chunks as zstd frames, each by itself, with its checksum.
 *
 * @module
 */
import type { Zstd } from "../../ffi/mod.ts";
import type { ChunkCoding } from "./backend_stored.ts";

/** The level unless told otherwise: about half a gigabyte a second and core. */
export const zstdLevelDefault = 3;

/** Below this a chunk is compressed at once instead of on another thread. */
const syncMax = 16 * 1024;

/**
 * Stores chunks compressed.
 *
 * @param zstd libzstd, for instance `openNative().zstd`
 * @param level 1 to 19
 * @throws {RangeError} for another level
 */
export function zstdCoding(zstd: Zstd, level: number = zstdLevelDefault): ChunkCoding {
  if (!Number.isInteger(level) || level < 1 || level > 19) {
    throw new RangeError(`Cannot use zstd level ${level}: it should be 1 to 19`);
  }
  return {
    name: "zstd",
    encode: async (chunk) =>
      chunk.length <= syncMax ? zstd.compressSync(chunk, { level }) : await zstd.compress(chunk, { level }),
    decode: async (stored, size) =>
      size <= syncMax ? zstd.decompressSync(stored, { size }) : await zstd.decompress(stored, { size }),
  };
}
