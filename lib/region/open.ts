/**
 * Opening: options are checked, and what the system refuses becomes an error that says what to do.
 *
 * @module
 */
import { type Native, NativeError, type NativeRegion } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { checkOptions, type RegionOptions } from "./options.ts";

/**
 * Opens the region of a library, without policy.
 *
 * @throws {RangeError} for sizes that cannot be, before anything is opened
 * @throws {DroverError} codes "unsupported", "no-space", "exists", "busy"
 */
export function openRegion(native: Native, options: Omit<RegionOptions, "native">): NativeRegion {
  const { settings } = checkOptions(options);
  try {
    return native.openRegion(settings);
  } catch (error) {
    throw explain(error, options.ssd.path);
  }
}

/** A failed open, with its reason and what to type. */
function explain(error: unknown, path: string): unknown {
  if (!(error instanceof NativeError)) return error;
  const doctor = `drover doctor ${path}`;
  const refuse = (
    code: "unsupported" | "no-space" | "exists" | "busy",
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
    case "EAGAIN":
      return refuse("busy", "another region uses it");
    default:
      return error;
  }
}
