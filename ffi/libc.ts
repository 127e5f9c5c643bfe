/**
 * `Libc` on libdrover.so: byte paths in, plain objects out, a NativeError for every failure.
 *
 * Invariants: one object is used by one thread. Paths are copied into two scratch buffers that the object owns, so
 * a call allocates nothing but its result; no scratch content survives the call. A path with a NUL byte
 * is refused, never cut. The empty path names `dir` itself.
 *
 * @module
 */
import type { BytePath } from "../lib/base/path.ts";
import { check, errnoOf, NativeError } from "./errno.ts";
import { entry, overlayFlags, stat, statfs, xattr } from "./layout.ts";
import type { DirEntry, FileKind, FileStat, Libc, OverlayOptions, Xattr } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

/** PATH_MAX with its NUL, and one more so that a longer path is the kernel's ENAMETOOLONG. */
const scratchSize = 4098;

/** A batch of entries: about 1300 of them, and a quarter of it is what one getdents64 may fill. */
const directoryBufferSize = 131_072;

/** All attributes of one file mostly fit here; a list may grow to `xattrBufferSizeMax`. */
const xattrBufferSize = 16_384;
const xattrBufferSizeMax = 2 ** 24;

/** XATTR_SIZE_MAX. */
const xattrValueSizeMax = 65_536;

/** MAX_HANDLE_SZ and the four bytes of the type. */
const handleSizeMax = 132;

const ENOENT = errnoOf("ENOENT");
const ENXIO = errnoOf("ENXIO");
const ENOTDIR = errnoOf("ENOTDIR");
const EINVAL = errnoOf("EINVAL");
const ENAMETOOLONG = errnoOf("ENAMETOOLONG");
const ENODATA = errnoOf("ENODATA");
const ERANGE = errnoOf("ERANGE");
const EBUSY = errnoOf("EBUSY");
const EAGAIN = errnoOf("EAGAIN");
const EOPNOTSUPP = errnoOf("EOPNOTSUPP");

/** What the kernel answers to FICLONE where the two files cannot share blocks. */
const cannotClone: ReadonlySet<number> = new Set(
  ["EOPNOTSUPP", "EXDEV", "EINVAL", "ENOTTY", "ENOSYS"].map((name) => -errnoOf(name)),
);

/** mode >> 12 to what it is. */
const kinds: readonly (FileKind | undefined)[] = [
  undefined,
  "fifo",
  "char",
  undefined,
  "directory",
  undefined,
  "block",
  undefined,
  "file",
  undefined,
  "symlink",
  undefined,
  "socket",
];

const typeBits: Readonly<Record<FileKind, number>> = {
  fifo: 0o010000,
  char: 0o020000,
  directory: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
};

/** Reads packed records: one buffer seen as bytes, words and quads. */
class Records {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #signed: Int32Array<ArrayBuffer>;
  readonly #quads: BigUint64Array<ArrayBuffer>;

  constructor(size: number) {
    const buffer = new ArrayBuffer(size);
    this.bytes = new Uint8Array(buffer);
    this.#words = new Uint32Array(buffer);
    this.#signed = new Int32Array(buffer);
    this.#quads = new BigUint64Array(buffer);
  }

  u32(at: number): number {
    return this.#words[at >> 2] ?? 0;
  }

  /** Exact to 2^53. */
  u64(at: number): number {
    return (this.#words[at >> 2] ?? 0) + (this.#words[(at >> 2) + 1] ?? 0) * 2 ** 32;
  }

  /** Exact to 2^53 either way. */
  i64(at: number): number {
    return (this.#words[at >> 2] ?? 0) + (this.#signed[(at >> 2) + 1] ?? 0) * 2 ** 32;
  }

  big(at: number): bigint {
    return this.#quads[at >> 3] ?? 0n;
  }

  path(at: number, size: number): BytePath {
    // Names are short: one call beats a loop of concatenations, and the argument count stays small.
    if (size <= 4096) {
      return String.fromCharCode.apply(
        null,
        this.bytes.subarray(at, at + size) as unknown as number[],
      ) as BytePath;
    }
    let path = "";
    for (const end = at + size; at < end; at += 4096) {
      path += String.fromCharCode(...this.bytes.subarray(at, Math.min(end, at + 4096)));
    }
    return path as BytePath;
  }

  fileStat(at: number): FileStat {
    const mode = this.u32(at + stat.mode);
    return {
      kind: kindOf(mode),
      mode: mode & 0o7777,
      uid: this.u32(at + stat.uid),
      gid: this.u32(at + stat.gid),
      size: this.u64(at + stat.size),
      blocks: this.u64(at + stat.blocks),
      nlink: this.u32(at + stat.nlink),
      inode: this.big(at + stat.inode),
      device: this.u32(at + stat.device),
      rdevMajor: this.u32(at + stat.rdevMajor),
      rdevMinor: this.u32(at + stat.rdevMinor),
      mtimeSeconds: this.i64(at + stat.mtimeSeconds),
      mtimeNanos: this.u32(at + stat.mtimeNanos),
      ctimeSeconds: this.i64(at + stat.ctimeSeconds),
      ctimeNanos: this.u32(at + stat.ctimeNanos),
    };
  }

  /** One entry with its name; written out, because a spread of `fileStat` costs as much as the system call. */
  dirEntry(at: number): DirEntry {
    const mode = this.u32(at + stat.mode);
    return {
      name: this.path(at + entry.structSize, this.u32(at + entry.nameSize)),
      kind: kindOf(mode),
      mode: mode & 0o7777,
      uid: this.u32(at + stat.uid),
      gid: this.u32(at + stat.gid),
      size: this.u64(at + stat.size),
      blocks: this.u64(at + stat.blocks),
      nlink: this.u32(at + stat.nlink),
      inode: this.big(at + stat.inode),
      device: this.u32(at + stat.device),
      rdevMajor: this.u32(at + stat.rdevMajor),
      rdevMinor: this.u32(at + stat.rdevMinor),
      mtimeSeconds: this.i64(at + stat.mtimeSeconds),
      mtimeNanos: this.u32(at + stat.mtimeNanos),
      ctimeSeconds: this.i64(at + stat.ctimeSeconds),
      ctimeNanos: this.u32(at + stat.ctimeNanos),
    };
  }
}

function kindOf(mode: number): FileKind {
  const kind = kinds[mode >> 12];
  if (kind === undefined) throw new TypeError(`Cannot read a file type: mode is 0${mode.toString(8)}`);
  return kind;
}

/** Copies a path with its NUL into a scratch buffer of `scratchSize` bytes. */
function put(target: Uint8Array<ArrayBuffer>, path: BytePath, what: string): Uint8Array<ArrayBuffer> {
  const size = path.length;
  if (size >= target.length) throw new NativeError(ENAMETOOLONG, what, path);
  for (let at = 0; at < size; at++) {
    const code = path.charCodeAt(at);
    // NUL would cut the path; above a byte, the string is text and not a BytePath.
    if (code === 0 || code > 255) throw new NativeError(EINVAL, what, path);
    target[at] = code;
  }
  target[size] = 0;
  return target;
}

/** A view on any memory as the FFI's types want it; the FFI itself also takes shared memory. */
function view(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}

/** File calls through libdrover.so; see `Libc` for what each does. */
export class NativeLibc implements Libc {
  readonly #lib: Symbols;
  readonly #path = new Uint8Array(scratchSize);
  readonly #other = new Uint8Array(scratchSize);
  readonly #name = new Uint8Array(scratchSize);
  readonly #small = new Records(256);
  readonly #link = new Uint8Array(4096 + 1);
  #directory: Records | null = null;
  #xattrs = new Records(xattrBufferSize);

  /** Works on the loaded library. @param lib its functions. */
  constructor(lib: Symbols) {
    this.#lib = lib;
  }

  /** See {@link Libc.open}. */
  open(dir: number, path: BytePath, flags: number, mode = 0): number {
    return check(this.#lib.drover_open(dir, put(this.#path, path, "open"), flags, mode), "open", path);
  }

  /** See {@link Libc.openBeneath}. */
  openBeneath(dir: number, path: BytePath, flags: number, mode = 0): number {
    return check(
      this.#lib.drover_open_beneath(dir, put(this.#path, path, "open"), flags, mode),
      "open",
      path,
    );
  }

  /** See {@link Libc.close}. */
  close(fd: number): void {
    check(this.#lib.drover_close(fd), "close");
  }

  /** See {@link Libc.pread}. */
  pread(fd: number, buffer: Uint8Array, offset: number): number {
    if (buffer.byteLength === 0) return 0;
    return check(
      Number(this.#lib.drover_pread(fd, view(buffer), BigInt(buffer.byteLength), BigInt(offset))),
      "read",
    );
  }

  /** See {@link Libc.pwrite}. */
  pwrite(fd: number, buffer: Uint8Array, offset: number): void {
    if (buffer.byteLength === 0) return;
    check(
      Number(this.#lib.drover_pwrite(fd, view(buffer), BigInt(buffer.byteLength), BigInt(offset))),
      "write",
    );
  }

  /** See {@link Libc.ftruncate}. */
  ftruncate(fd: number, size: number): void {
    check(this.#lib.drover_ftruncate(fd, BigInt(size)), "set the size of a file");
  }

  /** See {@link Libc.punch}. */
  punch(fd: number, offset: number, size: number): void {
    check(this.#lib.drover_punch(fd, BigInt(offset), BigInt(size)), "punch a hole");
  }

  /** See {@link Libc.growPipe}. */
  growPipe(fd: number, size: number): number {
    return check(this.#lib.drover_pipe_grow(fd, size), "set the size of a pipe");
  }

  /** See {@link Libc.seek}. */
  seek(fd: number, offset: number, whence: number): number {
    const rc = Number(this.#lib.drover_seek(fd, BigInt(offset), whence));
    return rc === -ENXIO ? -1 : check(rc, "seek");
  }

  /** See {@link Libc.copyRange}. */
  copyRange(
    source: number,
    sourceOffset: number,
    target: number,
    targetOffset: number,
    length: number,
  ): void {
    check(
      Number(
        this.#lib.drover_copy_range(
          source,
          BigInt(sourceOffset),
          target,
          BigInt(targetOffset),
          BigInt(length),
        ),
      ),
      "copy a range",
    );
  }

  /** See {@link Libc.clone}. */
  clone(source: number, target: number): boolean {
    const rc = this.#lib.drover_clone(source, target);
    if (cannotClone.has(rc)) return false;
    check(rc, "clone a file");
    return true;
  }

  /** See {@link Libc.fsync}. */
  async fsync(fd: number): Promise<void> {
    check(await this.#lib.drover_fsync_async(fd), "sync a file");
  }

  /** See {@link Libc.syncfs}. */
  async syncfs(fd: number): Promise<void> {
    check(await this.#lib.drover_syncfs_async(fd), "sync a file system");
  }

  /** See {@link Libc.stat}. */
  stat(dir: number, path: BytePath): FileStat | null {
    const rc = this.#lib.drover_stat(dir, put(this.#path, path, "stat"), this.#small.bytes);
    if (rc === -ENOENT || rc === -ENOTDIR) return null;
    check(rc, "stat", path);
    return this.#small.fileStat(0);
  }

  /** See {@link Libc.fstat}. */
  fstat(fd: number): FileStat {
    check(this.#lib.drover_fstat(fd, this.#small.bytes), "stat a descriptor");
    return this.#small.fileStat(0);
  }

  /** See {@link Libc.readDir}. */
  readDir(fd: number): DirEntry[] {
    const records = this.#directory ??= new Records(directoryBufferSize);
    const entries: DirEntry[] = [];
    check(Number(this.#lib.drover_seek(fd, 0n, 0)), "read a directory");
    for (;;) {
      const used = check(
        Number(this.#lib.drover_dir_read(fd, records.bytes, BigInt(directoryBufferSize))),
        "read a directory",
      );
      if (used === 0) return entries;
      for (let at = 0; at < used; at += records.u32(at + entry.recordSize)) {
        entries.push(records.dirEntry(at));
      }
    }
  }

  /** See {@link Libc.readlink}. */
  readlink(dir: number, path: BytePath): BytePath {
    const size = check(
      Number(
        this.#lib.drover_readlink(
          dir,
          put(this.#path, path, "read link"),
          this.#link,
          BigInt(this.#link.length),
        ),
      ),
      "read link",
      path,
    );
    return String.fromCharCode(...this.#link.subarray(0, size)) as BytePath;
  }

  /** See {@link Libc.symlink}. */
  symlink(target: BytePath, dir: number, path: BytePath): void {
    const what = "create the symlink";
    check(
      this.#lib.drover_symlink(put(this.#other, target, what), dir, put(this.#path, path, what)),
      what,
      path,
    );
  }

  /** See {@link Libc.link}. */
  link(sourceDir: number, source: BytePath, dir: number, path: BytePath): void {
    const what = "create the link";
    check(
      this.#lib.drover_link(sourceDir, put(this.#other, source, what), dir, put(this.#path, path, what)),
      what,
      path,
    );
  }

  /** See {@link Libc.mknod}. */
  mknod(dir: number, path: BytePath, kind: FileKind, mode: number, major: number, minor: number): void {
    const what = "create the node";
    const bits = typeBits[kind] | (mode & 0o7777);
    check(this.#lib.drover_mknod(dir, put(this.#path, path, what), bits, major, minor), what, path);
  }

  /** See {@link Libc.mkdir}. */
  mkdir(dir: number, path: BytePath, mode: number): void {
    const what = "create the directory";
    check(this.#lib.drover_mkdir(dir, put(this.#path, path, what), mode), what, path);
  }

  /** See {@link Libc.unlink}. */
  unlink(dir: number, path: BytePath): void {
    check(this.#lib.drover_unlink(dir, put(this.#path, path, "remove")), "remove", path);
  }

  /** See {@link Libc.rmdir}. */
  rmdir(dir: number, path: BytePath): void {
    const what = "remove the directory";
    check(this.#lib.drover_rmdir(dir, put(this.#path, path, what)), what, path);
  }

  /** See {@link Libc.rename}. */
  rename(sourceDir: number, source: BytePath, dir: number, path: BytePath, flags = 0): void {
    check(
      this.#lib.drover_rename(
        sourceDir,
        put(this.#other, source, "rename"),
        dir,
        put(this.#path, path, "rename"),
        flags,
      ),
      "rename",
      source,
    );
  }

  /** See {@link Libc.chown}. */
  chown(dir: number, path: BytePath, uid: number, gid: number): void {
    const what = "change the owner of";
    check(this.#lib.drover_chown(dir, put(this.#path, path, what), uid, gid), what, path);
  }

  /** See {@link Libc.chmod}. */
  chmod(dir: number, path: BytePath, mode: number): void {
    const what = "change the mode of";
    check(this.#lib.drover_chmod(dir, put(this.#path, path, what), mode), what, path);
  }

  /** See {@link Libc.setMtime}. */
  setMtime(dir: number, path: BytePath, seconds: number, nanos: number): void {
    const what = "set the time of";
    check(this.#lib.drover_set_mtime(dir, put(this.#path, path, what), BigInt(seconds), nanos), what, path);
  }

  /** See {@link Libc.fchown}. */
  fchown(fd: number, uid: number, gid: number): void {
    check(this.#lib.drover_fchown(fd, uid, gid), "change the owner of a descriptor");
  }

  /** See {@link Libc.fchmod}. */
  fchmod(fd: number, mode: number): void {
    check(this.#lib.drover_fchmod(fd, mode), "change the mode of a descriptor");
  }

  /** See {@link Libc.fsetMtime}. */
  fsetMtime(fd: number, seconds: number, nanos: number): void {
    check(this.#lib.drover_fset_mtime(fd, BigInt(seconds), nanos), "set the time of a descriptor");
  }

  /** See {@link Libc.xattrs}. */
  xattrs(dir: number, path: BytePath): Xattr[] {
    const what = "read the attributes of";
    const name = put(this.#path, path, what);
    let used: number;
    for (;;) {
      const { bytes } = this.#xattrs;
      used = Number(this.#lib.drover_xattrs(dir, name, bytes, BigInt(bytes.length)));
      if (used !== -ERANGE || bytes.length >= xattrBufferSizeMax) break;
      this.#xattrs = new Records(bytes.length * 4);
    }
    check(used, what, path);
    const found: Xattr[] = [];
    const records = this.#xattrs;
    for (let at = 0; at < used; at += records.u32(at + xattr.recordSize)) {
      const nameSize = records.u32(at + xattr.nameSize);
      const nameAt = at + xattr.structSize;
      const valueAt = nameAt + nameSize;
      found.push({
        name: records.path(nameAt, nameSize),
        value: records.bytes.slice(valueAt, valueAt + records.u32(at + xattr.valueSize)),
      });
    }
    if (found.length > 1) found.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
    return found;
  }

  /** See {@link Libc.getXattr}. */
  getXattr(dir: number, path: BytePath, name: BytePath): Uint8Array<ArrayBuffer> | null {
    const what = "read an attribute of";
    for (;;) {
      const { bytes } = this.#xattrs;
      const size = Number(
        this.#lib.drover_get_xattr(
          dir,
          put(this.#path, path, what),
          put(this.#name, name, what),
          bytes,
          BigInt(bytes.length),
        ),
      );
      if (size === -ENODATA || size === -EOPNOTSUPP) return null;
      if (size === -ERANGE && bytes.length < xattrValueSizeMax) {
        this.#xattrs = new Records(xattrValueSizeMax);
        continue;
      }
      return bytes.slice(0, check(size, what, path));
    }
  }

  /** See {@link Libc.setXattr}. */
  setXattr(dir: number, path: BytePath, name: BytePath, value: Uint8Array): void {
    const what = "set an attribute of";
    check(
      this.#lib.drover_set_xattr(
        dir,
        put(this.#path, path, what),
        put(this.#name, name, what),
        view(value),
        BigInt(value.byteLength),
      ),
      what,
      path,
    );
  }

  /** See {@link Libc.removeXattr}. */
  removeXattr(dir: number, path: BytePath, name: BytePath): void {
    const what = "remove an attribute of";
    const rc = this.#lib.drover_remove_xattr(dir, put(this.#path, path, what), put(this.#name, name, what));
    if (rc !== -ENODATA) check(rc, what, path);
  }

  /** See {@link Libc.fileHandle}. */
  fileHandle(dir: number, path: BytePath): Uint8Array<ArrayBuffer> | null {
    const what = "get the handle of";
    const { bytes } = this.#small;
    const size = this.#lib.drover_file_handle(dir, put(this.#path, path, what), bytes, BigInt(handleSizeMax));
    if (size === -EOPNOTSUPP) return null;
    return bytes.slice(0, check(size, what, path));
  }

  /** See {@link Libc.tryLock}. */
  tryLock(fd: number, exclusive: boolean): boolean {
    const rc = this.#lib.drover_try_lock(fd, exclusive ? 1 : 0);
    if (rc === -EAGAIN) return false;
    check(rc, "lock a file");
    return true;
  }

  /** See {@link Libc.mountOverlay}. */
  mountOverlay(options: OverlayOptions, target: BytePath, beneath: boolean): void {
    const what = "mount an overlay on";
    const { lower, upper, work } = options;
    const room = new Uint8Array(lower.reduce((sum, path) => sum + path.length + 1, 0));
    let at = 0;
    for (const path of lower) {
      put(room.subarray(at, at + path.length + 1), path, what);
      at += path.length + 1;
    }
    const flags = (options.redirectDir ? overlayFlags.redirectDir : 0) |
      (options.metacopy ? overlayFlags.metacopy : 0) |
      (options.index ? overlayFlags.index : 0) |
      (options.userxattr ? overlayFlags.userxattr : 0) |
      (options.readOnly ? overlayFlags.readOnly : 0) |
      (beneath ? overlayFlags.beneath : 0);
    check(
      this.#lib.drover_overlay_mount(
        room,
        lower.length,
        upper === null ? null : put(this.#other, upper, what),
        work === null ? null : put(this.#name, work, what),
        put(this.#path, target, what),
        flags,
      ),
      what,
      target,
    );
  }

  /** See {@link Libc.unmount}. */
  unmount(target: BytePath, detach: boolean): void {
    check(this.#lib.drover_unmount(put(this.#path, target, "unmount"), detach ? 1 : 0), "unmount", target);
  }

  /** See {@link Libc.remount}. */
  remount(target: BytePath, readOnly: boolean): boolean {
    const rc = this.#lib.drover_remount(put(this.#path, target, "remount"), readOnly ? 1 : 0);
    if (rc === -EBUSY) return false;
    check(rc, "remount", target);
    return true;
  }

  /** See {@link Libc.statfs}. */
  statfs(fd: number): { available: number; type: number; blockSize: number } {
    check(this.#lib.drover_statfs(fd, this.#small.bytes), "stat a file system");
    return {
      available: this.#small.u64(statfs.available),
      type: this.#small.u64(statfs.type),
      blockSize: this.#small.u64(statfs.blockSize),
    };
  }
}
