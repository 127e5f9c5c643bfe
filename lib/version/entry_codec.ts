/**
 * One entry as bytes, in exactly one way: what manifests hash and packages carry.
 *
 * ```text
 * path     varint length, bytes
 * kind     u8: 1 file, 2 directory, 3 symlink, 4 char, 5 block, 6 fifo, 7 socket, 8 link
 * link:      target  varint length, bytes: the path of the group's first name.   Nothing follows.
 * others:    mode    varint, at most 07777; not there for symlinks (always 0777)
 *            uid, gid  varint, varint
 *            mtime   svarint seconds, u32le nanoseconds below 10^9
 *            xattrs  varint count, then per xattr: varint length, name, varint length, value; names ascend
 * file:      size    varint, then the 32 bytes of its sha256 unless the size is 0
 * symlink:   target  varint length, bytes
 * char, block: major, minor  varint, varint
 * ```
 *
 * Invariants: `decodeEntry` accepts only what `encodeEntry` writes (numbers in their shortest form, xattrs
 * strictly ascending, no field that the kind has no use for), so equal entries are equal bytes and back.
 * Both refuse an entry out of bounds, with a `FormatError` of the rules `entry.…`. Relations
 * between entries (order, parents, link targets) are the manifest's affair.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { ByteReader, type ByteWriter, svarintMax } from "../base/bytes.ts";
import { FormatError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import { pathSizeMax, pathToText, treePathFault } from "../base/path.ts";
import { emptyEntry, type Entry, type EntryKind, type EntryXattr } from "./entry.ts";
import { isOverlayXattr } from "./whiteout.ts";

/** Permission bits with setuid, setgid and sticky. */
export const modeMax = 0o7777;
/** The largest user or group id; 2^32 - 1 means "none" to the kernel. */
export const ownerMax = 0xffff_fffe;
/** Nanoseconds of a time are below a second. */
export const nanosMax = 999_999_999;
/** The most xattrs one entry may have. */
export const xattrCountMax = 1024;
/** The longest xattr name in bytes (XATTR_NAME_MAX). */
export const xattrNameSizeMax = 255;
/** The largest xattr value in bytes (XATTR_SIZE_MAX). */
export const xattrSizeMax = 65_536;
/** All xattr names and values of one entry together, in bytes. */
export const xattrTotalSizeMax = 1_048_576;
/** The longest text of a symlink in bytes (PATH_MAX). */
export const symlinkSizeMax = 4096;
/** The largest major device number Linux has (12 bits). */
export const deviceMajorMax = 0xfff;
/** The largest minor device number Linux has (20 bits). */
export const deviceMinorMax = 0xf_ffff;
/** The largest file in bytes. */
export const fileSizeMax: number = Number.MAX_SAFE_INTEGER;

/** Bytes of a sha256. */
export const digestSize = 32;
/** sha256 of nothing: the digest of every empty file. */
export const emptyDigest: Uint8Array<ArrayBuffer> = new Uint8Array(createHash("sha256").digest());

/** The kinds by their number in the encoding; index 0 is no kind. */
export const kindNames: readonly (EntryKind | null)[] = [
  null,
  "file",
  "directory",
  "symlink",
  "char",
  "block",
  "fifo",
  "socket",
  "link",
];

/** The numbers of the kinds in the encoding. */
export const kindNumbers: Readonly<Record<EntryKind, number>> = {
  file: 1,
  directory: 2,
  symlink: 3,
  char: 4,
  block: 5,
  fifo: 6,
  socket: 7,
  link: 8,
};

/** What is wrong with an entry, or null: the rule without its `entry.` and a sentence. */
export function entryFault(entry: Entry): { rule: string; message: string } | null {
  const fault = (rule: string, message: string): { rule: string; message: string } => ({ rule, message });
  const { kind, xattrs } = entry;
  const pathFault = treePathFault(entry.path);
  if (pathFault !== null) return fault("path", pathFault);
  if (kindNumbers[kind] === undefined) return fault("kind", `kind "${kind}" is unknown`);
  if (kind === "link") {
    const targetFault = entry.target === "" ? "the target is empty" : treePathFault(entry.target);
    if (targetFault !== null) return fault("target", targetFault);
    const unused = entry.mode !== 0 || entry.uid !== 0 || entry.gid !== 0 || entry.mtimeSeconds !== 0 ||
      entry.mtimeNanos !== 0 || xattrs.length !== 0;
    if (unused) return fault("unused", "a link has metadata of its own, which belongs to its target");
  }
  if (kind === "symlink") {
    if (entry.mode !== 0o777) return fault("mode", `a symlink has mode 0${entry.mode.toString(8)}, not 0777`);
    if (entry.target === "" || entry.target.length > symlinkSizeMax || entry.target.includes("\0")) {
      return fault("target", `a symlink's text is 1 to ${symlinkSizeMax} bytes without NUL`);
    }
  } else if (kind !== "link" && entry.target !== "") {
    return fault("unused", `a ${kind} has a target`);
  }
  if (!inRange(entry.mode, modeMax)) return fault("mode", `mode is ${entry.mode}, at most 07777 is allowed`);
  if (!inRange(entry.uid, ownerMax)) return fault("owner", `uid is ${entry.uid}`);
  if (!inRange(entry.gid, ownerMax)) return fault("owner", `gid is ${entry.gid}`);
  if (!inRange(Math.abs(entry.mtimeSeconds), svarintMax)) {
    return fault("mtime", `mtime is ${entry.mtimeSeconds} s, beyond 52 bits`);
  }
  if (!inRange(entry.mtimeNanos, nanosMax)) return fault("nanos", `nanoseconds are ${entry.mtimeNanos}`);
  if (kind === "file") {
    if (!inRange(entry.size, fileSizeMax)) return fault("size", `size is ${entry.size}`);
    if (entry.digest === null || entry.digest.length !== digestSize) {
      return fault("digest", `a file has a digest of ${digestSize} bytes`);
    }
    if (entry.size === 0 && !bytesEqual(entry.digest, emptyDigest)) {
      return fault("digest", "an empty file has the digest of something");
    }
  } else if (entry.size !== 0 || entry.digest !== null) {
    return fault("unused", `a ${kind} has a size or a digest`);
  }
  if (kind === "char" || kind === "block") {
    if (!inRange(entry.rdevMajor, deviceMajorMax) || !inRange(entry.rdevMinor, deviceMinorMax)) {
      return fault("rdev", `device is ${entry.rdevMajor}:${entry.rdevMinor}`);
    }
  } else if (entry.rdevMajor !== 0 || entry.rdevMinor !== 0) {
    return fault("unused", `a ${kind} has a device number`);
  }
  if (xattrs.length > xattrCountMax) {
    return fault("xattr.count", `${xattrs.length} xattrs, more than ${xattrCountMax}`);
  }
  let total = 0;
  let previous = "";
  for (const { name, value } of xattrs) {
    if (name === "" || name.length > xattrNameSizeMax || name.includes("\0")) {
      return fault("xattr.name", `an xattr name is 1 to ${xattrNameSizeMax} bytes without NUL`);
    }
    if (name <= previous) return fault("xattr.order", "xattr names do not ascend strictly");
    if (isOverlayXattr(name)) {
      return fault("xattr.overlay", `xattr "${pathToText(name)}" belongs to an overlay`);
    }
    if (value.length > xattrSizeMax) {
      return fault("xattr.size", `an xattr has ${value.length} bytes, more than ${xattrSizeMax}`);
    }
    total += name.length + value.length;
    if (total > xattrTotalSizeMax) {
      return fault("xattr.total", `xattrs have more than ${xattrTotalSizeMax} bytes`);
    }
    previous = name;
  }
  return null;
}

/**
 * Appends the canonical form of `entry`.
 *
 * @throws {FormatError} with offset -1 where the entry breaks a rule; nothing was written then.
 */
export function encodeEntry(writer: ByteWriter, entry: Entry): void {
  const fault = entryFault(entry);
  if (fault !== null) {
    throw new FormatError(
      `entry.${fault.rule}`,
      -1,
      `Cannot record "${pathToText(entry.path)}": ${fault.message}`,
    );
  }
  writer.path(entry.path);
  writer.u8(kindNumbers[entry.kind]);
  if (entry.kind === "link") {
    writer.path(entry.target);
    return;
  }
  if (entry.kind !== "symlink") writer.varint(entry.mode);
  writer.varint(entry.uid);
  writer.varint(entry.gid);
  writer.svarint(entry.mtimeSeconds);
  writer.u32le(entry.mtimeNanos);
  writer.varint(entry.xattrs.length);
  for (const { name, value } of entry.xattrs) {
    writer.path(name);
    writer.varint(value.length);
    writer.bytes(value);
  }
  switch (entry.kind) {
    case "file":
      writer.varint(entry.size);
      if (entry.size > 0 && entry.digest !== null) writer.bytes(entry.digest);
      break;
    case "symlink":
      writer.path(entry.target);
      break;
    case "char":
    case "block":
      writer.varint(entry.rdevMajor);
      writer.varint(entry.rdevMinor);
      break;
  }
}

/**
 * Reads one entry at the reader's offset, refusing everything that `encodeEntry` would not write.
 * Digest and xattr values are copies: the entry does not keep the input alive.
 *
 * @throws {FormatError} rules below the reader's own prefix (`truncated`, `varint`, `kind`, `mode`, …), for a reader
 * made by `entryReader` `entry.…`.
 */
export function decodeEntry(reader: ByteReader): Entry {
  const start = reader.offset;
  const path = reader.path(pathSizeMax);
  const pathFault = treePathFault(path);
  if (pathFault !== null) throw reader.fail("path", start, pathFault);
  const kindAt = reader.offset;
  const kindNumber = reader.u8();
  const kind = kindNames[kindNumber];
  if (kind === null || kind === undefined) throw reader.fail("kind", kindAt, `kind ${kindNumber} is unknown`);
  const entry = emptyEntry(path, kind);
  if (kind === "link") {
    const at = reader.offset;
    entry.target = reader.path(pathSizeMax);
    const targetFault = entry.target === "" ? "the target is empty" : treePathFault(entry.target);
    if (targetFault !== null) throw reader.fail("target", at, targetFault);
    return entry;
  }
  entry.mode = kind === "symlink" ? 0o777 : reader.varint(modeMax, "mode");
  entry.uid = reader.varint(ownerMax, "owner");
  entry.gid = reader.varint(ownerMax, "owner");
  entry.mtimeSeconds = reader.svarint();
  const nanosAt = reader.offset;
  entry.mtimeNanos = reader.u32le();
  if (entry.mtimeNanos > nanosMax) throw reader.fail("nanos", nanosAt, `nanoseconds are ${entry.mtimeNanos}`);
  entry.xattrs = decodeXattrs(reader);
  switch (kind) {
    case "file":
      entry.size = reader.varint(fileSizeMax, "size");
      entry.digest = entry.size === 0 ? emptyDigest.slice() : reader.bytes(digestSize).slice();
      break;
    case "symlink": {
      const at = reader.offset;
      entry.target = reader.path(symlinkSizeMax);
      if (entry.target === "" || entry.target.includes("\0")) {
        throw reader.fail("target", at, "a symlink's text is empty or has a NUL byte");
      }
      break;
    }
    case "char":
    case "block":
      entry.rdevMajor = reader.varint(deviceMajorMax, "rdev");
      entry.rdevMinor = reader.varint(deviceMinorMax, "rdev");
      break;
  }
  return entry;
}

/** A reader for entries whose rules begin with `entry.`. */
export function entryReader(
  bytes: Uint8Array<ArrayBuffer>,
  range: { start?: number; end?: number } = {},
): ByteReader {
  return new ByteReader(bytes, "entry", range);
}

function decodeXattrs(reader: ByteReader): EntryXattr[] {
  const count = reader.varint(xattrCountMax, "xattr.count");
  const xattrs: EntryXattr[] = [];
  let total = 0;
  let previous = "";
  for (let index = 0; index < count; index++) {
    const at = reader.offset;
    const name = reader.path(xattrNameSizeMax);
    if (name === "" || name.includes("\0")) {
      throw reader.fail("xattr.name", at, "an xattr name is empty or has NUL");
    }
    if (name <= previous) throw reader.fail("xattr.order", at, "xattr names do not ascend strictly");
    if (isOverlayXattr(name)) throw reader.fail("xattr.overlay", at, "an xattr belongs to an overlay");
    const size = reader.varint(xattrSizeMax, "xattr.size");
    total += name.length + size;
    if (total > xattrTotalSizeMax) {
      throw reader.fail("xattr.total", at, `xattrs have more than ${xattrTotalSizeMax} bytes`);
    }
    xattrs.push({ name, value: reader.bytes(size).slice() });
    previous = name;
  }
  return xattrs;
}

function inRange(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}
