/**
 * libxl's framing around libxc's stream: its header and its records, octets to values and back.
 *
 * Invariants: those of `libxc_record.ts`. The libxc stream that follows LIBXC_CONTEXT is not part of the record.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { BodyReader, BodyWriter, lengthError, type RecordContext } from "./fields.ts";
import type { LibxlHeader, LibxlRecord } from "./item.ts";
import { encodeUnknown, typeError } from "./libxc_record.ts";
import { bodySizeMax, optionalBit, recordHeadSize } from "./record.ts";

/** Octets of the header. */
export const libxlHeaderSize = 16;

/** The first eight octets: "LibxlFmt". */
export const libxlIdent = 0x4c69_6278_6c46_6d74n;

/** The version that is read and written. */
export const libxlVersion = 2;

/** Numbers of the record types. */
export const libxlTypes = {
  END: 0,
  LIBXC_CONTEXT: 1,
  EMULATOR_XENSTORE_DATA: 2,
  EMULATOR_CONTEXT: 3,
  CHECKPOINT_END: 4,
  CHECKPOINT_STATE: 5,
} as const;

/** The largest emulator id: 0 is unknown, 1 the old device model, 2 the upstream one. */
export const emulatorIdMax = 2;

/** The largest control id of CHECKPOINT_STATE. */
export const controlIdMax = 3;

const optionBigEndian = 0x1;
const optionConverted = 0x2;

/**
 * Reads the header at the start of `bytes`.
 *
 * @param options `offset` is the header's stream offset; `lenient` ignores the reserved options.
 * @throws {FormatError} rules `libxl.header.truncated`, `.ident`, `.version`, `.options`.
 */
export function decodeLibxlHeader(
  bytes: Uint8Array,
  options: { offset?: number; lenient?: boolean } = {},
): LibxlHeader {
  const base = options.offset ?? 0;
  const fail = (rule: string, at: number, message: string): FormatError =>
    new FormatError(`libxl.header.${rule}`, base + at, `Cannot read the libxl header: ${message}`);
  if (bytes.length < libxlHeaderSize) {
    throw fail("truncated", bytes.length, `it has ${bytes.length} octets of ${libxlHeaderSize}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, libxlHeaderSize);
  const ident = view.getBigUint64(0);
  if (ident !== libxlIdent) {
    const at = ident >> 32n === libxlIdent >> 32n ? 4 : 0;
    throw fail("ident", at, `it begins with 0x${ident.toString(16)} and should with "LibxlFmt"`);
  }
  const version = view.getUint32(8);
  if (version !== libxlVersion) {
    throw fail("version", 8, `the version is ${version} and should be ${libxlVersion}`);
  }
  const flags = view.getUint32(12);
  if ((flags & ~(optionBigEndian | optionConverted)) !== 0 && options.lenient !== true) {
    throw fail("options", 12, `the options are 0x${flags.toString(16)} and bits 2 to 31 should be zero`);
  }
  return { bigEndian: (flags & optionBigEndian) !== 0, converted: (flags & optionConverted) !== 0 };
}

/** Makes a libxl header: 16 octets. */
export function encodeLibxlHeader(header: LibxlHeader): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(libxlHeaderSize);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, libxlIdent);
  view.setUint32(8, libxlVersion);
  view.setUint32(12, (header.bigEndian ? optionBigEndian : 0) | (header.converted ? optionConverted : 0));
  return bytes;
}

/**
 * Holds a record's type and length against what is known of them, on the record's head alone.
 *
 * @throws {FormatError} rules `libxl.record.type`, `.length`, and those of the types about their length.
 */
export function checkLibxlHead(type: number, length: number, context: RecordContext): void {
  const strict = context.lenient !== true;
  const demand = (met: boolean, rule: string, expected: string): void => {
    if (!met) throw lengthError(`libxl.${rule}`, length, expected, context);
  };
  demand(length <= bodySizeMax, "record.length", `at most ${bodySizeMax}`);
  switch (type) {
    case libxlTypes.END:
      return demand(length === 0 || !strict, "end.length", "0");
    case libxlTypes.LIBXC_CONTEXT:
      return demand(length === 0 || !strict, "libxc_context.length", "0");
    case libxlTypes.CHECKPOINT_END:
      return demand(length === 0 || !strict, "checkpoint_end.length", "0");
    case libxlTypes.EMULATOR_XENSTORE_DATA:
    case libxlTypes.EMULATOR_CONTEXT:
      return demand(length >= 8, "emulator.length", "at least 8");
    case libxlTypes.CHECKPOINT_STATE:
      return demand(length === 8, "checkpoint_state.length", "8");
    default:
      if (type < optionalBit) throw typeError("libxl", type, context);
  }
}

/**
 * Reads the body of a record. Data and contexts of the record are views of `body`.
 *
 * @throws {FormatError} rules of {@link checkLibxlHead}, and those of the types about their fields.
 */
export function decodeLibxlRecord(
  type: number,
  body: Uint8Array<ArrayBuffer>,
  context: RecordContext,
): LibxlRecord {
  checkLibxlHead(type, body.length, context);
  switch (type) {
    case libxlTypes.END:
      return { name: "END" };
    case libxlTypes.LIBXC_CONTEXT:
      return { name: "LIBXC_CONTEXT" };
    case libxlTypes.CHECKPOINT_END:
      return { name: "CHECKPOINT_END" };
    case libxlTypes.EMULATOR_XENSTORE_DATA: {
      const place = decodeEmulator("EMULATOR_XENSTORE_DATA", body, context);
      const data = body.subarray(8);
      checkXenstoreData(data, context);
      return { name: "EMULATOR_XENSTORE_DATA", ...place, data };
    }
    case libxlTypes.EMULATOR_CONTEXT:
      return {
        name: "EMULATOR_CONTEXT",
        ...decodeEmulator("EMULATOR_CONTEXT", body, context),
        context: body.subarray(8),
      };
    case libxlTypes.CHECKPOINT_STATE: {
      const fields = new BodyReader("CHECKPOINT_STATE", "libxl.checkpoint_state", body, context);
      const controlId = fields.u32(0);
      if (controlId > controlIdMax) {
        throw fields.error("id", 0, `the control id is ${controlId} and should be 0 to ${controlIdMax}`);
      }
      fields.zero32(4);
      return { name: "CHECKPOINT_STATE", controlId };
    }
    default:
      return { name: "UNKNOWN", type, body };
  }
}

/**
 * Makes a whole record, head and padding included, as arrays to be written one after the other.
 *
 * @throws {TypeError} for a value that no valid record can hold.
 */
export function encodeLibxlRecord(record: LibxlRecord, bigEndian = false): Uint8Array<ArrayBuffer>[] {
  switch (record.name) {
    case "END":
    case "LIBXC_CONTEXT":
    case "CHECKPOINT_END":
      return new BodyWriter(libxlTypes[record.name], 0, bigEndian).pieces();
    case "EMULATOR_XENSTORE_DATA":
    case "EMULATOR_CONTEXT": {
      const tail = record.name === "EMULATOR_CONTEXT" ? record.context : record.data;
      if (record.name === "EMULATOR_XENSTORE_DATA" && xenstorePairs(tail) === null) {
        throw new TypeError("Cannot encode EMULATOR_XENSTORE_DATA: the data are not pairs of strings");
      }
      const writer = new BodyWriter(libxlTypes[record.name], 8, bigEndian, tail);
      writer.u32(0, record.emulatorId);
      writer.u32(4, record.index);
      return writer.pieces();
    }
    case "CHECKPOINT_STATE": {
      const writer = new BodyWriter(libxlTypes.CHECKPOINT_STATE, 8, bigEndian);
      writer.u32(0, record.controlId);
      return writer.pieces();
    }
    case "UNKNOWN":
      return encodeUnknown(record.type, record.body, bigEndian);
  }
}

/**
 * The keys and values of EMULATOR_XENSTORE_DATA, as views without their zero octets; null when the data are not
 * an even number of strings that each end in a zero octet.
 */
export function xenstorePairs(
  data: Uint8Array<ArrayBuffer>,
): [key: Uint8Array<ArrayBuffer>, value: Uint8Array<ArrayBuffer>][] | null {
  const pairs: [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>][] = [];
  for (let at = 0; at < data.length;) {
    const keyEnd = data.indexOf(0, at);
    const valueEnd = keyEnd < 0 ? -1 : data.indexOf(0, keyEnd + 1);
    if (valueEnd < 0) return null;
    pairs.push([data.subarray(at, keyEnd), data.subarray(keyEnd + 1, valueEnd)]);
    at = valueEnd + 1;
  }
  return pairs;
}

function decodeEmulator(
  name: string,
  body: Uint8Array<ArrayBuffer>,
  context: RecordContext,
): { emulatorId: number; index: number } {
  const fields = new BodyReader(name, "libxl.emulator", body, context);
  const emulatorId = fields.u32(0);
  if (emulatorId > emulatorIdMax && context.lenient !== true) {
    throw fields.error("id", 0, `the emulator is ${emulatorId} and should be 0 to ${emulatorIdMax}`);
  }
  return { emulatorId, index: fields.u32(4) };
}

/** Holds the data, which begin eight octets into the body, to whole pairs; counts zero octets, makes nothing. */
function checkXenstoreData(data: Uint8Array<ArrayBuffer>, context: RecordContext): void {
  let strings = 0;
  for (let at = data.indexOf(0); at >= 0; at = data.indexOf(0, at + 1)) strings++;
  const base = context.offset + recordHeadSize + 8;
  if (data.length > 0 && data[data.length - 1] !== 0) {
    throw new FormatError(
      "libxl.xenstore.nul",
      base + data.length - 1,
      "Cannot read EMULATOR_XENSTORE_DATA: the last string has no NUL",
    );
  }
  if (strings % 2 !== 0) {
    throw new FormatError(
      "libxl.xenstore.pairs",
      base,
      `Cannot read EMULATOR_XENSTORE_DATA: ${strings} strings are not pairs of a key and a value`,
    );
  }
}
