/**
 * Writing and reading small binary structures: a growing buffer and a reader that trusts nothing.
 *
 * Numbers are little-endian. A varint is unsigned LEB128 (seven bits per byte, low bits first) of a number
 * up to 2^53 - 1, in its shortest form only: the reader refuses padded ones, so that every value
 * has one encoding. An svarint is a varint of the zigzag form (0, -1, 1, -2, … become 0, 1, 2, 3, …).
 * The reader never reads outside its bounds; it throws `FormatError` with the offset of the value.
 *
 * @module
 */
import { FormatError } from "./errors.ts";
import { type BytePath, pathFromBytes } from "./path.ts";

/** The largest value of a varint. */
export const varintMax: number = Number.MAX_SAFE_INTEGER;

/** The largest value of an svarint; the smallest is its negation. */
export const svarintMax: number = 2 ** 52 - 1;

/** Bytes that a varint of `value` takes: 1 to 8. */
export function varintSize(value: number): number {
  let size = 1;
  while (value >= 128) {
    value = Math.floor(value / 128);
    size++;
  }
  return size;
}

/** A buffer that grows as it is written. Values out of range are a mistake of the caller: `RangeError`. */
export class ByteWriter {
  #buffer: Uint8Array<ArrayBuffer>;
  #size = 0;

  /** An empty buffer. @param capacity bytes to set aside at first. */
  constructor(capacity = 256) {
    this.#buffer = new Uint8Array(Math.max(16, capacity));
  }

  /** Bytes written so far. */
  get size(): number {
    return this.#size;
  }

  /** One byte. */
  u8(value: number): void {
    checkRange(value, 0xff);
    this.#reserve(1);
    this.#buffer[this.#size++] = value;
  }

  /** Four bytes, little-endian. */
  u32le(value: number): void {
    checkRange(value, 0xffff_ffff);
    this.#reserve(4);
    this.#put32(value);
  }

  /** Eight bytes, little-endian; the value is at most 2^53 - 1. */
  u64le(value: number): void {
    checkRange(value, varintMax);
    this.#reserve(8);
    this.#put32(value % 2 ** 32);
    this.#put32(Math.floor(value / 2 ** 32));
  }

  /** Unsigned LEB128, 1 to 8 bytes. */
  varint(value: number): void {
    checkRange(value, varintMax);
    this.#reserve(8);
    while (value > 0x7fff_ffff) {
      this.#buffer[this.#size++] = value % 128 | 0x80;
      value = Math.floor(value / 128);
    }
    while (value >= 128) {
      this.#buffer[this.#size++] = value & 0x7f | 0x80;
      value >>>= 7;
    }
    this.#buffer[this.#size++] = value;
  }

  /** Zigzag, then LEB128; the value is within ±(2^52 - 1). */
  svarint(value: number): void {
    if (!Number.isInteger(value) || Math.abs(value) > svarintMax) {
      throw new RangeError(`Cannot write "${value}": it is not an integer within 52 bits`);
    }
    this.varint(value < 0 ? -2 * value - 1 : 2 * value);
  }

  /** The bytes as they are, without a length. */
  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#size);
    this.#size += bytes.length;
  }

  /** The length as a varint, then the bytes. */
  path(path: BytePath): void {
    this.varint(path.length);
    this.#reserve(path.length);
    for (let at = 0; at < path.length; at++) this.#buffer[this.#size++] = path.charCodeAt(at);
  }

  /** Forgets what was written and keeps the memory. */
  clear(): void {
    this.#size = 0;
  }

  /** What was written, as a view that the next write or `clear` may change. */
  view(): Uint8Array<ArrayBuffer> {
    return this.#buffer.subarray(0, this.#size);
  }

  /** A copy of what was written. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#buffer.slice(0, this.#size);
  }

  #put32(value: number): void {
    this.#buffer[this.#size++] = value & 0xff;
    this.#buffer[this.#size++] = value >>> 8 & 0xff;
    this.#buffer[this.#size++] = value >>> 16 & 0xff;
    this.#buffer[this.#size++] = value >>> 24;
  }

  #reserve(count: number): void {
    if (this.#size + count <= this.#buffer.length) return;
    const grown = new Uint8Array(Math.max(this.#buffer.length * 2, this.#size + count));
    grown.set(this.#buffer.subarray(0, this.#size));
    this.#buffer = grown;
  }
}

/**
 * Reads what `ByteWriter` wrote, from anybody. Every method throws `FormatError` with a rule below the prefix:
 * `PREFIX.truncated` where the bytes end, `PREFIX.varint` for a varint that is padded or over 2^53 - 1, and
 * `PREFIX.RULE` where the caller's own bound is exceeded.
 */
export class ByteReader {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #prefix: string;
  readonly #end: number;
  #offset: number;

  /**
   * A reader at the start of its range.
   *
   * @param bytes what to read; not copied.
   * @param rulePrefix first part of the rule ids in errors, for instance `package.header`.
   * @param range where to start and to stop in `bytes`; offsets in errors count from the start of `bytes`.
   */
  constructor(
    bytes: Uint8Array<ArrayBuffer>,
    rulePrefix: string,
    range: { start?: number; end?: number } = {},
  ) {
    this.#bytes = bytes;
    this.#prefix = rulePrefix;
    this.#offset = range.start ?? 0;
    this.#end = range.end ?? bytes.length;
    if (!(0 <= this.#offset && this.#offset <= this.#end && this.#end <= bytes.length)) {
      throw new RangeError(`Cannot read ${this.#offset} to ${this.#end} of ${bytes.length} bytes`);
    }
  }

  /** Where the next read begins. */
  get offset(): number {
    return this.#offset;
  }

  /** Bytes that are left. */
  get remaining(): number {
    return this.#end - this.#offset;
  }

  /** One byte. */
  u8(): number {
    return this.#bytes[this.#take(1)] ?? 0;
  }

  /** Four bytes, little-endian. */
  u32le(): number {
    return this.#get32(this.#take(4));
  }

  /** Eight bytes, little-endian; rule `varint` when above 2^53 - 1. */
  u64le(): number {
    const at = this.#take(8);
    const value = this.#get32(at + 4) * 2 ** 32 + this.#get32(at);
    if (value > varintMax) throw this.fail("varint", at, "a 64-bit number is above 2^53 - 1");
    return value;
  }

  /** A varint of at most `max`; `rule` names the bound in the error. */
  varint(max: number = varintMax, rule = "varint"): number {
    const start = this.#offset;
    let value = 0;
    let scale = 1;
    for (let at = start;; at++) {
      if (at >= this.#end) throw this.fail("truncated", start, "a varint ends in the middle");
      const byte = this.#bytes[at] ?? 0;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (byte === 0 && at > start) {
          throw this.fail("varint", start, "a varint is not in its shortest form");
        }
        if (value > varintMax) throw this.fail("varint", start, "a varint is above 2^53 - 1");
        this.#offset = at + 1;
        break;
      }
      if (at - start === 7) throw this.fail("varint", start, "a varint has more than 8 bytes");
      scale *= 128;
    }
    if (value > max) throw this.fail(rule, start, `value is ${value}, at most ${max} is allowed`);
    return value;
  }

  /** A signed varint. */
  svarint(): number {
    const start = this.#offset;
    const value = this.varint();
    const result = value % 2 === 0 ? value / 2 : -(value + 1) / 2;
    if (Math.abs(result) > svarintMax) throw this.fail("varint", start, "a signed varint is above 52 bits");
    return result;
  }

  /** `count` bytes as a view of the input. */
  bytes(count: number): Uint8Array<ArrayBuffer> {
    const at = this.#take(count);
    return this.#bytes.subarray(at, at + count);
  }

  /** A varint length of at most `sizeMax`, then that many bytes; the content is not looked at. Rule `path.size`. */
  path(sizeMax: number): BytePath {
    const size = this.varint(sizeMax, "path.size");
    return pathFromBytes(this.bytes(size));
  }

  /** Refuses bytes behind the end: rule `trailing`. */
  end(): void {
    if (this.remaining > 0) {
      throw this.fail("trailing", this.#offset, `${this.remaining} bytes after the end`);
    }
  }

  /** The error for a broken rule of this reader's prefix, to be thrown by the caller. */
  fail(rule: string, offset: number, message: string): FormatError {
    return new FormatError(`${this.#prefix}.${rule}`, offset, `Cannot read ${this.#prefix}: ${message}`);
  }

  #take(count: number): number {
    if (count > this.remaining) {
      throw this.fail("truncated", this.#offset, `${count} bytes are wanted, ${this.remaining} are left`);
    }
    const at = this.#offset;
    this.#offset += count;
    return at;
  }

  #get32(at: number): number {
    const bytes = this.#bytes;
    return ((bytes[at] ?? 0) | (bytes[at + 1] ?? 0) << 8 | (bytes[at + 2] ?? 0) << 16 |
      (bytes[at + 3] ?? 0) << 24) >>> 0;
  }
}

function checkRange(value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new RangeError(`Cannot write "${value}": it is not an integer from 0 to ${max}`);
  }
}
