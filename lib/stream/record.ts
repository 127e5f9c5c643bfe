/**
 * The record grammar of Xen's migration stream: an image header, then records of a type, a length, a body
 * and zero padding to eight octets. `STREAM.md` is the specification; this file is its codec and knows no
 * record types but END.
 *
 * Invariants:
 * - A length is compared with the bound for its type before anything is allocated for it.
 * - A body is always one contiguous array of its own: never a view of a pushed chunk, never moved again.
 *   Each octet of it is copied at most once, and not at all when it is read into `openBody()`.
 * - A reader holds at most one chunk and one unfinished body.
 * - Padding and reserved fields must be zero; what is not is refused, with the offset of the wrong octet.
 *
 * It does not check the order of records: that belongs to the profiles.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";

/** Octets of an image header. */
export const headerSize = 24;

/** Octets of a record's head: type and length. */
export const recordHeadSize = 8;

/** The longest body that a record may have: 128 MiB. */
export const bodySizeMax = 134_217_728;

/** The type of the record that ends a stream; its body is empty. */
export const endType = 0;

/** The type bit that allows a reader to skip a record that it does not know. */
export const optionalBit = 0x8000_0000;

const marker = 0xffff_ffff;
const optionBigEndian = 0x0001;

/** What an image header says. */
export interface ImageHeader {
  /** Which kind of stream this is, 32 bits; four letters by custom. */
  id: number;
  /** Version of that kind. */
  version: number;
  /** Whether the fields of records are big-endian; the header itself always is. */
  bigEndian: boolean;
}

/** What a reader demands of an image header. */
export interface HeaderRule {
  /** The one id that is taken. */
  id: number;
  /** The oldest version that is taken. */
  versionMin: number;
  /** The newest version that is taken. */
  versionMax: number;
}

/** A record that was read. */
export interface StreamRecord {
  /** All 32 bits, with the optional bit. */
  type: number;
  /** Whether a reader that does not know the type may skip it. */
  optional: boolean;
  /** The body, owned by whoever reads the record. */
  body: Uint8Array<ArrayBuffer>;
  /** Stream offset of the record's first octet. */
  offset: number;
}

/** The largest body of each type, in octets; a negative number refuses the type. */
export type RecordLimits = (type: number) => number;

/** Makes an image header. Drover writes little-endian streams; `bigEndian` is for tests of readers. */
export function encodeHeader(
  options: { id: number; version: number; bigEndian?: boolean },
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(headerSize);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, marker);
  view.setUint32(4, marker);
  view.setUint32(8, options.id);
  view.setUint32(12, options.version);
  view.setUint16(16, options.bigEndian === true ? optionBigEndian : 0);
  return bytes;
}

/**
 * Reads the image header at the start of `bytes` and holds it against `rule`.
 *
 * @param options `offset` is the stream offset of the header, and `rule` begins the rule ids, `stream.header` by
 * default, both for errors; `lenient` ignores the reserved options and octets instead of demanding zero.
 * @throws {FormatError} rules `stream.header.truncated`, `.marker`, `.id`, `.version`, `.options`, `.reserved`.
 */
export function decodeHeader(
  bytes: Uint8Array,
  rule: HeaderRule,
  options: { offset?: number; lenient?: boolean; rule?: string } = {},
): ImageHeader {
  const base = options.offset ?? 0;
  const prefix = options.rule ?? "stream.header";
  if (bytes.length < headerSize) {
    throw new FormatError(
      `${prefix}.truncated`,
      base + bytes.length,
      `Cannot read the stream header: it has ${bytes.length} octets of ${headerSize}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, headerSize);
  for (const at of [0, 4]) {
    if (view.getUint32(at) !== marker) {
      throw new FormatError(
        `${prefix}.marker`,
        base + at,
        `Cannot read the stream header: the marker is ${hex(view.getUint32(at))} and should be ${
          hex(marker)
        }`,
      );
    }
  }
  const id = view.getUint32(8);
  if (id !== rule.id) {
    throw new FormatError(
      `${prefix}.id`,
      base + 8,
      `Cannot read the stream header: the id is ${hex(id)} and should be ${hex(rule.id)}`,
    );
  }
  const version = view.getUint32(12);
  if (version < rule.versionMin || version > rule.versionMax) {
    throw new FormatError(
      `${prefix}.version`,
      base + 12,
      `Cannot read the stream header: the version is ${version} and should be ` +
        (rule.versionMin === rule.versionMax
          ? `${rule.versionMin}`
          : `${rule.versionMin} to ${rule.versionMax}`),
    );
  }
  const flags = view.getUint16(16);
  const bigEndian = (flags & optionBigEndian) !== 0;
  if (options.lenient === true) return { id, version, bigEndian };
  if ((flags & ~optionBigEndian) !== 0) {
    throw new FormatError(
      `${prefix}.options`,
      base + 16,
      `Cannot read the stream header: the options are ${hex(flags)} and bits 1 to 15 should be zero`,
    );
  }
  for (let at = 18; at < headerSize; at++) {
    if (bytes[at] !== 0) {
      throw new FormatError(
        `${prefix}.reserved`,
        base + at,
        `Cannot read the stream header: a reserved octet is ${bytes[at]} and should be 0`,
      );
    }
  }
  return { id, version, bigEndian };
}

/** Makes the head of a little-endian record; the body of `length` octets and its padding follow it. */
export function encodeRecordHead(type: number, length: number): Uint8Array<ArrayBuffer> {
  if (!Number.isInteger(type) || type < 0 || type > 0xffff_ffff) {
    throw new TypeError(`Cannot encode a record: its type is ${type} and should be 32 bits`);
  }
  if (!Number.isInteger(length) || length < 0 || length > bodySizeMax) {
    throw new TypeError(`Cannot encode a record: its body is ${length} octets and may be ${bodySizeMax}`);
  }
  const bytes = new Uint8Array(recordHeadSize);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, length, true);
  return bytes;
}

/** How many zero octets follow a body of `length` octets: 0 to 7. */
export function recordPadding(length: number): number {
  return (8 - length % 8) % 8;
}

/** Makes a record as a list of arrays to write one after the other: head, the parts themselves, padding. */
export function encodeRecord(type: number, ...parts: Uint8Array[]): Uint8Array[] {
  let length = 0;
  for (const part of parts) length += part.length;
  const pieces: Uint8Array[] = [encodeRecordHead(type, length), ...parts];
  const padding = recordPadding(length);
  if (padding > 0) pieces.push(new Uint8Array(padding));
  return pieces;
}

/**
 * Takes a stream of records apart, chunk by chunk.
 *
 * After `push()`, call `next()` until it gives null; only then may the chunk's memory be used again and the
 * next chunk be pushed. After an error the reader stays broken and throws that error again.
 *
 * ```ts
 * import { encodeRecord, RecordReader } from "./record.ts";
 * const reader = new RecordReader({ limits: () => 1024 });
 * for (const piece of encodeRecord(7, new Uint8Array([1, 2, 3]))) {
 *   reader.push(piece);
 *   for (let record = reader.next(); record !== null; record = reader.next()) console.log(record.body.length);
 * }
 * reader.finish();
 * ```
 */
export class RecordReader {
  readonly #limits: RecordLimits;
  readonly #allocate: (size: number) => Uint8Array<ArrayBuffer>;
  readonly #littleEndian: boolean;
  readonly #head = new Uint8Array(recordHeadSize);
  readonly #headView = new DataView(this.#head.buffer);
  #stage: "head" | "body" | "padding" = "head";
  /** Octets of the present stage that are done. */
  #filled = 0;
  #type = 0;
  #body: Uint8Array<ArrayBuffer> = empty;
  #padding = 0;
  #recordOffset: number;
  #offset: number;
  #chunk: Uint8Array = empty;
  #chunkAt = 0;
  #failure: unknown = null;

  /**
   * A reader at the first octet of a record.
   *
   * @param options `limits` bounds the body of each type; `bigEndian` is what the image header said;
   * `offset` is the stream offset of the first octet that will be pushed, for error messages;
   * `allocate` finds memory for a body of exactly `size` octets, within the bounds.
   */
  constructor(
    options: {
      limits: RecordLimits;
      bigEndian?: boolean;
      offset?: number;
      allocate?: (size: number) => Uint8Array<ArrayBuffer>;
    },
  ) {
    this.#limits = options.limits;
    this.#allocate = options.allocate ?? ((size) => new Uint8Array(size));
    this.#littleEndian = options.bigEndian !== true;
    this.#offset = options.offset ?? 0;
    this.#recordOffset = this.#offset;
  }

  /** Stream offset of the first octet that was not taken in yet. */
  get offset(): number {
    return this.#offset;
  }

  /** Whether everything taken in so far belongs to records that `next()` has given out. */
  get atBoundary(): boolean {
    return this.#stage === "head" && this.#filled === 0;
  }

  /**
   * Gives the reader the next octets of the stream.
   *
   * @throws {TypeError} when an earlier chunk was not read to its end by `next()`.
   */
  push(chunk: Uint8Array): void {
    if (this.#chunkAt < this.#chunk.length) {
      throw new TypeError(
        "Cannot push a chunk: the one before it still has records, next() should take them first",
      );
    }
    this.#chunk = chunk;
    this.#chunkAt = 0;
  }

  /**
   * Takes the next whole record, or null when more octets are needed.
   *
   * @throws {FormatError} rules `stream.record.type`, `.length`, `.padding` and `stream.end.length`.
   */
  next(): StreamRecord | null {
    if (this.#failure !== null) throw this.#failure;
    try {
      if (this.#stage === "head" && !this.#takeHead()) return null;
      if (this.#stage === "body" && !this.#takeBody()) return null;
      if (!this.#takePadding()) return null;
    } catch (error) {
      this.#failure = error;
      throw error;
    }
    const record = {
      type: this.#type,
      optional: this.#type >= optionalBit,
      body: this.#body,
      offset: this.#recordOffset,
    };
    this.#enter("head");
    this.#body = empty;
    return record;
  }

  /**
   * The part of the present body that is still empty, to read into directly; empty when `next()` has not
   * returned null inside a body. Say with `filledBody()` how much was written.
   */
  openBody(): Uint8Array<ArrayBuffer> {
    if (this.#stage !== "body" || this.#chunkAt < this.#chunk.length) return empty;
    return this.#body.subarray(this.#filled);
  }

  /** Notes that `size` octets of the stream were written to the front of `openBody()`. */
  filledBody(size: number): void {
    if (this.#stage !== "body" || size < 0 || size > this.#body.length - this.#filled) {
      throw new TypeError(`Cannot note ${size} octets of a body: that is more than it has room for`);
    }
    this.#filled += size;
    this.#offset += size;
  }

  /** The octets of the last chunk that were not taken in, as a view: what follows the last record. */
  rest(): Uint8Array {
    return this.#chunk.subarray(this.#chunkAt);
  }

  /**
   * Says that the stream has ended.
   *
   * @throws {FormatError} rule `stream.record.truncated` when that is inside a record.
   */
  finish(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#chunkAt < this.#chunk.length) {
      throw new TypeError("Cannot finish: the last chunk still has records, next() should take them first");
    }
    if (this.atBoundary) return;
    const missing = this.#stage === "head"
      ? `the head of the record at offset ${this.#recordOffset} has ${this.#filled} octets of ${recordHeadSize}`
      : this.#stage === "body"
      ? `the body of the record at offset ${this.#recordOffset} has ${this.#filled} octets of ${this.#body.length}`
      : `the padding of the record at offset ${this.#recordOffset} has ${this.#filled} octets of ${this.#padding}`;
    throw new FormatError(
      "stream.record.truncated",
      this.#offset,
      `Cannot read the stream to its end: ${missing}`,
    );
  }

  #takeHead(): boolean {
    if (this.#filled === 0) this.#recordOffset = this.#offset;
    this.#filled += this.#copyTo(this.#head, this.#filled);
    if (this.#filled < recordHeadSize) return false;
    const type = this.#headView.getUint32(0, this.#littleEndian);
    const length = this.#headView.getUint32(4, this.#littleEndian);
    if (type === endType && length !== 0) {
      throw new FormatError(
        "stream.end.length",
        this.#recordOffset,
        `Cannot read the END record: its body is ${length} octets and should be empty`,
      );
    }
    const limit = this.#limits(type);
    if (!(limit >= 0)) {
      throw new FormatError(
        "stream.record.type",
        this.#recordOffset,
        `Cannot read a record: the type ${hex(type)} may not stand here`,
      );
    }
    if (length > Math.min(limit, bodySizeMax)) {
      throw new FormatError(
        "stream.record.length",
        this.#recordOffset,
        `Cannot read a record of type ${hex(type)}: its body is ${length} octets and may be ${
          Math.min(limit, bodySizeMax)
        }`,
      );
    }
    this.#type = type;
    this.#body = length === 0 ? empty : this.#allocate(length);
    this.#padding = recordPadding(length);
    this.#enter("body");
    return true;
  }

  #takeBody(): boolean {
    this.#filled += this.#copyTo(this.#body, this.#filled);
    if (this.#filled < this.#body.length) return false;
    this.#enter("padding");
    return true;
  }

  #takePadding(): boolean {
    while (this.#filled < this.#padding) {
      const octet = this.#chunk[this.#chunkAt];
      if (octet === undefined) return false;
      if (octet !== 0) {
        throw new FormatError(
          "stream.record.padding",
          this.#offset,
          `Cannot read a record of type ${hex(this.#type)}: a padding octet is ${octet} and should be 0`,
        );
      }
      this.#filled++;
      this.#chunkAt++;
      this.#offset++;
    }
    return true;
  }

  /** Copies as much of the chunk as `target` takes from `at` on; the number of octets. */
  #copyTo(target: Uint8Array, at: number): number {
    const size = Math.min(target.length - at, this.#chunk.length - this.#chunkAt);
    if (size === 0) return 0;
    target.set(this.#chunk.subarray(this.#chunkAt, this.#chunkAt + size), at);
    this.#chunkAt += size;
    this.#offset += size;
    return size;
  }

  #enter(stage: "head" | "body" | "padding"): void {
    this.#stage = stage;
    this.#filled = 0;
  }
}

const empty: Uint8Array<ArrayBuffer> = new Uint8Array(0);

function hex(value: number): string {
  return "0x" + value.toString(16);
}
