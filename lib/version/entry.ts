/**
 * One entry of a tree, as a manifest records it: everything that must be the same on the other side.
 * Inode numbers, atime, ctime and the overlay's own xattrs are not part of it.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";

/** What an entry is. `link` is a further name of a file that has another, smaller path: a hard link. */
export type EntryKind = "file" | "directory" | "symlink" | "char" | "block" | "fifo" | "socket" | "link";

/** An extended attribute: full name with its namespace (`user.x`, `system.posix_acl_access`), raw value. */
export interface EntryXattr {
  /** Full name, with its namespace. */
  name: BytePath;
  /** Raw value. */
  value: Uint8Array<ArrayBuffer>;
}

/**
 * One entry. Fields that a kind does not use hold 0, `""` or null, so that every entry has one shape:
 * `size` and `digest` are for files (a file of size 0 has the digest of nothing), `target` for symlinks (what it
 * says) and links (the path of the group's first name; the other fields of a `link` are 0 and empty),
 * `rdevMajor` and `rdevMinor` for devices. Symlinks have mode 0777.
 */
export interface Entry {
  /** Where it is, below the root of the tree; the root itself is the empty path. */
  path: BytePath;
  /** What it is. */
  kind: EntryKind;
  /** Permission bits with setuid, setgid and sticky: mode & 07777. */
  mode: number;
  /** Owner. */
  uid: number;
  /** Group. */
  gid: number;
  /** Last change of the content, seconds since 1970; may be negative. */
  mtimeSeconds: number;
  /** 0 to 999 999 999. */
  mtimeNanos: number;
  /** Bytes of a file. */
  size: number;
  /** sha256 of the content, 32 bytes; null for everything but files. */
  digest: Uint8Array<ArrayBuffer> | null;
  /** What a symlink says, or the first name of a hard link's group. */
  target: BytePath;
  /** Major number of a device. */
  rdevMajor: number;
  /** Minor number of a device. */
  rdevMinor: number;
  /** Sorted by name. */
  xattrs: EntryXattr[];
}

/** What happened to one path between two manifests: created (no before), deleted (no after), or modified. */
export interface Change {
  /** Which path. */
  path: BytePath;
  /** What it was; null when it is new. */
  before: Entry | null;
  /** What it is; null when it is gone. */
  after: Entry | null;
}

/** A version: a tree's state named by the hash of its parent and its manifest. */
export interface VersionInfo {
  /** sha256(parent id or 32 zero bytes ‖ manifest root), 64 hex digits. */
  id: string;
  /** Null for the first version of a tree. */
  parent: string | null;
  /** sha256 of the canonical manifest, 64 hex digits. */
  root: string;
  /** Milliseconds since 1970 when it was committed; information only, not part of the id. */
  time: number;
  /** What the user said about it. */
  message: string;
}

/** An entry of a kind with nothing said yet: every field that a kind may leave unused is 0, empty or null. */
export function emptyEntry(path: BytePath, kind: EntryKind): Entry {
  return {
    path,
    kind,
    mode: 0,
    uid: 0,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanos: 0,
    size: 0,
    digest: null,
    target: "" as BytePath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
  };
}
