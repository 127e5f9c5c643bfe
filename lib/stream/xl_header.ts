/**
 * The header that `xl save` puts in front of a stream.
 *
 * Invariants: the byte-order word says how the other fields are to be read; the length of the optional data is
 * bounded before they are. What the data mean is not looked at.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import type { XlHeader } from "./item.ts";

/** Octets of the header before its optional data. */
export const xlHeaderSize = 48;

/** The first 32 octets, one per character. */
export const xlMagic = "Xen saved domain, xl format\n \0 \r";

/** The most octets of optional data: a guest's configuration is some kilobytes. */
export const xlDataSizeMax = 16_777_216;

/** Bits of `mandatoryFlags`. */
export const xlFlags = {
  /** The configuration is JSON. */
  json: 0x1,
  /** A libxl stream follows. */
  libxl: 0x2,
} as const;

const byteOrder = 0x0102_0304;

/** What the first 48 octets say. */
export interface XlHeaderStart {
  /** Whether the fields are big-endian. */
  bigEndian: boolean;
  /** Bits of {@link xlFlags}. */
  mandatoryFlags: number;
  /** Bits that a reader may ignore. */
  optionalFlags: number;
  /** Octets of optional data that follow. */
  dataSize: number;
}

/**
 * Reads the first 48 octets.
 *
 * @throws {FormatError} rules `xl.header.truncated`, `.magic`, `.byte_order`, `.mandatory_flags`, `.data_length`.
 */
export function decodeXlHeaderStart(bytes: Uint8Array): XlHeaderStart {
  const fail = (rule: string, at: number, message: string): FormatError =>
    new FormatError(`xl.header.${rule}`, at, `Cannot read the xl header: ${message}`);
  if (bytes.length < xlHeaderSize) {
    throw fail("truncated", bytes.length, `it has ${bytes.length} octets of ${xlHeaderSize}`);
  }
  for (let at = 0; at < xlMagic.length; at++) {
    if (bytes[at] !== xlMagic.charCodeAt(at)) {
      throw fail(
        "magic",
        at,
        `octet ${at} of the magic is ${bytes[at]} and should be ${xlMagic.charCodeAt(at)}`,
      );
    }
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, xlHeaderSize);
  const bigEndian = view.getUint32(32) === byteOrder;
  if (!bigEndian && view.getUint32(32, true) !== byteOrder) {
    throw fail("byte_order", 32, `the byte-order word is 0x${view.getUint32(32).toString(16)}`);
  }
  const mandatoryFlags = view.getUint32(36, !bigEndian);
  if ((mandatoryFlags & ~(xlFlags.json | xlFlags.libxl)) !== 0) {
    throw fail(
      "mandatory_flags",
      36,
      `the flags are 0x${mandatoryFlags.toString(16)}, and bits 2 to 31 are unknown`,
    );
  }
  const dataSize = view.getUint32(44, !bigEndian);
  if (dataSize > xlDataSizeMax) {
    throw fail(
      "data_length",
      44,
      `there are ${dataSize} octets of optional data and may be ${xlDataSizeMax}`,
    );
  }
  return { bigEndian, mandatoryFlags, optionalFlags: view.getUint32(40, !bigEndian), dataSize };
}

/** Makes a whole xl header, its data included. */
export function encodeXlHeader(header: XlHeader): Uint8Array<ArrayBuffer>[] {
  const { bigEndian, mandatoryFlags, optionalFlags, data } = header;
  if (data.length > xlDataSizeMax) {
    throw new TypeError(
      `Cannot encode an xl header: ${data.length} octets of data, and ${xlDataSizeMax} may be`,
    );
  }
  const bytes = new Uint8Array(xlHeaderSize);
  for (let at = 0; at < xlMagic.length; at++) bytes[at] = xlMagic.charCodeAt(at);
  const view = new DataView(bytes.buffer);
  view.setUint32(32, byteOrder, !bigEndian);
  view.setUint32(36, mandatoryFlags, !bigEndian);
  view.setUint32(40, optionalFlags, !bigEndian);
  view.setUint32(44, data.length, !bigEndian);
  return data.length === 0 ? [bytes] : [bytes, data];
}
