/**
 * SEGMENT of a package: pieces of content as ops and literals. Format: PACKAGE.md.
 *
 * Way out: `SegmentEncoder.add` per piece → `finish` → the caller compresses ops and literals →
 * `encodeSegmentBody`. Way in: `parseSegmentBody` (all sizes bounded) → the caller decompresses →
 * `checkSegmentDigest` → `decodeSegment` replays to a handler.
 *
 * Invariants: a segment refers to the metadata and to `from` only, never to another segment; the ops fill every piece
 * exactly; copies stay within their bases; the literals are used up exactly.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { FormatError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import { type BytePath, pathSizeMax, treePathFault } from "../base/path.ts";
import { copySizeMin, holeSizeMin, opCopy, opHole, type OpList, opLiteral } from "./delta.ts";
import { digestSize, fileSizeMax } from "./entry_codec.ts";
import { baseCountMax, hasPieces, segmentCountMax, type Upsert } from "./package.ts";
import { checkPartSizes, codecNumber, type Part, readBounded, readCodec, readReserved } from "./part.ts";

/** The longest piece. */
export const pieceSizeMax: number = 16 * 1024 * 1024;
/** The sum of the piece lengths of one segment. */
export const segmentSizeMax: number = 64 * 1024 * 1024;
/** The most pieces of one segment. */
export const pieceCountMax = 16_384;
/** The largest head. */
export const headSizeMax: number = 4 * 1024 * 1024;
/** The most slices of a prefix. */
export const prefixCountMax = 4096;
/** The largest prefix. */
export const prefixSizeMax: number = 4 * 1024 * 1024;

/** A range of one upsert's content. */
export interface Piece {
  /** Index in the metadata's upserts. */
  upsert: number;
  offset: number;
  length: number;
}

/** A range of a file of `from` that is part of the literals' reference prefix. */
export interface PrefixSlice {
  path: BytePath;
  offset: number;
  length: number;
}

/** A segment before compression. */
export interface RawSegment {
  index: number;
  pieces: Piece[];
  prefix: PrefixSlice[];
  ops: Uint8Array<ArrayBuffer>;
  literals: Uint8Array<ArrayBuffer>;
}

/** A SEGMENT body taken apart. */
export interface SegmentBody {
  index: number;
  pieces: Piece[];
  prefix: PrefixSlice[];
  ops: Part;
  literals: Part;
  /** What `segmentDigest` must be. */
  digest: Uint8Array<ArrayBuffer>;
}

/** The largest raw ops that a segment of these pieces may have; honest ones stay far below. */
export function opsSizeMax(pieces: readonly Piece[]): number {
  let total = 0;
  for (const piece of pieces) total += piece.length;
  return 1024 + 16 * pieces.length + Math.floor(total / 2);
}

/** Collects the pieces of one segment. May be used for one segment after another. */
export class SegmentEncoder {
  readonly #ops = new ByteWriter(4096);
  readonly #literals = new ByteWriter(65_536);
  #pieces: Piece[] = [];
  #size = 0;

  /** Sum of the piece lengths so far. */
  get size(): number {
    return this.#size;
  }

  /**
   * Appends a piece.
   *
   * @param piece where it belongs. @param target its bytes, exactly `piece.length` (holes may hold anything).
   * @param ops what `DeltaEncoder` or `LargeDelta` made of it; null for the whole as literal.
   * @throws {RangeError} where ops, target and piece do not agree or a bound of the format is exceeded.
   */
  add(piece: Piece, target: Uint8Array, ops: OpList | null): void {
    const { length } = piece;
    this.#checkRoom(piece);
    if (target.length !== length) {
      throw new RangeError(`Cannot add a piece of ${length} bytes with ${target.length}`);
    }
    if (ops === null) {
      this.#ops.varint(opLiteral);
      this.#literals.bytes(target);
    } else this.#addOps(piece, ops, (at, size) => target.subarray(at, at + size));
    this.#pieces.push({ upsert: piece.upsert, offset: piece.offset, length });
    this.#size += length;
  }

  /**
   * As `add`, for a piece of which only the literals are at hand.
   *
   * @param literals theirs, one after the other; at least as many as the ops want.
   * @returns how many of them the ops took.
   */
  addPacked(piece: Piece, literals: Uint8Array, ops: OpList): number {
    this.#checkRoom(piece);
    let taken = 0;
    this.#addOps(piece, ops, (_, size) => {
      const bytes = literals.subarray(taken, taken + size);
      if (bytes.length !== size) {
        throw new RangeError(`Cannot add a piece: ${size} literals, ${bytes.length} left`);
      }
      taken += size;
      return bytes;
    });
    this.#pieces.push({ upsert: piece.upsert, offset: piece.offset, length: piece.length });
    this.#size += piece.length;
    return taken;
  }

  #checkRoom({ length }: Piece): void {
    if (length < 1 || length > pieceSizeMax) {
      throw new RangeError(`Cannot add a piece of ${length} bytes: 1 to ${pieceSizeMax}`);
    }
    if (this.#pieces.length === pieceCountMax || this.#size + length > segmentSizeMax) {
      throw new RangeError(
        `Cannot add to a segment of ${this.#pieces.length} pieces and ${this.#size} bytes`,
      );
    }
  }

  /** The segment; the encoder is empty again. */
  finish(index: number, prefix: PrefixSlice[] = []): RawSegment {
    const segment = {
      index,
      pieces: this.#pieces,
      prefix,
      ops: this.#ops.finish(),
      literals: this.#literals.finish(),
    };
    this.#ops.clear();
    this.#literals.clear();
    this.#pieces = [];
    this.#size = 0;
    return segment;
  }

  #addOps(piece: Piece, ops: OpList, literal: (at: number, size: number) => Uint8Array): void {
    const writer = this.#ops;
    let at = 0;
    let base = 0;
    let expected = piece.offset;
    for (let op = 0; op < ops.count; op++) {
      const kind = ops.kinds[op] as number;
      const length = ops.lengths[op] as number;
      const isLast = at + length === piece.length;
      const scaled = isLast ? 0 : length * 4;
      if (kind === opLiteral) {
        writer.varint(scaled);
        this.#literals.bytes(literal(at, length));
      } else if (kind === opHole) {
        writer.varint(scaled + 3);
        writer.u8(0);
      } else {
        const place = ops.offsets[op] as number;
        const from = ops.bases[op] as number;
        if (from !== base) {
          writer.varint(scaled + 3);
          writer.u8(1);
          writer.varint(from);
          writer.varint(place);
          base = from;
        } else if (place === expected) writer.varint(scaled + 1);
        else {
          writer.varint(scaled + 2);
          writer.svarint(place - expected);
        }
        expected = place;
      }
      expected += length;
      at += length;
    }
    if (at !== piece.length) {
      throw new RangeError(`Cannot add a piece of ${piece.length} bytes with ops for ${at}`);
    }
  }
}

/** sha256 of a segment's meaning: index, head, raw ops and raw literals, whatever the compression. */
export function segmentDigest(segment: RawSegment): Uint8Array<ArrayBuffer> {
  return digestOf(segment, encodeHead(segment));
}

/**
 * The body of a SEGMENT record.
 *
 * @param segment what `finish` gave. @param parts its ops and literals as they shall stand in the body (`makePart`).
 */
export function encodeSegmentBody(
  segment: RawSegment,
  parts: { ops: Part; literals: Part },
): { body: Uint8Array<ArrayBuffer>; digest: Uint8Array<ArrayBuffer> } {
  const head = encodeHead(segment);
  const { ops, literals } = parts;
  const digest = digestOf(segment, head);
  const writer = new ByteWriter(60 + head.length + ops.bytes.length + literals.bytes.length);
  writer.u32le(segment.index);
  writer.u32le(head.length);
  writer.u8(codecNumber(ops.codec));
  writer.u8(codecNumber(literals.codec));
  writer.u8(0);
  writer.u8(0);
  writer.u32le(ops.rawSize);
  writer.u32le(ops.bytes.length);
  writer.u32le(literals.rawSize);
  writer.u32le(literals.bytes.length);
  writer.bytes(digest);
  writer.bytes(head);
  writer.bytes(ops.bytes);
  writer.bytes(literals.bytes);
  return { body: writer.finish(), digest };
}

/** What a segment must fit. */
export interface SegmentLimits {
  /** From the metadata's header. */
  segmentCount: number;
  /** The metadata's upserts, resolved. */
  upserts: readonly Upsert[];
}

/**
 * Takes a SEGMENT body apart: the pieces are pieces of content upserts, the raw sizes possible for them. Nothing is
 * decompressed or copied.
 *
 * @throws {FormatError} rules `package.segment.…` and `package.head.…`.
 */
export function parseSegmentBody(body: Uint8Array<ArrayBuffer>, limits: SegmentLimits): SegmentBody {
  const reader = new ByteReader(body, "package.segment");
  const index = readBounded(reader, Math.min(limits.segmentCount, segmentCountMax) - 1, "index");
  const headSize = readBounded(reader, headSizeMax, "head-size");
  const opsCodec = readCodec(reader);
  const literalsCodec = readCodec(reader);
  readReserved(reader);
  const sizesAt = reader.offset;
  const opsSize = reader.u32le();
  const opsPacked = reader.u32le();
  const literalsSize = reader.u32le();
  const literalsPacked = reader.u32le();
  const digest = reader.bytes(digestSize);
  const headStart = reader.offset;
  reader.bytes(headSize);
  const head = new ByteReader(body, "package.head", { start: headStart, end: headStart + headSize });
  const pieces = readPieces(head, limits.upserts);
  const prefix = readPrefix(head);
  head.end();
  let total = 0;
  for (const piece of pieces) total += piece.length;
  if (opsSize > opsSizeMax(pieces)) {
    throw reader.fail(
      "ops-size",
      sizesAt,
      `${opsSize} bytes of ops for ${pieces.length} pieces of ${total} bytes`,
    );
  }
  if (literalsSize > total) {
    throw reader.fail(
      "literals-size",
      sizesAt + 8,
      `${literalsSize} bytes of literals for pieces of ${total} bytes`,
    );
  }
  checkPartSizes(reader, { codec: opsCodec, rawSize: opsSize, packedSize: opsPacked });
  checkPartSizes(reader, { codec: literalsCodec, rawSize: literalsSize, packedSize: literalsPacked });
  const ops = reader.bytes(opsPacked);
  const literals = reader.bytes(literalsPacked);
  reader.end();
  return {
    index,
    pieces,
    prefix,
    ops: { codec: opsCodec, rawSize: opsSize, bytes: ops },
    literals: { codec: literalsCodec, rawSize: literalsSize, bytes: literals },
    digest,
  };
}

/**
 * Checks decompressed parts against the body they came in, and gives the segment to replay.
 *
 * @throws {FormatError} rule `package.segment.digest`.
 */
export function checkSegmentDigest(
  body: SegmentBody,
  raw: { ops: Uint8Array<ArrayBuffer>; literals: Uint8Array<ArrayBuffer> },
): RawSegment {
  const { index, pieces, prefix } = body;
  const segment: RawSegment = { index, pieces, prefix, ops: raw.ops, literals: raw.literals };
  const agrees = raw.ops.length === body.ops.rawSize && raw.literals.length === body.literals.rawSize &&
    bytesEqual(segmentDigest(segment), body.digest);
  if (!agrees) {
    throw new FormatError(
      "package.segment.digest",
      28,
      `Cannot read segment ${index}: the content has another sha256`,
    );
  }
  return segment;
}

/** What is done with the pieces of a segment. `at` counts from the piece's start. */
export interface SegmentHandler {
  /** A piece begins; its upsert is `piece.upsert`. */
  begin(piece: Piece): void;
  /** `length` bytes at `offset` of the upsert's base number `base`. */
  copy(piece: Piece, copy: { at: number; base: number; offset: number; length: number }): void;
  /** New bytes, a view. */
  literal(piece: Piece, at: number, bytes: Uint8Array<ArrayBuffer>): void;
  /** Zeros that need no room. */
  hole(piece: Piece, at: number, length: number): void;
  /** The piece is filled. */
  end(piece: Piece): void;
}

/**
 * Replays a segment piece by piece.
 *
 * @param baseSize size of an upsert's base in `from`, or null if it has no such base.
 * @throws {FormatError} rules `package.ops.…`; the handler has then seen what came before.
 */
export function decodeSegment(
  segment: RawSegment,
  baseSize: (upsert: number, base: number) => number | null,
  handler: SegmentHandler,
): void {
  const reader = new ByteReader(segment.ops, "package.ops");
  let literalsAt = 0;
  for (const piece of segment.pieces) {
    handler.begin(piece);
    let at = 0;
    let base = 0;
    let expected = piece.offset;
    let size: number | null = null;
    let sizeOf = -1;
    let previous = -1;
    while (at < piece.length) {
      const start = reader.offset;
      const tag = reader.varint();
      const kind = tag % 4;
      const rest = piece.length - at;
      const announced = (tag - kind) / 4;
      const length = announced === 0 ? rest : announced;
      if (announced >= rest) {
        throw reader.fail("length", start, `an op of ${announced} bytes where ${rest} are left`);
      }
      const further = kind === 3 ? reader.u8() : -1;
      if (further > 1) throw reader.fail("kind", start, `further kind ${further} is unknown`);
      if (kind === 0) {
        if (previous === opLiteral) throw reader.fail("order", start, "a literal after a literal");
        const end = literalsAt + length;
        if (end > segment.literals.length) {
          throw reader.fail(
            "literals",
            start,
            `${end} bytes of literals are wanted of ${segment.literals.length}`,
          );
        }
        handler.literal(piece, at, segment.literals.subarray(literalsAt, end));
        literalsAt = end;
        previous = opLiteral;
      } else if (further === 0) {
        if (previous === opHole) throw reader.fail("order", start, "a hole after a hole");
        if (announced !== 0 && length < holeSizeMin) {
          throw reader.fail("length", start, `a hole of ${length} bytes`);
        }
        handler.hole(piece, at, length);
        previous = opHole;
      } else {
        if (announced !== 0 && length < copySizeMin) {
          throw reader.fail("length", start, `a copy of ${length} bytes`);
        }
        if (kind === 2) {
          const away = reader.svarint();
          if (away === 0) throw reader.fail("place", start, "a copy goes elsewhere by nothing");
          expected += away;
        } else if (kind === 3) {
          const other = reader.varint(baseCountMax - 1, "base");
          if (other === base) throw reader.fail("base", start, "a copy changes to the same base");
          base = other;
          expected = reader.varint(fileSizeMax, "place");
        }
        if (sizeOf !== base) {
          size = baseSize(piece.upsert, base);
          sizeOf = base;
        }
        if (size === null) throw reader.fail("base", start, `there is no base ${base}`);
        if (expected < 0 || expected + length > size) {
          throw reader.fail("place", start, `a copy of ${length} bytes at ${expected} of a base of ${size}`);
        }
        handler.copy(piece, { at, base, offset: expected, length });
        previous = opCopy;
      }
      expected += length;
      at += length;
    }
    handler.end(piece);
  }
  reader.end();
  if (literalsAt !== segment.literals.length) {
    throw reader.fail(
      "literals",
      reader.offset,
      `${segment.literals.length - literalsAt} bytes of literals are left`,
    );
  }
}

/** Keeps account of which pieces have come, over all segments of a package. */
export class PieceLedger {
  readonly #upserts: readonly Upsert[];
  /** Bytes still missing per content upsert. */
  readonly #missing: Float64Array<ArrayBuffer>;
  /** Start and end of the pieces of those upserts that came in parts, by upsert. */
  readonly #ranges = new Map<number, { start: number; end: number }[]>();

  /**
   * Nothing has come yet.
   *
   * @param upserts the metadata's, resolved.
   */
  constructor(upserts: readonly Upsert[]) {
    this.#upserts = upserts;
    this.#missing = Float64Array.from(upserts, (upsert) => hasPieces(upsert) ? upsert.entry.size : 0);
  }

  /**
   * Notes the pieces of one segment.
   *
   * @returns the upserts that are complete now.
   * @throws {FormatError} rule `package.segment.overlap` where a piece came before.
   */
  add(pieces: readonly Piece[]): number[] {
    const complete: number[] = [];
    for (const { upsert, offset, length } of pieces) {
      const missing = this.#missing[upsert] ?? 0;
      const isWhole = length === this.#upserts[upsert]?.entry.size;
      if (length > missing || !isWhole && !this.#addRange(upsert, offset, offset + length)) {
        throw new FormatError(
          "package.segment.overlap",
          -1,
          `Cannot use a segment: a piece of upsert ${upsert} came twice`,
        );
      }
      this.#missing[upsert] = missing - length;
      if (missing === length) {
        this.#ranges.delete(upsert);
        complete.push(upsert);
      }
    }
    return complete;
  }

  /**
   * To be called after the last segment.
   *
   * @throws {FormatError} rule `package.segment.missing` where content did not come.
   */
  finish(): void {
    const upsert = this.#missing.findIndex((missing) => missing > 0);
    if (upsert < 0) return;
    throw new FormatError(
      "package.segment.missing",
      -1,
      `Cannot use the package: ${this.#missing[upsert]} bytes of upsert ${upsert} did not come`,
    );
  }

  /** Inserts in order; false for an overlap. */
  #addRange(upsert: number, start: number, end: number): boolean {
    let ranges = this.#ranges.get(upsert);
    if (ranges === undefined) this.#ranges.set(upsert, ranges = []);
    let at = ranges.length;
    while (at > 0 && (ranges[at - 1] as { start: number }).start > start) at--;
    const before = ranges[at - 1];
    const after = ranges[at];
    if (before !== undefined && before.end > start || after !== undefined && after.start < end) return false;
    if (before?.end === start) {
      before.end = end;
      if (after?.start === end) {
        before.end = after.end;
        ranges.splice(at, 1);
      }
    } else if (after?.start === end) after.start = start;
    else ranges.splice(at, 0, { start, end });
    return true;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function digestOf(segment: RawSegment, head: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const sizes = new ByteWriter(16);
  sizes.u32le(segment.index);
  sizes.u32le(head.length);
  sizes.u32le(segment.ops.length);
  sizes.u32le(segment.literals.length);
  const hash = createHash("sha256").update(sizes.view()).update(head).update(segment.ops).update(
    segment.literals,
  );
  return new Uint8Array(hash.digest());
}

function encodeHead(segment: RawSegment): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter(16 + segment.pieces.length * 6);
  writer.varint(segment.pieces.length);
  let previous = 0;
  for (const { upsert, offset, length } of segment.pieces) {
    writer.svarint(upsert - previous);
    writer.varint(offset);
    writer.varint(length);
    previous = upsert;
  }
  let path = "" as BytePath;
  writer.varint(segment.prefix.length);
  for (const slice of segment.prefix) {
    let shared = 0;
    while (shared < path.length && path.charCodeAt(shared) === slice.path.charCodeAt(shared)) shared++;
    writer.varint(shared);
    writer.path(slice.path.slice(shared) as BytePath);
    writer.varint(slice.offset);
    writer.varint(slice.length);
    path = slice.path;
  }
  return writer.finish();
}

function readPieces(reader: ByteReader, upserts: readonly Upsert[]): Piece[] {
  const countAt = reader.offset;
  const count = reader.varint(pieceCountMax, "piece-count");
  if (count === 0) throw reader.fail("piece-count", countAt, "a segment without pieces");
  const pieces: Piece[] = [];
  let number = 0;
  let total = 0;
  for (let index = 0; index < count; index++) {
    const at = reader.offset;
    number += reader.svarint();
    const offset = reader.varint(fileSizeMax, "piece");
    const length = reader.varint(pieceSizeMax, "piece");
    const upsert = upserts[number];
    if (upsert === undefined || !hasPieces(upsert)) {
      throw reader.fail("upsert", at, `upsert ${number} has no pieces`);
    }
    if (length === 0 || offset + length > upsert.entry.size) {
      throw reader.fail(
        "piece",
        at,
        `a piece of ${length} bytes at ${offset} of a file of ${upsert.entry.size}`,
      );
    }
    total += length;
    if (total > segmentSizeMax) {
      throw reader.fail("size", at, `pieces have more than ${segmentSizeMax} bytes`);
    }
    pieces.push({ upsert: number, offset, length });
  }
  return pieces;
}

function readPrefix(reader: ByteReader): PrefixSlice[] {
  const count = reader.varint(prefixCountMax, "prefix-count");
  const slices: PrefixSlice[] = [];
  let previous = "" as BytePath;
  let total = 0;
  let pathsSize = 0;
  for (let index = 0; index < count; index++) {
    const at = reader.offset;
    const shared = reader.varint(previous.length, "front");
    const rest = reader.path(pathSizeMax - shared);
    const path = (previous.slice(0, shared) + rest) as BytePath;
    const broken = path === "" ? "path is empty" : treePathFault(path);
    if (broken !== null) throw reader.fail("path", at, broken);
    pathsSize += path.length;
    if (pathsSize > headSizeMax) {
      throw reader.fail("paths-size", at, `paths have more than ${headSizeMax} bytes`);
    }
    const offset = reader.varint(fileSizeMax, "prefix");
    const length = reader.varint(prefixSizeMax, "prefix");
    total += length;
    if (length === 0 || total > prefixSizeMax) {
      throw reader.fail("prefix", at, `a slice of ${length} bytes, ${total} together`);
    }
    slices.push({ path, offset, length });
    previous = path;
  }
  return slices;
}
