/**
 * Gives a name on disk the metadata that its entry says, in the order that keeps it: chown clears setuid and
 * file capabilities, so it comes first; a restrictive mode can forbid setting xattrs, so it comes after them; mtime
 * last.
 *
 * @module
 */
import { type BytePath, pathToText } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import type { Entry, EntryXattr } from "../version/entry.ts";
import type { Libc, Xattr } from "../../ffi/mod.ts";
import { errorCode } from "./beneath.ts";

/** Sets owner, xattrs, mode and mtime of `name` in directory `fd`. New files have no xattrs to remove. */
export function applyMetadata(
  libc: Libc,
  fd: number,
  name: BytePath,
  entry: Entry,
  options: { owners: boolean; replace: boolean },
): void {
  if (options.owners) libc.chown(fd, name, entry.uid, entry.gid);
  if (entry.xattrs.length > 0 || options.replace) setXattrs(libc, fd, name, entry, options.replace);
  if (entry.kind !== "symlink") libc.chmod(fd, name, entry.mode);
  libc.setMtime(fd, name, entry.mtimeSeconds, entry.mtimeNanos);
  // File systems cut times that they cannot hold, without a word: ext4 ends in 2446, others in 2038.
  if (entry.mtimeSeconds >= 0 && entry.mtimeSeconds < 2 ** 31) return;
  if (libc.stat(fd, name)?.mtimeSeconds === entry.mtimeSeconds) return;
  throw new DroverError(
    "unsupported",
    `Cannot set the mtime of "${
      pathToText(entry.path)
    }": this file system cannot hold ${entry.mtimeSeconds} s`,
  );
}

function setXattrs(libc: Libc, fd: number, name: BytePath, entry: Entry, replace: boolean): void {
  const there = replace ? libc.xattrs(fd, name) : [];
  for (const xattr of there) {
    if (xattr.name.startsWith("trusted.overlay.") || xattr.name.startsWith("user.overlay.")) continue;
    if (!entry.xattrs.some((wanted) => wanted.name === xattr.name)) libc.removeXattr(fd, name, xattr.name);
  }
  for (const xattr of entry.xattrs) {
    if (there.some((known) => known.name === xattr.name && bytesEqual(known.value, xattr.value))) continue;
    try {
      libc.setXattr(fd, name, xattr.name, xattr.value);
    } catch (error) {
      // ext4 says ENOSPC, and others E2BIG or ERANGE, where they have no room in the inode for so large a value.
      const code = errorCode(error) ?? "";
      const tooLarge = ["E2BIG", "ERANGE"].includes(code) ||
        code === "ENOSPC" && libc.statfs(fd).available > 2 ** 20;
      if (!["EOPNOTSUPP", "EPERM"].includes(code) && !tooLarge) throw error;
      throw new DroverError(
        "unsupported",
        `Cannot set xattr "${pathToText(xattr.name)}" of "${
          pathToText(entry.path)
        }": this file system, or this user, may not`,
        { cause: error },
      );
    }
  }
}

/** Whether two sorted xattr lists say the same. */
export function sameXattrs(a: readonly (Xattr | EntryXattr)[], b: readonly (Xattr | EntryXattr)[]): boolean {
  return a.length === b.length &&
    a.every((xattr, at) => {
      const other = b[at];
      return other !== undefined && xattr.name === other.name && bytesEqual(xattr.value, other.value);
    });
}
