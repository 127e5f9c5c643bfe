/**
 * `Native` over plain objects: no kernel, no library, the same every time. For unit tests and the simulator.
 *
 * What it keeps to: names are bytes; hard links share a node; files are sparse in pages of 4096 bytes; an open file
 * lives on after unlink; times come from a counter that every change moves on by a microsecond; permissions are those
 * of root, the umask is 022. Errors carry the errno that Linux gives in the same situation
 * (tests/ffi/suite.ts runs against both).
 *
 * What it does not do: mounts (ENOSYS), permission checks, POSIX ACL rules, sparse detection below a page,
 * compression (frames are as long as their content and a header).
 *
 * Faults: `failAfter` lets a number of calls through and then fails; `budget` bounds the bytes that files and
 * directories may take, beyond which there is ENOSPC. `close` never fails, so that tests can clean up.
 *
 * @module
 */
import { type BytePath, joinPath } from "../lib/base/path.ts";
import { FormatError } from "../lib/base/errors.ts";
import { errnoOf, NativeError } from "./errno.ts";
import type {
  ContentDeltas,
  DirEntry,
  FileKind,
  FileStat,
  Libc,
  Native,
  ProbeItem,
  Xattr,
  Zstd,
} from "./mod.ts";
import { libraryVersion } from "./symbols.ts";
import { attachFakeRegion, FakeRegion } from "./fake_region.ts";
import { FakeDelta } from "./fake_delta.ts";
import { FakeDonor } from "./fake_donor.ts";
import { zstdSizeMax } from "./layout.ts";

const pageSize = 4096;

const O_ACCMODE = 0o3;
const O_WRONLY = 0o1;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
const O_TRUNC = 0o1000;
const O_DIRECTORY = 0o200000;
const O_NOFOLLOW = 0o400000;
const O_PATH = 0o10000000;
const O_TMPFILE = 0o20000000;

const AT_FDCWD = -100;
const umask = 0o022;
const symlinksMax = 40;
const linkTargetSizeMax = 4095;
const pathSizeMax = 4095;
const nameSizeMax = 255;
const xattrValueSizeMax = 65_536;

/** When the world begins: far enough from 0 that an unset time shows. */
const firstSecond = 1_600_000_000;

interface Node {
  kind: FileKind;
  mode: number;
  uid: number;
  gid: number;
  nlink: number;
  inode: bigint;
  rdevMajor: number;
  rdevMinor: number;
  mtimeSeconds: number;
  mtimeNanos: number;
  ctimeSeconds: number;
  ctimeNanos: number;
  size: number;
  /** Content of a file, by page number; a missing page is a hole. */
  pages: Map<number, Uint8Array<ArrayBuffer>>;
  /** Entries of a directory. */
  children: Map<string, Node>;
  /** The directory above, of a directory; itself at the root. */
  parent: Node | null;
  target: BytePath;
  xattrs: Map<string, Uint8Array<ArrayBuffer>>;
  exclusiveLock: OpenFile | null;
  sharedLocks: Set<OpenFile>;
}

interface OpenFile {
  node: Node;
  readable: boolean;
  writable: boolean;
}

/** Where a path leads: the directory that holds the last name, that name, and what it is now. */
interface Place {
  parent: Node;
  name: string;
  node: Node | null;
  /** The path ended in a slash, `.` or `..`: only a directory will do. */
  mustBeDirectory: boolean;
}

/** How to fail. */
export interface FailOptions {
  /** errno name; EIO by default. */
  code?: string;
  /** How many calls in a row fail; 1 by default, Infinity for a process that died. */
  times?: number;
}

/** The in-memory file system behind `Libc`. */
export class FakeLibc implements Libc {
  /** Calls so far, `close` not counted: to enumerate the points where something may fail. */
  calls = 0;
  /** Bytes that files and directories may take in all. */
  budget: number;
  #used = 0;
  #clock = 0;
  #nextInode = 2n;
  #failAt = Infinity;
  #failTimes = 0;
  #failCode = "EIO";
  readonly #root: Node;
  readonly #open = new Map<number, OpenFile>();

  /** An empty root directory. @param options `budget`: see the field; unbounded by default. */
  constructor(options: { budget?: number } = {}) {
    this.budget = options.budget ?? Infinity;
    this.#root = this.#create("directory", 0o755, null);
    this.#root.parent = this.#root;
    this.#root.nlink = 2;
  }

  /** Bytes taken by pages and directories. */
  get used(): number {
    return this.#used;
  }

  /** Open descriptors: 0 when nothing leaked. */
  get openCount(): number {
    return this.#open.size;
  }

  /** Lets `calls` calls through, then fails the next ones. */
  failAfter(calls: number, options: FailOptions = {}): void {
    this.#failCode = options.code ?? "EIO";
    errnoOf(this.#failCode);
    this.#failTimes = options.times ?? 1;
    this.#failAt = this.calls + calls;
  }

  /** Takes `failAfter` back. */
  disarm(): void {
    this.#failAt = Infinity;
  }

  /** See {@link Libc.open}. */
  open(dir: number, path: BytePath, flags: number, mode = 0): number {
    this.#enter("open", path);
    return this.#openAt(dir, path, flags, mode, false);
  }

  /** See {@link Libc.openBeneath}. */
  openBeneath(dir: number, path: BytePath, flags: number, mode = 0): number {
    this.#enter("open", path);
    return this.#openAt(dir, path, flags, mode, true);
  }

  /** See {@link Libc.close}. */
  close(fd: number): void {
    const file = this.#file(fd, "close");
    this.#open.delete(fd);
    file.node.sharedLocks.delete(file);
    if (file.node.exclusiveLock === file) file.node.exclusiveLock = null;
    this.#forget(file.node);
  }

  /** See {@link Libc.pread}. */
  pread(fd: number, buffer: Uint8Array, offset: number): number {
    this.#enter("read");
    const { node, readable } = this.#file(fd, "read");
    if (node.kind === "directory") fail("EISDIR", "read");
    if (!readable) fail("EBADF", "read");
    if (offset < 0) fail("EINVAL", "read");
    const size = Math.max(0, Math.min(buffer.byteLength, node.size - offset));
    for (let at = 0; at < size;) {
      const inPage = (offset + at) % pageSize;
      const count = Math.min(size - at, pageSize - inPage);
      const page = node.pages.get(Math.floor((offset + at) / pageSize));
      if (page === undefined) buffer.fill(0, at, at + count);
      else buffer.set(page.subarray(inPage, inPage + count), at);
      at += count;
    }
    return size;
  }

  /** See {@link Libc.pwrite}. */
  pwrite(fd: number, buffer: Uint8Array, offset: number): void {
    this.#enter("write");
    const node = this.#writable(fd, "write");
    if (offset < 0) fail("EINVAL", "write");
    this.#write(node, buffer, offset);
  }

  /** See {@link Libc.ftruncate}. */
  ftruncate(fd: number, size: number): void {
    this.#enter("set the size of a file");
    const node = this.#writable(fd, "set the size of a file", "EINVAL");
    if (size < 0) fail("EINVAL", "set the size of a file");
    this.#truncate(node, size);
  }

  /** See {@link Libc.growPipe}; there are no pipes here. */
  growPipe(_fd: number, _size: number): number {
    this.#enter("set the size of a pipe");
    return fail("EBADF", "set the size of a pipe");
  }

  /** See {@link Libc.punch}. */
  punch(fd: number, offset: number, size: number): void {
    this.#enter("punch a hole");
    const node = this.#writable(fd, "punch a hole");
    if (offset < 0 || size <= 0) fail("EINVAL", "punch a hole");
    const end = Math.min(offset + size, node.size);
    for (let at = offset; at < end;) {
      const index = Math.floor(at / pageSize);
      const next = Math.min((index + 1) * pageSize, end);
      if (next - at === pageSize) node.pages.delete(index);
      else node.pages.get(index)?.fill(0, at % pageSize, at % pageSize + next - at);
      at = next;
    }
  }

  /** See {@link Libc.seek}. */
  seek(fd: number, offset: number, whence: number): number {
    this.#enter("seek");
    const { node } = this.#file(fd, "seek");
    if (whence !== 3 && whence !== 4) {
      if (whence !== 0) fail("EINVAL", "seek");
      return offset;
    }
    if (offset < 0 || offset >= node.size) return -1;
    if (whence === 3 && node.pages.size === 0) return -1;
    for (let page = Math.floor(offset / pageSize); page * pageSize < node.size; page++) {
      if (node.pages.has(page) === (whence === 3)) return Math.max(offset, page * pageSize);
    }
    return whence === 3 ? -1 : node.size;
  }

  /** See {@link Libc.copyRange}. */
  copyRange(
    source: number,
    sourceOffset: number,
    target: number,
    targetOffset: number,
    length: number,
  ): void {
    const what = "copy a range";
    this.#enter(what);
    const { node: from, readable } = this.#file(source, what);
    const to = this.#writable(target, what);
    if (!readable) fail("EBADF", what);
    if (sourceOffset < 0 || targetOffset < 0 || length < 0) fail("EINVAL", what);
    if (
      source === target && length > 0 && sourceOffset < targetOffset + length &&
      targetOffset < sourceOffset + length
    ) fail("EINVAL", what);
    for (let done = 0; done < length;) {
      const inPage = (sourceOffset + done) % pageSize;
      const count = Math.min(length - done, pageSize - inPage, from.size - sourceOffset - done);
      if (count <= 0) fail("ENODATA", what);
      const page = from.pages.get(Math.floor((sourceOffset + done) / pageSize));
      const bytes = page === undefined ? new Uint8Array(count) : page.slice(inPage, inPage + count);
      this.#write(to, bytes, targetOffset + done);
      done += count;
    }
  }

  /** See {@link Libc.clone}: this file system never can. */
  clone(source: number, target: number): boolean {
    this.#enter("clone a file");
    this.#file(source, "clone a file");
    this.#writable(target, "clone a file");
    return false;
  }

  /** See {@link Libc.fsync}. */
  fsync(fd: number): Promise<void> {
    return this.#later("sync a file", () => void this.#file(fd, "sync a file"));
  }

  /** See {@link Libc.syncfs}. */
  syncfs(fd: number): Promise<void> {
    return this.#later("sync a file system", () => void this.#file(fd, "sync a file system"));
  }

  /** See {@link Libc.stat}. */
  stat(dir: number, path: BytePath): FileStat | null {
    this.#enter("stat", path);
    try {
      return statOf(this.#find(dir, path, "stat"));
    } catch (error) {
      if (error instanceof NativeError && (error.code === "ENOENT" || error.code === "ENOTDIR")) return null;
      throw error;
    }
  }

  /** See {@link Libc.fstat}. */
  fstat(fd: number): FileStat {
    this.#enter("stat a descriptor");
    return statOf(this.#file(fd, "stat a descriptor").node);
  }

  /** See {@link Libc.readDir}. */
  readDir(fd: number): DirEntry[] {
    this.#enter("read a directory");
    const { node, readable } = this.#file(fd, "read a directory");
    if (!readable) fail("EBADF", "read a directory");
    if (node.kind !== "directory") fail("ENOTDIR", "read a directory");
    return Array.from(node.children, ([name, child]) => ({ name: name as BytePath, ...statOf(child) }));
  }

  /** See {@link Libc.readlink}. */
  readlink(dir: number, path: BytePath): BytePath {
    this.#enter("read link", path);
    const node = this.#find(dir, path, "read link");
    if (node.kind !== "symlink") fail("EINVAL", "read link", path);
    return node.target;
  }

  /** See {@link Libc.symlink}. */
  symlink(target: BytePath, dir: number, path: BytePath): void {
    const what = "create the symlink";
    this.#enter(what, path);
    if (target === "") fail("ENOENT", what, path);
    checkBytes(target, what);
    if (target.length > linkTargetSizeMax) fail("ENAMETOOLONG", what, path);
    const node = this.#add(dir, path, "symlink", 0o777, what);
    node.target = target;
    node.size = target.length;
  }

  /** See {@link Libc.link}. */
  link(sourceDir: number, source: BytePath, dir: number, path: BytePath): void {
    const what = "create the link";
    this.#enter(what, path);
    const node = this.#find(sourceDir, source, what);
    const place = this.#place(dir, path, what, false);
    if (place.node !== null) fail("EEXIST", what, path);
    if (node.kind === "directory") fail("EPERM", what, path);
    if (place.mustBeDirectory) fail("ENOENT", what, path);
    place.parent.children.set(place.name, node);
    node.nlink++;
    this.#changed(node);
    this.#modified(place.parent);
  }

  /** See {@link Libc.mknod}. */
  mknod(dir: number, path: BytePath, kind: FileKind, mode: number, major: number, minor: number): void {
    const what = "create the node";
    this.#enter(what, path);
    if (kind === "directory") fail("EPERM", what, path);
    if (kind === "symlink") fail("EINVAL", what, path);
    const node = this.#add(dir, path, kind, mode & 0o7777 & ~umask, what);
    if (kind === "char" || kind === "block") {
      node.rdevMajor = major;
      node.rdevMinor = minor;
    }
  }

  /** See {@link Libc.mkdir}. */
  mkdir(dir: number, path: BytePath, mode: number): void {
    const what = "create the directory";
    this.#enter(what, path);
    this.#add(dir, path, "directory", mode & 0o1777 & ~umask, what);
  }

  /** See {@link Libc.unlink}. */
  unlink(dir: number, path: BytePath): void {
    this.#enter("remove", path);
    const place = this.#place(dir, path, "remove", false);
    if (place.node === null) fail("ENOENT", "remove", path);
    if (place.node.kind === "directory") fail("EISDIR", "remove", path);
    if (place.mustBeDirectory) fail("ENOTDIR", "remove", path);
    this.#remove(place.parent, place.name, place.node);
  }

  /** See {@link Libc.rmdir}. */
  rmdir(dir: number, path: BytePath): void {
    const what = "remove the directory";
    this.#enter(what, path);
    if (/(^|\/)\.\/*$/.test(path)) fail("EINVAL", what, path);
    if (/(^|\/)\.\.\/*$/.test(path)) fail("ENOTEMPTY", what, path);
    const place = this.#place(dir, path, what, false);
    if (place.node === null) fail("ENOENT", what, path);
    if (place.node.kind !== "directory") fail("ENOTDIR", what, path);
    if (place.node === this.#root) fail("EBUSY", what, path);
    if (place.node.children.size > 0) fail("ENOTEMPTY", what, path);
    this.#remove(place.parent, place.name, place.node);
  }

  /** See {@link Libc.rename}. */
  rename(sourceDir: number, source: BytePath, dir: number, path: BytePath, flags = 0): void {
    const what = "rename";
    this.#enter(what, source);
    const from = this.#place(sourceDir, source, what, false);
    const to = this.#place(dir, path, what, false);
    const node = from.node;
    const other = to.node;
    if ((flags & ~3) !== 0 || flags === 3) fail("EINVAL", what, source);
    if (from.name === "" || to.name === "") fail("EBUSY", what, source);
    if (node === null) fail("ENOENT", what, source);
    if ((flags & 1) !== 0 && other !== null) fail("EEXIST", what, source);
    if ((flags & 2) !== 0 && other === null) fail("ENOENT", what, source);
    if (node.kind !== "directory" && (from.mustBeDirectory || to.mustBeDirectory)) {
      fail("ENOTDIR", what, source);
    }
    if (node.kind === "directory" && isWithin(to.parent, node)) fail("EINVAL", what, source);
    if (other !== null && other.kind === "directory" && isWithin(from.parent, other)) {
      fail((flags & 2) !== 0 ? "EINVAL" : "ENOTEMPTY", what, source);
    }
    if (node === other) return;
    if ((flags & 2) !== 0 && other !== null) {
      this.#detach(from.parent, from.name, node);
      this.#detach(to.parent, to.name, other);
      this.#attach(to.parent, to.name, node);
      this.#attach(from.parent, from.name, other);
      this.#changed(other);
    } else {
      if (other !== null) {
        if (node.kind === "directory" && other.kind !== "directory") fail("ENOTDIR", what, source);
        if (node.kind !== "directory" && other.kind === "directory") fail("EISDIR", what, source);
        if (other.children.size > 0) fail("ENOTEMPTY", what, source);
        this.#remove(to.parent, to.name, other);
      }
      this.#detach(from.parent, from.name, node);
      this.#attach(to.parent, to.name, node);
    }
    this.#changed(node);
    this.#modified(from.parent);
    this.#modified(to.parent);
  }

  /** See {@link Libc.chown}. */
  chown(dir: number, path: BytePath, uid: number, gid: number): void {
    this.#enter("change the owner of", path);
    this.#setOwner(this.#find(dir, path, "change the owner of"), uid, gid);
  }

  /** See {@link Libc.chmod}. */
  chmod(dir: number, path: BytePath, mode: number): void {
    const what = "change the mode of";
    this.#enter(what, path);
    const node = this.#find(dir, path, what);
    if (node.kind === "symlink") fail("EOPNOTSUPP", what, path);
    node.mode = mode & 0o7777;
    this.#changed(node);
  }

  /** See {@link Libc.setMtime}. */
  setMtime(dir: number, path: BytePath, seconds: number, nanos: number): void {
    this.#enter("set the time of", path);
    this.#setTime(this.#find(dir, path, "set the time of"), seconds, nanos);
  }

  /** See {@link Libc.fchown}. */
  fchown(fd: number, uid: number, gid: number): void {
    this.#enter("change the owner of a descriptor");
    this.#setOwner(this.#file(fd, "change the owner of a descriptor").node, uid, gid);
  }

  /** See {@link Libc.fchmod}. */
  fchmod(fd: number, mode: number): void {
    this.#enter("change the mode of a descriptor");
    const { node } = this.#file(fd, "change the mode of a descriptor");
    node.mode = mode & 0o7777;
    this.#changed(node);
  }

  /** See {@link Libc.fsetMtime}. */
  fsetMtime(fd: number, seconds: number, nanos: number): void {
    this.#enter("set the time of a descriptor");
    this.#setTime(this.#file(fd, "set the time of a descriptor").node, seconds, nanos);
  }

  /** See {@link Libc.xattrs}. */
  xattrs(dir: number, path: BytePath): Xattr[] {
    this.#enter("read the attributes of", path);
    const { xattrs } = this.#find(dir, path, "read the attributes of");
    return Array.from(xattrs, ([name, value]) => ({ name: name as BytePath, value: value.slice() }))
      .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  /** See {@link Libc.getXattr}. */
  getXattr(dir: number, path: BytePath, name: BytePath): Uint8Array<ArrayBuffer> | null {
    this.#enter("read an attribute of", path);
    return this.#find(dir, path, "read an attribute of").xattrs.get(name)?.slice() ?? null;
  }

  /** See {@link Libc.setXattr}. */
  setXattr(dir: number, path: BytePath, name: BytePath, value: Uint8Array): void {
    const what = "set an attribute of";
    this.#enter(what, path);
    const node = this.#find(dir, path, what);
    if (name === "" || name.length > nameSizeMax) fail("ERANGE", what, path);
    if (!/^(user|trusted|security|system)\../s.test(name)) fail("EOPNOTSUPP", what, path);
    if (value.byteLength > xattrValueSizeMax) fail("E2BIG", what, path);
    if (name.startsWith("user.") && node.kind !== "file" && node.kind !== "directory") {
      fail("EPERM", what, path);
    }
    node.xattrs.set(name, new Uint8Array(value));
    this.#changed(node);
  }

  /** See {@link Libc.removeXattr}. */
  removeXattr(dir: number, path: BytePath, name: BytePath): void {
    this.#enter("remove an attribute of", path);
    const node = this.#find(dir, path, "remove an attribute of");
    if (node.xattrs.delete(name)) this.#changed(node);
  }

  /** See {@link Libc.fileHandle}. */
  fileHandle(dir: number, path: BytePath): Uint8Array<ArrayBuffer> | null {
    this.#enter("get the handle of", path);
    const handle = new Uint8Array(12);
    const values = new DataView(handle.buffer);
    values.setUint32(0, 1, true);
    values.setBigUint64(4, this.#find(dir, path, "get the handle of").inode, true);
    return handle;
  }

  /** See {@link Libc.tryLock}. */
  tryLock(fd: number, exclusive: boolean): boolean {
    this.#enter("lock a file");
    const file = this.#file(fd, "lock a file");
    const { node } = file;
    if (node.exclusiveLock !== null && node.exclusiveLock !== file) return false;
    if (exclusive && [...node.sharedLocks].some((other) => other !== file)) return false;
    node.sharedLocks.delete(file);
    node.exclusiveLock = exclusive ? file : null;
    if (!exclusive) node.sharedLocks.add(file);
    return true;
  }

  /** Throws ENOSYS. */
  mountOverlay(_options: unknown, target: BytePath): void {
    this.#enter("mount an overlay on", target);
    fail("ENOSYS", "mount an overlay on", target);
  }

  /** Throws EINVAL: nothing is mounted. */
  unmount(target: BytePath, _detach: boolean): void {
    this.#enter("unmount", target);
    fail("EINVAL", "unmount", target);
  }

  /** Throws EINVAL: nothing is mounted. */
  remount(target: BytePath, _readOnly: boolean): boolean {
    this.#enter("remount", target);
    return fail("EINVAL", "remount", target);
  }

  /** See {@link Libc.statfs}. */
  statfs(fd: number): { available: number; type: number; blockSize: number } {
    this.#enter("stat a file system");
    this.#file(fd, "stat a file system");
    const available = Math.max(0, Math.min(this.budget - this.#used, Number.MAX_SAFE_INTEGER));
    return { available, type: 0xef53, blockSize: pageSize };
  }

  /** Counts a call, and fails it if it is its turn. */
  #enter(what: string, path?: BytePath): void {
    const call = this.calls++;
    if (call < this.#failAt) return;
    if (--this.#failTimes <= 0) this.#failAt = Infinity;
    fail(this.#failCode, what, path);
  }

  #later(what: string, action: () => void): Promise<void> {
    return new Promise((resolve) => {
      this.#enter(what);
      action();
      resolve();
    });
  }

  #file(fd: number, what: string): OpenFile {
    return this.#open.get(fd) ?? fail("EBADF", what);
  }

  #writable(fd: number, what: string, code = "EBADF"): Node {
    const { node, writable } = this.#file(fd, what);
    if (!writable) fail(code, what);
    return node;
  }

  #create(kind: FileKind, mode: number, parent: Node | null): Node {
    if (kind === "directory") this.#take(pageSize, "create the directory");
    const node: Node = {
      kind,
      mode,
      uid: 0,
      gid: 0,
      nlink: 0,
      inode: this.#nextInode++,
      rdevMajor: 0,
      rdevMinor: 0,
      mtimeSeconds: 0,
      mtimeNanos: 0,
      ctimeSeconds: 0,
      ctimeNanos: 0,
      size: kind === "directory" ? pageSize : 0,
      pages: new Map(),
      children: new Map(),
      parent: kind === "directory" ? parent : null,
      target: "" as BytePath,
      xattrs: new Map(),
      exclusiveLock: null,
      sharedLocks: new Set(),
    };
    if (parent !== null && (parent.mode & 0o2000) !== 0) {
      node.gid = parent.gid;
      if (kind === "directory") node.mode |= 0o2000;
    }
    this.#modified(node);
    return node;
  }

  #add(dir: number, path: BytePath, kind: FileKind, mode: number, what: string): Node {
    const place = this.#place(dir, path, what, false);
    if (place.node !== null) fail("EEXIST", what, path);
    if (place.mustBeDirectory && kind !== "directory") fail("ENOENT", what, path);
    const node = this.#create(kind, mode, place.parent);
    this.#attach(place.parent, place.name, node);
    this.#modified(place.parent);
    return node;
  }

  #attach(parent: Node, name: string, node: Node): void {
    parent.children.set(name, node);
    if (node.kind !== "directory") node.nlink++;
    else {
      node.nlink = 2 + countDirectories(node);
      node.parent = parent;
      parent.nlink++;
    }
  }

  #detach(parent: Node, name: string, node: Node): void {
    parent.children.delete(name);
    if (node.kind === "directory") parent.nlink--;
    else node.nlink--;
  }

  #remove(parent: Node, name: string, node: Node): void {
    this.#detach(parent, name, node);
    if (node.kind === "directory") node.nlink = 0;
    this.#changed(node);
    this.#modified(parent);
    this.#forget(node);
  }

  /** Gives the room of a node back once it has neither name nor descriptor. */
  #forget(node: Node): void {
    if (node.nlink > 0) return;
    for (const file of this.#open.values()) if (file.node === node) return;
    this.#used -= node.pages.size * pageSize + (node.kind === "directory" ? pageSize : 0);
    node.pages.clear();
    // A second call must not give it back twice.
    node.nlink = 1;
  }

  #take(size: number, what: string): void {
    if (this.#used + size > this.budget) fail("ENOSPC", what);
    this.#used += size;
  }

  #now(): { seconds: number; nanos: number } {
    const micros = this.#clock++;
    return { seconds: firstSecond + Math.floor(micros / 1e6), nanos: (micros % 1e6) * 1000 };
  }

  #changed(node: Node): void {
    const { seconds, nanos } = this.#now();
    node.ctimeSeconds = seconds;
    node.ctimeNanos = nanos;
  }

  #modified(node: Node): void {
    this.#changed(node);
    node.mtimeSeconds = node.ctimeSeconds;
    node.mtimeNanos = node.ctimeNanos;
  }

  #setOwner(node: Node, uid: number, gid: number): void {
    if (uid !== 0xffffffff) node.uid = uid;
    if (gid !== 0xffffffff) node.gid = gid;
    if (node.kind !== "directory" && node.kind !== "symlink") {
      node.mode &= ~0o4000;
      if ((node.mode & 0o010) !== 0) node.mode &= ~0o2000;
      node.xattrs.delete("security.capability");
    }
    this.#changed(node);
  }

  #setTime(node: Node, seconds: number, nanos: number): void {
    if (!Number.isInteger(seconds)) throw new RangeError(`Cannot set a time of ${seconds} seconds`);
    if (nanos < 0 || nanos > 999_999_999) fail("EINVAL", "set the time of");
    this.#changed(node);
    node.mtimeSeconds = seconds;
    node.mtimeNanos = nanos;
  }

  #write(node: Node, bytes: Uint8Array, offset: number): void {
    for (let at = 0; at < bytes.byteLength;) {
      const number = Math.floor((offset + at) / pageSize);
      const inPage = (offset + at) % pageSize;
      const count = Math.min(bytes.byteLength - at, pageSize - inPage);
      let page = node.pages.get(number);
      if (page === undefined) {
        this.#take(pageSize, "write");
        page = new Uint8Array(pageSize);
        node.pages.set(number, page);
      }
      page.set(bytes.subarray(at, at + count), inPage);
      at += count;
      // Page by page, so that running out of room leaves what was written.
      node.size = Math.max(node.size, offset + at);
    }
    if (bytes.byteLength === 0) return;
    node.xattrs.delete("security.capability");
    this.#modified(node);
  }

  #truncate(node: Node, size: number): void {
    for (const number of [...node.pages.keys()]) {
      if (number * pageSize >= size) {
        node.pages.delete(number);
        this.#used -= pageSize;
      }
    }
    if (size % pageSize !== 0) node.pages.get(Math.floor(size / pageSize))?.fill(0, size % pageSize);
    node.size = size;
    this.#modified(node);
  }

  #openAt(dir: number, path: BytePath, flags: number, mode: number, beneath: boolean): number {
    const what = "open";
    const writing = (flags & O_ACCMODE) !== 0 && (flags & O_PATH) === 0;
    const creating = (flags & O_CREAT) !== 0 && (flags & O_PATH) === 0;
    const exclusive = creating && (flags & O_EXCL) !== 0;
    const start = path === "" ? "." as BytePath : path;
    const follow = !beneath && (flags & O_NOFOLLOW) === 0 && !exclusive;
    const place = this.#place(dir, start, what, follow, beneath);
    let node = place.node;
    if ((flags & O_TMPFILE) !== 0) {
      if (node === null) fail("ENOENT", what, path);
      if (node.kind !== "directory") fail("ENOTDIR", what, path);
      if (!writing) fail("EINVAL", what, path);
      node = this.#create("file", mode & 0o7777 & ~umask, node);
      return this.#install({ node, readable: (flags & O_ACCMODE) !== O_WRONLY, writable: true });
    }
    if (node === null) {
      if (!creating) fail("ENOENT", what, path);
      if (place.mustBeDirectory) fail("EISDIR", what, path);
      if ((flags & O_DIRECTORY) !== 0) fail("EINVAL", what, path);
      node = this.#create("file", mode & 0o7777 & ~umask, place.parent);
      this.#attach(place.parent, place.name, node);
      this.#modified(place.parent);
    } else {
      if (exclusive) fail("EEXIST", what, path);
      if (node.kind === "symlink" && ((flags & O_PATH) === 0 || (beneath && (flags & O_NOFOLLOW) === 0))) {
        fail((flags & O_DIRECTORY) !== 0 && !beneath ? "ENOTDIR" : "ELOOP", what, path);
      }
      if (node.kind !== "directory" && ((flags & O_DIRECTORY) !== 0 || place.mustBeDirectory)) {
        fail("ENOTDIR", what, path);
      }
      if (node.kind === "directory" && (writing || creating)) fail("EISDIR", what, path);
      if (node.kind === "socket" && (flags & O_PATH) === 0) fail("ENXIO", what, path);
      if ((flags & O_TRUNC) !== 0 && writing && node.kind === "file") this.#truncate(node, 0);
    }
    const readable = (flags & O_PATH) === 0 && (flags & O_ACCMODE) !== O_WRONLY;
    return this.#install({ node, readable, writable: writing });
  }

  #install(file: OpenFile): number {
    let fd = 3;
    while (this.#open.has(fd)) fd++;
    this.#open.set(fd, file);
    return fd;
  }

  /** What `path` names, the final symlink not followed; ENOENT where there is nothing. */
  #find(dir: number, path: BytePath, what: string): Node {
    if (path === "") return this.#start(dir, what);
    const place = this.#place(dir, path, what, false);
    if (place.node === null) fail("ENOENT", what, path);
    if (place.mustBeDirectory && place.node.kind !== "directory") fail("ENOTDIR", what, path);
    return place.node;
  }

  #start(dir: number, what: string): Node {
    return dir === AT_FDCWD ? this.#root : this.#file(dir, what).node;
  }

  /** Walks a path as the kernel does; `beneath` as openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS. */
  #place(dir: number, path: BytePath, what: string, follow: boolean, beneath = false): Place {
    checkBytes(path, what);
    if (path === "") fail("ENOENT", what, path);
    if (path.length > pathSizeMax) fail("ENAMETOOLONG", what, path);
    if (beneath && path.startsWith("/")) fail("EXDEV", what, path);
    const bottom = path.startsWith("/") ? this.#root : this.#start(dir, what);
    let at: Node = bottom;
    let names = path.split("/").filter((name) => name !== "");
    let trailing = path.endsWith("/");
    let symlinks = 0;
    for (let index = 0; index < names.length;) {
      const name = names[index++] ?? "";
      const last = index === names.length;
      if (at.kind !== "directory") fail("ENOTDIR", what, path);
      if (name.length > nameSizeMax) fail("ENAMETOOLONG", what, path);
      if (name === "." || name === "..") {
        if (name === "..") {
          if (beneath && at === bottom) fail("EXDEV", what, path);
          at = at.parent ?? at;
        }
        if (last) return { parent: at, name: "", node: at, mustBeDirectory: true };
        continue;
      }
      const node: Node | null = at.children.get(name) ?? null;
      if (node?.kind === "symlink" && (!last || follow || trailing)) {
        if (beneath || ++symlinks > symlinksMax) fail("ELOOP", what, path);
        trailing ||= last && node.target.endsWith("/");
        if (node.target.startsWith("/")) at = this.#root;
        names = [...node.target.split("/").filter((part) => part !== ""), ...names.slice(index)];
        index = 0;
        if (names.length === 0) return { parent: at, name: "", node: at, mustBeDirectory: true };
        continue;
      }
      if (last) return { parent: at, name, node, mustBeDirectory: trailing };
      if (node === null) fail("ENOENT", what, path);
      at = node;
    }
    return { parent: at, name: "", node: at, mustBeDirectory: true };
  }
}

/** Frames that hold their content as it is; same bounds and refusals as the real one. */
class FakeZstd implements Zstd {
  compress(
    input: Uint8Array,
    options: { level: number; prefix?: Uint8Array },
  ): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.resolve().then(() => pack(input, options.level, options.prefix));
  }

  decompress(
    frame: Uint8Array,
    options: { size: number; prefix?: Uint8Array; windowLogMax?: number },
  ): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.resolve().then(() => unpack(frame, options.size, options.prefix));
  }

  compressSync(input: Uint8Array, options: { level: number }): Uint8Array<ArrayBuffer> {
    return pack(input, options.level, undefined);
  }

  decompressSync(
    frame: Uint8Array,
    options: { size: number; windowLogMax?: number },
  ): Uint8Array<ArrayBuffer> {
    return unpack(frame, options.size, undefined);
  }
}

const frameMagic = 0x31464b46; // "FKF1"
const frameHeaderSize = 12;

/** FNV-1a of prefix and content: enough to notice a wrong prefix or a flipped bit. */
function checksum(prefix: Uint8Array | undefined, content: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const bytes of [prefix ?? new Uint8Array(0), content]) {
    for (let at = 0; at < bytes.length; at++) hash = Math.imul(hash ^ (bytes[at] ?? 0), 0x01000193);
  }
  return hash >>> 0;
}

function pack(input: Uint8Array, level: number, prefix: Uint8Array | undefined): Uint8Array<ArrayBuffer> {
  if (!Number.isInteger(level) || level < 1 || level > 19) {
    throw new RangeError(`Cannot compress at level ${level}: it should be an integer from 1 to 19`);
  }
  const frame = new Uint8Array(frameHeaderSize + input.byteLength);
  const values = new DataView(frame.buffer);
  values.setUint32(0, frameMagic, true);
  values.setUint32(4, input.byteLength, true);
  values.setUint32(8, checksum(prefix, input), true);
  frame.set(input, frameHeaderSize);
  return frame;
}

function unpack(frame: Uint8Array, size: number, prefix: Uint8Array | undefined): Uint8Array<ArrayBuffer> {
  if (!Number.isInteger(size) || size < 0 || size > zstdSizeMax) {
    throw new RangeError(`Cannot decompress to ${size} bytes: it should be an integer up to ${zstdSizeMax}`);
  }
  const refuse = (rule: string, text: string): never => {
    throw new FormatError(rule, 0, `Cannot decompress a frame of ${size} bytes: ${text}`);
  };
  if (frame.byteLength < frameHeaderSize) refuse("zstd.truncated", "the frame is cut short");
  const values = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (values.getUint32(0, true) !== frameMagic) refuse("zstd.frame", "the bytes are not a frame");
  if (values.getUint32(4, true) !== size) refuse("zstd.size", "the frame does not hold the announced size");
  if (frame.byteLength < frameHeaderSize + size) refuse("zstd.truncated", "the frame is cut short");
  if (frame.byteLength > frameHeaderSize + size) refuse("zstd.trailing", "there are bytes behind the frame");
  const content = new Uint8Array(frame.subarray(frameHeaderSize));
  if (values.getUint32(8, true) !== checksum(prefix, content)) {
    refuse("zstd.checksum", "the content does not match the frame's checksum");
  }
  return content;
}

/** A simulated machine: `libc` has the hooks for faults. */
export interface FakeNative extends Native {
  /** The simulated file system. */
  readonly libc: FakeLibc;
}

/**
 * A fresh, empty machine: the root directory and nothing in it.
 *
 * @param options `budget`: bytes that files and directories may take in all, unbounded by default.
 *
 * @example
 * ```ts
 * import { createFakeNative } from "./fake.ts";
 * import { pathFromText } from "../lib/base/path.ts";
 *
 * const { libc } = createFakeNative({ budget: 1 << 20 });
 * libc.mkdir(-100, pathFromText("tree"), 0o755);
 * libc.failAfter(0, { code: "EIO" });
 * ```
 */
export function createFakeNative(options: { budget?: number } = {}): FakeNative {
  const libc = new FakeLibc(options);
  return {
    version: libraryVersion,
    path: "",
    libc,
    direct: {
      allocate: (size) => new Uint8Array(size),
      read: async (fd, buffer, offset) => await Promise.resolve(libc.pread(fd, buffer, offset)),
      write: async (fd, buffer, offset) => await Promise.resolve(libc.pwrite(fd, buffer, offset)),
    },
    zstd: new FakeZstd(),
    delta: new FakeDelta(),
    // Leaves everything to its caller, which has a way of its own.
    content: { sizeMax: 0, encode: (pieces) => Promise.resolve(noDeltas(pieces.length)) },
    openRegion: (settings) => new FakeRegion(settings),
    attachRegion: attachFakeRegion,
    openDonor: (settings) => new FakeDonor(settings),
    openFuse: (settings) => Promise.reject(new NativeError(errnoOf("ENOSYS"), "mount", settings.path)),
    probe: (dir: BytePath): ProbeItem[] => [
      { id: "kernel", ok: true, errno: 0, detail: "simulated" },
      { id: "filesystem", ok: true, errno: 0, detail: `simulated at ${joinPath("" as BytePath, dir)}` },
      { id: "overlay.root", ok: false, errno: errnoOf("ENOSYS"), detail: "no mounts in a simulation" },
      { id: "overlay.rootless", ok: false, errno: errnoOf("ENOSYS"), detail: "no mounts in a simulation" },
    ],
    identity: () => ({ uid: 0, gid: 0, canMount: false, inUserNamespace: false }),
  };
}

function noDeltas(count: number): ContentDeltas {
  return {
    counts: new Array<null>(count).fill(null),
    kinds: new Uint8Array(),
    bases: new Uint8Array(),
    offsets: new Float64Array(),
    lengths: new Float64Array(),
    literals: new Uint8Array(),
  };
}

function fail(code: string, what: string, path?: BytePath): never {
  throw new NativeError(errnoOf(code), what, path);
}

function checkBytes(path: BytePath, what: string): void {
  for (let at = 0; at < path.length; at++) {
    const code = path.charCodeAt(at);
    if (code === 0 || code > 255) fail("EINVAL", what, path);
  }
}

function isWithin(node: Node, ancestor: Node): boolean {
  for (let at: Node = node;;) {
    if (at === ancestor) return true;
    if (at.parent === null || at.parent === at) return false;
    at = at.parent;
  }
}

function countDirectories(node: Node): number {
  let count = 0;
  for (const child of node.children.values()) if (child.kind === "directory") count++;
  return count;
}

function statOf(node: Node): FileStat {
  return {
    kind: node.kind,
    mode: node.mode,
    uid: node.uid,
    gid: node.gid,
    size: node.size,
    blocks: node.kind === "directory" ? 8 : node.pages.size * (pageSize / 512),
    nlink: node.nlink,
    inode: node.inode,
    device: 1 << 20,
    rdevMajor: node.rdevMajor,
    rdevMinor: node.rdevMinor,
    mtimeSeconds: node.mtimeSeconds,
    mtimeNanos: node.mtimeNanos,
    ctimeSeconds: node.ctimeSeconds,
    ctimeNanos: node.ctimeNanos,
  };
}
