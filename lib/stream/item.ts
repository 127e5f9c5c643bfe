/**
 * What the streams of this room are made of, as values: the headers and the typed records of every profile.
 *
 * Invariants:
 * - A typed record holds everything that a valid one says: `encodeItem(item)` gives the octets it was read from.
 *   Reserved fields have no place here; they are zero, or the reader refused them.
 * - Page frame numbers are 52 bits and fit a `number`; what may use all of 64 bits is a `bigint`.
 * - An array belongs to the item it stands in.
 *
 * `libxc_record.ts`, `libxl_record.ts`, `legacy_record.ts` and `region_record.ts` are the codecs; `STREAM.md` is the specification.
 *
 * @module
 */

/** Octets of a page, in every profile. */
export const pageSize = 4096;

/** A kind of stream, as `--profile` names it. `xl` is a file header around `libxl` (or, old, around libxc). */
export type StreamProfile = "libxc" | "libxl" | "xl" | "legacy" | "region";

/** Which grammar an item belongs to: streams stand inside streams. */
export type Layer = "xl" | "libxl" | "libxc" | "legacy" | "region";

/** Kind of a guest. */
export type GuestKind = "pv" | "hvm";

/** Page types of a PAGE_DATA entry, the top four bits of its word. */
export const pageTypes = {
  normal: 0x0,
  l1: 0x1,
  l2: 0x2,
  l3: 0x3,
  l4: 0x4,
  l1Pinned: 0x9,
  l2Pinned: 0xa,
  l3Pinned: 0xb,
  l4Pinned: 0xc,
  broken: 0xd,
  allocateOnly: 0xe,
  invalid: 0xf,
} as const;

/** Whether an entry of this type is followed by a page's contents. Types 5 to 8 are reserved and never valid. */
export function carriesPage(pageType: number): boolean {
  return pageType <= 0x4 || pageType >= 0x9 && pageType <= 0xc;
}

/** Entries of one PAGE_DATA record or one legacy batch. `pfns[i]` has type `types[i]`. */
export interface PageBatch {
  /** Page frame numbers. */
  pfns: Float64Array<ArrayBuffer>;
  /** Their types, of {@link pageTypes}. */
  types: Uint8Array<ArrayBuffer>;
  /** The contents of those that carry a page, 4096 octets each, in the order of the entries. */
  pages: Uint8Array<ArrayBuffer>;
}

/** The two headers of a libxc stream: 24 octets and 16. */
export interface LibxcHeader {
  /** 2 or 3. */
  version: number;
  /** Whether records and the domain header are big-endian. */
  bigEndian: boolean;
  /** Kind of the guest. */
  guest: GuestKind;
  /** Version of the Xen that wrote it; major 0 means that it was converted, by a converter of version minor. */
  xenMajor: number;
  /** Its minor version, or that of the converter. */
  xenMinor: number;
}

/** The header of a libxl stream. */
export interface LibxlHeader {
  /** Whether records are big-endian. */
  bigEndian: boolean;
  /** Whether a converter wrote it. */
  converted: boolean;
}

/** The header that `xl save` puts in front. */
export interface XlHeader {
  /** Whether the fields of this header are big-endian: its byte-order word says so. */
  bigEndian: boolean;
  /** Bit 0: the configuration is JSON; bit 1: a libxl stream follows, else a legacy or libxc one. */
  mandatoryFlags: number;
  /** Flags that a reader may ignore. */
  optionalFlags: number;
  /** The optional data: a 32-bit length and the configuration. */
  data: Uint8Array<ArrayBuffer>;
}

/** One entry of X86_CPUID_POLICY. */
export interface CpuidLeaf {
  /** The leaf: EAX of CPUID. */
  leaf: number;
  /** 0xffffffff: the leaf has none. */
  subleaf: number;
  /** What CPUID gives in EAX. */
  eax: number;
  /** What CPUID gives in EBX. */
  ebx: number;
  /** What CPUID gives in ECX. */
  ecx: number;
  /** What CPUID gives in EDX. */
  edx: number;
}

/** One entry of X86_MSR_POLICY. */
export interface MsrPolicyEntry {
  /** Index of the register. */
  index: number;
  /** Xen defines none yet. */
  flags: number;
  /** Its value. */
  value: bigint;
}

/** One entry of X86_PV_VCPU_MSRS. */
export interface VcpuMsr {
  /** Index of the register. */
  index: number;
  /** Its value. */
  value: bigint;
}

/** One entry of HVM_PARAMS. */
export interface HvmParam {
  /** Number of the parameter, `HVM_PARAM_…` in Xen's headers. */
  index: bigint;
  /** Its value. */
  value: bigint;
}

/** Time stamp counter of a guest, as X86_TSC_INFO and the legacy chunk −7 have it. */
export interface TscInfo {
  /** How the guest sees the counter. */
  mode: number;
  /** Its frequency. */
  khz: number;
  /** Its value, in nanoseconds. */
  nsec: bigint;
  /** How often the guest was moved. */
  incarnation: number;
}

/** A record of libxc's stream. */
export type LibxcRecord =
  | { name: "END" | "VERIFY" | "CHECKPOINT" | "STATIC_DATA_END" }
  | { name: "PAGE_DATA"; batch: PageBatch }
  | { name: "X86_PV_INFO"; guestWidth: 4 | 8; ptLevels: 3 | 4 }
  | { name: "X86_PV_P2M_FRAMES"; startPfn: number; endPfn: number; frames: BigUint64Array<ArrayBuffer> }
  | {
    name: "X86_PV_VCPU_BASIC" | "X86_PV_VCPU_EXTENDED" | "X86_PV_VCPU_XSAVE";
    vcpuId: number;
    context: Uint8Array<ArrayBuffer>;
  }
  | { name: "X86_PV_VCPU_MSRS"; vcpuId: number; msrs: VcpuMsr[] }
  | { name: "SHARED_INFO"; page: Uint8Array<ArrayBuffer> }
  | { name: "X86_TSC_INFO"; tsc: TscInfo }
  | { name: "HVM_CONTEXT"; context: Uint8Array<ArrayBuffer> }
  | { name: "HVM_PARAMS"; params: HvmParam[] }
  | { name: "CHECKPOINT_DIRTY_PFN_LIST"; pfns: Float64Array<ArrayBuffer> }
  | { name: "X86_CPUID_POLICY"; leaves: CpuidLeaf[] }
  | { name: "X86_MSR_POLICY"; msrs: MsrPolicyEntry[] }
  | UnknownRecord;

/** A record of libxl's stream. Keys and values of a device model stay octets: nobody promises their encoding. */
export type LibxlRecord =
  | { name: "END" | "LIBXC_CONTEXT" | "CHECKPOINT_END" }
  | { name: "EMULATOR_XENSTORE_DATA"; emulatorId: number; index: number; data: Uint8Array<ArrayBuffer> }
  | { name: "EMULATOR_CONTEXT"; emulatorId: number; index: number; context: Uint8Array<ArrayBuffer> }
  | { name: "CHECKPOINT_STATE"; controlId: number }
  | UnknownRecord;

/** How the pages of a region changed since the epoch before, each coded on its own. */
export interface PageDeltas {
  /** Page frame numbers, each once. */
  pfns: Float64Array<ArrayBuffer>;
  /** One self-delimiting encoding of `delta.ts` per entry, in order. */
  data: Uint8Array<ArrayBuffer>;
}

/** A run of pages. */
export interface PageRange {
  /** The first page. */
  pfn: number;
  /** How many pages follow each other, at least 1. */
  count: number;
}

/** A record of drover's own profile, a region. Pages, VERIFY, CHECKPOINT and END are libxc's. */
export type RegionRecord =
  | { name: "END" | "VERIFY" | "CHECKPOINT" }
  | { name: "PAGE_DATA"; batch: PageBatch }
  | { name: "REGION_INFO"; regionId: Uint8Array<ArrayBuffer>; pages: number; term: bigint; label: string }
  | { name: "ZERO_RANGES"; ranges: PageRange[] }
  | { name: "PAGE_DELTAS"; deltas: PageDeltas }
  | { name: "DIGEST"; digest: Uint8Array<ArrayBuffer> }
  | UnknownRecord;

/** An optional record that this reader does not know, kept as it is. */
export interface UnknownRecord {
  /** What tells it from the known ones. */
  name: "UNKNOWN";
  /** All 32 bits of the type. */
  type: number;
  /** The body, without padding. */
  body: Uint8Array<ArrayBuffer>;
}

/** Where an item stands. */
export interface ItemPlace {
  /** Counts all items of the stream from 0, headers included. */
  index: number;
  /** Stream offset of its first octet. */
  offset: number;
  /** Its octets, padding included. */
  size: number;
}

/** One unit of a stream: a header or a record, with its layer. `legacy` items are those of `legacy_record.ts`. */
export type StreamItem =
  | { layer: "xl"; header: XlHeader }
  | { layer: "libxl"; header: LibxlHeader }
  | { layer: "libxl"; record: LibxlRecord }
  | { layer: "libxc"; header: LibxcHeader }
  | { layer: "libxc"; record: LibxcRecord }
  | { layer: "region"; header: { bigEndian: boolean } }
  | { layer: "region"; record: RegionRecord }
  | { layer: "legacy"; record: LegacyRecord };

/** What a legacy stream begins with, and what only its reader could find out. */
export interface LegacyHeader {
  /** Octets of the sender's `unsigned long`. */
  width: 4 | 8;
  /** Kind of the guest. */
  guest: GuestKind;
  /** Pages of the guest, as the sender counts them. */
  p2mSize: number;
  /** PV: the extended-info blocks in order; null when there are none. */
  extendedInfo: { id: string; data: Uint8Array<ArrayBuffer> }[] | null;
  /** PV: the frames of the p2m table. */
  p2mFrames: BigUint64Array<ArrayBuffer> | null;
}

/** Legacy chunk ids that carry one HVM parameter. */
export type LegacyParamId = -3 | -4 | -8 | -10 | -11 | -14 | -15 | -16 | -17 | -19 | -20 | -21;

/** A unit of a legacy stream. Entry words of a batch are kept whole: 28 bits of frame number, 4 of type. */
export type LegacyRecord =
  | { name: "HEADER"; header: LegacyHeader }
  | { name: "BATCH"; entries: Uint32Array<ArrayBuffer>; pages: Uint8Array<ArrayBuffer> }
  | { name: "COMPRESSED_DATA"; data: Uint8Array<ArrayBuffer> }
  | { name: "END_OF_BODY" | "VERIFY_MODE" | "LAST_CHECKPOINT" | "ENABLE_COMPRESSION" }
  | { name: "VCPU_INFO"; vcpuIdMax: number; online: BigUint64Array<ArrayBuffer> }
  | { name: "TSC_INFO"; tsc: TscInfo }
  | { name: "HVM_PARAM"; id: LegacyParamId; pad: number; value: bigint }
  | { name: "TOOLSTACK"; data: Uint8Array<ArrayBuffer> }
  | {
    name: "HVM_TAIL";
    ioreqPfn: bigint;
    bufioreqPfn: bigint;
    storePfn: bigint;
    context: Uint8Array<ArrayBuffer>;
  }
  | { name: "DEVICE_MODEL"; signature: string; data: Uint8Array<ArrayBuffer> }
  | {
    name: "PV_TAIL";
    unmapped: BigUint64Array<ArrayBuffer>;
    vcpus: LegacyVcpu[];
    sharedInfo: Uint8Array<ArrayBuffer>;
  };

/** The state of one virtual processor in a legacy PV tail. */
export interface LegacyVcpu {
  /** Registers. */
  basic: Uint8Array<ArrayBuffer>;
  /** Extended context, 128 octets; null without. */
  extended: Uint8Array<ArrayBuffer> | null;
  /** State of XSAVE and the mask in front of it; null without. */
  xsave: { mask: bigint; data: Uint8Array<ArrayBuffer> } | null;
}
