/**
 * Reads tars from anybody, in chunks as they come: pax, GNU (long names, base-256 numbers, old sparse files), ustar, v7.
 *
 * `TarReader.push(chunk)` gives what became complete. Memory is bounded by the constants below; every size is checked
 * before anything is set aside for it. An archive must end in a block of zeros and nothing but zeros may follow,
 * so a cut archive is never taken for a whole one: call `finish()`.
 *
 * Paths are made relative and plain (`./a//b/` is `a/b`); absolute ones and such with `..` are refused, for hard-link
 * targets too. Symlink texts are left as they are. What a name *means* (`.wh.`) is for whiteout.ts and the
 * importer to say; `comment` has the archive's own word (see `parseTarComment`).
 *
 * Not read: multi-volume and incremental archives of GNU tar, Solaris extended headers, ACLs in star's text form
 * (`tar --acls`; a warning tells), SELinux labels of `tar --selinux`. Overlay xattrs are dropped, with a warning.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { type BytePath, pathFromBytes, pathSizeMax, pathToText, treePathFault } from "../base/path.ts";
import type { Entry, EntryKind, EntryXattr } from "./entry.ts";
import {
  digestSize,
  emptyDigest,
  entryFault,
  fileSizeMax,
  xattrCountMax,
  xattrNameSizeMax,
  xattrSizeMax,
} from "./entry_codec.ts";
import { tarBlockSize, type TarRange, type TarWarning } from "./tar.ts";
import { isOverlayXattr } from "./whiteout.ts";

/** The largest pax header in bytes: the xattrs of one entry, and then some. */
export const paxSizeMax = 2_097_152;
/** The most data ranges of one sparse file. */
export const sparseCountMax = 1_048_576;

/**
 * An entry as a tar has it: the digest is not known before the content was read. `target` of a link is the path of an
 * earlier member, which need not be the smallest name of its group nor a file (GNU tar links symlinks, too).
 */
export type TarEntry = Omit<Entry, "digest">;

/** What `push` gives. */
export type TarEvent =
  /** A member; `sparse` tells that holes are left out of its data. */
  | { readonly is: "entry"; readonly entry: TarEntry; readonly sparse: boolean }
  /** Content of the file of the last `entry`; a view that is valid until the next `push`. */
  | { readonly is: "data"; readonly offset: number; readonly bytes: Uint8Array<ArrayBuffer> }
  /** The content of the last `entry` is complete; for files only. */
  | { readonly is: "end" };

/** A push parser of one archive. */
export class TarReader {
  readonly #onWarning: TarWarning;
  readonly #machine: Generator<Want, void, Uint8Array<ArrayBuffer>>;
  readonly #globals = new Map<string, Uint8Array<ArrayBuffer>>();
  #events: TarEvent[] = [];
  #comment: string | null = null;
  #want: Want | null;
  /** What came of an exact want that one chunk did not satisfy. */
  #partial: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #partialSize = 0;
  /** Bytes of the archive that the machine has taken. */
  #offset = 0;
  #ended = false;
  #failed = false;

  /** A reader at the start of an archive. @param options `onWarning` is told of what is not taken over. */
  constructor(options: { onWarning: TarWarning }) {
    this.#onWarning = options.onWarning;
    this.#machine = this.#run();
    this.#want = this.#next(new Uint8Array(0));
  }

  /** The comment of the archive's global pax header, or null. */
  get comment(): string | null {
    return this.#comment;
  }

  /**
   * Takes the next bytes of the archive.
   *
   * @throws {FormatError} rules `tar.…` with the offset of the member in the archive. The reader is of no use then.
   */
  push(chunk: Uint8Array<ArrayBuffer>): TarEvent[] {
    if (this.#failed) throw new TypeError("Cannot go on reading a tar after an error");
    this.#failed = true;
    this.#events = [];
    let at = 0;
    while (at < chunk.length && this.#want !== null) {
      const { size, exact } = this.#want;
      const left = chunk.length - at;
      if (!exact) {
        const taken = chunk.subarray(at, at + Math.min(size, left));
        at += taken.length;
        this.#want = this.#next(taken);
      } else if (this.#partialSize === 0 && left >= size) {
        at += size;
        this.#want = this.#next(chunk.subarray(at - size, at));
      } else {
        if (this.#partialSize === 0) this.#partial = new Uint8Array(size);
        const taken = chunk.subarray(at, at + Math.min(size - this.#partialSize, left));
        this.#partial.set(taken, this.#partialSize);
        this.#partialSize += taken.length;
        at += taken.length;
        if (this.#partialSize === size) {
          this.#partialSize = 0;
          this.#want = this.#next(this.#partial);
        }
      }
    }
    this.#failed = false;
    return this.#events;
  }

  /** Says that the archive has no more bytes. @throws {FormatError} `tar.truncated` where it was not at its end. */
  finish(): void {
    if (this.#ended && this.#partialSize === 0) return;
    throw this.#fault("truncated", this.#offset, "the archive ends before its end mark");
  }

  #next(bytes: Uint8Array<ArrayBuffer>): Want | null {
    this.#offset += bytes.length;
    const { done, value } = this.#machine.next(bytes);
    return done === true ? null : value;
  }

  /** The whole grammar: yields what it wants next and is given it. */
  *#run(): Generator<Want, void, Uint8Array<ArrayBuffer>> {
    /** What headers said about the member that follows them. */
    let extra: Extra = { records: [], name: null, target: null };
    let pending = false;
    for (;;) {
      const start = this.#offset;
      const block = yield block512;
      if (block.every((byte) => byte === 0)) {
        if (pending) {
          throw this.#fault("truncated", start, "the archive ends after the extended header of a member");
        }
        break;
      }
      const header = this.#header(block, start);
      const { type, size } = header;
      if (!"xgLK".includes(type)) {
        yield* this.#member(header, block, extra, start);
        extra = { records: [], name: null, target: null };
        pending = false;
        continue;
      }
      const sizeMax = type === "x" || type === "g" ? paxSizeMax : pathSizeMax + 1;
      if (size > sizeMax) {
        throw this.#fault("size", start, `a header of type ${type} has ${size} bytes, more than ${sizeMax}`);
      }
      const body = size === 0
        ? new Uint8Array(0)
        : (yield { size: padded(size), exact: true }).subarray(0, size);
      if (type === "x") extra.records = this.#paxRecords(body, start);
      else if (type === "g") this.#setGlobals(this.#paxRecords(body, start), start);
      else if (type === "L") extra.name = untilZero(body);
      else extra.target = untilZero(body);
      pending ||= type !== "g";
    }
    this.#ended = true;
    for (;;) {
      const at = this.#offset;
      const rest = yield { size: 65_536, exact: false };
      if (rest.some((byte) => byte !== 0)) {
        throw this.#fault("trailing", at, "there is something after the end mark");
      }
    }
  }

  *#member(
    header: Header,
    block: Uint8Array<ArrayBuffer>,
    extra: Extra,
    start: number,
  ): Generator<Want, void, Uint8Array<ArrayBuffer>> {
    const pax = this.#paxFields(extra.records, start);
    if (header.type === "V") {
      yield* this.#skip(padded(header.size));
      return;
    }
    const rawName = pax.sparseName ?? pax.path ?? extra.name ?? header.name;
    let kind = kinds[header.type];
    if (kind === undefined) {
      throw this.#fault(
        "type",
        start,
        `a member has the type "${pathToText(header.type as BytePath)}", which is not read`,
      );
    }
    // Before POSIX a directory was a file whose name ends in a slash.
    if (kind === "file" && rawName.endsWith("/")) kind = "directory";
    const path = this.#path(rawName, start);
    let bodySize = pax.size ?? header.size;
    if (kind !== "file" && bodySize !== 0) {
      throw this.#fault(
        "size",
        start,
        `"${pathToText(path)}" is a ${kind} and has ${bodySize} bytes of content`,
      );
    }
    if (bodySize > fileSizeMax) {
      throw this.#fault("size", start, `"${pathToText(path)}" has ${bodySize} bytes`);
    }
    let size = bodySize;
    let ranges: TarRange[] | null = null;
    if (header.type === "S") {
      ({ ranges, size } = yield* this.#oldSparse(block, start));
    } else if (kind === "file" && pax.sparseMajor === 1) {
      if (pax.sparseMinor !== 0 || pax.sparseSize === null) {
        throw this.#fault("sparse", start, "the sparse format is not 1.0");
      }
      const map = yield* this.#sparseMap(bodySize, start);
      ranges = map.ranges;
      bodySize -= map.size;
      size = pax.sparseSize;
    } else if (kind === "file" && pax.sparseRanges !== null) {
      if (pax.sparseSize === null) throw this.#fault("sparse", start, "the size of a sparse file is missing");
      ranges = pax.sparseRanges;
      size = pax.sparseSize;
    }
    if (ranges !== null) this.#checkRanges(ranges, size, bodySize, start);

    const entry: TarEntry = {
      path,
      kind,
      mode: kind === "symlink" ? 0o777 : header.mode,
      uid: pax.uid ?? header.uid,
      gid: pax.gid ?? header.gid,
      mtimeSeconds: pax.mtime?.seconds ?? header.mtime,
      mtimeNanos: pax.mtime?.nanos ?? 0,
      size: kind === "file" ? size : 0,
      target: "" as BytePath,
      rdevMajor: kind === "char" || kind === "block" ? header.major : 0,
      rdevMinor: kind === "char" || kind === "block" ? header.minor : 0,
      xattrs: this.#xattrs(path, pax.xattrs, start),
    };
    const target = pax.linkpath ?? extra.target ?? header.target;
    if (kind === "symlink") entry.target = target;
    if (kind === "link") {
      Object.assign(entry, { mode: 0, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanos: 0, xattrs: [] });
      entry.target = this.#path(target, start);
    }
    if (path === "" && kind !== "directory") {
      throw this.#fault("path", start, "the root of the archive is not a directory");
    }
    const digest = kind !== "file" ? null : entry.size === 0 ? emptyDigest : new Uint8Array(digestSize);
    const fault = entryFault({ ...entry, digest });
    if (fault !== null) throw this.#fault(fault.rule, start, `"${pathToText(path)}": ${fault.message}`);
    if (pax.acl) this.#onWarning(path, "an ACL in text form was left out");
    this.#events.push({ is: "entry", entry, sparse: ranges !== null });
    if (kind !== "file") return;
    for (const range of ranges ?? [{ offset: 0, size: bodySize }]) {
      for (let done = 0; done < range.size;) {
        const bytes = yield { size: range.size - done, exact: false };
        this.#events.push({ is: "data", offset: range.offset + done, bytes });
        done += bytes.length;
      }
    }
    this.#events.push({ is: "end" });
    yield* this.#skip(padded(bodySize) - bodySize);
  }

  *#skip(size: number): Generator<Want, void, Uint8Array<ArrayBuffer>> {
    while (size > 0) size -= (yield { size, exact: false }).length;
  }

  #header(block: Uint8Array<ArrayBuffer>, start: number): Header {
    let unsigned = 0;
    let signed = 0;
    for (let at = 0; at < tarBlockSize; at++) {
      const byte = at >= 148 && at < 156 ? 0x20 : block[at] ?? 0;
      unsigned += byte;
      signed += byte << 24 >> 24; // Some old tars summed signed characters.
    }
    const number = (at: number, size: number): number => this.#number(block.subarray(at, at + size), start);
    const checksum = number(148, 8);
    if (checksum !== unsigned && checksum !== signed) {
      throw this.#fault("checksum", start, `a header has the checksum ${checksum}, not ${unsigned}`);
    }
    const text = (at: number, size: number): BytePath => untilZero(block.subarray(at, at + size));
    const magic = pathFromBytes(block.subarray(257, 263));
    const ustar = magic === "ustar\0";
    if (!ustar && magic !== "ustar " && magic !== "\0\0\0\0\0\0") {
      throw this.#fault("magic", start, "a header has no known magic");
    }
    const prefixSize = pathFromBytes(block.subarray(508, 512)) === "tar\0" ? 131 : 155;
    const prefix = ustar ? text(345, prefixSize) : "";
    const name = text(0, 100);
    const type = pathFromBytes(block.subarray(156, 157));
    const hasDevice = type === "3" || type === "4";
    const header: Header = {
      name: (prefix === "" ? name : prefix + "/" + name) as BytePath,
      mode: number(100, 8) & 0o7777,
      uid: number(108, 8),
      gid: number(116, 8),
      size: number(124, 12),
      mtime: number(136, 12),
      type: type === "\0" || type === "7" ? "0" : type,
      target: text(157, 100),
      major: hasDevice ? number(329, 8) : 0,
      minor: hasDevice ? number(337, 8) : 0,
    };
    if (header.size < 0) throw this.#fault("size", start, `a member has the size ${header.size}`);
    return header;
  }

  /** Octal digits between spaces and zero bytes, or (first bit set) two's complement in base 256. */
  #number(field: Uint8Array<ArrayBuffer>, start: number): number {
    const first = field[0] ?? 0;
    if (first === 0x80 || first === 0xff) {
      let value = first === 0xff ? -1 : 0;
      for (const byte of field.subarray(1)) value = value * 256 + byte;
      if (!Number.isSafeInteger(value)) {
        throw this.#fault("number", start, "a number in base 256 has more than 53 bits");
      }
      return value;
    }
    const text = pathFromBytes(field);
    const digits = /^ *([0-7]*)(?:[ \0]|$)/.exec(text)?.[1];
    if (digits === undefined) {
      throw this.#fault("number", start, `"${pathToText(text)}" is not an octal number`);
    }
    return digits === "" ? 0 : parseInt(digits, 8);
  }

  #paxRecords(body: Uint8Array<ArrayBuffer>, start: number): PaxRecord[] {
    const records: PaxRecord[] = [];
    const fail = (message: string): FormatError => this.#fault("pax", start, message);
    for (let at = 0; at < body.length;) {
      const space = body.indexOf(0x20, at);
      const digits = space < 0 || space - at > 8 ? "" : pathFromBytes(body.subarray(at, space));
      if (!/^[1-9][0-9]*$/.test(digits)) throw fail("a pax record does not begin with its length");
      const end = at + Number(digits);
      const equals = body.indexOf(0x3d, space);
      if (
        end > body.length || equals <= space + 1 || equals >= end - 1 && equals !== end - 2 ||
        body[end - 1] !== 0x0a
      ) {
        throw fail("a pax record is not KEY=VALUE of the length it says");
      }
      if (equals - space > 1024) throw fail("a pax record has a key of more than 1024 bytes");
      records.push({
        key: pathFromBytes(body.subarray(space + 1, equals)),
        value: body.slice(equals + 1, end - 1),
      });
      at = end;
    }
    return records;
  }

  #setGlobals(records: readonly PaxRecord[], start: number): void {
    for (const { key, value } of records) {
      if (key === "comment") this.#comment = pathFromBytes(value.subarray(0, 1024));
      else if (/^(path|linkpath|size|GNU\.sparse\..*)$/.test(key)) {
        throw this.#fault("pax", start, `a global header sets "${key}", which belongs to one member`);
      } else this.#globals.set(key, value);
    }
    let size = 0;
    for (const [key, value] of this.#globals) size += key.length + value.length;
    if (size > paxSizeMax) throw this.#fault("size", start, "the global headers are too large");
  }

  #paxFields(records: readonly PaxRecord[], start: number): PaxFields {
    const fields: PaxFields = {
      path: null,
      linkpath: null,
      size: null,
      uid: null,
      gid: null,
      mtime: null,
      xattrs: new Map(),
      acl: false,
      sparseMajor: null,
      sparseMinor: null,
      sparseName: null,
      sparseSize: null,
      sparseRanges: null,
    };
    const apply = (key: string, value: Uint8Array<ArrayBuffer>): void => {
      const text = (): BytePath => pathFromBytes(value);
      const number = (): number => this.#decimal(text(), start);
      const range = (): TarRange[] => fields.sparseRanges ??= [];
      if (key.startsWith("SCHILY.xattr.")) {
        const name = key.slice(13).replaceAll("%3D", "=").replaceAll("%25", "%");
        fields.xattrs.set(name as BytePath, value);
        return;
      }
      if (value.length > pathSizeMax && key !== "GNU.sparse.map") {
        if (knownKeys.has(key)) {
          throw this.#fault("pax", start, `the record "${key}" has ${value.length} bytes`);
        }
        return;
      }
      switch (key) {
        case "path":
          fields.path = text();
          break;
        case "linkpath":
          fields.linkpath = text();
          break;
        case "size":
          fields.size = number();
          break;
        case "uid":
          fields.uid = number();
          break;
        case "gid":
          fields.gid = number();
          break;
        case "mtime":
          fields.mtime = this.#time(text(), start);
          break;
        case "SCHILY.acl.access":
        case "SCHILY.acl.default":
          fields.acl = true;
          break;
        case "GNU.sparse.major":
          fields.sparseMajor = number();
          break;
        case "GNU.sparse.minor":
          fields.sparseMinor = number();
          break;
        case "GNU.sparse.name":
          fields.sparseName = text();
          break;
        case "GNU.sparse.size":
        case "GNU.sparse.realsize":
          fields.sparseSize = number();
          range();
          break;
        case "GNU.sparse.offset":
          if (range().length >= sparseCountMax) {
            throw this.#fault("sparse", start, "a sparse file has too many ranges");
          }
          range().push({ offset: number(), size: 0 });
          break;
        case "GNU.sparse.numbytes": {
          const last = range().at(-1);
          if (last === undefined) {
            throw this.#fault("sparse", start, "a sparse file has a size without an offset");
          }
          last.size = number();
          break;
        }
        case "GNU.sparse.map": {
          const numbers = value.length === 0 ? [] : text().split(",");
          if (numbers.length % 2 !== 0 || numbers.length > 2 * sparseCountMax) {
            throw this.#fault("sparse", start, "the map of a sparse file is not pairs of numbers");
          }
          for (let at = 0; at < numbers.length; at += 2) {
            range().push({
              offset: this.#decimal(numbers[at] ?? "", start),
              size: this.#decimal(numbers[at + 1] ?? "", start),
            });
          }
          break;
        }
      }
    };
    for (const [key, value] of this.#globals) apply(key, value);
    for (const { key, value } of records) apply(key, value);
    return fields;
  }

  #xattrs(
    path: BytePath,
    found: ReadonlyMap<BytePath, Uint8Array<ArrayBuffer>>,
    start: number,
  ): EntryXattr[] {
    const xattrs: EntryXattr[] = [];
    if (found.size > xattrCountMax) {
      throw this.#fault("xattr.count", start, `"${pathToText(path)}" has ${found.size} xattrs`);
    }
    for (const [name, value] of found) {
      if (name.length > xattrNameSizeMax || value.length > xattrSizeMax) {
        throw this.#fault("xattr.size", start, `"${pathToText(path)}" has too large an xattr`);
      }
      if (isOverlayXattr(name)) {
        this.#onWarning(path, `the overlay's own xattr "${pathToText(name)}" was left out`);
      } else xattrs.push({ name, value });
    }
    return xattrs.sort((left, right) => left.name < right.name ? -1 : 1);
  }

  *#oldSparse(
    block: Uint8Array<ArrayBuffer>,
    start: number,
  ): Generator<Want, { ranges: TarRange[]; size: number }, Uint8Array<ArrayBuffer>> {
    const ranges: TarRange[] = [];
    const take = (from: Uint8Array<ArrayBuffer>, at: number, count: number): void => {
      for (let index = 0; index < count; index++, at += 24) {
        if (from[at + 12] === 0) return; // An empty field ends the list.
        if (ranges.length >= sparseCountMax) {
          throw this.#fault("sparse", start, "a sparse file has too many ranges");
        }
        ranges.push({
          offset: this.#number(from.subarray(at, at + 12), start),
          size: this.#number(from.subarray(at + 12, at + 24), start),
        });
      }
    };
    take(block, 386, 4);
    const size = this.#number(block.subarray(483, 495), start);
    for (let more = block[482] !== 0; more;) {
      const extension = yield block512;
      take(extension, 0, 21);
      more = extension[504] !== 0;
    }
    return { ranges, size };
  }

  /** Format 1.0: decimal lines at the start of the body, filled up to a block. */
  *#sparseMap(
    bodySize: number,
    start: number,
  ): Generator<Want, { ranges: TarRange[]; size: number }, Uint8Array<ArrayBuffer>> {
    let size = 0;
    let line = "";
    const numbers: number[] = [];
    let wanted = 1;
    while (numbers.length < wanted) {
      if (size + tarBlockSize > padded(bodySize)) {
        throw this.#fault("sparse", start, "the map of a sparse file has no end");
      }
      const text = pathFromBytes(yield block512);
      size += tarBlockSize;
      for (const character of text) {
        if (character !== "\n") {
          line += character;
          if (line.length > 20) {
            throw this.#fault("sparse", start, "the map of a sparse file is not lines of numbers");
          }
          continue;
        }
        numbers.push(this.#decimal(line, start));
        line = "";
        if (numbers.length === 1) {
          const count = numbers[0] ?? 0;
          if (count > sparseCountMax) throw this.#fault("sparse", start, `a sparse file has ${count} ranges`);
          wanted = 1 + 2 * count;
        }
        if (numbers.length === wanted) break;
      }
    }
    if (size > bodySize) {
      throw this.#fault("sparse", start, "the map of a sparse file is longer than its body");
    }
    const ranges: TarRange[] = [];
    for (let at = 1; at < wanted; at += 2) {
      ranges.push({ offset: numbers[at] ?? 0, size: numbers[at + 1] ?? 0 });
    }
    return { ranges, size };
  }

  #checkRanges(ranges: readonly TarRange[], size: number, bodySize: number, start: number): void {
    let end = 0;
    let sum = 0;
    for (const range of ranges) {
      if (range.offset < end || range.size < 0) {
        throw this.#fault("sparse", start, "the ranges of a sparse file overlap");
      }
      end = range.offset + range.size;
      sum += range.size;
      if (end > size) {
        throw this.#fault("sparse", start, `a range ends at ${end} in a sparse file of ${size} bytes`);
      }
    }
    if (sum !== bodySize) {
      throw this.#fault(
        "sparse",
        start,
        `the ranges of a sparse file have ${sum} bytes, its body ${bodySize}`,
      );
    }
  }

  #decimal(text: string, start: number): number {
    const value = /^[0-9]{1,20}$/.test(text) ? Number(text) : NaN;
    if (!Number.isSafeInteger(value)) {
      throw this.#fault(
        "number",
        start,
        `"${pathToText(text.slice(0, 40) as BytePath)}" is not a decimal number of 53 bits`,
      );
    }
    return value;
  }

  /** A decimal fraction, rounded down to nanoseconds. */
  #time(text: string, start: number): { seconds: number; nanos: number } {
    const [, sign, whole = "", fraction = ""] = /^(-?)([0-9]{1,16})(?:\.([0-9]*))?$/.exec(text) ?? [];
    if (sign === undefined) {
      throw this.#fault("number", start, `"${pathToText(text.slice(0, 40) as BytePath)}" is not a time`);
    }
    const seconds = Number(whole);
    const nanos = Number(fraction.slice(0, 9).padEnd(9, "0"));
    if (sign === "") return { seconds, nanos };
    const up = nanos + (/[1-9]/.test(fraction.slice(9)) ? 1 : 0);
    return up === 0
      ? { seconds: 0 - seconds, nanos: 0 }
      : { seconds: -seconds - 1, nanos: 1_000_000_000 - up };
  }

  #path(raw: BytePath, start: number): BytePath {
    const names: string[] = [];
    const shown = pathToText(raw.slice(0, 400) as BytePath);
    if (raw.length > pathSizeMax) throw this.#fault("path.size", start, `a path has ${raw.length} bytes`);
    if (raw === "") throw this.#fault("path", start, "a path is empty");
    if (raw.startsWith("/")) throw this.#fault("path.absolute", start, `path "${shown}" is absolute`);
    for (const name of raw.split("/")) {
      if (name === "..") throw this.#fault("path.escape", start, `path "${shown}" has a ".." component`);
      if (name !== "" && name !== ".") names.push(name);
    }
    const path = names.join("/") as BytePath;
    const fault = treePathFault(path);
    if (fault !== null) throw this.#fault("path", start, fault);
    return path;
  }

  #fault(rule: string, offset: number, message: string): FormatError {
    return new FormatError(`tar.${rule}`, offset, `Cannot read tar: ${message}`);
  }
}

/** Reads a whole archive from a stream of chunks. `data` events are valid until the next one is asked for. */
export async function* readTar(
  chunks: AsyncIterable<Uint8Array<ArrayBuffer>> | Iterable<Uint8Array<ArrayBuffer>>,
  options: { onWarning: TarWarning; onComment?: (comment: string) => void },
): AsyncGenerator<TarEvent, void, void> {
  const reader = new TarReader(options);
  let comment: string | null = null;
  for await (const chunk of chunks) {
    const events = reader.push(chunk);
    if (reader.comment !== null && reader.comment !== comment) {
      comment = reader.comment;
      options.onComment?.(comment);
    }
    yield* events;
  }
  reader.finish();
}

/** What the machine is to be given: exactly `size` bytes, or from 1 up to `size`. */
interface Want {
  size: number;
  exact: boolean;
}

const block512: Want = { size: tarBlockSize, exact: true };

interface Header {
  name: BytePath;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  type: string;
  target: BytePath;
  major: number;
  minor: number;
}

/** What came in headers before a member's own. */
interface Extra {
  records: PaxRecord[];
  name: BytePath | null;
  target: BytePath | null;
}

interface PaxRecord {
  key: string;
  value: Uint8Array<ArrayBuffer>;
}

interface PaxFields {
  path: BytePath | null;
  linkpath: BytePath | null;
  size: number | null;
  uid: number | null;
  gid: number | null;
  mtime: { seconds: number; nanos: number } | null;
  xattrs: Map<BytePath, Uint8Array<ArrayBuffer>>;
  acl: boolean;
  sparseMajor: number | null;
  sparseMinor: number | null;
  sparseName: BytePath | null;
  sparseSize: number | null;
  sparseRanges: TarRange[] | null;
}

const kinds: Readonly<Record<string, EntryKind>> = {
  "0": "file",
  "1": "link",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
  "S": "file",
};

const knownKeys: ReadonlySet<string> = new Set([
  "path",
  "linkpath",
  "size",
  "uid",
  "gid",
  "mtime",
  "GNU.sparse.major",
  "GNU.sparse.minor",
  "GNU.sparse.name",
  "GNU.sparse.size",
  "GNU.sparse.realsize",
  "GNU.sparse.offset",
  "GNU.sparse.numbytes",
]);

function padded(size: number): number {
  return Math.ceil(size / tarBlockSize) * tarBlockSize;
}

function untilZero(bytes: Uint8Array<ArrayBuffer>): BytePath {
  const zero = bytes.indexOf(0);
  return pathFromBytes(zero < 0 ? bytes : bytes.subarray(0, zero));
}
