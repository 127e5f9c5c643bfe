/**
 * What reader and writer of the legacy stream share: its numbers, its bounds, and what its header says of the rest.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { bodySizeMax } from "./record.ts";
import type { LegacyHeader } from "./item.ts";

/** The most pages a legacy guest can have: frame numbers have 28 bits. */
export const legacyP2mSizeMax: number = 2 ** 28;

/** The most entries of a batch. */
export const legacyBatchMax = 1024;

/** The batch entry that says nothing: the sender found no page for it, and left the frame number out. */
export const legacyHole = 0xf000_0000;

/** The largest id of a virtual processor. */
export const legacyVcpuIdMax = 4095;

/** The largest toolstack chunk that is taken, in octets. */
export const legacyToolstackSizeMax: number = 1024 * 1024;

/** The largest payload of one chunk of compressed pages that is taken; Xen's sender writes at most 16 MiB. */
export const legacyCompressedSizeMax: number = 64 * 1024 * 1024;

/** The largest xsave record of one virtual processor that is taken, in octets, mask and size included. */
export const legacyXsaveSizeMax: number = 2 ** 20;

/** The longest list of unmapped frames that is taken: 64 GiB of a guest. */
export const legacyUnmappedMax: number = 2 ** 24;

/** The largest HVM context that is taken: what fits a record. */
export const legacyContextSizeMax: number = bodySizeMax;

/** The largest device model state that is taken: what fits a record behind eight octets. */
export const legacyDeviceModelSizeMax: number = bodySizeMax - 8;

/** Octets of the extended context of a virtual processor. */
export const legacyExtendedSize = 128;

/** Octets of a virtual processor's context, by the guest's word size. */
export const legacyBasicSizes = { 4: 0xaf0, 8: 0x1430 } as const;

/** Signatures of a device model's state. The last has no length: it goes on until the stream ends. */
export const deviceModelSignatures = {
  current: "DeviceModelRecord0002",
  remus: "RemusDeviceModelState",
  old: "QemuDeviceModelRecord",
} as const;

/** Ids of the chunks that are not a batch and not one HVM parameter. */
export const legacyChunkIds = {
  verifyMode: -1,
  vcpuInfo: -2,
  tmem: -5,
  tmemExtra: -6,
  tscInfo: -7,
  lastCheckpoint: -9,
  compressedData: -12,
  enableCompression: -13,
  toolstack: -18,
} as const;

/** Octets of mask and size in front of an xsave state. */
export const legacyXsaveHeadSize = 16;

/** What the tail of a PV guest looks like: the extended info says so. */
export interface LegacyTailShape {
  /** Octets of each virtual processor's registers. */
  basicSize: number;
  /** Whether 128 octets of extended context follow them. */
  extended: boolean;
  /** As "xcnt" has it: with the sixteen octets in front; 0 without. */
  xsaveSize: number;
}

/**
 * The word size of a PV guest: what the context in its extended info shows, else the sender's own.
 *
 * @throws {FormatError} rule `legacy.extended_info.vcpu` where that context is of neither size.
 */
export function legacyGuestWidth(header: LegacyHeader): 4 | 8 {
  for (const { id, data } of header.extendedInfo ?? []) {
    if (id !== "vcpu") continue;
    if (data.length === legacyBasicSizes[4]) return 4;
    if (data.length === legacyBasicSizes[8]) return 8;
    throw legacyError("extended_info.vcpu", -1, `a context of ${data.length} octets belongs to no guest`);
  }
  return header.width;
}

/** The sizes of the parts of a PV tail. */
export function legacyTailShape(header: LegacyHeader): LegacyTailShape {
  const shape: LegacyTailShape = {
    basicSize: legacyBasicSizes[legacyGuestWidth(header)],
    extended: false,
    xsaveSize: 0,
  };
  for (const { id, data } of header.extendedInfo ?? []) {
    if (id === "extv") shape.extended = true;
    if (id === "xcnt") {
      shape.xsaveSize = new DataView(data.buffer, data.byteOffset, data.length).getUint32(0, true);
    }
  }
  return shape;
}

/** The error for a broken rule of the legacy stream. */
export function legacyError(rule: string, offset: number, message: string): FormatError {
  return new FormatError(`legacy.${rule}`, offset, `Cannot read the legacy stream: ${message}`);
}
