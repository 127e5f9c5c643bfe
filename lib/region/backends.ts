/**
 * Backends: octets with addresses, in memory, files, directories and behind NBD, Redis, S3 and web servers; wrappers around them;
 * copying them, and offering them to NBD clients.
 *
 * ```ts
 * import { copyBackend, NbdListener, openBackend } from "./backends.ts";
 *
 * const folder = await Deno.makeTempDir({ dir: "/var/tmp" });
 * {
 *   await using disk = await openBackend("memory:4MiB");
 *   await disk.writeAt(1000, new Uint8Array([1, 2, 3]));
 *   await using server = await NbdListener.open({
 *     place: { path: `${folder}/socket` },
 *     offers: [{ name: "disk", backend: disk }],
 *   });
 *   await using far = await openBackend(server.url("disk"));
 *   await using copy = await openBackend(`${folder}/copy.raw`, { create: far.size });
 *   const { copied, zero } = await copyBackend(far, copy);
 *   if (copied !== 4096 || zero !== far.size - 4096) throw new Error("It is not sparse");
 * }
 * await Deno.remove(folder, { recursive: true });
 * ```
 *
 * @module
 */
export {
  type Backend,
  CheckedBackend,
  type Extent,
  extentsOf,
  type IoErrno,
  IoError,
  type MaybePromise,
} from "./backend.ts";
export { checksummed, ChecksummedBackend, type ChecksumOptions } from "./backend_checksum.ts";
export { DirectBackend, type DirectNative } from "./backend_direct.ts";
export { DirectoryBackend, type DirectoryOptions } from "./backend_directory.ts";
export { FileBackend, type FileOptions } from "./backend_file.ts";
export { HttpBackend, type HttpOptions } from "./backend_http.ts";
export { MemoryBackend } from "./backend_memory.ts";
export { NbdBackend, type NbdOptions, type NbdPlace, type NbdTls } from "./backend_nbd.ts";
export { type ChunkCoding, StoredBackend, type StoredOptions } from "./backend_stored.ts";
export {
  type BackendUrl,
  openBackend,
  type OpenOptions,
  type OpenScheme,
  registerScheme,
  shownUrl,
} from "./backend_url.ts";
export {
  chunked,
  ChunkedBackend,
  type Clock,
  delayed,
  type DelayOptions,
  type FaultOptions,
  faulty,
  FaultyBackend,
  readOnly,
  systemClock,
  WrappedBackend,
} from "./backend_wrap.ts";
export { zstdCoding } from "./backend_zstd.ts";
export type { ChunkStore } from "./chunk_store.ts";
export {
  copyBackend,
  type CopyIdentity,
  type CopyJournal,
  type CopyOptions,
  type CopyResult,
  FileJournal,
} from "./copy.ts";
export {
  type ChunkHashes,
  ManagedBackend,
  type ManagedEvent,
  type ManagedOptions,
  type ManagedStats,
  openManaged,
  type Recovered,
  type StateFile,
  type StateFiles,
} from "./managed.ts";
export {
  NbdListener,
  type NbdListenEvent,
  type NbdListenOptions,
  type NbdOffers,
  type OfferedBackend,
} from "./nbd_listen.ts";
export type { NbdServerCertificate } from "./nbd_tls.ts";
export { SyncedCopy, type SyncOptions, type SyncResult, watchBackend, type WatchOptions } from "./watch.ts";
