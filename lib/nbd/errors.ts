/**
 * Errors on the wire: eight numbers, and what they are called here.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";

/** The values that the protocol allows. */
export const errorNumbers: Readonly<Record<NbdErrorName, number>> = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
};

/** One of their names. */
export type NbdErrorName =
  | "EPERM"
  | "EIO"
  | "ENOMEM"
  | "EINVAL"
  | "ENOSPC"
  | "EOVERFLOW"
  | "ENOTSUP"
  | "ESHUTDOWN";

/** Errno names that systems have and the protocol has not. */
const aliases: Readonly<Record<string, NbdErrorName>> = {
  EACCES: "EPERM",
  EROFS: "EPERM",
  EDQUOT: "ENOSPC",
  EFBIG: "ENOSPC",
  EOPNOTSUPP: "ENOTSUP",
  ENOSYS: "ENOTSUP",
  "no-space": "ENOSPC",
  unsupported: "ENOTSUP",
};

/** What a server answered instead of data. */
export class NbdError extends DroverError {
  /** The name that stands in front of the message in a stack trace. */
  override name = "NbdError";
  /** For instance "ENOSPC". */
  readonly errno: NbdErrorName;

  /** An answer. @param errno as the server said; @param message what could not be done, and why. */
  constructor(errno: NbdErrorName, message: string) {
    super(errno === "ENOSPC" ? "no-space" : errno === "ENOTSUP" ? "unsupported" : "io", message, {
      details: { errno },
    });
    this.errno = errno;
  }
}

/** The number for an error of a backend: by its `errno` or `code` where it has one, else EIO. */
export function errorNumberOf(error: unknown): number {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
    for (const key of ["errno", "code"] as const) {
      const name: unknown = (at as { errno?: unknown; code?: unknown })[key];
      if (typeof name !== "string") continue;
      if (Object.hasOwn(errorNumbers, name)) return errorNumbers[name as NbdErrorName];
      const alias = Object.hasOwn(aliases, name) ? aliases[name] : undefined;
      if (alias !== undefined) return errorNumbers[alias];
    }
    if (at instanceof RangeError) return errorNumbers.EINVAL;
  }
  return errorNumbers.EIO;
}

/** The name of a number from the wire; an unknown one counts as EINVAL. */
export function errorNameOf(value: number): NbdErrorName {
  for (const [name, number] of Object.entries(errorNumbers)) {
    if (number === value) return name as NbdErrorName;
  }
  return "EINVAL";
}
