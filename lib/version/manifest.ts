/**
 * A tree's whole metadata as one immutable byte string, and how to look into it without unpacking it.
 *
 * ```text
 * magic    8 bytes "DRVRMANI"
 * version  u32le, 1
 * count    u32le, number of entries
 * entries  as in entry_codec.ts, strictly ascending by the bytes of their whole path
 * ```
 *
 * Invariants, checked for every manifest that exists as a `Manifest`:
 * - one tree has one manifest: the encoding has no choice anywhere, so equal trees have equal roots;
 * - the empty manifest has no entries (the state before the first version); every other one begins with the root
 *   directory `""`;
 * - every other path's parent is an entry and a directory;
 * - a `link` names a smaller path that is a `file`: the group's first name holds the metadata, the rest point to it.
 *
 * Byte order is that of whole paths, so `a!` comes between `a` and `a/b`; everything below a directory is one run
 * nevertheless (from `a/` to before `a0`). In memory a manifest is its bytes and four more per entry; entries are
 * decoded when asked for.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { ByteWriter } from "../base/bytes.ts";
import { FormatError } from "../base/errors.ts";
import {
  type BytePath,
  isBelow,
  parentOf,
  pathFromBytes,
  pathToBytes,
  pathToText,
  rootPath,
} from "../base/path.ts";
import type { Change, Entry, EntryKind } from "./entry.ts";
import {
  decodeEntry,
  digestSize,
  encodeEntry,
  entryReader,
  kindNames,
  kindNumbers,
  ownerMax,
} from "./entry_codec.ts";

/** Version of the format. */
export const manifestVersion = 1;
/** Bytes before the first entry. */
export const manifestHeaderSize = 16;
/** The most entries one manifest may have. */
export const entryCountMax = 16_777_216;
/** The largest manifest in bytes. */
export const manifestSizeMax = 2_147_483_648;

/** The smallest entry: a link of a one-byte path to a one-byte path. */
const entrySizeMin = 5;
const magic = pathToBytes("DRVRMANI" as BytePath);

const fileNumber = kindNumbers.file;
const directoryNumber = kindNumbers.directory;
const symlinkNumber = kindNumbers.symlink;
const linkNumber = kindNumbers.link;

/** What a manifest holds, by kind. `bytes` is the sum of the sizes of its files, each hard-link group once. */
export interface ManifestTotals {
  /** Hard-link groups, once each, and files of one name. */
  files: number;
  /** The root included. */
  directories: number;
  /** Symbolic links. */
  symlinks: number;
  /** Devices, FIFOs and sockets. */
  others: number;
  /** Further names of hard-link groups. */
  links: number;
  /** Sizes of all files. */
  bytes: number;
}

/** A file with more than one name. */
export interface LinkGroup {
  /** The smallest name: the entry of kind `file`. */
  leader: BytePath;
  /** All names in order, the leader first; at least two. */
  names: BytePath[];
}

/** The parts of a manifest, before it is one. */
interface Parts {
  bytes: Uint8Array<ArrayBuffer>;
  /** Where each entry begins, and behind the last one where it ends. */
  offsets: Uint32Array;
  /** Indices of the entries of kind `link`. */
  links: Uint32Array;
  totals: ManifestTotals;
}

/** An immutable, valid manifest. */
export class Manifest {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #offsets: Uint32Array;
  readonly #links: Uint32Array;
  readonly #totals: Readonly<ManifestTotals>;
  #root: string | null = null;
  #groups: Map<BytePath, BytePath[]> | null = null;

  private constructor(parts: Parts) {
    this.#bytes = parts.bytes;
    this.#offsets = parts.offsets;
    this.#links = parts.links;
    this.#totals = Object.freeze(parts.totals);
  }

  /** No entries: the state before the first version. */
  static readonly empty: Manifest = new Manifest({
    bytes: header(0),
    offsets: new Uint32Array([manifestHeaderSize]),
    links: new Uint32Array(0),
    totals: noTotals(),
  });

  /**
   * Takes bytes from anywhere; they are kept and must not be changed afterwards.
   *
   * @throws {FormatError} rules `manifest.…` and `entry.…`, with the offset in `bytes`.
   */
  static fromBytes(bytes: Uint8Array<ArrayBuffer>): Manifest {
    return new Manifest(scan(bytes));
  }

  /**
   * Sorts and encodes. A tree without entries is `Manifest.empty`.
   *
   * @throws {FormatError} where the entries are no tree: a path twice, a parent missing, a link to nothing, a value out
   * of bounds.
   */
  static build(entries: Iterable<Entry>): Manifest {
    const sorted = [...entries].sort((left, right) =>
      left.path < right.path ? -1 : left.path > right.path ? 1 : 0
    );
    if (sorted.length > entryCountMax) throw countFault(sorted.length);
    const writer = new ByteWriter(manifestHeaderSize + sorted.length * 96);
    writer.bytes(header(sorted.length));
    let previous: BytePath | null = null;
    for (const entry of sorted) {
      if (entry.path === previous) {
        throw new FormatError(
          "manifest.order",
          -1,
          `Cannot build a manifest: "${pathToText(entry.path)}" is there twice`,
        );
      }
      encodeEntry(writer, entry);
      if (writer.size > manifestSizeMax) throw sizeFault(writer.size);
      previous = entry.path;
    }
    return Manifest.fromBytes(writer.finish());
  }

  /** Number of entries, the root included. */
  get count(): number {
    return this.#offsets.length - 1;
  }

  /** The canonical bytes; not to be changed. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes;
  }

  /** Entries by kind, and the bytes of all files. */
  get totals(): Readonly<ManifestTotals> {
    return this.#totals;
  }

  /** sha256 of the canonical bytes as 64 hex digits: the name of the tree's state. */
  root(): string {
    return this.#root ??= createHash("sha256").update(this.#bytes).digest("hex");
  }

  /** The entry at `path`, or null. */
  get(path: BytePath): Entry | null {
    const index = this.indexOf(path);
    return index < 0 ? null : this.at(index);
  }

  /** Whether there is an entry at `path`. */
  has(path: BytePath): boolean {
    return this.indexOf(path) >= 0;
  }

  /** Position of `path` in byte order, or -1. */
  indexOf(path: BytePath): number {
    const wanted = pathToBytes(path);
    const index = this.#lowerBound(wanted, 0);
    return index < this.count && this.#compare(index, wanted) === 0 ? index : -1;
  }

  /** The entry at a position, decoded. */
  at(index: number): Entry {
    this.#check(index);
    return decodeEntry(
      entryReader(this.#bytes, { start: this.#offset(index), end: this.#offset(index + 1) }),
    );
  }

  /** The path at a position; the rest is not decoded. */
  pathAt(index: number): BytePath {
    this.#check(index);
    const at = this.#offset(index);
    const size = pathSizeAt(this.#bytes, at);
    const start = at + lengthSizeAt(this.#bytes, at);
    return pathFromBytes(this.#bytes.subarray(start, start + size));
  }

  /** The kind at a position; the rest is not decoded. */
  kindAt(index: number): EntryKind {
    this.#check(index);
    return kindNames[this.#kindNumber(index)] ?? "file";
  }

  /** The canonical bytes of the entry at a position, as a view. */
  entryBytes(index: number): Uint8Array<ArrayBuffer> {
    this.#check(index);
    return this.#bytes.subarray(this.#offset(index), this.#offset(index + 1));
  }

  /** Where the entry at a position begins in `bytes`; for `count`, where the last one ends. */
  offsetAt(index: number): number {
    if (!(index >= 0 && index <= this.count)) {
      throw new RangeError(`Cannot take entry ${index} of ${this.count}`);
    }
    return this.#offset(index);
  }

  /** All entries in byte order of their paths. */
  *entries(): Generator<Entry, void, void> {
    for (let index = 0; index < this.count; index++) yield this.at(index);
  }

  /** The positions of everything below `directory`, at any depth: from `start` to before `end`. */
  rangeUnder(directory: BytePath): { start: number; end: number } {
    if (directory === rootPath) return { start: Math.min(1, this.count), end: this.count };
    const start = this.#lowerBound(pathToBytes(directory + "/" as BytePath), 0);
    return { start, end: this.#lowerBound(pathToBytes(directory + "0" as BytePath), start) };
  }

  /** Everything below `directory`, at any depth, in byte order. */
  *under(directory: BytePath): Generator<Entry, void, void> {
    const { start, end } = this.rangeUnder(directory);
    for (let index = start; index < end; index++) yield this.at(index);
  }

  /** The files that have more than one name, by their first name. */
  *linkGroups(): Generator<LinkGroup, void, void> {
    for (const [leader, names] of this.#linkNames()) yield { leader, names: [leader, ...names] };
  }

  /**
   * All names of the file whose first name is `leader`, in order: just that one where it has no other; none where
   * `leader` is not a file here.
   */
  namesOf(leader: BytePath): BytePath[] {
    const index = this.indexOf(leader);
    if (index < 0 || this.#kindNumber(index) !== fileNumber) return [];
    return [leader, ...this.#linkNames().get(leader) ?? []];
  }

  /**
   * The manifest after `changes`. Runs between them are copied as bytes. A change whose `after` is null removes the
   * path, any other sets it; `before` says only whether something must have been there.
   *
   * @param changes strictly ascending by path, as `diffManifests` gives them without `collapse`.
   * @throws {FormatError} `manifest.apply.…` where a change does not fit this manifest, otherwise what
   * `fromBytes` would throw of the result.
   */
  apply(changes: readonly Change[]): Manifest {
    if (changes.length === 0) return this;
    const merge = new Merge(this.#parts());
    const removed: RemovedPath[] = [];
    let previous: BytePath | null = null;
    let cursor = 0;
    for (const { path, before, after } of changes) {
      if (previous !== null && path <= previous) {
        throw applyFault("order", path, "the changes do not ascend by path");
      }
      previous = path;
      if (before === null && after === null) {
        throw applyFault("nothing", path, "a change has neither before nor after");
      }
      if ((before !== null && before.path !== path) || (after !== null && after.path !== path)) {
        throw applyFault("path", path, "a change has the entry of another path");
      }
      const wanted = pathToBytes(path);
      const index = this.#lowerBound(wanted, cursor);
      const exists = index < this.count && this.#compare(index, wanted) === 0;
      if (before === null && exists) throw applyFault("exists", path, "the path to create is there already");
      if (before !== null && !exists) throw applyFault("missing", path, "the path to change is not there");
      merge.copy(cursor, index);
      cursor = index;
      if (exists) {
        merge.drop(index);
        cursor = index + 1;
        const kind = this.kindAt(index);
        if ((kind === "file" || kind === "directory") && after?.kind !== kind) removed.push({ path, kind });
      }
      if (after !== null) merge.insert(after);
    }
    merge.copy(cursor, this.count);
    const result = new Manifest(merge.finish());
    result.#checkChanges(changes, removed);
    return result;
  }

  /** What `scan` would find wrong with a manifest that was valid before these changes. */
  #checkChanges(changes: readonly Change[], removed: readonly RemovedPath[]): void {
    if (this.count > 0) {
      if (this.pathAt(0) !== rootPath) throw applyFault("root", rootPath, "the root directory is missing");
      if (this.kindAt(0) !== "directory") throw applyFault("root", rootPath, "the root is not a directory");
    }
    let goodParent: BytePath = rootPath;
    for (const { path, after } of changes) {
      if (after === null) continue;
      const parent = parentOf(path);
      if (parent !== goodParent) {
        const index = this.indexOf(parent);
        if (index < 0 || this.#kindNumber(index) !== directoryNumber) {
          throw applyFault("parent", path, "its parent is not a directory of the tree");
        }
        goodParent = parent;
      }
      if (after.kind === "link") {
        const index = after.target < path ? this.indexOf(after.target) : -1;
        if (index < 0 || this.#kindNumber(index) !== fileNumber) {
          throw applyFault("link", path, "its target is not a file with a smaller path");
        }
      }
    }
    for (const { path, kind } of removed) {
      if (kind === "directory" && path !== rootPath) {
        const { start } = this.rangeUnder(path);
        if (start < this.count && isBelow(this.pathAt(start), path)) {
          throw applyFault("parent", path, "a removed directory has entries left");
        }
      } else if (kind === "file" && this.#links.length > 0 && this.#linkNames().has(path)) {
        throw applyFault("link", path, "a removed file has links left");
      }
    }
  }

  #parts(): Parts {
    return { bytes: this.#bytes, offsets: this.#offsets, links: this.#links, totals: this.#totals };
  }

  #linkNames(): Map<BytePath, BytePath[]> {
    if (this.#groups !== null) return this.#groups;
    const groups = new Map<BytePath, BytePath[]>();
    for (const index of this.#links) {
      const { path, target } = this.at(index);
      const names = groups.get(target);
      if (names === undefined) groups.set(target, [path]);
      else names.push(path);
    }
    return this.#groups = groups;
  }

  /** The first position from `low` whose path is not smaller than `wanted`. Gallops, as wanted is often near. */
  #lowerBound(wanted: Uint8Array, low: number): number {
    let high = this.count;
    for (let step = 1; low + step < high; step *= 2) {
      if (this.#compare(low + step, wanted) >= 0) {
        high = low + step;
        break;
      }
      low += step;
    }
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#compare(middle, wanted) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #compare(index: number, wanted: Uint8Array): number {
    const at = this.#offset(index);
    return compareRange(this.#bytes, at + lengthSizeAt(this.#bytes, at), pathSizeAt(this.#bytes, at), wanted);
  }

  #kindNumber(index: number): number {
    const at = this.#offset(index);
    return this.#bytes[at + lengthSizeAt(this.#bytes, at) + pathSizeAt(this.#bytes, at)] ?? 0;
  }

  #offset(index: number): number {
    return this.#offsets[index] ?? 0;
  }

  #check(index: number): void {
    if (!(index >= 0 && index < this.count)) {
      throw new RangeError(`Cannot take entry ${index} of ${this.count}`);
    }
  }
}

interface RemovedPath {
  path: BytePath;
  kind: "file" | "directory";
}

/** Assembles the bytes, offsets, links and totals of `apply`'s result, each old run copied in one piece. */
class Merge {
  readonly #from: Parts;
  readonly #writer = new ByteWriter(4096);
  /** Runs of old entries by index, and new entries (`encoded`) by offset in the writer, in order. */
  readonly #steps: { start: number; end: number; encoded: boolean }[] = [];
  readonly #links: number[] = [];
  readonly #totals: ManifestTotals;
  #count = 0;
  #oldSize = 0;
  #linkCursor = 0;

  constructor(from: Parts) {
    this.#from = from;
    this.#totals = { ...from.totals };
  }

  /** Keeps the old entries from `start` to before `end`. */
  copy(start: number, end: number): void {
    if (start === end) return;
    const { offsets, links } = this.#from;
    this.#steps.push({ start, end, encoded: false });
    for (; (links[this.#linkCursor] ?? Infinity) < end; this.#linkCursor++) {
      const link = links[this.#linkCursor] ?? 0;
      if (link >= start) this.#links.push(this.#count + link - start);
    }
    this.#count += end - start;
    this.#oldSize += (offsets[end] ?? 0) - (offsets[start] ?? 0);
  }

  /** Leaves out one old entry, which `copy` does not keep. */
  drop(index: number): void {
    const { bytes, offsets } = this.#from;
    const range = { start: offsets[index] ?? 0, end: offsets[index + 1] ?? 0 };
    const entry = decodeEntry(entryReader(bytes, range));
    addToTotals(this.#totals, kindNumbers[entry.kind], entry.size, -1);
  }

  /** Adds a new entry. */
  insert(entry: Entry): void {
    const start = this.#writer.size;
    encodeEntry(this.#writer, entry);
    const size = manifestHeaderSize + this.#oldSize + this.#writer.size;
    if (size > manifestSizeMax) throw sizeFault(size);
    this.#steps.push({ start, end: this.#writer.size, encoded: true });
    if (entry.kind === "link") this.#links.push(this.#count);
    addToTotals(this.#totals, kindNumbers[entry.kind], entry.size, 1);
    this.#count++;
  }

  finish(): Parts {
    if (this.#count > entryCountMax) throw countFault(this.#count);
    const size = manifestHeaderSize + this.#oldSize + this.#writer.size;
    if (size > manifestSizeMax) throw sizeFault(size);
    const from = this.#from;
    const encoded = this.#writer.view();
    const bytes = new Uint8Array(size);
    const offsets = new Uint32Array(this.#count + 1);
    bytes.set(header(this.#count));
    let at = manifestHeaderSize;
    let index = 0;
    for (const step of this.#steps) {
      if (step.encoded) {
        offsets[index++] = at;
        bytes.set(encoded.subarray(step.start, step.end), at);
        at += step.end - step.start;
        continue;
      }
      const start = from.offsets[step.start] ?? 0;
      const end = from.offsets[step.end] ?? 0;
      const shift = at - start;
      bytes.set(from.bytes.subarray(start, end), at);
      for (let old = step.start; old < step.end; old++) offsets[index++] = (from.offsets[old] ?? 0) + shift;
      at += end - start;
    }
    offsets[index] = at;
    return { bytes, offsets, links: Uint32Array.from(this.#links), totals: this.#totals };
  }
}

/**
 * Checks bytes from outside and finds the entries. Ordinary entries take a fast path (`EntryScanner`) that only
 * says yes; anything it is not sure of goes to `decodeEntry`, which says what is wrong.
 */
function scan(bytes: Uint8Array<ArrayBuffer>): Parts {
  const fail = (rule: string, offset: number, message: string): FormatError =>
    new FormatError(`manifest.${rule}`, offset, `Cannot read manifest: ${message}`);
  if (bytes.length > manifestSizeMax) throw sizeFault(bytes.length);
  if (bytes.length < manifestHeaderSize) throw fail("truncated", 0, `${bytes.length} bytes are no header`);
  for (let at = 0; at < magic.length; at++) {
    if (bytes[at] !== magic[at]) throw fail("magic", at, "it does not begin with the magic");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(8, true);
  if (version !== manifestVersion) throw fail("version", 8, `version is ${version}, not ${manifestVersion}`);
  const count = view.getUint32(12, true);
  if (count > entryCountMax) throw countFault(count);
  if (count > (bytes.length - manifestHeaderSize) / entrySizeMin) {
    throw fail("count", 12, `${count} entries cannot be in ${bytes.length} bytes`);
  }
  const offsets = new Uint32Array(count + 1);
  const totals = noTotals();
  const links: number[] = [];
  const scanner = new EntryScanner(bytes);
  const reader = { at: manifestHeaderSize };
  /** Path and parent of the entry before: most entries share their parent with it. */
  let previousStart = 0;
  let previousSize = 0;
  let previousParentSize = 0;

  /** Position of a path among the entries before `index`, or -1. */
  const find = (start: number, size: number, index: number): number => {
    const wanted = bytes.subarray(start, start + size);
    let low = 0;
    let high = index;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const at = offsets[middle] ?? 0;
      const order = compareRange(bytes, at + lengthSizeAt(bytes, at), pathSizeAt(bytes, at), wanted);
      if (order === 0) return middle;
      if (order < 0) low = middle + 1;
      else high = middle;
    }
    return -1;
  };
  const kindOf = (index: number): number => {
    const at = offsets[index] ?? 0;
    return bytes[at + lengthSizeAt(bytes, at) + pathSizeAt(bytes, at)] ?? 0;
  };

  for (let index = 0; index < count; index++) {
    const start = reader.at;
    offsets[index] = start;
    if (!scanner.scan(start)) scanner.adopt(start);
    const { pathStart, pathSize, kind } = scanner;
    if (index === 0) {
      if (pathSize !== 0) throw fail("root", start, "the first entry is not the root directory");
      if (kind !== directoryNumber) throw fail("root", start, "the root is not a directory");
    } else {
      let common = 0;
      const shorter = Math.min(pathSize, previousSize);
      while (common < shorter && bytes[pathStart + common] === bytes[previousStart + common]) common++;
      const ascends = common < shorter
        ? (bytes[pathStart + common] ?? 0) > (bytes[previousStart + common] ?? 0)
        : pathSize > previousSize;
      if (!ascends) throw fail("order", start, "paths do not ascend strictly");
      const { parentSize } = scanner;
      const sameParent = parentSize === previousParentSize && parentSize <= common;
      if (!sameParent) {
        const parent = find(pathStart, parentSize, index);
        if (parent < 0) throw fail("parent", start, "the parent of a path is not in the manifest");
        if (kindOf(parent) !== directoryNumber) {
          throw fail("parent", start, "the parent of a path is not a directory");
        }
      }
      if (kind === linkNumber) {
        const { targetStart, targetSize } = scanner;
        const target = find(targetStart, targetSize, index);
        if (target < 0) throw fail("link", start, "the target of a link is not among the smaller paths");
        if (kindOf(target) !== fileNumber) throw fail("link", start, "the target of a link is not a file");
        links.push(index);
      }
      previousParentSize = parentSize;
    }
    previousStart = pathStart;
    previousSize = pathSize;
    addToTotals(totals, kind, scanner.size, 1);
    reader.at = scanner.end;
  }
  offsets[count] = reader.at;
  if (reader.at !== bytes.length) {
    throw fail("trailing", reader.at, `${bytes.length - reader.at} bytes after the last entry`);
  }
  return { bytes, offsets, links: Uint32Array.from(links), totals };
}

/** Walks over one entry, leaving what the manifest needs of it in its fields. */
class EntryScanner {
  pathStart = 0;
  pathSize = 0;
  /** Size of the path before its last slash. */
  parentSize = 0;
  kind = 0;
  /** Of a file. */
  size = 0;
  targetStart = 0;
  targetSize = 0;
  /** Behind the entry. */
  end = 0;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  #at = 0;
  #sure = true;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
  }

  /** Whether the entry at `at` is one of the ordinary kind and valid. False means nothing: ask `adopt`. */
  scan(at: number): boolean {
    const bytes = this.#bytes;
    this.#at = at;
    this.#sure = true;
    this.pathSize = this.#varint();
    this.pathStart = this.#at;
    if (!this.#sure || this.pathSize > 16_000 || !this.#path(this.pathSize)) return false;
    this.kind = bytes[this.#at++] ?? 0;
    this.size = 0;
    const kind = this.kind;
    if (kind === linkNumber) {
      const parentSize = this.parentSize;
      this.targetSize = this.#varint();
      this.targetStart = this.#at;
      if (!this.#sure || this.targetSize === 0 || this.targetSize > 16_000 || !this.#path(this.targetSize)) {
        return false;
      }
      this.parentSize = parentSize;
    } else if (kind === fileNumber || kind === directoryNumber || kind === symlinkNumber) {
      if (kind !== symlinkNumber && this.#varint() > 0o7777) return false;
      if (this.#varint() > ownerMax || this.#varint() > ownerMax) return false;
      this.#varint(); // The seconds: within 32 bits here, so valid in zigzag too.
      const at = this.#at;
      const nanos = ((bytes[at] ?? 0) | (bytes[at + 1] ?? 0) << 8 | (bytes[at + 2] ?? 0) << 16) +
        (bytes[at + 3] ?? 0) * 2 ** 24;
      this.#at += 4;
      if (nanos >= 1_000_000_000) return false;
      if (!this.#xattrs()) return false;
      if (kind === fileNumber) {
        this.size = this.#varint();
        if (this.size > 0) this.#at += digestSize;
      } else if (kind === symlinkNumber) {
        const size = this.#varint();
        if (size === 0 || size > 4000) return false;
        const end = Math.min(this.#at + size, bytes.length);
        for (let at = this.#at; at < end; at++) {
          if (bytes[at] === 0) return false;
        }
        this.#at += size;
      }
    } else {
      return false;
    }
    this.end = this.#at;
    return this.#sure && this.#at <= bytes.length;
  }

  /** The same for any entry, by decoding it. @throws {FormatError} where it is not valid. */
  adopt(at: number): void {
    const bytes = this.#bytes;
    const reader = entryReader(bytes, { start: at });
    const { path, kind, size, target } = decodeEntry(reader);
    this.pathStart = at + lengthSizeAt(bytes, at);
    this.pathSize = path.length;
    this.parentSize = parentOf(path).length;
    this.kind = kindNumbers[kind];
    this.size = size;
    this.targetSize = target.length;
    this.targetStart = reader.offset - target.length;
    this.end = reader.offset;
  }

  /** Checks a tree path of `size` bytes at the cursor, steps over it and notes the size of its parent. */
  #path(size: number): boolean {
    const bytes = this.#bytes;
    const start = this.#at;
    const end = start + size;
    if (end > bytes.length) return false;
    this.#at = end;
    this.parentSize = 0;
    if (size === 0) return true;
    let name = start;
    for (let at = start; at <= end; at++) {
      const byte = at < end ? bytes[at] : 0x2f;
      if (byte === 0) return false;
      if (byte !== 0x2f) continue;
      const length = at - name;
      if (length === 0 || length > 255) return false;
      if (bytes[name] === 0x2e && (length === 1 || (length === 2 && bytes[name + 1] === 0x2e))) return false;
      if (at < end) {
        this.parentSize = at - start;
        name = at + 1;
      }
    }
    return true;
  }

  /** Checks a few xattrs, as SELinux and ACLs put on every file, and steps over them. */
  #xattrs(): boolean {
    const bytes = this.#bytes;
    const count = this.#varint();
    if (count === 0) return true;
    if (count > 8) return false;
    let previous = 0;
    let previousSize = 0;
    for (let index = 0; index < count; index++) {
      const size = this.#varint();
      const name = this.#at;
      if (size === 0 || size > 255 || name + size > bytes.length) return false;
      // Where an overlay keeps its own: "trusted." and "user.o", "user.f" are looked at closely elsewhere.
      const first = bytes[name];
      if (
        first === 0x74 ||
        (first === 0x75 && (size < 6 || bytes[name + 5] === 0x6f || bytes[name + 5] === 0x66))
      ) {
        return false;
      }
      let same = index > 0;
      for (let at = 0; at < size; at++) {
        const byte = bytes[name + at] ?? 0;
        if (byte === 0) return false;
        if (!same) continue;
        const other = at < previousSize ? bytes[previous + at] ?? 0 : -1;
        if (byte < other) return false;
        same = byte === other;
      }
      if (index > 0 && same) return false;
      previous = name;
      previousSize = size;
      this.#at = name + size;
      const valueSize = this.#varint();
      if (valueSize > 65_536) return false;
      this.#at += valueSize;
    }
    return true;
  }

  /** A varint of up to five bytes in shortest form; clears `#sure` for any other. */
  #varint(): number {
    const bytes = this.#bytes;
    const first = bytes[this.#at++] ?? 0x80;
    if (first < 0x80) return first;
    let value = first & 0x7f;
    for (let scale = 128; scale <= 2 ** 28; scale *= 128) {
      const byte = bytes[this.#at++] ?? 0x80;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (byte === 0) this.#sure = false;
        return value;
      }
    }
    this.#sure = false;
    return 0;
  }
}

function header(count: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(manifestHeaderSize);
  bytes.set(magic);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, manifestVersion, true);
  view.setUint32(12, count, true);
  return bytes;
}

/** The length of a checked entry's path, which begins at `at` with its varint. */
function pathSizeAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0;
  if (first < 0x80) return first;
  const second = bytes[at + 1] ?? 0;
  return second < 0x80
    ? first & 0x7f | second << 7
    : first & 0x7f | (second & 0x7f) << 7 | (bytes[at + 2] ?? 0) << 14;
}

/** Bytes of that varint. */
function lengthSizeAt(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) < 0x80 ? 1 : (bytes[at + 1] ?? 0) < 0x80 ? 2 : 3;
}

function compareRange(bytes: Uint8Array, start: number, size: number, wanted: Uint8Array): number {
  const count = Math.min(size, wanted.length);
  for (let at = 0; at < count; at++) {
    const difference = (bytes[start + at] ?? 0) - (wanted[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return size - wanted.length;
}

function noTotals(): ManifestTotals {
  return { files: 0, directories: 0, symlinks: 0, others: 0, links: 0, bytes: 0 };
}

function addToTotals(totals: ManifestTotals, kind: number, size: number, sign: 1 | -1): void {
  if (kind === fileNumber) {
    totals.files += sign;
    totals.bytes += sign * size;
  } else if (kind === directoryNumber) totals.directories += sign;
  else if (kind === symlinkNumber) totals.symlinks += sign;
  else if (kind === linkNumber) totals.links += sign;
  else totals.others += sign;
}

function countFault(count: number): FormatError {
  return new FormatError(
    "manifest.count",
    12,
    `Cannot hold ${count} entries: at most ${entryCountMax} are allowed`,
  );
}

function sizeFault(size: number): FormatError {
  return new FormatError(
    "manifest.size",
    -1,
    `Cannot hold ${size} bytes: at most ${manifestSizeMax} are allowed`,
  );
}

function applyFault(rule: string, path: BytePath, message: string): FormatError {
  return new FormatError(`manifest.apply.${rule}`, -1, `Cannot change "${pathToText(path)}": ${message}`);
}
