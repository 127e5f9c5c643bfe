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

/** What libdrover.so offers. */
export interface Native {
  /** Version of libdrover.so. */
  readonly version: string;
  /** What `openNative({ path })` takes in a worker of this process to load the very same library; "" for the fake. */
  readonly path: string;
  /** File calls on byte paths. */
  readonly libc: Libc;
  /** Compression. */
  readonly zstd: Zstd;
  /** Asks the kernel; changes nothing. `dir` is where overlay and O_DIRECT are tried. */
  probe(dir: BytePath): ProbeItem[];
  /** Effective user id, and whether this process may mount (CAP_SYS_ADMIN in its user namespace). */
  identity(): { uid: number; gid: number; canMount: boolean; inUserNamespace: boolean };
}

export { NativeError } from "./errno.ts";
export { openNative } from "./native.ts";
