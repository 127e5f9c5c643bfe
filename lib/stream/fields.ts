/**
 * Fields of a record's body: reading them in the stream's endianness with errors that name rule and offset, and
 * writing them into the record that is being made.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { bodySizeMax, encodeRecordHead, recordHeadSize, recordPadding } from "./record.ts";

/** What reading the body of a record needs to know. */
export interface RecordContext {
  /** Whether fields are big-endian. */
  bigEndian: boolean;
  /** Stream offset of the record's head, for errors. */
  offset: number;
  /** Ignore reserved fields instead of demanding zero. */
  lenient?: boolean;
}

/**
 * The error for a body of a wrong length; its offset is that of the record's length field.
 *
 * @param rule the whole rule id.
 * @param length what it is, and `expected` what it should be.
 */
export function lengthError(
  rule: string,
  length: number,
  expected: string,
  context: { offset: number },
): FormatError {
  return new FormatError(
    rule,
    context.offset + 4,
    `Cannot read a record: its body is ${length} octets and should be ${expected}`,
  );
}

/** Reads the fields of one body, whose length the caller has checked. */
export class BodyReader {
  readonly #context: RecordContext;
  readonly #name: string;
  readonly #rule: string;
  readonly #view: DataView;
  readonly #body: Uint8Array<ArrayBuffer>;

  /** The body of the record `name`, whose rules begin with `rule`. */
  constructor(name: string, rule: string, body: Uint8Array<ArrayBuffer>, context: RecordContext) {
    this.#name = name;
    this.#rule = rule;
    this.#body = body;
    this.#context = context;
    this.#view = new DataView(body.buffer, body.byteOffset, body.length);
  }

  /** The error for a broken rule `.rule` at the octet `at` of the body. */
  error(rule: string, at: number, message: string): FormatError {
    return new FormatError(
      `${this.#rule}.${rule}`,
      this.#context.offset + recordHeadSize + at,
      `Cannot read ${this.#name}: ${message}`,
    );
  }

  /** One octet. */
  u8(at: number): number {
    return this.#view.getUint8(at);
  }

  /** Four octets. */
  u32(at: number): number {
    return this.#view.getUint32(at, !this.#context.bigEndian);
  }

  /** Eight octets. */
  u64(at: number): bigint {
    return this.#view.getBigUint64(at, !this.#context.bigEndian);
  }

  /** Eight octets as a number of at most `max`, itself at most 2^53 - 1; `rule` names the bound. */
  number64(at: number, max: number, rule: string, what: string): number {
    const littleEndian = !this.#context.bigEndian;
    const value = this.#view.getUint32(littleEndian ? at + 4 : at, littleEndian) * 2 ** 32 +
      this.#view.getUint32(littleEndian ? at : at + 4, littleEndian);
    if (value > max) throw this.error(rule, at, `${what} is ${value}, and at most ${max} is allowed`);
    return value;
  }

  /** Demands zero in the octets from `at` to `end`, unless lenient: rule `.reserved`. */
  zero(at: number, end: number): void {
    if (this.#context.lenient === true) return;
    for (; at < end; at++) {
      const octet = this.u8(at);
      if (octet !== 0) throw this.error("reserved", at, `a reserved octet is ${octet} and should be 0`);
    }
  }

  /** Demands zero in the four octets at `at`, unless lenient: rule `.reserved`, at the field. */
  zero32(at: number): void {
    const value = this.u32(at);
    if (value !== 0 && this.#context.lenient !== true) {
      throw this.error("reserved", at, `the reserved field is ${value} and should be 0`);
    }
  }

  /** The octets from `at` to `end`, as a view. */
  bytes(at: number, end: number = this.#body.length): Uint8Array<ArrayBuffer> {
    return this.#body.subarray(at, end);
  }
}

/** A record in the making: its head and its fields of known size in one array, with what follows them. */
export class BodyWriter {
  /** The fields, from the first octet of the body on. */
  readonly fields: DataView;
  readonly #start: Uint8Array<ArrayBuffer>;
  readonly #tail: Uint8Array<ArrayBuffer> | null;
  readonly #littleEndian: boolean;

  /**
   * A record of `type` whose body is `size` octets of fields and then `tail`, which is not copied.
   *
   * @throws {TypeError} when the body would be too long.
   */
  constructor(type: number, size: number, bigEndian: boolean, tail: Uint8Array<ArrayBuffer> | null = null) {
    const length = size + (tail?.length ?? 0);
    if (length > bodySizeMax) {
      throw new TypeError(
        `Cannot encode a record of type ${type}: its body would be ${length} octets and may be ${bodySizeMax}`,
      );
    }
    this.#littleEndian = !bigEndian;
    this.#tail = tail;
    const padded = tail === null ? size + recordPadding(size) : size;
    this.#start = new Uint8Array(recordHeadSize + padded);
    if (bigEndian) {
      const view = new DataView(this.#start.buffer);
      view.setUint32(0, type);
      view.setUint32(4, length);
    } else {
      this.#start.set(encodeRecordHead(type, length));
    }
    this.fields = new DataView(this.#start.buffer, recordHeadSize, size);
  }

  /** One octet. */
  u8(at: number, value: number): void {
    this.fields.setUint8(at, integer(value, 0xff));
  }

  /** Four octets. */
  u32(at: number, value: number): void {
    this.fields.setUint32(at, integer(value, 0xffff_ffff), this.#littleEndian);
  }

  /** Eight octets. */
  u64(at: number, value: bigint): void {
    if (value < 0n || value >= 1n << 64n) {
      throw new TypeError(`Cannot encode a record: ${value} does not fit 64 bits`);
    }
    this.fields.setBigUint64(at, value, this.#littleEndian);
  }

  /** Eight octets that hold an integer of at most `max`. */
  number64(at: number, value: number, max: number): void {
    integer(value, max);
    const high = Math.floor(value / 2 ** 32);
    this.fields.setUint32(this.#littleEndian ? at + 4 : at, high, this.#littleEndian);
    this.fields.setUint32(this.#littleEndian ? at : at + 4, value - high * 2 ** 32, this.#littleEndian);
  }

  /** Octets as they are. */
  bytes(at: number, bytes: Uint8Array): void {
    this.#start.set(bytes, recordHeadSize + at);
  }

  /** The record as arrays to be written one after the other, padding included. */
  pieces(): Uint8Array<ArrayBuffer>[] {
    if (this.#tail === null) return [this.#start];
    const padding = recordPadding(this.fields.byteLength + this.#tail.length);
    const pieces = [this.#start];
    if (this.#tail.length > 0) pieces.push(this.#tail);
    if (padding > 0) pieces.push(new Uint8Array(padding));
    return pieces;
  }
}

function integer(value: number, max: number): number {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new TypeError(`Cannot encode a record: ${value} is not an integer from 0 to ${max}`);
  }
  return value;
}
