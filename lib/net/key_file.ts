/**
 * Key files: text with comment lines (`#`) and one line `drover-key-1 ` and 32 bytes as base64url.
 *
 * Invariants: a file that anybody but its owner may touch is refused; a key has one spelling; no message
 * holds the secret; an existing file is never overwritten.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { ClusterKey, secretSize } from "./key.ts";

const keyFileSizeMax = 4096;
const keyLabel = "drover-key-1";

/**
 * Reads a key file.
 *
 * @throws {DroverError} code `auth` when it is missing, readable by others, or not a key.
 */
export async function readKey(path: string): Promise<ClusterKey> {
  let text: string;
  try {
    using file = await Deno.open(path, { read: true });
    const info = await file.stat();
    if (!info.isFile || info.size > keyFileSizeMax) {
      throw new DroverError("auth", `Cannot read the key "${path}": it is not a key file`);
    }
    if (info.mode === null || (info.mode & 0o077) !== 0) {
      throw new DroverError(
        "auth",
        `Cannot use the key "${path}": its mode is ${
          ((info.mode ?? 0) & 0o7777).toString(8)
        } and only its owner should have access`,
        { hint: `chmod 600 ${path}` },
      );
    }
    const bytes = new Uint8Array(keyFileSizeMax + 1);
    let size = 0;
    for (let read: number | null; (read = await file.read(bytes.subarray(size))) !== null && read > 0;) {
      size += read;
    }
    if (size > keyFileSizeMax) {
      throw new DroverError("auth", `Cannot read the key "${path}": it is not a key file`);
    }
    text = new TextDecoder().decode(bytes.subarray(0, size));
  } catch (error) {
    if (error instanceof DroverError) throw error;
    throw new DroverError("auth", `Cannot read the key "${path}"`, {
      cause: error,
      ...(error instanceof Deno.errors.NotFound ? { hint: `drover key new ${path}` } : {}),
    });
  }
  const secret = parseKeyText(text);
  if (secret === null) {
    throw new DroverError(
      "auth",
      `Cannot read the key "${path}": it should have one line "${keyLabel}" with 32 bytes as base64url`,
      { hint: "make one with drover key new FILE" },
    );
  }
  return new ClusterKey(secret);
}

/**
 * Makes a new key and its file, mode 0600.
 *
 * @throws {DroverError} code `exists` when there is a file already: a key is never overwritten.
 */
export async function createKey(path: string): Promise<ClusterKey> {
  const secret = crypto.getRandomValues(new Uint8Array(secretSize));
  const text = "# The secret of a drover cluster: who has it may read and change every tree of its nodes.\n" +
    `${keyLabel} ${toBase64url(secret)}\n`;
  try {
    using file = await Deno.open(path, { write: true, createNew: true, mode: 0o600 });
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    await file.sync();
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) {
      throw new DroverError("exists", `Cannot create the key "${path}": the file is there already`, {
        cause: error,
      });
    }
    throw error;
  }
  return new ClusterKey(secret);
}

/** The secret in the text of a key file, or null; each key has exactly one spelling. */
function parseKeyText(text: string): Uint8Array | null {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) =>
    line !== "" && !line.startsWith("#")
  );
  const [line] = lines;
  if (lines.length !== 1 || line === undefined) return null;
  const match = /^drover-key-1 ([A-Za-z0-9_-]{43})$/.exec(line);
  if (match?.[1] === undefined) return null;
  const secret = Uint8Array.from(
    atob(match[1].replaceAll("-", "+").replaceAll("_", "/")),
    (c) => c.charCodeAt(0),
  );
  return secret.length === secretSize && toBase64url(secret) === match[1] ? secret : null;
}

function toBase64url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
