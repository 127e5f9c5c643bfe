/**
 * Failed system calls as errors: once, here.
 *
 * @module
 */
import { type BytePath, pathToText } from "../lib/base/path.ts";

/** Number, name and text of every errno that a file call may give on Linux (generic numbering: x86-64, arm64). */
const table: readonly (readonly [number, string, string])[] = [
  [1, "EPERM", "Operation not permitted"],
  [2, "ENOENT", "No such file or directory"],
  [4, "EINTR", "Interrupted system call"],
  [5, "EIO", "Input/output error"],
  [6, "ENXIO", "No such device or address"],
  [7, "E2BIG", "Argument list too long"],
  [8, "ENOEXEC", "Exec format error"],
  [9, "EBADF", "Bad file descriptor"],
  [10, "ECHILD", "No child processes"],
  [11, "EAGAIN", "Resource temporarily unavailable"],
  [12, "ENOMEM", "Cannot allocate memory"],
  [13, "EACCES", "Permission denied"],
  [14, "EFAULT", "Bad address"],
  [15, "ENOTBLK", "Block device required"],
  [16, "EBUSY", "Device or resource busy"],
  [17, "EEXIST", "File exists"],
  [18, "EXDEV", "Invalid cross-device link"],
  [19, "ENODEV", "No such device"],
  [20, "ENOTDIR", "Not a directory"],
  [21, "EISDIR", "Is a directory"],
  [22, "EINVAL", "Invalid argument"],
  [23, "ENFILE", "Too many open files in system"],
  [24, "EMFILE", "Too many open files"],
  [25, "ENOTTY", "Inappropriate ioctl for device"],
  [26, "ETXTBSY", "Text file busy"],
  [27, "EFBIG", "File too large"],
  [28, "ENOSPC", "No space left on device"],
  [29, "ESPIPE", "Illegal seek"],
  [30, "EROFS", "Read-only file system"],
  [31, "EMLINK", "Too many links"],
  [32, "EPIPE", "Broken pipe"],
  [33, "EDOM", "Numerical argument out of domain"],
  [34, "ERANGE", "Numerical result out of range"],
  [35, "EDEADLK", "Resource deadlock avoided"],
  [36, "ENAMETOOLONG", "File name too long"],
  [37, "ENOLCK", "No locks available"],
  [38, "ENOSYS", "Function not implemented"],
  [39, "ENOTEMPTY", "Directory not empty"],
  [40, "ELOOP", "Too many levels of symbolic links"],
  [61, "ENODATA", "No data available"],
  [74, "EBADMSG", "Bad message"],
  [75, "EOVERFLOW", "Value too large for defined data type"],
  [84, "EILSEQ", "Invalid or incomplete multibyte or wide character"],
  [90, "EMSGSIZE", "Message too long"],
  [95, "EOPNOTSUPP", "Operation not supported"],
  [98, "EADDRINUSE", "Address already in use"],
  [99, "EADDRNOTAVAIL", "Cannot assign requested address"],
  [105, "ENOBUFS", "No buffer space available"],
  [107, "ENOTCONN", "Transport endpoint is not connected"],
  [110, "ETIMEDOUT", "Connection timed out"],
  [111, "ECONNREFUSED", "Connection refused"],
  [113, "EHOSTUNREACH", "No route to host"],
  [116, "ESTALE", "Stale file handle"],
  [117, "EUCLEAN", "Structure needs cleaning"],
  [122, "EDQUOT", "Disk quota exceeded"],
  [125, "ECANCELED", "Operation canceled"],
];

const byNumber = new Map(table.map((row) => [row[0], row]));
const byName = new Map(table.map((row) => [row[1], row[0]]));

/** The name of an errno (`ENOENT`), or `E` and its number where it has none here. */
export function errnoName(errno: number): string {
  return byNumber.get(errno)?.[1] ?? `E${errno}`;
}

/** The number of an errno name; throws a TypeError for a name that is not in the table. */
export function errnoOf(name: string): number {
  const errno = byName.get(name);
  if (errno === undefined) throw new TypeError(`Cannot find the errno "${name}"`);
  return errno;
}

/** What an errno means, in the words of strerror(3). */
export function errnoText(errno: number): string {
  return byNumber.get(errno)?.[2] ?? `Unknown error ${errno}`;
}

/**
 * A failed system call.
 *
 * The message says what could not be done to what, then why: `Cannot open "a/b": No such file or directory (ENOENT)`.
 */
export class NativeError extends Error {
  /** Always "NativeError". */
  override name = "NativeError";
  /** Name of the errno, for programs: `ENOENT`. */
  readonly code: string;
  /** The errno itself, positive. */
  readonly errno: number;
  /** What was tried: the first words after "Cannot". */
  readonly syscall: string;
  /** The path, where one was given. */
  readonly path: BytePath | undefined;

  /** Makes the message, too. @param errno positive; @param syscall what was tried, as a verb: "open"; @param path what it was tried on. */
  constructor(errno: number, syscall: string, path?: BytePath) {
    const object = path === undefined ? "" : ` "${pathToText(path)}"`;
    super(`Cannot ${syscall}${object}: ${errnoText(errno)} (${errnoName(errno)})`);
    this.code = errnoName(errno);
    this.errno = errno;
    this.syscall = syscall;
    this.path = path;
  }
}

/**
 * Passes a result on, or throws what a negative one means.
 *
 * @param rc what a function of libdrover.so returned: 0, a count, or -errno.
 * @param what a verb: "open", "read directory".
 * @param path what it was done to.
 * @returns `rc`.
 * @throws {NativeError} when `rc` is negative.
 */
export function check(rc: number, what: string, path?: BytePath): number {
  if (rc < 0) throw new NativeError(-rc, what, path);
  return rc;
}
