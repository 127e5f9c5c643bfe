/**
 * METADATA and TRAILER of a package: which entries change and how, as compressible columns. Format: PACKAGE.md.
 *
 * Way out: `encodeMetadata` → per chunk columns and digests → the caller compresses the columns → `encodeMetadataBody`.
 * Way in: `parseMetadataBody` → the caller decompresses → `checkMetadataDigest` → `decodeMetadataChunk` →
 * all chunks to `resolveMetadata` with the base's manifest → `targetManifest`.
 *
 * Invariants: nothing is allocated beyond named bounds before it was checked; a resolved metadata has sorted, unique
 * deletes and upserts with valid entries; what a chunk says depends on no other chunk.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { ByteReader, ByteWriter, svarintMax } from "../base/bytes.ts";
import { FormatError } from "../base/errors.ts";
import { bytesEqual, fromHex, toHex } from "../base/hex.ts";
import {
  type BytePath,
  isBelow,
  parentOf,
  pathSizeMax,
  pathToText,
  rootPath,
  treePathFault,
} from "../base/path.ts";
import {
  type Change,
  emptyEntry,
  type Entry,
  type EntryKind,
  type EntryXattr,
  type VersionInfo,
} from "./entry.ts";
import {
  deviceMajorMax,
  deviceMinorMax,
  digestSize,
  emptyDigest,
  entryFault,
  fileSizeMax,
  kindNames,
  kindNumbers,
  modeMax,
  nanosMax,
  ownerMax,
  symlinkSizeMax,
  xattrCountMax,
  xattrNameSizeMax,
  xattrSizeMax,
} from "./entry_codec.ts";
import { chainCountMax, checkChain, versionId } from "./history.ts";
import { entryCountMax, type Manifest } from "./manifest.ts";
import {
  checkPartSizes,
  type Codec,
  codecNumber,
  type Part,
  readBounded,
  readCodec,
  readReserved,
} from "./part.ts";

/** Version of the package format. */
export const packageFormat = 1;
/** The most upserts, and the most deletes, in one chunk. */
export const chunkCountMax = 50_000;
/** The most chunks of one package. */
export const metadataChunksMax = 4096;
/** The most columns of one chunk, raw or packed, in bytes. */
export const columnsSizeMax: number = 96 * 1024 * 1024;
/** All paths, targets and xattrs of one chunk, spelled out, in bytes. */
export const chunkPathsSizeMax: number = 32 * 1024 * 1024;
/** The most segments of one package. */
export const segmentCountMax: number = 2 ** 24;
/** The most bases of one upsert. */
export const baseCountMax = 4;
/** One message in bytes of UTF-8, and all together. */
export const messageBytesMax = 196_608;
/** All messages of one package in bytes. */
export const messagesBytesMax: number = 32 * 1024 * 1024;

/** What the sender was asked for: everything, changed files whole, or deltas. */
export type PackageMode = "full" | "upper" | "delta";

/** An entry that is new or changed. */
export interface Upsert {
  entry: Entry;
  /** Paths in `from`, never of links; the first one gives inherited fields. */
  bases: BytePath[];
  /** The entry is a file with the content of its first base: no segment has pieces of it. */
  sameContent: boolean;
}

/** What a package does to a tree. */
export interface PackageMetadata {
  mode: PackageMode;
  /** Id of the version that the receiver has, or null. */
  from: string | null;
  /** Id of the version that the package leads to. */
  to: string;
  /** Oldest first; the last is `to`. Empty only where `to` is known to the receiver. */
  versions: VersionInfo[];
  segmentCount: number;
  /** Number of entries in the manifest of `to`, for progress. */
  treeEntries: number;
  /** Sum of its file sizes, for progress. */
  treeBytes: number;
  /** Topmost paths of `from` that go, ascending. */
  deletes: BytePath[];
  /** Ascending by path. */
  upserts: Upsert[];
}

/** Whether segments have pieces of this upsert. */
export function hasPieces(upsert: Upsert): boolean {
  return upsert.entry.kind === "file" && upsert.entry.size > 0 && !upsert.sameContent;
}

/** The fields of chunk 0 that describe the package. */
export interface MetadataHeader {
  mode: PackageMode;
  from: string | null;
  to: string;
  versions: VersionInfo[];
  segmentCount: number;
  upsertCount: number;
  deleteCount: number;
  treeEntries: number;
  treeBytes: number;
}

/** An upsert as it was read: fields that `inherits` names are not filled in yet. */
export interface PackedUpsert {
  entry: Entry;
  bases: BytePath[];
  /** Bits of the flags byte: 0x10 content, 0x20 mtime, 0x40 mode and owner, 0x80 xattrs. */
  inherits: number;
}

/** One chunk as it was read. */
export interface MetadataChunk {
  index: number;
  count: number;
  /** In chunk 0 only. */
  header: MetadataHeader | null;
  deletes: BytePath[];
  upserts: PackedUpsert[];
}

/** The raw halves of a chunk; the columns are to be compressed, the digests are not worth it. */
export interface RawChunk {
  columns: Uint8Array<ArrayBuffer>;
  digests: Uint8Array<ArrayBuffer>;
}

/** A METADATA body taken apart. */
export interface MetadataBody {
  columns: Part;
  digests: Uint8Array<ArrayBuffer>;
  /** What `metadataDigest` of the raw chunk must be. */
  digest: Uint8Array<ArrayBuffer>;
}

const inheritContent = 0x10;
const inheritMtime = 0x20;
const inheritOwner = 0x40;
const inheritXattrs = 0x80;

/** Beside the form of a version's parent: its time is before 1970. */
const timeNegative = 4;

const modes: readonly (PackageMode | null)[] = [null, "full", "upper", "delta"];
const bodyHeaderSize = 48;
const noPath = "" as BytePath;
const utf8 = new TextDecoder("utf-8", { fatal: true });

/**
 * The chunks of a package's metadata.
 *
 * @param base the manifest of `from` (`Manifest.empty` without), to see what entries inherit.
 * @throws {FormatError} rule `package.encode` where the metadata breaks the format's own rules.
 */
export function encodeMetadata(metadata: PackageMetadata, base: Manifest): RawChunk[] {
  const { deletes, upserts } = metadata;
  checkSorted(deletes, (path) => path);
  if (deletes[0] === rootPath) throw fault("encode", "the root cannot be deleted");
  checkSorted(upserts, (upsert) => upsert.entry.path);
  const cuts = cutChunks(metadata);
  return cuts.map((cut, index) => {
    const writer = new ByteWriter(4096);
    writer.varint(index);
    writer.varint(cuts.length);
    if (index === 0) writeHeader(writer, metadata);
    writeDeletes(writer, deletes.slice(cut.deleteStart, cut.deleteEnd));
    const digests = writeUpserts(writer, upserts.slice(cut.upsertStart, cut.upsertEnd), base);
    return { columns: writer.finish(), digests };
  });
}

/** sha256 of a chunk's raw halves: names it independently of the compression. */
export function metadataDigest(chunk: RawChunk): Uint8Array<ArrayBuffer> {
  return new Uint8Array(createHash("sha256").update(chunk.columns).update(chunk.digests).digest());
}

/** The body of a METADATA record. */
export function encodeMetadataBody(body: MetadataBody): Uint8Array<ArrayBuffer> {
  const { columns, digests, digest } = body;
  const writer = new ByteWriter(bodyHeaderSize + columns.bytes.length + digests.length);
  writer.u8(packageFormat);
  writer.u8(codecNumber(columns.codec));
  writer.u8(0);
  writer.u8(0);
  writer.u32le(columns.rawSize);
  writer.u32le(columns.bytes.length);
  writer.u32le(digests.length);
  writer.bytes(digest);
  writer.bytes(columns.bytes);
  writer.bytes(digests);
  return writer.finish();
}

/**
 * Takes a METADATA body apart, all sizes bounded; nothing is decompressed or copied.
 *
 * @throws {FormatError} rules `package.metadata.…`.
 */
export function parseMetadataBody(body: Uint8Array<ArrayBuffer>): MetadataBody {
  const reader = new ByteReader(body, "package.metadata");
  const format = reader.u8();
  if (format !== packageFormat) {
    throw reader.fail("format", 0, `format is ${format}, only ${packageFormat} is known`);
  }
  const codec: Codec = readCodec(reader);
  readReserved(reader);
  const rawSize = readBounded(reader, columnsSizeMax, "columns-size");
  const packedSize = readBounded(reader, columnsSizeMax, "packed-size");
  const digestsSize = readBounded(reader, chunkCountMax * digestSize, "digests-size");
  if (digestsSize % digestSize !== 0) {
    throw reader.fail(
      "digests-size",
      12,
      `digests have ${digestsSize} bytes, not a multiple of ${digestSize}`,
    );
  }
  checkPartSizes(reader, { codec, rawSize, packedSize });
  const digest = reader.bytes(digestSize);
  const bytes = reader.bytes(packedSize);
  const digests = reader.bytes(digestsSize);
  reader.end();
  return { columns: { codec, rawSize, bytes }, digests, digest };
}

/**
 * Checks decompressed columns against the body they came in.
 *
 * @throws {FormatError} rule `package.metadata.digest`.
 */
export function checkMetadataDigest(body: MetadataBody, columns: Uint8Array<ArrayBuffer>): void {
  const found = metadataDigest({ columns, digests: body.digests });
  if (columns.length !== body.columns.rawSize || !bytesEqual(found, body.digest)) {
    throw new FormatError(
      "package.metadata.digest",
      16,
      "Cannot read metadata: the content has another sha256",
    );
  }
}

/**
 * Reads a chunk's raw halves.
 *
 * @throws {FormatError} rules `package.columns.…`, offsets in the columns.
 */
export function decodeMetadataChunk(chunk: RawChunk): MetadataChunk {
  const reader = new ByteReader(chunk.columns, "package.columns");
  const index = reader.varint(metadataChunksMax - 1, "chunk");
  const countAt = reader.offset;
  const count = reader.varint(metadataChunksMax, "chunk");
  if (index >= count) throw reader.fail("chunk", countAt, `chunk ${index} of ${count}`);
  const header = index === 0 ? readHeader(reader) : null;
  const budget = { left: chunkPathsSizeMax };
  const deletes = readDeletes(reader, budget);
  const upserts = readUpserts(reader, budget, chunk.digests);
  reader.end();
  return { index, count, header, deletes, upserts };
}

/**
 * Joins all chunks in order and fills in what entries inherit from the base.
 *
 * @param base the manifest of the header's `from`; `Manifest.empty` where that is null.
 * @throws {FormatError} rules `package.columns.…` where chunks do not fit each other, `package.base.…` where they do not
 * fit the base; offset -1.
 */
export function resolveMetadata(chunks: readonly MetadataChunk[], base: Manifest): PackageMetadata {
  const header = chunks[0]?.header ?? null;
  if (header === null) throw fault("columns.chunk", "the first chunk is missing");
  const deletes: BytePath[] = [];
  const upserts: Upsert[] = [];
  chunks.forEach((chunk, at) => {
    if (chunk.index !== at || chunk.count !== chunks.length) {
      throw fault(
        "columns.chunk",
        `chunk ${chunk.index} of ${chunk.count} stands at ${at} of ${chunks.length}`,
      );
    }
    for (const path of chunk.deletes) {
      requireAscending(deletes.at(-1), path);
      deletes.push(path);
    }
    for (const packed of chunk.upserts) {
      requireAscending(upserts.at(-1)?.entry.path, packed.entry.path);
      upserts.push(resolveUpsert(packed, base));
    }
  });
  if (deletes.length !== header.deleteCount || upserts.length !== header.upsertCount) {
    throw fault(
      "columns.count",
      `${deletes.length} deletes and ${upserts.length} upserts, announced are ${header.deleteCount} and ${header.upsertCount}`,
    );
  }
  checkDeletes(deletes, base);
  const { mode, from, to, versions, segmentCount, treeEntries, treeBytes } = header;
  return { mode, from, to, versions, segmentCount, treeEntries, treeBytes, deletes, upserts };
}

/**
 * The manifest that the package makes of the base: to be built before anything is written, as it also checks that
 * parents and link targets exist, and that the result is what the versions say.
 *
 * @throws {FormatError} `package.base.root` where the result is not the last version's root, or what `Manifest.apply`
 * throws.
 */
export function targetManifest(metadata: PackageMetadata, base: Manifest): Manifest {
  const result = base.apply(packageChanges(metadata, base));
  const root = metadata.versions.at(-1)?.root;
  if (root !== undefined && result.root() !== root) {
    throw fault("base.root", `the result has root "${result.root()}", the version says "${root}"`);
  }
  return result;
}

/** What the package does, path by path, ascending: deletes with all that is below, and upserts. */
export function packageChanges(metadata: PackageMetadata, base: Manifest): Change[] {
  const changes = new Map<BytePath, Change>();
  const remove = (path: BytePath): void => {
    const before = base.get(path);
    if (before !== null) changes.set(path, { path, before, after: null });
    if (before?.kind === "directory") {
      for (const entry of base.under(path)) {
        changes.set(entry.path, { path: entry.path, before: entry, after: null });
      }
    }
  };
  for (const path of metadata.deletes) remove(path);
  for (const { entry } of metadata.upserts) {
    const known = changes.get(entry.path);
    const before = known === undefined ? base.get(entry.path) : known.before;
    if (known === undefined && before?.kind === "directory" && entry.kind !== "directory") remove(entry.path);
  }
  for (const { entry } of metadata.upserts) {
    const { path } = entry;
    changes.set(path, { path, before: changes.get(path)?.before ?? base.get(path), after: entry });
  }
  return [...changes.values()].sort((left, right) => left.path < right.path ? -1 : 1);
}

/**
 * The delete list of a package: what goes, without what lies below something that goes or becomes no directory.
 *
 * @param changes ascending by path, as `diffManifests` gives them.
 */
export function topmostDeletes(changes: readonly Change[]): BytePath[] {
  const gone = new Set<BytePath>();
  const deletes: BytePath[] = [];
  for (const { path, before, after } of changes) {
    if (before === null || after?.kind === "directory") continue;
    if (before.kind === "directory") gone.add(path);
    if (after !== null) continue;
    // Everything below a gone directory is in the list too, so the parent decides.
    if (!gone.has(parentOf(path)) || path === rootPath) deletes.push(path);
  }
  return deletes;
}

/** What the TRAILER says. */
export interface PackageTrailer {
  segmentCount: number;
  /** sha256 of the manifest of `to`, 64 hex digits. */
  root: string;
  /** Id of `to`, 64 hex digits. */
  to: string;
  /** What `packageDigest` yields. */
  digest: Uint8Array<ArrayBuffer>;
}

/** sha256 over the digests of all METADATA bodies in order, then of all segments by index. */
export function packageDigest(
  metadata: readonly Uint8Array[],
  segments: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const hash = createHash("sha256");
  for (const digest of metadata) hash.update(digest);
  for (const digest of segments) hash.update(digest);
  return new Uint8Array(hash.digest());
}

/** The body of a TRAILER record. */
export function encodeTrailerBody(trailer: PackageTrailer): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter(104);
  writer.u32le(trailer.segmentCount);
  writer.u32le(0);
  writer.bytes(fromHex(trailer.root));
  writer.bytes(fromHex(trailer.to));
  writer.bytes(trailer.digest);
  return writer.finish();
}

/**
 * Reads the body of a TRAILER record.
 *
 * @throws {FormatError} rules `package.trailer.…`.
 */
export function parseTrailerBody(body: Uint8Array<ArrayBuffer>): PackageTrailer {
  const reader = new ByteReader(body, "package.trailer");
  const segmentCount = readBounded(reader, segmentCountMax, "segment-count");
  const at = reader.offset;
  if (reader.u32le() !== 0) throw reader.fail("reserved", at, "a reserved byte is not zero");
  const root = toHex(reader.bytes(digestSize));
  const to = toHex(reader.bytes(digestSize));
  const digest = reader.bytes(digestSize).slice();
  reader.end();
  return { segmentCount, root, to, digest };
}

// ---------------------------------------------------------------------------------------------------------------------
// Chunks

interface Cut {
  deleteStart: number;
  deleteEnd: number;
  upsertStart: number;
  upsertEnd: number;
}

/** Where chunks begin and end, so that each is within half of the bounds of sizes and within those of counts. */
function cutChunks(metadata: PackageMetadata): Cut[] {
  const { deletes, upserts } = metadata;
  const sizeMax = chunkPathsSizeMax / 2;
  const cuts: Cut[] = [];
  let deleteAt = 0;
  let upsertAt = 0;
  do {
    const cut = { deleteStart: deleteAt, deleteEnd: deleteAt, upsertStart: upsertAt, upsertEnd: upsertAt };
    let size = 0;
    while (deleteAt < deletes.length && deleteAt - cut.deleteStart < chunkCountMax && size < sizeMax) {
      size += (deletes[deleteAt++] as BytePath).length;
    }
    while (upsertAt < upserts.length && upsertAt - cut.upsertStart < chunkCountMax && size < sizeMax) {
      const { entry, bases } = upserts[upsertAt++] as Upsert;
      size += entry.path.length + entry.target.length;
      for (const base of bases) size += base.length;
      for (const { name, value } of entry.xattrs) size += name.length + value.length;
    }
    cut.deleteEnd = deleteAt;
    cut.upsertEnd = upsertAt;
    cuts.push(cut);
  } while (deleteAt < deletes.length || upsertAt < upserts.length);
  if (cuts.length > metadataChunksMax) {
    throw fault("encode", `${cuts.length} chunks, more than ${metadataChunksMax}`);
  }
  return cuts;
}

function checkSorted<T>(items: readonly T[], pathOf: (item: T) => BytePath): void {
  if (items.length > entryCountMax) {
    throw fault("encode", `${items.length} changes, more than ${entryCountMax}`);
  }
  let previous: BytePath | null = null;
  for (const item of items) {
    const path = pathOf(item);
    if (previous !== null && path <= previous) {
      throw fault("encode", `"${pathToText(path)}" does not come after "${pathToText(previous)}"`);
    }
    previous = path;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Header

function writeHeader(writer: ByteWriter, metadata: PackageMetadata): void {
  const { mode, from, to, versions } = metadata;
  if ((mode === "full") !== (from === null)) throw fault("encode", `mode is ${mode}, from is "${from}"`);
  writer.u8(modes.indexOf(mode));
  writer.u8(from === null ? 0 : 1);
  if (from !== null) writer.bytes(fromHex(from));
  writer.bytes(fromHex(to));
  writer.varint(metadata.segmentCount);
  writer.varint(metadata.upserts.length);
  writer.varint(metadata.deletes.length);
  writer.varint(metadata.treeEntries);
  writer.varint(metadata.treeBytes);
  writer.varint(versions.length);
  let previous = from;
  const encoder = new TextEncoder();
  for (const version of versions) {
    const parent = version.parent === null ? 0 : version.parent === previous ? 1 : 2;
    writer.u8(parent + (version.time < 0 ? timeNegative : 0));
    if (version.parent !== null && parent === 2) writer.bytes(fromHex(version.parent));
    writer.bytes(fromHex(version.root));
    writer.varint(Math.abs(version.time));
    const message = encoder.encode(version.message);
    writer.varint(message.length);
    writer.bytes(message);
    previous = version.id;
  }
}

function readHeader(reader: ByteReader): MetadataHeader {
  const modeAt = reader.offset;
  const mode = modes[reader.u8()] ?? null;
  if (mode === null) throw reader.fail("mode", modeAt, "the mode is unknown");
  const fromAt = reader.offset;
  const hasFrom = readFlag(reader, 1, "from");
  if ((mode === "full") !== (hasFrom === 0)) {
    throw reader.fail(
      "from",
      fromAt,
      `mode ${mode} ${hasFrom === 0 ? "needs a" : "has no"} version to start from`,
    );
  }
  const from = hasFrom === 1 ? toHex(reader.bytes(digestSize)) : null;
  const to = toHex(reader.bytes(digestSize));
  const segmentCount = reader.varint(segmentCountMax, "segment-count");
  const upsertCount = reader.varint(entryCountMax, "count");
  const deleteCount = reader.varint(entryCountMax, "count");
  const treeEntries = reader.varint(entryCountMax, "count");
  const treeBytes = reader.varint();
  const versionCount = reader.varint(chainCountMax, "version-count");
  const chainAt = reader.offset;
  const versions: VersionInfo[] = [];
  let previous = from;
  let messages = 0;
  for (let index = 0; index < versionCount; index++) {
    const at = reader.offset;
    const flags = readFlag(reader, timeNegative + 2, "parent");
    const given = flags & 3;
    if (given > 2) throw reader.fail("parent", at, "the parent's form is unknown");
    if (given !== 1 && index > 0) throw reader.fail("parent", at, "a version does not follow the one before");
    if (given === 1 && previous === null) throw reader.fail("parent", at, "there is no version before");
    const parent = given === 0 ? null : given === 1 ? previous : toHex(reader.bytes(digestSize));
    if (given === 2 && parent === previous) {
      throw reader.fail("parent", at, "a parent is spelled out for nothing");
    }
    const root = toHex(reader.bytes(digestSize));
    const milliseconds = reader.varint();
    const isNegative = (flags & timeNegative) !== 0;
    if (isNegative && milliseconds === 0) throw reader.fail("time", at, "a time of minus zero");
    const time = isNegative ? -milliseconds : milliseconds;
    const size = reader.varint(messageBytesMax, "message");
    messages += size;
    if (messages > messagesBytesMax) {
      throw reader.fail("message", at, `messages have more than ${messagesBytesMax} bytes`);
    }
    const message = readText(reader, size);
    const id = versionId(parent, root);
    versions.push({ id, parent, root, time, message });
    previous = id;
  }
  if (versions.length > 0) {
    try {
      checkChain(versions[0]?.parent ?? null, versions, to);
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      throw reader.fail("chain", chainAt, error.message);
    }
  }
  return {
    mode,
    from,
    to,
    versions,
    segmentCount,
    upsertCount,
    deleteCount,
    treeEntries,
    treeBytes,
  };
}

function readFlag(reader: ByteReader, max: number, rule: string): number {
  const at = reader.offset;
  const value = reader.u8();
  if (value > max) throw reader.fail(rule, at, `value is ${value}, at most ${max} is known`);
  return value;
}

function readText(reader: ByteReader, size: number): string {
  const at = reader.offset;
  const bytes = reader.bytes(size);
  try {
    return utf8.decode(bytes);
  } catch {
    throw reader.fail("message", at, "a message is not UTF-8");
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Columns, out

function writeDeletes(writer: ByteWriter, deletes: readonly BytePath[]): void {
  writer.varint(deletes.length);
  let previous = noPath;
  for (const path of deletes) previous = writeFrontCoded(writer, previous, path);
}

/** Writes all columns and returns the digest column. */
function writeUpserts(
  writer: ByteWriter,
  upserts: readonly Upsert[],
  base: Manifest,
): Uint8Array<ArrayBuffer> {
  const flags = upserts.map((upsert) => inheritance(upsert, base));
  writer.varint(upserts.length);
  let previous = noPath;
  for (const { entry } of upserts) previous = writeFrontCoded(writer, previous, entry.path);
  upserts.forEach(({ entry }, at) => writer.u8(kindNumbers[entry.kind] | (flags[at] as number)));
  for (const { entry, bases } of upserts) writer.u8(bases.length * 2 + (bases[0] === entry.path ? 1 : 0));
  writeBases(writer, upserts);
  const own = upserts.flatMap(({ entry }, at) =>
    entry.kind === "link" ? [] : [{ entry, flags: flags[at] as number }]
  );
  writeOwners(writer, own.filter((item) => (item.flags & inheritOwner) === 0).map((item) => item.entry));
  const timed = own.filter((item) => (item.flags & inheritMtime) === 0).map((item) => item.entry);
  writeDeltas(writer, timed.map((entry) => entry.mtimeSeconds));
  writeDeltas(writer, timed.map((entry) => entry.mtimeNanos));
  upserts.forEach(({ entry }, at) => {
    if (entry.kind === "file" && !((flags[at] as number) & inheritContent)) writer.varint(entry.size);
  });
  let target = noPath;
  upserts.forEach(({ entry }, at) => {
    const hasTarget = entry.kind === "link" ||
      entry.kind === "symlink" && ((flags[at] as number) & inheritContent) === 0;
    if (hasTarget) target = writeFrontCoded(writer, target, entry.target);
  });
  upserts.forEach(({ entry }, at) => {
    if (!isDevice(entry.kind) || (flags[at] as number) & inheritContent) return;
    writer.varint(entry.rdevMajor);
    writer.varint(entry.rdevMinor);
  });
  writeXattrs(writer, own.filter((item) => (item.flags & inheritXattrs) === 0).map((item) => item.entry));
  const digests = new ByteWriter(upserts.length * digestSize);
  for (const upsert of upserts) if (hasPieces(upsert)) digests.bytes(upsert.entry.digest ?? emptyDigest);
  return digests.finish();
}

/** The upper half of the flags byte: what the entry has in common with its first base. */
function inheritance(upsert: Upsert, base: Manifest): number {
  const { entry, bases, sameContent } = upsert;
  const broken = entryFault(entry);
  if (broken !== null) throw fault("encode", `entry "${pathToText(entry.path)}": ${broken.message}`);
  if (bases.length > baseCountMax) throw fault("encode", `${bases.length} bases, more than ${baseCountMax}`);
  const first = bases[0] === undefined ? null : base.get(bases[0]);
  for (const path of bases) {
    const kind = path === bases[0] ? first?.kind : base.get(path)?.kind;
    if (kind === undefined || kind === "link" || entry.kind === "link") {
      throw fault("encode", `"${pathToText(path)}" is no base for "${pathToText(entry.path)}"`);
    }
  }
  let flags = 0;
  if (first !== null) {
    if (sameContentFields(entry, first) && (entry.kind !== "file" || sameContent)) flags |= inheritContent;
    if (entry.mtimeSeconds === first.mtimeSeconds && entry.mtimeNanos === first.mtimeNanos) {
      flags |= inheritMtime;
    }
    if (entry.mode === first.mode && entry.uid === first.uid && entry.gid === first.gid) {
      flags |= inheritOwner;
    }
    if (xattrKey(entry.xattrs) === xattrKey(first.xattrs)) flags |= inheritXattrs;
  }
  if (sameContent && (entry.kind !== "file" || (flags & inheritContent) === 0)) {
    throw fault("encode", `"${pathToText(entry.path)}" does not have the content of its base`);
  }
  return flags;
}

function sameContentFields(entry: Entry, base: Entry): boolean {
  if (entry.kind !== base.kind) return false;
  switch (entry.kind) {
    case "file":
      return entry.size === base.size && entry.digest !== null && base.digest !== null &&
        bytesEqual(entry.digest, base.digest);
    case "symlink":
      return entry.target === base.target;
    case "char":
    case "block":
      return entry.rdevMajor === base.rdevMajor && entry.rdevMinor === base.rdevMinor;
    default:
      return false;
  }
}

function writeFrontCoded(writer: ByteWriter, previous: BytePath, path: BytePath): BytePath {
  const shared = sharedPrefix(previous, path);
  writer.varint(shared);
  writer.path(path.slice(shared) as BytePath);
  return path;
}

function writeBases(writer: ByteWriter, upserts: readonly Upsert[]): void {
  let previous = noPath;
  for (const { entry, bases } of upserts) {
    bases.forEach((path, at) => {
      if (at === 0 && path === entry.path) return;
      const prefix = sharedPrefix(previous, path);
      const suffix = sharedSuffix(entry.path, path, path.length - prefix);
      writer.varint(prefix);
      writer.varint(suffix);
      writer.path(path.slice(prefix, path.length - suffix) as BytePath);
      previous = path;
    });
  }
}

function writeOwners(writer: ByteWriter, entries: readonly Entry[]): void {
  const rows = new Map<string, number>();
  const table = new ByteWriter();
  const column = new ByteWriter(entries.length + 16);
  for (const { mode, uid, gid } of entries) {
    const key = `${mode},${uid},${gid}`;
    let row = rows.get(key);
    if (row === undefined) {
      row = rows.size;
      rows.set(key, row);
      table.varint(mode);
      table.varint(uid);
      table.varint(gid);
    }
    column.varint(row);
  }
  writer.varint(rows.size);
  writer.bytes(table.view());
  writer.bytes(column.view());
}

function writeXattrs(writer: ByteWriter, entries: readonly Entry[]): void {
  const rows = new Map<string, number>([["", 0]]);
  const table = new ByteWriter();
  const column = new ByteWriter(entries.length + 16);
  for (const { xattrs } of entries) {
    const key = xattrKey(xattrs);
    let row = rows.get(key);
    if (row === undefined) {
      row = rows.size;
      rows.set(key, row);
      table.varint(xattrs.length);
      for (const { name, value } of xattrs) {
        table.path(name);
        table.varint(value.length);
        table.bytes(value);
      }
    }
    column.varint(row);
  }
  writer.varint(rows.size - 1);
  writer.bytes(table.view());
  writer.bytes(column.view());
}

/** A text that is equal for equal xattrs only; empty for none. */
function xattrKey(xattrs: readonly EntryXattr[]): string {
  let key = "";
  for (const { name, value } of xattrs) key += `${name}\0${toHex(value)}\0`;
  return key;
}

function writeDeltas(writer: ByteWriter, values: readonly number[]): void {
  let previous = 0;
  for (const value of values) {
    writer.svarint(wrapped(value - previous));
    previous = value;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Columns, in

interface Budget {
  left: number;
}

function readDeletes(reader: ByteReader, budget: Budget): BytePath[] {
  const at = reader.offset;
  const deletes = readPaths(reader, budget, reader.varint(chunkCountMax, "count"));
  if (deletes[0] === rootPath) throw reader.fail("path", at, "the root cannot be deleted");
  return deletes;
}

function readUpserts(reader: ByteReader, budget: Budget, digests: Uint8Array<ArrayBuffer>): PackedUpsert[] {
  const count = reader.varint(chunkCountMax, "count");
  const paths = readPaths(reader, budget, count);
  const upserts: PackedUpsert[] = paths.map((path) => readFlags(reader, path));
  readBases(
    reader,
    budget,
    upserts,
    upserts.map(({ entry, inherits }) => readBaseCount(reader, entry, inherits)),
  );
  const own = upserts.filter(({ entry }) => entry.kind !== "link");
  readOwners(reader, own.filter(({ inherits }) => (inherits & inheritOwner) === 0));
  const timed = own.filter(({ inherits }) => (inherits & inheritMtime) === 0);
  readDeltas(reader, timed, Number.MAX_SAFE_INTEGER / 2, (entry, value) => entry.mtimeSeconds = value);
  readDeltas(reader, timed, nanosMax, (entry, value) => entry.mtimeNanos = value);
  const fresh = upserts.filter(({ inherits }) => (inherits & inheritContent) === 0).map(({ entry }) => entry);
  for (const entry of fresh) if (entry.kind === "file") entry.size = reader.varint(fileSizeMax, "size");
  let target = noPath;
  for (const entry of fresh) {
    if (entry.kind !== "symlink" && entry.kind !== "link") continue;
    target = entry.target = readFrontCoded(
      reader,
      budget,
      target,
      entry.kind === "link" ? pathSizeMax : symlinkSizeMax,
    );
  }
  for (const entry of fresh) {
    if (!isDevice(entry.kind)) continue;
    entry.rdevMajor = reader.varint(deviceMajorMax, "rdev");
    entry.rdevMinor = reader.varint(deviceMinorMax, "rdev");
  }
  readXattrs(reader, budget, own.filter(({ inherits }) => (inherits & inheritXattrs) === 0));
  readDigests(reader, fresh, digests);
  for (const { entry, inherits } of upserts) {
    if (inherits !== 0) continue; // Complete only once the base is known; checked then.
    const broken = entryFault(entry);
    if (broken !== null) {
      throw reader.fail(`entry.${broken.rule}`, reader.offset, entryMessage(entry, broken.message));
    }
  }
  return upserts;
}

function readPaths(reader: ByteReader, budget: Budget, count: number): BytePath[] {
  const paths: BytePath[] = [];
  let previous = noPath;
  for (let index = 0; index < count; index++) {
    const at = reader.offset;
    const path = readFrontCoded(reader, budget, previous, pathSizeMax);
    const broken = treePathFault(path);
    if (broken !== null) throw reader.fail("path", at, broken);
    if (index > 0 && path <= previous) {
      throw reader.fail("order", at, `"${pathToText(path)}" does not come after "${pathToText(previous)}"`);
    }
    paths.push(path);
    previous = path;
  }
  return paths;
}

function readFrontCoded(reader: ByteReader, budget: Budget, previous: BytePath, sizeMax: number): BytePath {
  const at = reader.offset;
  const shared = reader.varint(previous.length, "front");
  const rest = reader.path(sizeMax);
  spend(reader, budget, at, shared + rest.length, sizeMax);
  return (previous.slice(0, shared) + rest) as BytePath;
}

function spend(reader: ByteReader, budget: Budget, at: number, size: number, sizeMax: number): void {
  if (size > sizeMax) throw reader.fail("path.size", at, `a path has ${size} bytes, more than ${sizeMax}`);
  budget.left -= size;
  if (budget.left < 0) throw reader.fail("paths-size", at, `paths have more than ${chunkPathsSizeMax} bytes`);
}

function readFlags(reader: ByteReader, path: BytePath): PackedUpsert {
  const at = reader.offset;
  const byte = reader.u8();
  const kind = kindNames[byte & 0x0f] ?? null;
  if (kind === null) throw reader.fail("kind", at, `kind ${byte & 0x0f} is unknown`);
  const inherits = byte & 0xf0;
  const allowed = kind === "link"
    ? 0
    : (kind === "file" || kind === "symlink" || isDevice(kind) ? 0xf0 : 0xf0 & ~inheritContent);
  if ((inherits & ~allowed) !== 0) throw reader.fail("flags", at, `a ${kind} cannot inherit this`);
  return { entry: emptyEntry(path, kind), bases: [], inherits };
}

function readBaseCount(reader: ByteReader, entry: Entry, inherits: number): { count: number; own: boolean } {
  const at = reader.offset;
  const byte = reader.u8();
  const count = byte >> 1;
  const own = (byte & 1) === 1;
  if (count > baseCountMax || own && count === 0 || entry.kind === "link" && count > 0) {
    throw reader.fail(
      "base-count",
      at,
      `a ${entry.kind} with ${count} bases${own ? ", itself among them" : ""}`,
    );
  }
  if (inherits !== 0 && count === 0) throw reader.fail("flags", at, "an entry inherits without a base");
  return { count, own };
}

function readBases(
  reader: ByteReader,
  budget: Budget,
  upserts: readonly PackedUpsert[],
  counts: readonly { count: number; own: boolean }[],
): void {
  let previous = noPath;
  upserts.forEach(({ entry, bases }, index) => {
    const { count, own } = counts[index] ?? { count: 0, own: false };
    if (own) bases.push(entry.path);
    while (bases.length < count) {
      const at = reader.offset;
      const prefix = reader.varint(previous.length, "front");
      const suffix = reader.varint(entry.path.length, "front");
      const middle = reader.path(pathSizeMax);
      spend(reader, budget, at, prefix + middle.length + suffix, pathSizeMax);
      const path =
        (previous.slice(0, prefix) + middle + entry.path.slice(entry.path.length - suffix)) as BytePath;
      const broken = treePathFault(path);
      if (broken !== null) throw reader.fail("path", at, broken);
      if (bases.includes(path) || bases.length === 0 && path === entry.path) {
        throw reader.fail("base-count", at, `base "${pathToText(path)}" is spelled out twice`);
      }
      bases.push(path);
      previous = path;
    }
  });
}

function readOwners(reader: ByteReader, upserts: readonly PackedUpsert[]): void {
  const size = reader.varint(upserts.length, "owners");
  const rows: { mode: number; uid: number; gid: number }[] = [];
  for (let row = 0; row < size; row++) {
    const mode = reader.varint(modeMax, "mode");
    const uid = reader.varint(ownerMax, "owner");
    const gid = reader.varint(ownerMax, "owner");
    rows.push({ mode, uid, gid });
  }
  readRows(reader, upserts, rows, "owners", (entry, row) => {
    entry.mode = row.mode;
    entry.uid = row.uid;
    entry.gid = row.gid;
  });
}

/** A column of row numbers; rows must be used in order of first use, and all of them. */
function readRows<T>(
  reader: ByteReader,
  upserts: readonly PackedUpsert[],
  rows: readonly T[],
  rule: string,
  set: (entry: Entry, row: T) => void,
): void {
  let used = 0;
  for (const { entry } of upserts) {
    const at = reader.offset;
    const number = reader.varint(rows.length - 1, rule);
    const row = rows[number];
    if (row === undefined || number > used) {
      throw reader.fail(rule, at, `row ${number} comes before row ${used}`);
    }
    if (number === used) used++;
    set(entry, row);
  }
  if (used < rows.length) {
    throw reader.fail(rule, reader.offset, `${rows.length - used} rows are not used`);
  }
}

function readXattrs(reader: ByteReader, budget: Budget, upserts: readonly PackedUpsert[]): void {
  const size = reader.varint(upserts.length, "xattrs");
  const rows: EntryXattr[][] = [];
  const rowSizes: number[] = [];
  for (let row = 0; row < size; row++) {
    const at = reader.offset;
    const count = reader.varint(xattrCountMax, "xattrs");
    if (count === 0) throw reader.fail("xattrs", at, "a row without xattrs");
    const xattrs: EntryXattr[] = [];
    for (let index = 0; index < count; index++) {
      const name = reader.path(xattrNameSizeMax);
      const value = reader.bytes(reader.varint(xattrSizeMax, "xattrs")).slice();
      xattrs.push({ name, value });
    }
    rows.push(xattrs);
    rowSizes.push(reader.offset - at);
  }
  let used = 0;
  for (const { entry } of upserts) {
    const at = reader.offset;
    const number = reader.varint(size, "xattrs");
    if (number > used + 1) throw reader.fail("xattrs", at, `row ${number} comes before row ${used + 1}`);
    used = Math.max(used, number);
    entry.xattrs = rows[number - 1] ?? [];
    budget.left -= rowSizes[number - 1] ?? 0; // a row of a few bytes may be used by every entry
    if (budget.left < 0) {
      throw reader.fail("xattrs-size", at, `paths and xattrs have more than ${chunkPathsSizeMax} bytes`);
    }
  }
  if (used < size) throw reader.fail("xattrs", reader.offset, `${size - used} rows are not used`);
}

function readDeltas(
  reader: ByteReader,
  upserts: readonly PackedUpsert[],
  max: number,
  set: (entry: Entry, value: number) => void,
): void {
  let previous = 0;
  for (const { entry } of upserts) {
    const at = reader.offset;
    const value = wrapped(previous + reader.svarint());
    if (Math.abs(value) > max) throw reader.fail("mtime", at, `a time of ${value} is out of range`);
    set(entry, value);
    previous = value;
  }
}

function readDigests(reader: ByteReader, fresh: readonly Entry[], digests: Uint8Array<ArrayBuffer>): void {
  let at = 0;
  for (const entry of fresh) {
    if (entry.kind !== "file") continue;
    if (entry.size === 0) {
      entry.digest = emptyDigest.slice();
      continue;
    }
    if (at + digestSize > digests.length) throw reader.fail("digests", reader.offset, "digests are missing");
    entry.digest = digests.slice(at, at + digestSize);
    at += digestSize;
  }
  if (at !== digests.length) {
    throw reader.fail("digests", reader.offset, `${digests.length - at} bytes of digests are left over`);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Against the base

function resolveUpsert(packed: PackedUpsert, base: Manifest): Upsert {
  const { entry, bases, inherits } = packed;
  let first: Entry | null = null;
  bases.forEach((path, at) => {
    const found = base.get(path);
    if (found === null || found.kind === "link") {
      throw fault("base.missing", `"${pathToText(path)}" is ${found === null ? "not there" : "a hard link"}`);
    }
    if (at === 0) first = found;
    else if (found.kind !== "file") throw fault("base.kind", `"${pathToText(path)}" is a ${found.kind}`);
  });
  if (inherits === 0 || first === null) return { entry, bases, sameContent: false };
  const from: Entry = first;
  const filled: Entry = { ...entry };
  if (inherits & inheritContent) {
    if (from.kind !== entry.kind) {
      throw fault("base.kind", `"${pathToText(entry.path)}" has the content of a ${from.kind}`);
    }
    filled.size = from.size;
    filled.digest = from.digest;
    filled.target = from.target;
    filled.rdevMajor = from.rdevMajor;
    filled.rdevMinor = from.rdevMinor;
  }
  if (inherits & inheritMtime) {
    filled.mtimeSeconds = from.mtimeSeconds;
    filled.mtimeNanos = from.mtimeNanos;
  }
  if (inherits & inheritOwner) {
    filled.mode = from.mode;
    filled.uid = from.uid;
    filled.gid = from.gid;
  }
  if (inherits & inheritXattrs) filled.xattrs = from.xattrs;
  const broken = entryFault(filled);
  if (broken !== null) throw fault(`base.entry.${broken.rule}`, entryMessage(filled, broken.message));
  const sameContent = filled.kind === "file" && (inherits & inheritContent) !== 0;
  return { entry: filled, bases, sameContent };
}

function checkDeletes(deletes: readonly BytePath[], base: Manifest): void {
  const all = new Set(deletes);
  for (const path of deletes) {
    if (!base.has(path)) throw fault("base.delete", `"${pathToText(path)}" to delete is not there`);
    for (let above = path; above !== "";) {
      above = parentOf(above);
      if (all.has(above) && isBelow(path, above)) {
        throw fault(
          "base.delete",
          `"${pathToText(path)}" is below "${pathToText(above)}", which goes anyway`,
        );
      }
    }
  }
}

function requireAscending(previous: BytePath | undefined, path: BytePath): void {
  if (previous !== undefined && path <= previous) {
    throw fault("columns.order", `"${pathToText(path)}" does not come after "${pathToText(previous)}"`);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Small things

function entryMessage(entry: Entry, message: string): string {
  return `"${pathToText(entry.path)}": ${message}`;
}

/** Modulo 2^53 - 1 into ±(2^52 - 1), so that the difference of any two svarints is one, too. */
function wrapped(value: number): number {
  const modulus = 2 * svarintMax + 1;
  return value > svarintMax ? value - modulus : value < -svarintMax ? value + modulus : value;
}

function isDevice(kind: EntryKind): boolean {
  return kind === "char" || kind === "block";
}

function sharedPrefix(left: string, right: string): number {
  const max = Math.min(left.length, right.length);
  let at = 0;
  while (at < max && left.charCodeAt(at) === right.charCodeAt(at)) at++;
  return at;
}

function sharedSuffix(left: string, right: string, max: number): number {
  const end = Math.min(left.length, max);
  let at = 0;
  while (at < end && left.charCodeAt(left.length - 1 - at) === right.charCodeAt(right.length - 1 - at)) at++;
  return at;
}

function fault(rule: string, message: string): FormatError {
  return new FormatError(`package.${rule}`, -1, `Cannot use the package: ${message}`);
}
