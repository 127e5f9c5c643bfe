/**
 * Paths as the kernel sees them: bytes, not text.
 *
 * A `BytePath` is a string that holds one byte per character (0x01 to 0xff). That keeps names that
 * are not UTF-8 intact, compares in byte order with `<`, works as a Map key, and costs one table-free
 * loop at the FFI border. Paths inside a tree are relative, have no empty, `.` or `..` component, and
 * never end in a slash; the root itself is the empty path.
 *
 * @module
 */

/** A path or file name as bytes, one per character. The property exists for the type checker only. */
export type BytePath = string & { readonly __bytes: true };

/** The longest path that may stand in a manifest or package, in bytes. */
export const pathSizeMax = 32_768;

/** The longest single name a Linux file system takes, in bytes. */
export const nameSizeMax = 255;

/** The root of a tree. */
export const rootPath: BytePath = "" as BytePath;

/** Bytes to path; the caller checks the components where they come from outside (`checkTreePath`). */
export function pathFromBytes(bytes: Uint8Array): BytePath {
  let path = "";
  for (let at = 0; at < bytes.length; at += 4096) {
    // `apply` takes the typed array as it is, several times faster than spreading it.
    path += String.fromCharCode.apply(null, bytes.subarray(at, at + 4096) as unknown as number[]);
  }
  return path as BytePath;
}

/** Path to bytes, without a terminating zero. */
export function pathToBytes(path: BytePath): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(path.length);
  for (let at = 0; at < path.length; at++) bytes[at] = path.charCodeAt(at);
  return bytes;
}

/** Text, as a user types it, to the bytes of its UTF-8 form. */
export function pathFromText(text: string): BytePath {
  // deno-lint-ignore no-control-regex
  return (/^[\x00-\x7f]*$/.test(text) ? text : pathFromBytes(new TextEncoder().encode(text))) as BytePath;
}

/**
 * Path to what a person reads: UTF-8 where it is UTF-8; bytes that are not, control characters and
 * backslashes as `\xNN` (`\\` for the backslash), so that the text is unambiguous and safe to print.
 */
export function pathToText(path: BytePath): string {
  if (/^[\x20-\x5b\x5d-\x7e]*$/.test(path)) return path;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(pathToBytes(path));
  } catch {
    text = path.replace(/[\x80-\xff]/g, (c) => "\u0000" + c);
    return text.replace(/\\/g, "\\\\").replace(
      // deno-lint-ignore no-control-regex
      /\u0000([\x80-\xff])|[\x00-\x1f\x7f]/g,
      (c, high?: string) => hexEscape(high ?? c),
    );
  }
  // deno-lint-ignore no-control-regex
  return text.replace(/\\/g, "\\\\").replace(/[\x00-\x1f\x7f-\x9f]/g, hexEscape);
}

function hexEscape(character: string): string {
  return "\\x" + character.charCodeAt(0).toString(16).padStart(2, "0");
}

/** `parent/name`, or just `name` below the root. */
export function joinPath(parent: BytePath, name: BytePath): BytePath {
  return (parent === "" ? name : parent + "/" + name) as BytePath;
}

/** Everything before the last slash; the root for a top-level name. */
export function parentOf(path: BytePath): BytePath {
  const slash = path.lastIndexOf("/");
  return (slash < 0 ? "" : path.slice(0, slash)) as BytePath;
}

/** The last component. */
export function nameOf(path: BytePath): BytePath {
  return path.slice(path.lastIndexOf("/") + 1) as BytePath;
}

/** Whether `path` lies below the directory `parent` (at any depth, not the directory itself). */
export function isBelow(path: BytePath, parent: BytePath): boolean {
  return parent === "" ? path !== "" : path.length > parent.length && path.startsWith(parent) &&
    path[parent.length] === "/";
}

const slash = 0x2f;
const dot = 0x2e;

/**
 * What is wrong with a path that came from outside, or null: it must be relative, without empty, `.`
 * or `..` components and NUL bytes, and within the length bounds.
 */
export function treePathFault(path: BytePath): string | null {
  if (path.length > pathSizeMax) return `path is ${path.length} bytes, more than ${pathSizeMax}`;
  if (path === "") return null;
  // By hand rather than by split(): every entry of every manifest comes by here.
  let start = 0;
  let nul = false;
  for (let at = 0; at <= path.length; at++) {
    const code = at === path.length ? slash : path.charCodeAt(at);
    if (code === 0) nul = true;
    if (code !== slash) continue;
    const size = at - start;
    if (size === 0) return path.startsWith("/") ? "path is absolute" : "path has an empty component";
    if (size <= 2 && path.charCodeAt(start) === dot && (size === 1 || path.charCodeAt(start + 1) === dot)) {
      return `path has a "${path.slice(start, at)}" component`;
    }
    if (size > nameSizeMax) return `path has a name of ${size} bytes, more than ${nameSizeMax}`;
    if (nul) return "path has a NUL byte";
    start = at + 1;
  }
  return null;
}
