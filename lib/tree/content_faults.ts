/**
 * The two ways in which received or stored content can be wrong.
 *
 * @module
 */
import { pathToText } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { toHex } from "../base/hex.ts";
import type { Entry } from "../version/entry.ts";

export function wrongContent(entry: Entry, digest: Uint8Array): DroverError {
  return new DroverError(
    "corrupt",
    `Cannot accept "${pathToText(entry.path)}": its content has sha256 ${
      toHex(digest).slice(0, 12)
    }…, the manifest says ${
      entry.digest === null ? "nothing" : toHex(entry.digest).slice(0, 12)
    }… (rule package.file.digest)`,
  );
}

export function shortBase(entry: Entry): DroverError {
  return new DroverError(
    "corrupt",
    `Cannot build from "${pathToText(entry.path)}": its content is not in the store`,
  );
}
