/**
 * Opening: options are checked, and what the system refuses becomes an error that says what to do.
 *
 * @module
 */
import { type Native, NativeError, type NativeRegion } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { checkOptions, nameOf, type RegionOptions } from "./options.ts";

/**
 * Opens the region of a library, without policy.
 *
 * @throws {RangeError} for sizes that cannot be, before anything is opened
 * @throws {DroverError} codes "unsupported", "no-space", "exists", "busy"; of donors: "disconnected" for one that does
 * not answer, "auth" for one that does not know the ticket
 */
export function openRegion(native: Native, options: Omit<RegionOptions, "native">): NativeRegion {
  const { settings } = checkOptions(options);
  try {
    return native.openRegion(settings);
  } catch (error) {
    throw explain(error, nameOf(options), options.remote === undefined);
  }
}

/** A failed open, with its reason and what to type. */
function explain(error: unknown, path: string, isFile: boolean): unknown {
  if (!(error instanceof NativeError)) return error;
  const doctor = `drover doctor ${path}`;
  const refuse = (
    code: "unsupported" | "no-space" | "exists" | "busy" | "disconnected" | "auth",
    why: string,
    hint?: string,
  ): DroverError =>
    new DroverError(code, `Cannot open a region on "${path}": ${why}`, {
      cause: error,
      ...(hint === undefined ? {} : { hint }),
    });
  switch (error.code) {
    case "EPERM":
      return refuse("unsupported", "this process may not use userfaultfd", doctor);
    case "ENOSYS":
    case "EOPNOTSUPP":
      return refuse("unsupported", "the kernel or the file system cannot", doctor);
    case "ENOSPC":
    case "EDQUOT":
      return refuse("no-space", "the file system has no room for its file");
    case "EEXIST":
      return refuse("exists", "the file has content, and should be new, empty or a directory");
    case "ECONNREFUSED":
    case "EHOSTUNREACH":
    case "ENETUNREACH":
    case "ETIMEDOUT":
    case "ENOTCONN":
      return refuse("disconnected", "a donor does not answer", "drover donors");
    case "EACCES":
    case "ENOENT":
      if (isFile) return error;
      return refuse("auth", "a donor does not know the ticket", "drover donors");
    case "EAGAIN":
      return refuse("busy", "another region uses it");
    default:
      return error;
  }
}
