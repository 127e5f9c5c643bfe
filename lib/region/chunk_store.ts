/**
 * Chunks kept as values under keys, as Redis, S3 and directories have them; `StoredBackend` makes octets with
 * addresses of them.
 *
 * ```text
 *   key "drover-chunks.json"   {"version": 1, "size": …, "chunk": …}, or {"version": 2, …, "coding": "zstd"}
 *   key of chunk n             n as 16 hexadecimal digits; none for a chunk of zeros
 * ```
 *
 * @module
 */

/** Where values are. Each call is one, and may be done twice. */
export interface ChunkStore {
  /** For errors, without passwords. */
  readonly name: string;
  /** Calls that it does well at once. */
  readonly parallel: number;
  /** What the store says of itself, at most 4096 bytes; null where it says nothing. */
  readDescription(): Promise<Uint8Array | null>;
  /** Writes that; before, there was none. */
  writeDescription(bytes: Uint8Array): Promise<void>;
  /** A whole value, of at most `sizeMax` bytes; null where there is none. */
  get(chunk: number, sizeMax: number): Promise<Uint8Array | null>;
  /** A part of a value; what is behind its end, or all of it where there is none, is zeros. */
  getPart(chunk: number, from: number, into: Uint8Array): Promise<void>;
  /** Replaces a value, or makes it: all of it or nothing, for who reads meanwhile. */
  put(chunk: number, bytes: Uint8Array): Promise<void>;
  /** Changes a part of a value by itself, zeros before it where there was none; stores that cannot have it not. */
  putPart?(chunk: number, from: number, bytes: Uint8Array): Promise<void>;
  /** Takes a value away, if there is one. */
  remove(chunk: number): Promise<void>;
  /** Whether there are values: of at least one chunk from `first` on, and at most `count`. */
  present(first: number, count: number): Promise<boolean[]>;
  /** Brings what was answered to where it lasts. */
  flush(): Promise<void>;
  /** Gives everything back; nothing is under way. */
  close(): Promise<void>;
}

/** The key of the description. */
export const descriptionKey = "drover-chunks.json";

/** The key of a chunk. */
export function chunkKey(chunk: number): string {
  return chunk.toString(16).padStart(16, "0");
}

/** The chunk of a key; -1 for any other key. */
export function chunkOfKey(key: string): number {
  if (!/^000[0-9a-f]{13}$/.test(key)) return -1;
  const chunk = parseInt(key, 16);
  return Number.isSafeInteger(chunk) ? chunk : -1;
}
