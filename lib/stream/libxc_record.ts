/**
 * libxc's part of Xen's migration stream, versions 2 and 3: its two headers and its records, octets to values
 * and back.
 *
 * Invariants:
 * - `checkLibxcHead` bounds a body by its type, before it is read; decoding holds the length against the fields.
 * - A decoded record encodes to the octets it was read from, when it was read strictly.
 * - Lenient ignores what Xen's own restorer ignores: reserved fields, padding, and what follows X86_PV_INFO.
 *
 * A record is checked by itself: what it must follow, and what another record says about its size, is the
 * verifier's business.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { BodyReader, BodyWriter, lengthError, type RecordContext } from "./fields.ts";
import type { CpuidLeaf, HvmParam, LibxcHeader, LibxcRecord, MsrPolicyEntry, VcpuMsr } from "./item.ts";
import { pageSize } from "./item.ts";
import { decodePageData, encodePageData, pageDataHeadSize, pageDataType, pfnLimit } from "./page_data.ts";
import {
  bodySizeMax,
  decodeHeader,
  encodeHeader,
  headerSize,
  type ImageHeader,
  optionalBit,
} from "./record.ts";

/** The id of the image header: "XENF". */
export const libxcId = 0x5845_4e46;

/** Octets of the domain header, which follows the image header. */
export const domainHeaderSize = 16;

/** Octets of both headers: the first record stands behind them. */
export const libxcHeaderSize: number = headerSize + domainHeaderSize;

/** Numbers of the record types. */
export const libxcTypes = {
  END: 0x00,
  PAGE_DATA: pageDataType,
  X86_PV_INFO: 0x02,
  X86_PV_P2M_FRAMES: 0x03,
  X86_PV_VCPU_BASIC: 0x04,
  X86_PV_VCPU_EXTENDED: 0x05,
  X86_PV_VCPU_XSAVE: 0x06,
  SHARED_INFO: 0x07,
  X86_TSC_INFO: 0x08,
  HVM_CONTEXT: 0x09,
  HVM_PARAMS: 0x0a,
  X86_PV_VCPU_MSRS: 0x0c,
  VERIFY: 0x0d,
  CHECKPOINT: 0x0e,
  CHECKPOINT_DIRTY_PFN_LIST: 0x0f,
  STATIC_DATA_END: 0x10,
  X86_CPUID_POLICY: 0x11,
  X86_MSR_POLICY: 0x12,
} as const;

/** The most entries of HVM_PARAMS, X86_PV_VCPU_MSRS and the policies; Xen has some hundred at most. */
export const entriesMax = 65_536;

/** The most frames of X86_PV_P2M_FRAMES: page frame numbers have 32 bits there, and 512 fit a frame. */
export const p2mFramesMax: number = 2 ** 32 / 512;

/** What reading a libxc record needs to know. */
export interface LibxcContext extends RecordContext {
  /** The version of the image header. */
  version: number;
}

const guests = { pv: 1, hvm: 2 } as const;
const pageShift = 12;

/** TOOLSTACK: there was such a record while the format was made, and none may be written. */
const toolstackType = 0x0b;

/**
 * Reads the image header of a libxc stream, the first 24 octets.
 *
 * @throws {FormatError} rules `libxc.header.truncated`, `.marker`, `.id`, `.version`, `.options`, `.reserved`.
 */
export function decodeImageHeader(
  bytes: Uint8Array,
  options: { offset?: number; lenient?: boolean } = {},
): ImageHeader {
  return decodeHeader(bytes, { id: libxcId, versionMin: 2, versionMax: 3 }, {
    ...options,
    rule: "libxc.header",
  });
}

/**
 * Reads both headers of a libxc stream, its first 40 octets.
 *
 * @throws {FormatError} rules of {@link decodeImageHeader}, `libxc.domain.type`, `.page_shift`, `.reserved`.
 */
export function decodeLibxcHeader(
  bytes: Uint8Array,
  options: { offset?: number; lenient?: boolean } = {},
): LibxcHeader {
  const { version, bigEndian } = decodeImageHeader(bytes, options);
  const base = options.offset ?? 0;
  const fail = (rule: string, at: number, message: string): FormatError =>
    new FormatError(`libxc.domain.${rule}`, base + at, `Cannot read the domain header: ${message}`);
  if (bytes.length < libxcHeaderSize) {
    throw new FormatError(
      "libxc.header.truncated",
      base + bytes.length,
      `Cannot read the domain header: the headers have ${bytes.length} octets of ${libxcHeaderSize}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, libxcHeaderSize);
  const littleEndian = !bigEndian;
  const type = view.getUint32(24, littleEndian);
  if (type !== guests.pv && type !== guests.hvm) {
    throw fail("type", 24, `the guest's type is ${type} and should be 1 (PV) or 2 (HVM)`);
  }
  const shift = view.getUint16(28, littleEndian);
  if (shift !== pageShift) {
    throw fail("page_shift", 28, `the page shift is ${shift} and should be ${pageShift}`);
  }
  const reserved = view.getUint16(30, littleEndian);
  if (reserved !== 0 && options.lenient !== true) {
    throw fail("reserved", 30, `the reserved field is ${reserved} and should be 0`);
  }
  return {
    version,
    bigEndian,
    guest: type === guests.pv ? "pv" : "hvm",
    xenMajor: view.getUint32(32, littleEndian),
    xenMinor: view.getUint32(36, littleEndian),
  };
}

/** Makes both headers of a libxc stream: 40 octets. */
export function encodeLibxcHeader(header: LibxcHeader): Uint8Array<ArrayBuffer> {
  if (header.version !== 2 && header.version !== 3) {
    throw new TypeError(
      `Cannot encode a libxc header: the version is ${header.version} and should be 2 or 3`,
    );
  }
  for (const number of [header.xenMajor, header.xenMinor]) {
    if (!Number.isInteger(number) || number < 0 || number > 0xffff_ffff) {
      throw new TypeError(
        `Cannot encode a libxc header: Xen's version has ${number} and should have 32 bits`,
      );
    }
  }
  const bytes = new Uint8Array(libxcHeaderSize);
  bytes.set(encodeHeader({ id: libxcId, version: header.version, bigEndian: header.bigEndian }));
  const view = new DataView(bytes.buffer);
  const littleEndian = !header.bigEndian;
  view.setUint32(24, guests[header.guest], littleEndian);
  view.setUint16(28, pageShift, littleEndian);
  view.setUint32(32, header.xenMajor, littleEndian);
  view.setUint32(36, header.xenMinor, littleEndian);
  return bytes;
}

/**
 * Holds a record's type and length against what is known of them, on the record's head alone.
 *
 * @throws {FormatError} rules `libxc.record.type`, `.version`, `.length`, `libxc.toolstack.deprecated`, and those of
 * the types about their length.
 */
export function checkLibxcHead(type: number, length: number, context: LibxcContext): void {
  const strict = context.lenient !== true;
  const demand = (met: boolean, rule: string, expected: string): void => {
    if (!met) throw lengthError(`libxc.${rule}`, length, expected, context);
  };
  demand(length <= bodySizeMax, "record.length", `at most ${bodySizeMax}`);
  switch (type) {
    case libxcTypes.END:
      return demand(length === 0 || !strict, "end.length", "0");
    case libxcTypes.VERIFY:
      return demand(length === 0 || !strict, "verify.length", "0");
    case libxcTypes.CHECKPOINT:
      return demand(length === 0 || !strict, "checkpoint.length", "0");
    case libxcTypes.STATIC_DATA_END:
      checkVersion(type, context);
      return demand(length === 0 || !strict, "static_data_end.length", "0");
    case libxcTypes.PAGE_DATA:
      return demand(length >= pageDataHeadSize, "page_data.length", "at least 16");
    case libxcTypes.X86_PV_INFO:
      demand(length >= 8, "pv_info.length", "8");
      return demand(length === 8 || !strict, "pv_info.excess", "8");
    case libxcTypes.X86_PV_P2M_FRAMES:
      demand(length >= 8 && length % 8 === 0, "p2m_frames.length", "8 and a multiple of 8");
      return demand(length <= 8 + 8 * p2mFramesMax, "p2m_frames.count", `at most ${8 + 8 * p2mFramesMax}`);
    // Senders of Xen 4.6 to 4.8 wrote vcpu records of nothing but the vcpu's id.
    case libxcTypes.X86_PV_VCPU_BASIC:
      demand(length >= 8, "vcpu.length", "at least 8");
      return demand([0, 2800, 5168].includes(length - 8), "vcpu.basic_size", "8 + 2800 or 8 + 5168");
    case libxcTypes.X86_PV_VCPU_EXTENDED:
      demand(length >= 8, "vcpu.length", "at least 8");
      return demand(length <= 8 + 128, "vcpu.extended_size", "at most 8 + 128");
    case libxcTypes.X86_PV_VCPU_XSAVE:
      demand(length >= 8, "vcpu.length", "at least 8");
      return demand(length === 8 || length >= 8 + 16, "vcpu.xsave_size", "at least 8 + 16");
    case libxcTypes.X86_PV_VCPU_MSRS:
      demand(length >= 8, "vcpu.length", "at least 8");
      demand((length - 8) % 16 === 0, "vcpu.msrs_size", "8 and a multiple of 16");
      return demandEntries((length - 8) / 16);
    case libxcTypes.SHARED_INFO:
      return demand(length === pageSize, "shared_info.length", `${pageSize}`);
    case libxcTypes.X86_TSC_INFO:
      return demand(length === 24, "tsc_info.length", "24");
    case libxcTypes.HVM_CONTEXT:
      return demand(length > 0, "hvm_context.length", "at least 1");
    case libxcTypes.HVM_PARAMS:
      demand(length >= 8, "hvm_params.length", "at least 8");
      return demandEntries((length - 8) / 16);
    case libxcTypes.CHECKPOINT_DIRTY_PFN_LIST:
      return demand(length % 8 === 0, "dirty_pfn_list.length", "a multiple of 8");
    case libxcTypes.X86_CPUID_POLICY:
      checkVersion(type, context);
      demand(length > 0 && length % 24 === 0, "cpuid_policy.length", "a multiple of 24, above 0");
      return demandEntries(length / 24);
    case libxcTypes.X86_MSR_POLICY:
      checkVersion(type, context);
      demand(length > 0 && length % 16 === 0, "msr_policy.length", "a multiple of 16, above 0");
      return demandEntries(length / 16);
    case toolstackType:
      throw new FormatError(
        "libxc.toolstack.deprecated",
        context.offset,
        "Cannot read a record: it is of the type TOOLSTACK, which no stream may hold any more",
      );
    default:
      if (type < optionalBit) throw typeError("libxc", type, context);
  }
  function demandEntries(count: number): void {
    demand(count <= entriesMax, "record.length", `of at most ${entriesMax} entries`);
  }
}

/**
 * Reads the body of a record. Contexts and pages of the record are views of `body`.
 *
 * @throws {FormatError} rules of {@link checkLibxcHead}, and those of the types about their fields.
 */
export function decodeLibxcRecord(
  type: number,
  body: Uint8Array<ArrayBuffer>,
  context: LibxcContext,
): LibxcRecord {
  checkLibxcHead(type, body.length, context);
  switch (type) {
    case libxcTypes.END:
      return { name: "END" };
    case libxcTypes.VERIFY:
      return { name: "VERIFY" };
    case libxcTypes.CHECKPOINT:
      return { name: "CHECKPOINT" };
    case libxcTypes.STATIC_DATA_END:
      return { name: "STATIC_DATA_END" };
    case libxcTypes.PAGE_DATA:
      return { name: "PAGE_DATA", batch: decodePageData(body, context) };
    case libxcTypes.X86_PV_INFO:
      return decodePvInfo(body, context);
    case libxcTypes.X86_PV_P2M_FRAMES:
      return decodeP2mFrames(body, context);
    case libxcTypes.X86_PV_VCPU_BASIC:
      return decodeVcpu("X86_PV_VCPU_BASIC", body, context);
    case libxcTypes.X86_PV_VCPU_EXTENDED:
      return decodeVcpu("X86_PV_VCPU_EXTENDED", body, context);
    case libxcTypes.X86_PV_VCPU_XSAVE:
      return decodeVcpu("X86_PV_VCPU_XSAVE", body, context);
    case libxcTypes.X86_PV_VCPU_MSRS:
      return decodeVcpuMsrs(body, context);
    case libxcTypes.SHARED_INFO:
      return { name: "SHARED_INFO", page: body };
    case libxcTypes.X86_TSC_INFO: {
      const fields = reader("X86_TSC_INFO", "tsc_info", body, context);
      fields.zero(20, 24);
      return {
        name: "X86_TSC_INFO",
        tsc: { mode: fields.u32(0), khz: fields.u32(4), nsec: fields.u64(8), incarnation: fields.u32(16) },
      };
    }
    case libxcTypes.HVM_CONTEXT:
      return { name: "HVM_CONTEXT", context: body };
    case libxcTypes.HVM_PARAMS:
      return decodeHvmParams(body, context);
    case libxcTypes.CHECKPOINT_DIRTY_PFN_LIST:
      return decodeDirtyPfns(body, context);
    case libxcTypes.X86_CPUID_POLICY:
      return decodeCpuidPolicy(body, context);
    case libxcTypes.X86_MSR_POLICY:
      return decodeMsrPolicy(body, context);
    default:
      return { name: "UNKNOWN", type, body };
  }
}

/**
 * Makes a whole record, head and padding included, as arrays to be written one after the other. Pages and
 * contexts are not copied.
 *
 * @throws {TypeError} for a value that no valid record can hold.
 */
export function encodeLibxcRecord(record: LibxcRecord, bigEndian = false): Uint8Array<ArrayBuffer>[] {
  switch (record.name) {
    case "END":
    case "VERIFY":
    case "CHECKPOINT":
    case "STATIC_DATA_END":
      return new BodyWriter(libxcTypes[record.name], 0, bigEndian).pieces();
    case "PAGE_DATA":
      return encodePageData(record.batch, bigEndian);
    case "X86_PV_INFO": {
      checkPair(record.guestWidth, record.ptLevels);
      const writer = new BodyWriter(libxcTypes.X86_PV_INFO, 8, bigEndian);
      writer.u8(0, record.guestWidth);
      writer.u8(1, record.ptLevels);
      return writer.pieces();
    }
    case "X86_PV_P2M_FRAMES": {
      const { startPfn, endPfn, frames } = record;
      if (startPfn > endPfn || frames.length === 0 || frames.length > p2mFramesMax) {
        throw new TypeError(
          `Cannot encode X86_PV_P2M_FRAMES: ${frames.length} frames for the range ${startPfn} to ${endPfn}`,
        );
      }
      const writer = new BodyWriter(libxcTypes.X86_PV_P2M_FRAMES, 8 + 8 * frames.length, bigEndian);
      writer.u32(0, startPfn);
      writer.u32(4, endPfn);
      frames.forEach((frame, index) => writer.u64(8 + 8 * index, frame));
      return writer.pieces();
    }
    case "X86_PV_VCPU_BASIC":
    case "X86_PV_VCPU_EXTENDED":
    case "X86_PV_VCPU_XSAVE": {
      const writer = new BodyWriter(libxcTypes[record.name], 8, bigEndian, record.context);
      writer.u32(0, record.vcpuId);
      return writer.pieces();
    }
    case "X86_PV_VCPU_MSRS": {
      checkEntries(record.msrs.length, 0);
      const writer = new BodyWriter(libxcTypes.X86_PV_VCPU_MSRS, 8 + 16 * record.msrs.length, bigEndian);
      writer.u32(0, record.vcpuId);
      record.msrs.forEach(({ index, value }, entry) => {
        writer.u32(8 + 16 * entry, index);
        writer.u64(16 + 16 * entry, value);
      });
      return writer.pieces();
    }
    case "SHARED_INFO":
      if (record.page.length !== pageSize) {
        throw new TypeError(
          `Cannot encode SHARED_INFO: it is ${record.page.length} octets and should be a page`,
        );
      }
      return new BodyWriter(libxcTypes.SHARED_INFO, 0, bigEndian, record.page).pieces();
    case "X86_TSC_INFO": {
      const writer = new BodyWriter(libxcTypes.X86_TSC_INFO, 24, bigEndian);
      writer.u32(0, record.tsc.mode);
      writer.u32(4, record.tsc.khz);
      writer.u64(8, record.tsc.nsec);
      writer.u32(16, record.tsc.incarnation);
      return writer.pieces();
    }
    case "HVM_CONTEXT":
      if (record.context.length === 0) throw new TypeError("Cannot encode HVM_CONTEXT: it is empty");
      return new BodyWriter(libxcTypes.HVM_CONTEXT, 0, bigEndian, record.context).pieces();
    case "HVM_PARAMS": {
      checkEntries(record.params.length, 0);
      const writer = new BodyWriter(libxcTypes.HVM_PARAMS, 8 + 16 * record.params.length, bigEndian);
      writer.u32(0, record.params.length);
      record.params.forEach(({ index, value }, entry) => {
        writer.u64(8 + 16 * entry, index);
        writer.u64(16 + 16 * entry, value);
      });
      return writer.pieces();
    }
    case "CHECKPOINT_DIRTY_PFN_LIST": {
      const { pfns } = record;
      const writer = new BodyWriter(libxcTypes.CHECKPOINT_DIRTY_PFN_LIST, 8 * pfns.length, bigEndian);
      pfns.forEach((pfn, index) => writer.number64(8 * index, pfn, pfnLimit - 1));
      return writer.pieces();
    }
    case "X86_CPUID_POLICY": {
      checkEntries(record.leaves.length, 1);
      const writer = new BodyWriter(libxcTypes.X86_CPUID_POLICY, 24 * record.leaves.length, bigEndian);
      record.leaves.forEach(({ leaf, subleaf, eax, ebx, ecx, edx }, entry) => {
        [leaf, subleaf, eax, ebx, ecx, edx].forEach((word, index) =>
          writer.u32(24 * entry + 4 * index, word)
        );
      });
      return writer.pieces();
    }
    case "X86_MSR_POLICY": {
      checkEntries(record.msrs.length, 1);
      const writer = new BodyWriter(libxcTypes.X86_MSR_POLICY, 16 * record.msrs.length, bigEndian);
      record.msrs.forEach(({ index, flags, value }, entry) => {
        writer.u32(16 * entry, index);
        writer.u32(16 * entry + 4, flags);
        writer.u64(16 * entry + 8, value);
      });
      return writer.pieces();
    }
    case "UNKNOWN":
      return encodeUnknown(record.type, record.body, bigEndian);
  }
}

/** Makes a record that is kept as it is; only optional ones are. */
export function encodeUnknown(
  type: number,
  body: Uint8Array<ArrayBuffer>,
  bigEndian: boolean,
): Uint8Array<ArrayBuffer>[] {
  if (!(type >= optionalBit && type <= 0xffff_ffff)) {
    throw new TypeError(`Cannot encode a record of the unknown type ${type}: it is not an optional one`);
  }
  return new BodyWriter(type, 0, bigEndian, body).pieces();
}

/** The error for a mandatory type that the layer does not know. */
export function typeError(layer: string, type: number, context: { offset: number }): FormatError {
  return new FormatError(
    `${layer}.record.type`,
    context.offset,
    `Cannot read a record: nobody knows the type 0x${type.toString(16)}, and it is mandatory`,
  );
}

function reader(
  name: string,
  rule: string,
  body: Uint8Array<ArrayBuffer>,
  context: LibxcContext,
): BodyReader {
  return new BodyReader(name, `libxc.${rule}`, body, context);
}

/** Refuses a record of version 3 in a stream of version 2. */
function checkVersion(type: number, context: LibxcContext): void {
  if (context.version >= 3 || context.lenient === true) return;
  throw new FormatError(
    "libxc.record.version",
    context.offset,
    `Cannot read a record: the type 0x${type.toString(16)} is of version 3, in a stream of version 2`,
  );
}

function decodePvInfo(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("X86_PV_INFO", "pv_info", body, context);
  const width = fields.u8(0);
  const levels = fields.u8(1);
  if (width !== 4 && width !== 8) {
    throw fields.error("width", 0, `the guest's width is ${width} and should be 4 or 8`);
  }
  if (levels !== 3 && levels !== 4) {
    throw fields.error("levels", 1, `there are ${levels} levels of page tables and should be 3 or 4`);
  }
  if ((width === 4) !== (levels === 3)) {
    throw fields.error("pair", 0, `${levels} levels of page tables do not fit a guest of width ${width}`);
  }
  fields.zero(2, 8);
  return { name: "X86_PV_INFO", guestWidth: width, ptLevels: levels };
}

function decodeP2mFrames(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("X86_PV_P2M_FRAMES", "p2m_frames", body, context);
  const startPfn = fields.u32(0);
  const endPfn = fields.u32(4);
  if (body.length === 8) throw lengthError("libxc.p2m_frames.count", 8, "8 for each frame more", context);
  if (startPfn > endPfn) {
    throw fields.error("range", 0, `the first frame number is ${startPfn}, above the last, ${endPfn}`);
  }
  const frames = new BigUint64Array(body.length / 8 - 1);
  for (let index = 0; index < frames.length; index++) frames[index] = fields.u64(8 + 8 * index);
  return { name: "X86_PV_P2M_FRAMES", startPfn, endPfn, frames };
}

function decodeVcpu(
  name: "X86_PV_VCPU_BASIC" | "X86_PV_VCPU_EXTENDED" | "X86_PV_VCPU_XSAVE",
  body: Uint8Array<ArrayBuffer>,
  context: LibxcContext,
): LibxcRecord {
  const fields = reader(name, "vcpu", body, context);
  fields.zero(4, 8);
  return { name, vcpuId: fields.u32(0), context: fields.bytes(8) };
}

function decodeVcpuMsrs(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("X86_PV_VCPU_MSRS", "vcpu", body, context);
  fields.zero(4, 8);
  const msrs: VcpuMsr[] = [];
  for (let at = 8; at < body.length; at += 16) {
    fields.zero(at + 4, at + 8);
    msrs.push({ index: fields.u32(at), value: fields.u64(at + 8) });
  }
  return { name: "X86_PV_VCPU_MSRS", vcpuId: fields.u32(0), msrs };
}

function decodeHvmParams(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("HVM_PARAMS", "hvm_params", body, context);
  const count = fields.u32(0);
  if (body.length !== 8 + 16 * count) {
    throw fields.error("count", 0, `${count} parameters do not make a body of ${body.length} octets`);
  }
  fields.zero(4, 8);
  const params: HvmParam[] = [];
  for (let at = 8; at < body.length; at += 16) {
    params.push({ index: fields.u64(at), value: fields.u64(at + 8) });
  }
  return { name: "HVM_PARAMS", params };
}

function decodeDirtyPfns(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("CHECKPOINT_DIRTY_PFN_LIST", "dirty_pfn_list", body, context);
  const pfns = new Float64Array(body.length / 8);
  for (let index = 0; index < pfns.length; index++) {
    pfns[index] = fields.number64(8 * index, pfnLimit - 1, "pfn", "a frame number");
  }
  return { name: "CHECKPOINT_DIRTY_PFN_LIST", pfns };
}

function decodeCpuidPolicy(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("X86_CPUID_POLICY", "cpuid_policy", body, context);
  const leaves: CpuidLeaf[] = [];
  for (let at = 0; at < body.length; at += 24) {
    leaves.push({
      leaf: fields.u32(at),
      subleaf: fields.u32(at + 4),
      eax: fields.u32(at + 8),
      ebx: fields.u32(at + 12),
      ecx: fields.u32(at + 16),
      edx: fields.u32(at + 20),
    });
  }
  return { name: "X86_CPUID_POLICY", leaves };
}

function decodeMsrPolicy(body: Uint8Array<ArrayBuffer>, context: LibxcContext): LibxcRecord {
  const fields = reader("X86_MSR_POLICY", "msr_policy", body, context);
  const msrs: MsrPolicyEntry[] = [];
  for (let at = 0; at < body.length; at += 16) {
    msrs.push({ index: fields.u32(at), flags: fields.u32(at + 4), value: fields.u64(at + 8) });
  }
  return { name: "X86_MSR_POLICY", msrs };
}

function checkEntries(count: number, min: number): void {
  if (count < min || count > entriesMax) {
    throw new TypeError(
      `Cannot encode a record: it has ${count} entries and may have ${min} to ${entriesMax}`,
    );
  }
}

function checkPair(width: number, levels: number): void {
  if (!(width === 4 && levels === 3 || width === 8 && levels === 4)) {
    throw new TypeError(
      `Cannot encode X86_PV_INFO: ${levels} levels of page tables do not fit width ${width}`,
    );
  }
}
