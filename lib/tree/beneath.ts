/**
 * File calls below one directory, by tree path. No path leaves the directory and no symlink is followed,
 * on the way or at the end: every directory is opened from its parent's descriptor, one name at a time.
 * So a tree path may also be longer than PATH_MAX.
 *
 * Parent descriptors are kept in a small cache; whoever renames or removes a directory that way
 * calls `forget()` afterwards.
 *
 * @module
 */
import { type BytePath, nameOf, parentOf } from "../base/path.ts";
import type { DirEntry, FileKind, FileStat, Libc, Xattr } from "../../ffi/mod.ts";
import { AT_FDCWD, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_WRONLY } from "./posix.ts";

/** Directory descriptors kept open by one `Beneath`; more than the depth of a reasonable tree. */
const cacheSizeMax = 256;
/** Directories that one look-up adds to them. */
const stepsMax = 64;
/** Bytes of path that are opened in one call; PATH_MAX is 4096. */
const leapSizeMax = 4000;

/** The name of a tree's root relative to its own descriptor. */
const self = "." as BytePath;

/** Where a path's last component lives: an open parent directory and a name in it. */
export interface Place {
  fd: number;
  name: BytePath;
}

/** A directory and everything below it. */
export class Beneath implements Disposable {
  readonly libc: Libc;
  /** O_PATH descriptor of the directory itself. */
  readonly fd: number;
  readonly #parents = new Map<BytePath, number>();

  /** Takes ownership of `fd`. */
  constructor(libc: Libc, fd: number) {
    this.libc = libc;
    this.fd = fd;
  }

  /** Opens a directory by an absolute path that the user or the store named (symlinks on the way are followed). */
  static open(libc: Libc, path: BytePath): Beneath {
    return new Beneath(libc, libc.open(AT_FDCWD, path, O_PATH | O_DIRECTORY));
  }

  [Symbol.dispose](): void {
    this.forget();
    this.libc.close(this.fd);
  }

  /** Drops the cached descriptors. */
  forget(): void {
    for (const fd of this.#parents.values()) this.libc.close(fd);
    this.#parents.clear();
  }

  /** The open parent directory of `path`, and its name there; the root is `.` in itself. */
  place(path: BytePath): Place {
    if (path === "") return { fd: this.fd, name: self };
    return { fd: this.#directory(parentOf(path)), name: nameOf(path) };
  }

  #directory(path: BytePath): number {
    if (path === "") return this.fd;
    const known = this.#parents.get(path);
    if (known !== undefined) {
      // The one used last must not be the next to be closed: callers hold two places at a time.
      this.#parents.delete(path);
      this.#parents.set(path, known);
      return known;
    }
    // Down from an ancestor that is open, or from the root in leaps; fewer steps than stay when the cache is cut.
    const steps = [path];
    let above = parentOf(path);
    for (; above !== "" && steps.length < stepsMax && !this.#parents.has(above); above = parentOf(above)) {
      steps.push(above);
    }
    let fd = above === "" ? this.fd : this.#parents.get(above) ?? this.#leap(above);
    for (const step of steps.reverse()) {
      fd = this.libc.openBeneath(fd, nameOf(step), O_PATH | O_DIRECTORY | O_NOFOLLOW);
      this.#remember(step, fd);
    }
    return fd;
  }

  /** Opens a directory far down by many names at a time; the kernel takes only so long a path. */
  #leap(path: BytePath): number {
    let fd = this.fd;
    for (let at = 0; at < path.length;) {
      const end = path.length - at <= leapSizeMax ? path.length : path.lastIndexOf("/", at + leapSizeMax);
      const next = this.libc.openBeneath(
        fd,
        path.slice(at, end) as BytePath,
        O_PATH | O_DIRECTORY | O_NOFOLLOW,
      );
      if (fd !== this.fd) this.libc.close(fd);
      fd = next;
      at = end + 1;
    }
    this.#remember(path, fd);
    return fd;
  }

  #remember(path: BytePath, fd: number): void {
    if (this.#parents.size >= cacheSizeMax) {
      for (const [old, oldFd] of this.#parents) {
        this.libc.close(oldFd);
        this.#parents.delete(old);
        if (this.#parents.size < cacheSizeMax / 2) break;
      }
    }
    this.#parents.set(path, fd);
  }

  /** Status of `path`, or null where there is nothing. */
  stat(path: BytePath): FileStat | null {
    if (path === "") return this.libc.fstat(this.fd);
    let place: Place;
    try {
      place = this.place(path);
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
    return this.libc.stat(place.fd, place.name);
  }

  /** Opens an existing file. */
  open(path: BytePath, flags: number): number {
    const { fd, name } = this.place(path);
    return this.libc.openBeneath(fd, name, flags | O_NOFOLLOW);
  }

  /** Creates a new file, which must not exist, for writing. */
  create(path: BytePath, mode = 0o600): number {
    const { fd, name } = this.place(path);
    return this.libc.openBeneath(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  }

  /** All entries of a directory, sorted by name in byte order. */
  list(path: BytePath): DirEntry[] {
    const { fd, name } = this.place(path);
    const directory = this.libc.openBeneath(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    try {
      return this.libc.readDir(directory).sort((a, b) => a.name < b.name ? -1 : 1);
    } finally {
      this.libc.close(directory);
    }
  }

  /** The extended attributes of `path` itself. */
  xattrs(path: BytePath): Xattr[] {
    const { fd, name } = this.place(path);
    return this.libc.xattrs(fd, name);
  }

  /** Makes a directory that only the owner may enter; its real mode comes at the end. */
  mkdir(path: BytePath): void {
    const { fd, name } = this.place(path);
    this.libc.mkdir(fd, name, 0o700);
  }

  /** Removes one name that is not a directory. */
  unlink(path: BytePath): void {
    const { fd, name } = this.place(path);
    this.libc.unlink(fd, name);
  }

  /** Makes a device, FIFO, socket or whiteout. */
  mknod(path: BytePath, kind: FileKind, major: number, minor: number): void {
    const { fd, name } = this.place(path);
    this.libc.mknod(fd, name, kind, 0o600, major, minor);
  }

  /** Removes whatever is at `path`, with everything below it. Does not leave the directory. */
  removeAll(path: BytePath): void {
    const stat = this.stat(path);
    if (stat === null) return;
    const { fd, name } = this.place(path);
    if (stat.kind !== "directory") return this.libc.unlink(fd, name);
    removeBelow(this.libc, fd, name);
    this.forget();
    const again = this.place(path);
    this.libc.rmdir(again.fd, again.name);
  }
}

/** How many directories are open at a time while one is emptied. */
const emptyDepthMax = 64;

/** Empties a directory, entered by descriptor. What lies very deep is moved up first, so depth does not matter. */
function removeBelow(libc: Libc, parent: number, name: BytePath): void {
  const top = openOwn(libc, parent, name);
  let moved = 0;
  const empty = (fd: number, depth: number): void => {
    let writable = false;
    for (const entry of libc.readDir(fd)) {
      const remove = () => {
        if (entry.kind !== "directory") return libc.unlink(fd, entry.name);
        if (depth === emptyDepthMax) {
          libc.chmod(fd, entry.name, 0o700);
          return libc.rename(fd, entry.name, top, `.deep-${moved++}` as BytePath);
        }
        const child = openOwn(libc, fd, entry.name);
        try {
          empty(child, depth + 1);
        } finally {
          libc.close(child);
        }
        libc.rmdir(fd, entry.name);
      };
      try {
        remove();
      } catch (error) {
        if (errorCode(error) !== "EACCES" || writable) throw error;
        libc.fchmod(fd, 0o700);
        writable = true;
        remove();
      }
    }
  };
  try {
    for (let before = -1; before < moved;) {
      before = moved;
      empty(top, 0);
    }
  } finally {
    libc.close(top);
  }
}

/** Opens a directory that is ours, but perhaps not readable. */
function openOwn(libc: Libc, parent: number, name: BytePath): number {
  const flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  try {
    return libc.openBeneath(parent, name, flags);
  } catch (error) {
    if (errorCode(error) !== "EACCES") throw error;
    libc.chmod(parent, name, 0o700);
    return libc.openBeneath(parent, name, flags);
  }
}

/** The errno name of a failed system call (`ENOENT`), or undefined for any other error. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "errno" in error && "code" in error && typeof error.code === "string"
    ? error.code
    : undefined;
}

/** Whether a call failed because there is nothing at that path. */
export function isMissing(error: unknown): boolean {
  const code = errorCode(error);
  return code === "ENOENT" || code === "ENOTDIR";
}

/** Whether the file system is full, or the user's share of it. */
export function isFull(error: unknown): boolean {
  const code = errorCode(error);
  if (code === "ENOSPC" || code === "EDQUOT") return true;
  // SQLite has its own words for it, and no number that its errors would carry.
  return error instanceof Error && "code" in error && error.code === "ERR_SQLITE_ERROR" &&
    error.message === "database or disk is full";
}
