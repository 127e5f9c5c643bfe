/**
 * Entries and their content as a pax tar, byte for byte ours and readable by GNU tar and libarchive.
 *
 * What goes where:
 * - ASCII names of up to 100 bytes are in the ustar header; all others in a pax `path` or `linkpath` record with their bytes
 *   as they are, after `hdrcharset=BINARY` where they are not UTF-8. The root is `./`, nothing else has the prefix.
 * - mtime has a pax record with nanoseconds unless it is whole, not negative and fits; so do large ids and sizes.
 * - xattrs are `SCHILY.xattr.NAME` records with the raw value, ACLs and capabilities too; `%` and `=` in the name are
 *   `%25` and `%3D`, as GNU tar has it. Restoring them with GNU tar takes `--xattrs --xattrs-include='*'`.
 * - Files with holes use GNU sparse format 1.0. Hard links name the group's first path, which comes before them.
 * - Sockets have no form in a tar: they are left out, with a warning.
 *
 * Whiteouts: a *delta* archive holds changes and spells a deleted `d/x` as an empty file `d/.wh.x` (OCI). A real
 * file of such a name would be taken for a deletion, so a delta refuses it; a *full* archive has no whiteouts, so there it
 * is an ordinary name. What an archive is stands in the comment of its first, global pax header (`drover full`,
 * `drover delta FROM TO`), which every reader skips; `parseTarComment` reads it. An archive without it is from
 * somebody else: the importer is told, or takes it as full.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { type BytePath, joinPath, nameOf, parentOf, pathToBytes, pathToText } from "../base/path.ts";
import { emptyEntry, type Entry } from "./entry.ts";
import { isVersionId } from "./history.ts";
import { whiteoutNameOf, whiteoutNamePrefix } from "./whiteout.ts";

/** Everything in a tar comes in blocks of this many bytes. */
export const tarBlockSize = 512;

/** What an archive is for. */
export type TarPurpose = { readonly is: "full" } | {
  readonly is: "delta";
  readonly from: string;
  readonly to: string;
};

/** A range of a sparse file that has data. */
export interface TarRange {
  /** Where it begins in the file. */
  offset: number;
  /** Bytes of data. */
  size: number;
}

/** The content of a file: for a sparse one what is in its ranges, one after the other. */
export type TarContent = AsyncIterable<Uint8Array<ArrayBuffer>> | Iterable<Uint8Array<ArrayBuffer>>;

/** An entry of an archive, for files with their content. */
export interface TarEntryItem {
  /** The metadata. */
  readonly entry: Entry;
  /** Called when its turn comes; needed for files that are not empty. */
  readonly content?: () => TarContent;
  /** Where a sparse file has data: ascending, not touching the end of another, within its size. */
  readonly ranges?: readonly TarRange[];
}

/** What an archive is made of: entries, and in a delta deleted paths. */
export type TarItem = TarEntryItem | { readonly deleted: BytePath };

/** Called for what an archive cannot say. */
export type TarWarning = (path: BytePath, message: string) => void;

/**
 * A whole archive.
 *
 * @param items in manifest order: parents and the first names of hard links before what needs them.
 * @throws {DroverError} "unsupported" for a `.wh.` name in a delta; "corrupt" where content does not have the entry's size.
 */
export async function* encodeTar(
  items: AsyncIterable<TarItem> | Iterable<TarItem>,
  options: { purpose: TarPurpose; onWarning: TarWarning },
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  const { purpose, onWarning } = options;
  yield encodeTarStart(purpose);
  for await (const item of items) {
    if ("deleted" in item) {
      if (purpose.is === "full") throw new TypeError("Cannot write a deletion to a full archive");
      yield encodeTarWhiteout(item.deleted);
      continue;
    }
    const { entry, content, ranges } = item;
    if (entry.kind === "socket") {
      onWarning(entry.path, "a socket cannot be in a tar and was left out");
      continue;
    }
    if (purpose.is === "delta") refuseWhiteoutName(entry.path);
    yield encodeTarHeader(entry, ranges);
    if (entry.kind !== "file") continue;
    const wanted = ranges === undefined ? entry.size : rangesSize(ranges);
    let size = 0;
    if (content !== undefined) {
      for await (const chunk of content()) {
        size += chunk.length;
        if (size > wanted) break;
        yield chunk;
      }
    }
    if (size !== wanted) {
      throw new DroverError(
        "corrupt",
        `Cannot export "${pathToText(entry.path)}": it has ${size > wanted ? "more than" : "only"} ` +
          `${Math.min(size, wanted)} bytes of content, not ${wanted}`,
      );
    }
    const padding = tarPadding(wanted);
    if (padding.length > 0) yield padding;
  }
  yield encodeTarEnd();
}

/** The first bytes of an archive: a global header whose comment says what it is. */
export function encodeTarStart(purpose: TarPurpose): Uint8Array<ArrayBuffer> {
  const comment = purpose.is === "full" ? "drover full" : `drover delta ${purpose.from} ${purpose.to}`;
  const body = new PaxRecords();
  body.text("comment", comment);
  return paxBlock("g", "pax_global_header", body);
}

/** What `encodeTarStart` wrote, or null for any other comment. */
export function parseTarComment(comment: string): TarPurpose | null {
  if (comment === "drover full") return { is: "full" };
  const [drover, delta, from, to, ...rest] = comment.split(" ");
  if (drover !== "drover" || delta !== "delta" || rest.length > 0 || !isVersionId(from) || !isVersionId(to)) {
    return null;
  }
  return { is: "delta", from, to };
}

/**
 * The headers of one entry, with the sparse map where it has one; the content and `tarPadding` follow.
 *
 * @throws {TypeError} for a socket, and for ranges that are none.
 */
export function encodeTarHeader(entry: Entry, ranges?: readonly TarRange[]): Uint8Array<ArrayBuffer> {
  const type = typeFlags[entry.kind];
  if (type === undefined) throw new TypeError(`Cannot write a ${entry.kind} to a tar`);
  const pax = new PaxRecords();
  const name = entry.path === "" ? "./" : entry.kind === "directory" ? entry.path + "/" : entry.path;
  const target = entry.kind === "link" || entry.kind === "symlink" ? entry.target : "";
  const sparse = ranges !== undefined && entry.kind === "file" ? sparseMap(ranges, entry.size) : null;
  const size = sparse === null ? entry.size : sparse.length + rangesSize(ranges ?? []);

  const plainName = isPlain(name);
  const plainTarget = isPlain(target);
  if ((!plainName && !isUtf8(name)) || (!plainTarget && !isUtf8(target))) pax.text("hdrcharset", "BINARY");
  let shortName: string = name;
  if (sparse !== null) {
    pax.text("GNU.sparse.major", "1");
    pax.text("GNU.sparse.minor", "0");
    pax.text("GNU.sparse.name", name);
    pax.text("GNU.sparse.realsize", String(entry.size));
    shortName = joinPath(parentOf(entry.path), "GNUSparseFile.0/" + nameOf(entry.path) as BytePath);
    if (!isPlain(shortName)) pax.text("path", shortName);
  } else if (!plainName) {
    pax.text("path", name);
  }
  if (!plainTarget) pax.text("linkpath", target);
  if (size > octalMax(11)) pax.text("size", String(size));
  if (entry.uid > octalMax(7)) pax.text("uid", String(entry.uid));
  if (entry.gid > octalMax(7)) pax.text("gid", String(entry.gid));
  const plainTime = entry.mtimeNanos === 0 && entry.mtimeSeconds >= 0 && entry.mtimeSeconds <= octalMax(11);
  if (!plainTime) pax.text("mtime", formatTarTime(entry.mtimeSeconds, entry.mtimeNanos));
  for (const { name, value } of entry.xattrs) {
    pax.bytes("SCHILY.xattr." + name.replaceAll("%", "%25").replaceAll("=", "%3D"), value);
  }
  const header = ustarHeader({
    name: shortName,
    type,
    target,
    mode: entry.mode,
    uid: Math.min(entry.uid, octalMax(7)),
    gid: Math.min(entry.gid, octalMax(7)),
    size: Math.min(size, octalMax(11)),
    mtime: Math.max(0, Math.min(entry.mtimeSeconds, octalMax(11))),
    major: entry.rdevMajor,
    minor: entry.rdevMinor,
  });
  const parts = [header, sparse ?? new Uint8Array(0)];
  if (pax.size > 0) parts.unshift(paxBlock("x", "PaxHeaders/" + shortName, pax));
  return concatenate(parts);
}

/** The header of an empty `.wh.` file that deletes `path` in a delta archive. */
export function encodeTarWhiteout(path: BytePath): Uint8Array<ArrayBuffer> {
  if (path === "") throw new TypeError("Cannot delete the root of a tree");
  refuseWhiteoutName(path);
  return encodeTarHeader(emptyEntry(joinPath(parentOf(path), whiteoutNameOf(nameOf(path))), "file"));
}

/** Zero bytes that fill the last block of `size` bytes of content. */
export function tarPadding(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array((tarBlockSize - size % tarBlockSize) % tarBlockSize);
}

/** The end of an archive: two blocks of zeros. */
export function encodeTarEnd(): Uint8Array<ArrayBuffer> {
  return new Uint8Array(2 * tarBlockSize);
}

/** Seconds and nanoseconds as pax has them: a decimal fraction, for a time before 1970 of the negative number. */
export function formatTarTime(seconds: number, nanos: number): string {
  const fraction = (value: number): string => {
    const digits = String(value).padStart(9, "0").replace(/0+$/, "");
    return digits === "" ? "" : "." + digits;
  };
  if (seconds >= 0) return String(seconds) + fraction(nanos);
  return nanos === 0 ? String(seconds) : "-" + String(-seconds - 1) + fraction(1_000_000_000 - nanos);
}

const typeFlags: Readonly<Partial<Record<Entry["kind"], string>>> = {
  file: "0",
  link: "1",
  symlink: "2",
  char: "3",
  block: "4",
  directory: "5",
  fifo: "6",
};

function refuseWhiteoutName(path: BytePath): void {
  if (!path.split("/").some((name) => name.startsWith(whiteoutNamePrefix))) return;
  throw new DroverError(
    "unsupported",
    `Cannot export "${
      pathToText(path)
    }" in a delta: a name that begins with ".wh." would be read as a deletion`,
    { hint: "export the whole tree, without --from" },
  );
}

function sparseMap(ranges: readonly TarRange[], size: number): Uint8Array<ArrayBuffer> {
  let end = 0;
  for (const [index, range] of ranges.entries()) {
    const fits = Number.isSafeInteger(range.offset) && Number.isSafeInteger(range.size) && range.size > 0 &&
      (index === 0 ? range.offset >= 0 : range.offset > end) && range.offset + range.size <= size;
    if (!fits) {
      throw new TypeError(
        `Cannot write range ${range.offset}+${range.size} of a sparse file of ${size} bytes`,
      );
    }
    end = range.offset + range.size;
  }
  // GNU tar marks a hole at the end by an empty range there, and so must everybody for it.
  const all = end < size ? [...ranges, { offset: size, size: 0 }] : ranges;
  const lines = [String(all.length), ...all.flatMap((range) => [String(range.offset), String(range.size)])];
  const text = pathToBytes(lines.join("\n") + "\n" as BytePath);
  return concatenate([text, tarPadding(text.length)]);
}

function rangesSize(ranges: readonly TarRange[]): number {
  return ranges.reduce((sum, range) => sum + range.size, 0);
}

/** Collects the `LENGTH KEY=VALUE\n` records of a pax header. */
class PaxRecords {
  readonly #parts: Uint8Array<ArrayBuffer>[] = [];
  size = 0;

  /** A value of one byte per character. */
  text(key: string, value: string): void {
    this.bytes(key, pathToBytes(value as BytePath));
  }

  bytes(key: string, value: Uint8Array<ArrayBuffer>): void {
    const rest = 1 + key.length + 1 + value.length + 1;
    // The length counts its own digits.
    let total = rest + String(rest).length;
    total = rest + String(total).length;
    this.#add(pathToBytes(`${total} ${key}=` as BytePath));
    this.#add(value);
    this.#add(new Uint8Array([0x0a]));
  }

  finish(): Uint8Array<ArrayBuffer> {
    return concatenate(this.#parts);
  }

  #add(part: Uint8Array<ArrayBuffer>): void {
    this.#parts.push(part);
    this.size += part.length;
  }
}

function paxBlock(type: "x" | "g", name: string, records: PaxRecords): Uint8Array<ArrayBuffer> {
  const header = ustarHeader({
    name,
    type,
    target: "",
    mode: 0o644,
    uid: 0,
    gid: 0,
    size: records.size,
    mtime: 0,
    major: 0,
    minor: 0,
  });
  return concatenate([header, records.finish(), tarPadding(records.size)]);
}

interface UstarFields {
  /** Cut to what fits; where it does not, a pax record has it. */
  name: string;
  type: string;
  target: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  major: number;
  minor: number;
}

/**
 * ```text
 *   0 name 100   100 mode 8   108 uid 8    116 gid 8     124 size 12   136 mtime 12  148 checksum 8
 * 156 type 1     157 link 100 257 magic 6  263 version 2 265 uname 32  297 gname 32
 * 329 major 8    337 minor 8  345 prefix 155
 * ```
 */
function ustarHeader(fields: UstarFields): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(tarBlockSize);
  const put = (at: number, text: string): void => {
    for (let index = 0; index < text.length; index++) block[at + index] = text.charCodeAt(index);
  };
  const octal = (at: number, digits: number, value: number): void =>
    put(at, value.toString(8).padStart(digits, "0"));
  put(0, fields.name.slice(0, 100));
  octal(100, 7, fields.mode);
  octal(108, 7, fields.uid);
  octal(116, 7, fields.gid);
  octal(124, 11, fields.size);
  octal(136, 11, fields.mtime);
  put(148, "        ");
  put(156, fields.type);
  put(157, fields.target.slice(0, 100));
  put(257, "ustar\0" + "00");
  octal(329, 7, fields.major);
  octal(337, 7, fields.minor);
  octal(148, 6, block.reduce((sum, byte) => sum + byte, 0));
  block[154] = 0;
  return block;
}

function octalMax(digits: number): number {
  return 8 ** digits - 1;
}

/** Whether a name can stand in the ustar header as it is. */
function isPlain(name: string): boolean {
  // deno-lint-ignore no-control-regex
  return name.length <= 100 && /^[\x01-\x7f]*$/.test(name);
}

function isUtf8(name: string): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(pathToBytes(name as BytePath));
    return true;
  } catch {
    return false;
  }
}

function concatenate(parts: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
