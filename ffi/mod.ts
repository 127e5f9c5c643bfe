/**
 * The border to C: what libdrover.so can do, as TypeScript interfaces, and `openNative()` that loads it.
 *
 * Everything below `daemon` gets a `Native` as an argument and imports only types from here.
 * Calls are synchronous unless they return a promise; those run on Deno's blocking pool and are finite.
 * Failed system calls throw `NativeError`.
 *
 * @module
 */
import type { BytePath } from "../lib/base/path.ts";

/** What a directory entry is; `whiteout` never appears here: a 0:0 character device is `char`. */
export type FileKind = "file" | "directory" | "symlink" | "char" | "block" | "fifo" | "socket";

/** One `statx` result. Sizes in bytes, times as seconds and nanoseconds since 1970 (seconds may be negative). */
export interface FileStat {
  /** What it is. */
  kind: FileKind;
  /** Permission bits with setuid, setgid and sticky: mode & 07777. */
  mode: number;
  /** Owner. */
  uid: number;
  /** Group. */
  gid: number;
  /** Bytes; of a symlink the length of its target. */
  size: number;
  /** 512-byte units really allocated. */
  blocks: number;
  /** Names of this inode. */
  nlink: number;
  /** Inode number. */
  inode: bigint;
  /** (major << 20) | minor of the file system. */
  device: number;
  /** Of a device node: its major number, else 0. */
  rdevMajor: number;
  /** Of a device node: its minor number, else 0. */
  rdevMinor: number;
  /** Last change of the content. */
  mtimeSeconds: number;
  /** 0 to 999 999 999. */
  mtimeNanos: number;
  /** Last change of content or metadata. */
  ctimeSeconds: number;
  /** 0 to 999 999 999. */
  ctimeNanos: number;
}

/** A directory entry with its `statx` (not following symlinks). */
export interface DirEntry extends FileStat {
  /** Without the directory. */
  name: BytePath;
}

/** An extended attribute: full name with its namespace (`user.x`), raw value. */
export interface Xattr {
  /** Full name, with its namespace. */
  name: BytePath;
  /** Raw value. */
  value: Uint8Array<ArrayBuffer>;
}

/** Options of one overlay mount; all four features are always passed explicitly. */
export interface OverlayOptions {
  /** Absolute paths, topmost lower layer first. */
  lower: readonly BytePath[];
  /** Null for a read-only mount. */
  upper: BytePath | null;
  /** Null together with `upper`; on the same file system as `upper`. */
  work: BytePath | null;
  /** Directories can be renamed without a copy. */
  redirectDir: boolean;
  /** A change of metadata copies no data. */
  metacopy: boolean;
  /** Hard links stay linked when one is written. */
  index: boolean;
  /** `userxattr`: keep overlay xattrs in `user.`, for mounts in a user namespace. Excludes redirect and metacopy. */
  userxattr: boolean;
  /** Nobody can write. */
  readOnly: boolean;
}

/**
 * File calls on byte paths. `dir` is a directory file descriptor or `AT_FDCWD`; `path` is relative to it.
 * Calls named `…Beneath` resolve with openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS):
 * no path from outside can leave `dir`. The others are the plain *at calls, never following a final symlink.
 */
export interface Libc {
  /** openat(2) with O_CLOEXEC. */
  open(dir: number, path: BytePath, flags: number, mode?: number): number;
  /** openat2(2) below `dir`, no symlink anywhere on the way. */
  openBeneath(dir: number, path: BytePath, flags: number, mode?: number): number;
  /** close(2); an error of it is thrown, and the descriptor is gone all the same. */
  close(fd: number): void;
  /** Reads until the buffer is full or the file ends; the number of bytes read. */
  pread(fd: number, buffer: Uint8Array, offset: number): number;
  /** Writes all of it. */
  pwrite(fd: number, buffer: Uint8Array, offset: number): void;
  /** ftruncate(2): cuts the file, or extends it with a hole. */
  ftruncate(fd: number, size: number): void;
  /** fallocate(2): the range, not empty, reads as zeros and takes no room; EOPNOTSUPP where the file system cannot. */
  punch(fd: number, offset: number, size: number): void;
  /**
   * fcntl(2), F_SETPIPE_SZ: lets a pipe hold at least `size` bytes; returns what it holds now. EBADF for what is no pipe,
   * EPERM above `/proc/sys/fs/pipe-max-size` without the right to it.
   */
  growPipe(fd: number, size: number): number;
  /** lseek(2) with SEEK_DATA (3) or SEEK_HOLE (4); -1 where there is none (ENXIO). */
  seek(fd: number, offset: number, whence: number): number;
  /** Copies a range by reflink, copy_file_range(2) or read and write, whichever works first. */
  copyRange(source: number, sourceOffset: number, target: number, targetOffset: number, length: number): void;
  /** FICLONE of the whole file; false where the file system cannot. */
  clone(source: number, target: number): boolean;
  /** fsync(2) of one file or directory. */
  fsync(fd: number): Promise<void>;
  /** Flushes the file system that holds `fd`. */
  syncfs(fd: number): Promise<void>;
  /** statx(2) of `path` below `dir`, the final symlink not followed; null where there is nothing (ENOENT, ENOTDIR). */
  stat(dir: number, path: BytePath): FileStat | null;
  /** statx(2) of an open file. */
  fstat(fd: number): FileStat;
  /** All entries of an open directory but `.` and `..`, in no order, each with its statx. */
  readDir(fd: number): DirEntry[];
  /** readlinkat(2): what the symlink says. */
  readlink(dir: number, path: BytePath): BytePath;
  /** symlinkat(2). */
  symlink(target: BytePath, dir: number, path: BytePath): void;
  /** linkat(2) without following; flags 0. */
  link(sourceDir: number, source: BytePath, dir: number, path: BytePath): void;
  /** mknodat(2); `kind` char with 0, 0 is an overlay whiteout. */
  mknod(dir: number, path: BytePath, kind: FileKind, mode: number, major: number, minor: number): void;
  /** mkdirat(2); the mode goes through the umask. */
  mkdir(dir: number, path: BytePath, mode: number): void;
  /** unlinkat(2) of anything but a directory. */
  unlink(dir: number, path: BytePath): void;
  /** unlinkat(2) of an empty directory. */
  rmdir(dir: number, path: BytePath): void;
  /** renameat2(2); flags 0, RENAME_NOREPLACE 1, RENAME_EXCHANGE 2. */
  rename(sourceDir: number, source: BytePath, dir: number, path: BytePath, flags?: number): void;
  /** fchownat(2), AT_SYMLINK_NOFOLLOW. */
  chown(dir: number, path: BytePath, uid: number, gid: number): void;
  /** fchmodat(2); never call it on a symlink. */
  chmod(dir: number, path: BytePath, mode: number): void;
  /** utimensat(2), AT_SYMLINK_NOFOLLOW, sets mtime and leaves atime as it is (UTIME_OMIT). */
  setMtime(dir: number, path: BytePath, seconds: number, nanos: number): void;
  /** fchown(2); clears setuid and setgid. */
  fchown(fd: number, uid: number, gid: number): void;
  /** fchmod(2). */
  fchmod(fd: number, mode: number): void;
  /** As `setMtime`, of an open file. */
  fsetMtime(fd: number, seconds: number, nanos: number): void;
  /** All xattrs, sorted by name; of the symlink itself if it is one. Empty where the file system has none. */
  xattrs(dir: number, path: BytePath): Xattr[];
  /** One xattr, or null (ENODATA, EOPNOTSUPP). */
  getXattr(dir: number, path: BytePath, name: BytePath): Uint8Array<ArrayBuffer> | null;
  /** Creates or replaces one xattr. */
  setXattr(dir: number, path: BytePath, name: BytePath, value: Uint8Array): void;
  /** No error where it does not exist. */
  removeXattr(dir: number, path: BytePath, name: BytePath): void;
  /** name_to_handle_at(2): type and handle as opaque bytes, or null (EOPNOTSUPP). */
  fileHandle(dir: number, path: BytePath): Uint8Array<ArrayBuffer> | null;
  /** flock(2) LOCK_EX or LOCK_SH with LOCK_NB; false when somebody else holds it. Released by `close`. */
  tryLock(fd: number, exclusive: boolean): boolean;
  /**
   * Mounts an overlay on `target`. With `beneath` the new mount goes under the one that is on `target` now
   * (MOVE_MOUNT_BENEATH, Linux 6.5), so that unmounting the top switches without a gap.
   */
  mountOverlay(options: OverlayOptions, target: BytePath, beneath: boolean): void;
  /** umount2(2), with MNT_DETACH when `detach`. */
  unmount(target: BytePath, detach: boolean): void;
  /** Remounts the overlay on `target` read-only or writable; false when a writer is there (EBUSY). */
  remount(target: BytePath, readOnly: boolean): boolean;
  /** Free bytes an ordinary user may write on the file system of `fd`, its type magic, and its block size. */
  statfs(fd: number): { available: number; type: number; blockSize: number };
}

/** Reads and writes of descriptors that were opened with O_DIRECT, on the blocking pool. */
export interface DirectIo {
  /** Memory whose address is a multiple of 4096. */
  allocate(size: number): Uint8Array<ArrayBuffer>;
  /** Reads until the buffer is full or the file ends; the number of bytes read. */
  read(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): Promise<number>;
  /** Writes all of it. */
  write(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): Promise<void>;
}

/** libzstd, statically linked. A frame is complete by itself; a reference prefix must be given again to decode. */
export interface Zstd {
  /** Compresses on the blocking pool. Level 1 to 19. `prefix` is referenced, not part of the frame. */
  compress(
    input: Uint8Array,
    options: { level: number; prefix?: Uint8Array },
  ): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * Decompresses one whole frame. `size` is the exact decompressed size that the container announced and
   * the caller has bounded; the frame is refused when it holds more, less, or wants a window above `windowLogMax`.
   * @throws {DroverError} code "format" for a bad, truncated or oversized frame.
   */
  decompress(
    frame: Uint8Array,
    options: { size: number; prefix?: Uint8Array; windowLogMax?: number },
  ): Promise<Uint8Array<ArrayBuffer>>;
  /** The same, on the calling thread; for small inputs. */
  compressSync(input: Uint8Array, options: { level: number }): Uint8Array<ArrayBuffer>;
  /** As `decompress`, on the calling thread; for small frames. */
  decompressSync(
    frame: Uint8Array,
    options: { size: number; windowLogMax?: number },
  ): Uint8Array<ArrayBuffer>;
}

/** A regular file below an open directory, as large as it is thought to be. */
export interface ContentFile {
  /** An open directory. */
  dir: number;
  /** Below it; no symlink is followed. */
  path: BytePath;
  /** In bytes, at least 1. */
  size: number;
}

/** A file, and up to 4 that it may be made of, the likeliest first. */
export interface ContentPiece {
  /** What is to be expressed. */
  target: ContentFile;
  /** What it may copy from. */
  bases: readonly ContentFile[];
}

/** Ops of several pieces one after the other, in parallel arrays; what each means is lib/version/delta.ts's business. */
export interface ContentDeltas {
  /** How many ops each piece has; null where it was left: not there, of another size, sparse, or too much. */
  counts: (number | null)[];
  /** 0 a literal, 1 a copy. */
  kinds: Uint8Array;
  /** Of a copy: which base. */
  bases: Uint8Array;
  /** Of a copy: from where in its base, in bytes. */
  offsets: Float64Array;
  /** In bytes. */
  lengths: Float64Array;
  /** What the literals are, of all pieces. */
  literals: Uint8Array<ArrayBuffer>;
}

/** Deltas of whole files: lib/version's `DeltaEncoder`, on the blocking pool and with the reading in it. */
export interface ContentDelta {
  /** The largest file that it takes. */
  readonly sizeMax: number;
  /** All pieces in one go. */
  encode(pieces: readonly ContentPiece[]): Promise<ContentDeltas>;
}

/** How pages are encoded: in Remus's markers, or as page deltas of a region. */
export type DeltaFormat = "remus" | "region";

/** Which instructions of the processor are used. */
export type DeltaLevel = "scalar" | "avx2" | "avx512";

/**
 * Page deltas: lib/stream's `PageCodec`, fast. Pages have 4096 bytes. All levels, and the reference in lib/stream,
 * give the same bytes and refuse the same ones by the same rules.
 */
export interface PageDelta {
  /** What is used: the best that this machine has, but for what {@link PageDelta.at} gives. */
  readonly level: DeltaLevel;
  /** What this machine has, best last. */
  readonly levels: readonly DeltaLevel[];
  /** The same at one of {@link PageDelta.levels}. */
  at(level: DeltaLevel): PageDelta;
  /** Encodes `count` pages against their old contents; `into` holds 4105 (Remus) or 4097 (region) bytes a page. */
  encode(format: DeltaFormat, olds: Uint8Array, news: Uint8Array, count: number, into: Uint8Array): number;
  /**
   * Encodes a page for each slot against what that slot of `bases` holds, and stores it there. A slot is its number,
   * with 0x80000000 where it holds something else, or 0xffffffff for none: then the page is written whole.
   */
  encodeCached(
    format: DeltaFormat,
    bases: Uint8Array,
    slots: Uint32Array,
    pages: Uint8Array,
    into: Uint8Array,
  ): number;
  /**
   * Decodes exactly `count` encodings onto the old contents: all or none. `offset` is added to positions in errors.
   * @throws {FormatError} with the rules of lib/stream/delta.ts.
   */
  decode(format: DeltaFormat, bytes: Uint8Array, count: number, pages: Uint8Array, offset?: number): void;
  /** Writes for each of `count` pages 1 where it is all zeros and 0 where not, and returns how many are. */
  zeroPages(pages: Uint8Array, count: number, zero: Uint8Array): number;
}

/** Who fetches a cold page: the thread that touches it, or a thread of the region, so that system calls can too. */
export type FaultMode = "inline" | "thread";

/** How a changed page is told from one that is equal to its copy on SSD. `async` is for `harvest`. */
export type DirtyMode = "hash" | "wp" | "async";

/** One place for cold pages: struct drover_store_options of drover.h. */
export interface StoreSettings {
  /** A file or device, a donor's memory over TCP, or the same by RDMA. */
  kind: "file" | "nbd" | "verbs";
  /** As `ssd.path`; else the donor's address, numeric. */
  path: BytePath;
  /** Of a donor: the export's name, or the ticket. */
  name?: string;
  /** Of a donor. */
  port?: number;
  /** Bytes, whole pages. The first file holds every page of the region; all others may be smaller. */
  size: number;
  /** What leaves is encrypted, and what comes back is believed only if it is that. */
  sealed?: boolean;
  /** How long one request may take, in milliseconds; default 5000. */
  timeoutMs?: number;
}

/** One store of a region, as it is now. Slots are pages. */
export interface StoreStatus {
  /** What it is. */
  kind: "file" | "nbd" | "verbs";
  /** `down`: failed, and asked again from time to time; `retiring`: nothing new goes there; `gone`: holds nothing. */
  state: "up" | "down" | "retiring" | "gone";
  /** How many pages it can hold. */
  slots: number;
  /** How many it holds. */
  used: number;
  /** Pages read. */
  reads: number;
  /** Pages written. */
  writes: number;
  /** Requests that failed. */
  errors: number;
  /** Copies that were not what had been written last. */
  refused: number;
  /** Of a small read, smoothed, in nanoseconds; 0 before the first. */
  latencyNanos: number;
}

/** What a region is opened with; drover.h says what each allows. Sizes in bytes. */
export interface RegionSettings {
  /** Whole pages of 4096 bytes. */
  size: number;
  /** RAM that its pages may take in all. */
  limit: number;
  /** The file below it: a new or empty one, a block device, or a directory for one without a name. */
  ssd: { path: BytePath; size: number; anonymous: boolean };
  /** Who fetches. */
  faults: FaultMode;
  /** What is written when a page leaves. */
  dirty: DirtyMode;
  /** How long to spin for a read before blocking, in microseconds. */
  spinUs: number;
  /** Write over the whole file first. */
  prewrite?: boolean;
  /** Go through the page cache where the file system has no O_DIRECT. */
  buffered?: boolean;
  /** Pages that leave together. */
  evictBatch?: number;
  /** Pages that come together. */
  readAround?: number;
  /** Threads that may fetch at once. */
  contexts?: number;
  /** Several stores, the first to be filled first; then `ssd` only names the region in errors. */
  stores?: readonly StoreSettings[];
  /** Copies of a page at donors: 1 or 2; default 1. */
  copies?: number;
}

/** A run of pages. */
export interface PageSpan {
  /** First page. */
  first: number;
  /** How many. */
  count: number;
}

/** Counters since a region was opened, and what is so now: struct drover_region_stats. */
export interface RegionStats {
  /** Touches that had to be served. */
  faults: number;
  /** Faults served from the file. */
  fetches: number;
  /** Faults served with zeros. */
  fills: number;
  /** Faults served from RAM: pages on their way out. */
  promotions: number;
  /** Faults that waited for another thread's move. */
  waits: number;
  /** First writes, with `wp`. */
  protectFaults: number;
  /** Fetches of pages that had left not long before. */
  refaults: number;
  /** Pages read without a touch. */
  prefetched: number;
  /** Pages that left without a write. */
  evictedClean: number;
  /** Pages that left and had to be written. */
  evictedDirty: number;
  /** Requests to the device. */
  readCalls: number;
  /** Bytes read. */
  readBytes: number;
  /** Requests to the device. */
  writeCalls: number;
  /** Bytes written. */
  writtenBytes: number;
  /** Time that touching threads spent in faults. */
  stallNanos: number;
  /** Events of all kinds. */
  errors: number;
  /** Events that nobody read in time. */
  eventsLost: number;
  /** Pages that count against the limit now. */
  residentPages: number;
  /** Pages that are pinned now. */
  pinnedPages: number;
  /** Pages that are being written now. */
  writebackPages: number;
  /** The limit in force. */
  limitPages: number;
}

/** What may be changed while a region is open. C keeps values within what the options allow. */
export interface RegionKnobs {
  /** Pages of RAM. */
  limitPages: number;
  /** How long to spin for a read before blocking, in microseconds. */
  spinUs: number;
  /** Pages that leave together. */
  evictBatch: number;
  /** Pages that come together. */
  readAround: number;
  /** Rounds of the clock that the hottest pages survive: 0 to 15. */
  heatMax: number;
}

/** A part of the trace of faults. */
export interface RegionTrace {
  /** What to pass as `since` the next time. */
  next: number;
  /** Entries that were overwritten before they were read. */
  lost: number;
  /** Pages in the order of their faults. */
  pages: Uint32Array<ArrayBuffer>;
  /** What each fault was: DROVER_TRACE_… of drover.h. */
  kinds: Uint8Array<ArrayBuffer>;
}

/** How often which duration was seen. */
export interface RegionHistogram {
  /** By bucket. */
  counts: Float64Array<ArrayBuffer>;
  /** The middle of a bucket, in nanoseconds. */
  nanosOf(bucket: number): number;
}

/** The block that a region shares with C: reading and writing it is no call. */
export interface RegionControl {
  /** As they are now. */
  knobs(): RegionKnobs;
  /** Takes effect at the next fault. */
  setKnobs(knobs: Partial<RegionKnobs>): void;
  /** As `NativeRegion.stats`, but without a call: what is so now (pages resident, pinned, in write-back, the limit) is of the last one. */
  stats(): RegionStats;
  /** Faults since an earlier call; 0 for all that are still there. */
  trace(since: number): RegionTrace;
  /** Durations of whole faults, or of reads alone. */
  histogram(of: "faults" | "device"): RegionHistogram;
}

/** Something that went wrong with a page. */
export interface RegionEvent {
  /** Which. */
  page: number;
  /** When, since the region was opened. */
  nanos: number;
  /** The error, positive. */
  errno: number;
  /** What happened: DROVER_EVENT_… of drover.h. */
  why:
    | "read"
    | "checksum"
    | "short"
    | "write"
    | "room"
    | "poisoned"
    | "lost"
    | "kernel"
    | "storeDown"
    | "storeUp";
}

/** A loop over a region's memory, in C. */
export interface BenchLoop {
  /** Which pages. */
  pattern: "uniform" | "zipf" | "scan";
  /** Share of the accesses that write, 0 to 1. */
  writes: number;
  /** 1 to 64. */
  threads: number;
  /** Accesses that are announced at once, 0 to 64. */
  hints: number;
  /** How long. */
  seconds: number;
  /** At most so many by each thread. */
  ops?: number;
  /** Same seed, same accesses. */
  seed: number;
}

/** What such a loop did; latencies in nanoseconds. */
export interface BenchResult {
  /** Accesses. */
  ops: number;
  /** From the first to the last. */
  nanos: number;
  /** Half were faster. */
  p50: number;
  /** Nine of ten were. */
  p90: number;
  /** Ninety-nine of a hundred were. */
  p99: number;
  /** The slowest. */
  slowest: number;
  /** Values that were not what was written last. */
  wrong: number;
  /** Where one of them is. */
  wrongOffset: number;
}

/**
 * A range of memory larger than its RAM. Pages are named by number; a span that is not inside the region
 * is refused whole. Calls on a closed region throw a TypeError.
 */
export interface NativeRegion extends Disposable {
  /** Names it in a worker of this process: `Native.attachRegion`. */
  readonly handle: bigint;
  /** Bytes. */
  readonly size: number;
  /** The file that it was opened on. */
  readonly path: BytePath;
  /** Whether it can be used. */
  readonly isOpen: boolean;
  /** Its memory. Detached by `close`. */
  readonly memory: ArrayBuffer;
  /** What it shares with C. */
  readonly control: RegionControl;
  /** Brings pages in and keeps them until as many `unpin`. */
  pin(span: PageSpan): void;
  /** Lets go of pages. */
  unpin(span: PageSpan): void;
  /** Brings all pages of a span in; how many had to be. */
  populate(span: PageSpan): Promise<number>;
  /** Starts reading those that are cold; how many reads were started. */
  prefetch(pages: BigUint64Array<ArrayBuffer>): number;
  /** The same, done when they have come. */
  prefetchAndWait(pages: BigUint64Array<ArrayBuffer>): Promise<number>;
  /** Sends pages out; how many left. `standby`: only unmaps them; `wait`: until they are written. */
  evict(pages: BigUint64Array<ArrayBuffer>, options?: { standby?: boolean; wait?: boolean }): number;
  /** Evicts until so many or fewer are in RAM; how many are. */
  reclaim(residentPages: number): Promise<number>;
  /** How hot pages count, 0 to 15. */
  setHeat(span: PageSpan, heat: number): void;
  /** Writes what has changed; how many pages. */
  flush(): Promise<number>;
  /** One byte per page: state in the low four bits (DROVER_PAGE_… of drover.h), heat in the others. */
  sample(span: PageSpan, into: Uint8Array<ArrayBuffer>): void;
  /** Pages written since the last harvest, lowest bit first; with `async` only. */
  harvest(): { bitmap: BigUint64Array<ArrayBuffer>; count: number };
  /** Declares pages lost. */
  poison(span: PageSpan): void;
  /** Makes pages zero again. */
  reset(span: PageSpan): void;
  /** One byte per page: bit n says that store n has a copy, which may be old while the page is in RAM. */
  places(span: PageSpan, into: Uint8Array<ArrayBuffer>): void;
  /** Copies cold pages to a store, and gives back slots that they need no more; how many are there now. */
  move(pages: BigUint64Array<ArrayBuffer>, store: number): Promise<number>;
  /** The same on the calling thread, which waits for the stores; for some hundred pages. */
  moveNow(pages: BigUint64Array<ArrayBuffer>, store: number): number;
  /** Makes missing copies of cold pages, 256 at most; how many of the span still have fewer than they should and could have. */
  mend(span: PageSpan): Promise<number>;
  /** The same on the calling thread, which waits for the stores. */
  mendNow(span: PageSpan): number;
  /** Moves what a donor holds elsewhere, `limit` pages in one call; how many it still holds. `lost`: it has nothing any more. */
  retire(store: number, options: { lost: boolean; limit: number }): Promise<number>;
  /** One more donor; its number. */
  addStore(store: StoreSettings): Promise<number>;
  /** What it is made of. */
  stores(): StoreStatus[];
  /** Counters. */
  stats(): RegionStats;
  /** What went wrong since the last call. */
  events(): RegionEvent[];
  /** Gives every word the value that `benchTouch` expects. `versions` has a byte for every 512 of the region. */
  benchFill(versions: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Runs a loop in C and checks every value. */
  benchTouch(loop: BenchLoop, versions: Uint8Array<ArrayBuffer>): Promise<BenchResult>;
  /** Compares all words; how many are wrong. */
  benchVerify(versions: Uint8Array<ArrayBuffer>): Promise<number>;
  /** Gives memory and file back; views of `memory` become empty. A second call does nothing. */
  close(): void;
}

/** What is asked of who fills a mounted file. */
export type FuseOp = "read" | "write" | "flush" | "zero" | "punch" | "data" | "hole";

/** A file to mount; drover.h says more. */
export interface FuseSettings {
  /** An absolute path with a regular file. */
  path: BytePath;
  /** What the list of mounts shows. */
  source: BytePath;
  /** Bytes; the file keeps this size. */
  size: number;
  /** Permissions, 0 to 0777. */
  mode: number;
  /** Owner. */
  uid: number;
  /** Group. */
  gid: number;
  /** A request without a reply is answered with EIO after so many milliseconds: 1 to an hour. */
  timeoutMs: number;
  /** Requests under way at once, 1 to 256. */
  slots: number;
  /** Nobody writes. */
  readOnly: boolean;
  /** What the page cache holds stays good when the file is opened again. */
  keepCache: boolean;
  /** Other users come as far as `mode` lets them. */
  allowOther: boolean;
  /** Mounted by fusermount3, which needs no privilege. */
  helper: boolean;
}

/** One request; the range is inside of the file. */
export interface FuseRequest {
  /** What is asked. */
  op: FuseOp;
  /** Where its octets are, or go. */
  slot: number;
  /** Bytes. */
  offset: number;
  /** Bytes; at most 1 MiB of `read` and `write`. */
  length: number;
}

/** Counters since it was mounted. */
export interface FuseStats {
  /** Of any kind. */
  requests: number;
  /** Answered reads. */
  reads: number;
  /** Bytes. */
  readBytes: number;
  /** Answered writes. */
  writes: number;
  /** Bytes. */
  writtenBytes: number;
  /** Answered flushes. */
  flushes: number;
  /** Answers that were errors. */
  errors: number;
  /** Those for want of a reply. */
  timeouts: number;
  /** Replies that came after that. */
  late: number;
  /** Under way now. */
  pending: number;
}

/** A mounted file. Only one `wait` may be under way, and no `take` beside it. */
export interface NativeFuse {
  /** How many requests may be under way. */
  readonly slots: number;
  /** The octets of a slot. */
  room(slot: number, length: number): Uint8Array<ArrayBuffer>;
  /** Fills in what is there, at most 64; looks for `spinUs` microseconds. -1 when it is unmounted. */
  take(requests: FuseRequest[], spinUs: number): number;
  /** The same, after waiting for at most `timeoutMs`. */
  wait(requests: FuseRequest[], timeoutMs: number): Promise<number>;
  /**
   * Ends a request. @returns false when it was answered with EIO before
   *
   * @param errno 0, or why it failed
   * @param bytes what was read, or null for the slot's own room
   * @param size how many bytes go to the kernel: all of a read, eight of `data` and `hole`, else none
   */
  reply(slot: number, errno: number, bytes: Uint8Array<ArrayBuffer> | null, size: number): boolean;
  /** Counters. */
  stats(): FuseStats;
  /** umount2(2), which waits until what the kernel has of it is written: go on replying. EBUSY while it is in use. */
  unmount(detach: boolean): Promise<void>;
  /** Ends the connection. @returns how many taken slots had no reply; their memory is never given back */
  close(): number;
}

/** One thing this machine may be able to do. */
export interface ProbeItem {
  /** Stable id, for instance `userfaultfd.move`. */
  id: string;
  /** It is there and allowed. */
  ok: boolean;
  /** errno of the failed probe, 0 when ok. */
  errno: number;
  /** What was found, for people: a version, a device, the reason. */
  detail: string;
}

/** What a donor has done since it was opened, and what it lends now. */
export interface DonorStats {
  /** Bytes of all leases. */
  lentBytes: number;
  /** Connections that were accepted. */
  accepted: number;
  /** Attempts that were not: no such ticket, too many connections, not a borrower. */
  refused: number;
  /** Leases now. */
  leases: number;
  /** Connections now. */
  links: number;
}

/**
 * Memory lent by RDMA. Each lease is memory of its own, for whoever shows its ticket, 64 small hexadecimal digits. Calls on a closed donor throw a TypeError.
 */
export interface NativeDonor {
  /** The port that borrowers dial. */
  readonly port: number;
  /**
   * Lends `size` bytes, whole pages: those at the start of `memory`, which must not be detached until `revoke` has resolved, or memory
   * of the library's own, full of zeros. They take RAM, and are pinned, from the first connection on.
   *
   * @throws {NativeError} EEXIST the ticket has a lease already; EMFILE more than 1024; EINVAL the size; ENOMEM
   */
  lend(lease: { ticket: string; size: number; memory?: Uint8Array<ArrayBuffer> }): Promise<void>;
  /**
   * Ends a lease: then its connections are cut, nobody can reach the memory, and the library's own is the system's again.
   *
   * @throws {NativeError} ENOENT there is none
   */
  revoke(ticket: string): Promise<void>;
  /** Counters and gauges. */
  stats(): DonorStats;
  /** Ends all leases and stops listening. */
  close(): Promise<void>;
  /** The same. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** What libdrover.so offers. */
export interface Native {
  /** Version of libdrover.so. */
  readonly version: string;
  /** What `openNative({ path })` takes in a worker of this process to load the very same library; "" for the fake. */
  readonly path: string;
  /** File calls on byte paths. */
  readonly libc: Libc;
  /** Reads and writes beside the page cache. */
  readonly direct: DirectIo;
  /** Compression. */
  readonly zstd: Zstd;
  /** How pages changed. */
  readonly delta: PageDelta;
  /** How files changed. */
  readonly content: ContentDelta;
  /** Opens memory that is larger than its RAM. */
  openRegion(settings: RegionSettings): NativeRegion;
  /**
   * A region that another isolate of this process has open, by its handle. Its `close` only lets go of it; it must not be used
   * once the other has closed it.
   */
  attachRegion(region: { handle: bigint; size: number }): NativeRegion;
  /**
   * Lends memory of this process to other hosts by RDMA, at a numeric address of the adapter ("0.0.0.0", "::": of any); port 0
   * takes a free one.
   *
   * @throws {NativeError} EOPNOTSUPP without libibverbs and librdmacm, ENODEV without an adapter at that address, EACCES
   * without the right to use it, EADDRINUSE
   */
  openDonor(settings: { hostname: string; port: number }): NativeDonor;
  /** Mounts a file that this program fills. */
  openFuse(settings: FuseSettings): Promise<NativeFuse>;
  /** Asks the kernel; changes nothing. `dir` is where overlay and O_DIRECT are tried. */
  probe(dir: BytePath): ProbeItem[];
  /** Effective user id, and whether this process may mount (CAP_SYS_ADMIN in its user namespace). */
  identity(): { uid: number; gid: number; canMount: boolean; inUserNamespace: boolean };
}

export { NativeError } from "./errno.ts";
export { openNative } from "./native.ts";
