/**
 * The libxc layer: image and domain header, then records up to END or CHECKPOINT.
 *
 * Everything that Xen's verifier checks of a record is checked here, and what it leaves out: the order of records,
 * what belongs to which guest and version, counts against ranges, sizes of contexts, duplicates, checkpoints.
 *
 * Invariants:
 * - A record's length alone says where the next one begins; whatever is wrong in a body, reading goes on behind it.
 * - A body is never kept. The state is what is below, however long the stream.
 *
 * @module
 */
import { hex, type Trace } from "./findings.ts";
import { verifyImageHeader } from "./image_header.ts";
import type { Step } from "./input.ts";
import { PfnSet, verifyPageData } from "./pages.ts";
import type { VerifyRule } from "./rules.ts";

const bodyMax = 128 * 1024 * 1024;
const basicSize64 = 0x1430;
const basicSize32 = 0xaf0;

const types = {
  end: 0x00,
  pageData: 0x01,
  pvInfo: 0x02,
  p2mFrames: 0x03,
  vcpuBasic: 0x04,
  vcpuExtended: 0x05,
  vcpuXsave: 0x06,
  sharedInfo: 0x07,
  tscInfo: 0x08,
  hvmContext: 0x09,
  hvmParams: 0x0a,
  toolstack: 0x0b,
  vcpuMsrs: 0x0c,
  verify: 0x0d,
  checkpoint: 0x0e,
  dirtyPfnList: 0x0f,
  staticDataEnd: 0x10,
  cpuidPolicy: 0x11,
  msrPolicy: 0x12,
} as const;

const names: readonly string[] = [
  "END",
  "PAGE_DATA",
  "X86_PV_INFO",
  "X86_PV_P2M_FRAMES",
  "X86_PV_VCPU_BASIC",
  "X86_PV_VCPU_EXTENDED",
  "X86_PV_VCPU_XSAVE",
  "SHARED_INFO",
  "X86_TSC_INFO",
  "HVM_CONTEXT",
  "HVM_PARAMS",
  "TOOLSTACK",
  "X86_PV_VCPU_MSRS",
  "VERIFY",
  "CHECKPOINT",
  "CHECKPOINT_DIRTY_PFN_LIST",
  "STATIC_DATA_END",
  "X86_CPUID_POLICY",
  "X86_MSR_POLICY",
];

const pvOnly: ReadonlySet<number> = new Set([
  types.pvInfo,
  types.p2mFrames,
  types.vcpuBasic,
  types.vcpuExtended,
  types.vcpuXsave,
  types.vcpuMsrs,
  types.sharedInfo,
]);
const hvmOnly: ReadonlySet<number> = new Set([types.hvmContext, types.hvmParams]);
/** Records of registers: behind the static ones, says version 3. */
const registers: ReadonlySet<number> = new Set([
  types.vcpuBasic,
  types.vcpuExtended,
  types.vcpuXsave,
  types.vcpuMsrs,
  types.sharedInfo,
  types.tscInfo,
  types.hvmContext,
  types.hvmParams,
]);
const staticTypes: ReadonlySet<number> = new Set([types.pvInfo, types.cpuidPolicy, types.msrPolicy]);
const version3: ReadonlySet<number> = new Set([types.staticDataEnd, types.cpuidPolicy, types.msrPolicy]);

/** One libxc stream, which goes on over the sections of a checkpointed one. */
export class LibxcVerifier {
  readonly #trace: Trace;
  readonly #pfns = new PfnSet();
  readonly #seen = new Set<number>();
  #version = 3;
  #littleEndian = true;
  #pv = false;
  #guestKnown = false;
  /** Octets of a word of a PV guest; 0 before X86_PV_INFO said so. */
  #width = 0;
  /** The last frame number of a PV guest; -1 before X86_PV_P2M_FRAMES. */
  #pfnMax = -1;
  /** Sections that CHECKPOINT ended. */
  #checkpoints = 0;
  /** Whether the section that is being read has any record but END. */
  #sectionBegan = false;

  /** A verifier that has read nothing. */
  constructor(trace: Trace) {
    this.#trace = trace;
  }

  /** Whether the guest is a PV one. */
  get pv(): boolean {
    return this.#pv;
  }

  /** Whether END ended a section that no checkpoint committed although others did. */
  get dropped(): boolean {
    return this.#checkpoints > 0 && this.#sectionBegan;
  }

  /** Whether there was any checkpoint. */
  get checkpointed(): boolean {
    return this.#checkpoints > 0;
  }

  /** Reads the image header and the domain header. */
  *headers(): Step {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("libxc", true);
    const start = input.offset;
    const { version, bigEndian } = yield* verifyImageHeader(trace, "libxc", {
      id: 0x5845_4e46,
      versionMin: 2,
      versionMax: 3,
      markerHint: "maybe a legacy stream, of Xen 4.5 or older",
    });
    this.#version = version;
    if (bigEndian) {
      trace.report(
        "libxc.header.endian",
        start + 16,
        "the stream is big-endian, which Xen itself cannot read",
      );
    }
    this.#littleEndian = !bigEndian;

    yield* input.take(16);
    const type = input.u32(0);
    const pageShift = input.u16(4);
    const domainReserved = input.u16(6);
    this.#pv = type === 1;
    this.#guestKnown = type === 1 || type === 2;
    if (!this.#guestKnown) {
      trace.report(
        "libxc.domain.type",
        start + 24,
        `the domain type is ${type} and should be 1 (x86 PV) or 2 (x86 HVM)`,
      );
    }
    if (pageShift !== 12) {
      trace.stop(
        "libxc.domain.page_shift",
        start + 28,
        `the page shift is ${pageShift} and should be 12`,
      );
    }
    if (domainReserved !== 0) {
      trace.report(
        "libxc.domain.reserved",
        start + 30,
        `the reserved field is ${hex(domainReserved)} and should be 0`,
      );
    }
    trace.done();
  }

  /** Reads records up to END or CHECKPOINT, and that one. */
  *section(): Step<"end" | "checkpoint"> {
    const trace = this.#trace;
    const { input } = trace;
    this.#sectionBegan = false;
    input.littleEndian = this.#littleEndian;
    while (true) {
      trace.begin("libxc");
      const start = input.offset;
      if (!input.takes(8)) yield* input.take(8);
      const type = input.u32(0);
      const length = input.u32(4);
      if (length > bodyMax) {
        trace.stop(
          "libxc.record.length",
          start + 4,
          `the body of ${nameOf(type)} is ${length} octets and may be ${bodyMax}`,
        );
      }
      if (!this.#sectionBegan && (type !== types.end || trace.epochs === 0)) {
        this.#sectionBegan = true;
        trace.epochs++;
      }
      this.#order(type, start);
      if (type === types.end) this.#atEnd(start);
      yield* this.#body(type, length, start);
      yield* trace.finishRecord("libxc", { start, length, name: nameOf(type) });
      if (type === types.end) return "end";
      if (type === types.checkpoint) {
        this.#checkpoints++;
        return "checkpoint";
      }
    }
  }

  /** Whether a record of this type may stand here. */
  #order(type: number, start: number): void {
    const trace = this.#trace;
    const name = nameOf(type);
    if (type >= names.length) {
      if (type >= 0x8000_0000) {
        trace.report("libxc.record.optional", start, `the optional type ${name} is unknown and passed over`);
      } else {
        trace.report("libxc.record.type", start, `the type is ${name}, which is mandatory and unknown`);
      }
      return;
    }
    if (this.#guestKnown && (this.#pv ? hvmOnly : pvOnly).has(type)) {
      trace.report(
        "libxc.record.guest",
        start,
        `${name} stands in the stream of ${this.#pv ? "a PV" : "an HVM"} guest`,
      );
    }
    const wide = version3.has(type);
    if (wide && this.#version < 3) {
      trace.report("libxc.record.version", start, `${name} stands in a stream of version ${this.#version}`);
    }
    if (this.#version >= 3) {
      const ended = this.#seen.has(types.staticDataEnd);
      if (ended && staticTypes.has(type)) {
        trace.report("libxc.static_data_end.static_after", start, `${name} stands behind STATIC_DATA_END`);
      }
      if (!ended && registers.has(type) && !this.#seen.has(type)) {
        trace.report("libxc.static_data_end.late", start, `${name} stands before STATIC_DATA_END`);
      }
      if (!ended && type === types.pageData && !this.#seen.has(type)) {
        trace.report("libxc.page_data.before_static_data_end", start, "pages stand before STATIC_DATA_END");
      }
      if (!ended && type === types.p2mFrames && !this.#seen.has(type)) {
        trace.report("libxc.p2m_frames.before_static_data_end", start, "frames stand before STATIC_DATA_END");
      }
    }
    if (this.#pv) {
      const frames = this.#seen.has(types.p2mFrames);
      if (type === types.pageData && !frames && !this.#seen.has(type)) {
        trace.report("libxc.page_data.before_p2m_frames", start, "pages stand before X86_PV_P2M_FRAMES");
      }
      const vcpu = type === types.vcpuBasic || type === types.vcpuExtended || type === types.vcpuXsave ||
        type === types.vcpuMsrs;
      if (vcpu && !frames && !this.#seen.has(type)) {
        trace.report("libxc.vcpu.before_p2m_frames", start, `${name} stands before X86_PV_P2M_FRAMES`);
      }
      const info = this.#seen.has(types.pvInfo);
      if (type === types.p2mFrames && !info) {
        trace.report("libxc.p2m_frames.before_pv_info", start, "frames stand before X86_PV_INFO");
      }
      if (type === types.sharedInfo && !info) {
        trace.report("libxc.shared_info.before_pv_info", start, "SHARED_INFO stands before X86_PV_INFO");
      }
      if (type === types.pvInfo && info) {
        trace.report("libxc.pv_info.repeated", start, "X86_PV_INFO stands here a second time");
      }
    }
    if (type === types.staticDataEnd && this.#seen.has(type)) {
      trace.report("libxc.static_data_end.repeated", start, "STATIC_DATA_END stands here a second time");
    }
    if (type === types.checkpoint && trace.checkpointed === false) {
      trace.report("libxc.checkpoint.plain", start, "CHECKPOINT stands in a stream that should have none");
    }
    if (
      type === types.verify && (this.#checkpoints > 0 || trace.checkpointed === true) ||
      type === types.checkpoint && this.#seen.has(types.verify) && this.#checkpoints === 0
    ) {
      trace.report("libxc.verify.checkpointed", start, "VERIFY and CHECKPOINT stand in one stream");
    }
    this.#seen.add(type);
    if (type === types.checkpoint && this.#checkpoints === 0) this.#complete(start);
  }

  /** What must have been there when the stream ends. */
  #atEnd(start: number): void {
    const trace = this.#trace;
    if (this.#version >= 3 && !this.#seen.has(types.staticDataEnd)) {
      trace.report("libxc.static_data_end.missing", start, "the stream ends without STATIC_DATA_END");
    }
    if (this.dropped) {
      trace.report(
        "libxc.end.uncommitted",
        start,
        "END follows records that no CHECKPOINT committed: nobody applies them",
      );
    }
    if (this.#checkpoints === 0) {
      if (trace.checkpointed === true) {
        trace.report("libxc.checkpoint.none", start, "the stream ends without any CHECKPOINT");
      }
      this.#complete(start);
    }
  }

  /** What a guest cannot be made of without. */
  #complete(start: number): void {
    const wanted: [number, VerifyRule][] = this.#pv
      ? [
        [types.pvInfo, "libxc.end.no_pv_info"],
        [types.p2mFrames, "libxc.end.no_p2m_frames"],
        [types.sharedInfo, "libxc.end.no_shared_info"],
        [types.vcpuBasic, "libxc.end.no_vcpu"],
        [types.tscInfo, "libxc.end.no_tsc_info"],
      ]
      : [
        [types.tscInfo, "libxc.end.no_tsc_info"],
        [types.hvmContext, "libxc.end.no_hvm_context"],
      ];
    if (!this.#guestKnown) return;
    for (const [type, rule] of wanted) {
      if (!this.#seen.has(type)) this.#trace.report(rule, start, `no ${nameOf(type)} stands before this`);
    }
  }

  /** Looks into a body, as far as there is something to look at. */
  *#body(type: number, length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    switch (type) {
      case types.pageData:
        trace.pages += yield* verifyPageData(trace, this.#pfns, {
          prefix: "libxc.page_data",
          length,
          pfnMax: this.#pv && this.#pfnMax >= 0 ? this.#pfnMax : Infinity,
          normalOnly: false,
        });
        break;
      case types.end:
        this.#empty("libxc.end.length", type, length, start);
        break;
      case types.verify:
        this.#empty("libxc.verify.length", type, length, start);
        break;
      case types.checkpoint:
        this.#empty("libxc.checkpoint.length", type, length, start);
        break;
      case types.staticDataEnd:
        this.#empty("libxc.static_data_end.length", type, length, start);
        break;
      case types.pvInfo:
        yield* this.#pvInfo(length, start);
        break;
      case types.p2mFrames:
        yield* this.#p2mFrames(length, start);
        break;
      case types.vcpuBasic:
      case types.vcpuExtended:
      case types.vcpuXsave:
      case types.vcpuMsrs:
        yield* this.#vcpu(type, length, start);
        break;
      case types.sharedInfo:
        if (length !== 4096) this.#wrongLength("libxc.shared_info.length", type, length, start, "4096");
        break;
      case types.tscInfo:
        if (length !== 24) {
          this.#wrongLength("libxc.tsc_info.length", type, length, start, "24");
        } else {
          yield* input.take(24);
          this.#reserved("libxc.tsc_info.reserved", 20, 24, start + 8);
        }
        break;
      case types.hvmContext:
        if (length === 0) this.#wrongLength("libxc.hvm_context.length", type, length, start, "at least 1");
        break;
      case types.hvmParams:
        yield* this.#hvmParams(length, start);
        break;
      case types.toolstack:
        trace.report("libxc.toolstack.deprecated", start, "TOOLSTACK stands here, which no stream may hold");
        break;
      case types.dirtyPfnList:
        yield* this.#dirtyPfnList(length, start);
        break;
      case types.cpuidPolicy:
        if (length === 0 || length % 24 !== 0) {
          this.#wrongLength("libxc.cpuid_policy.length", type, length, start, "a positive multiple of 24");
        }
        break;
      case types.msrPolicy:
        if (length === 0 || length % 16 !== 0) {
          this.#wrongLength("libxc.msr_policy.length", type, length, start, "a positive multiple of 16");
        }
        break;
    }
  }

  *#pvInfo(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 8) {
      this.#wrongLength("libxc.pv_info.length", types.pvInfo, length, start, "8");
      return;
    }
    if (length > 8) this.#wrongLength("libxc.pv_info.excess", types.pvInfo, length, start, "8");
    yield* input.take(8);
    const width = input.u8(0);
    const levels = input.u8(1);
    if (width !== 4 && width !== 8) {
      trace.report("libxc.pv_info.width", start + 8, `the guest width is ${width} and should be 4 or 8`);
    } else if (levels !== 3 && levels !== 4) {
      trace.report(
        "libxc.pv_info.levels",
        start + 9,
        `the page table levels are ${levels} and should be 3 or 4`,
      );
    } else if (levels !== (width === 8 ? 4 : 3)) {
      trace.report(
        "libxc.pv_info.pair",
        start + 9,
        `a guest of width ${width} has ${levels} page table levels and should have ${width === 8 ? 4 : 3}`,
      );
    }
    if (this.#width === 0 && (width === 4 || width === 8)) this.#width = width;
    this.#reserved("libxc.pv_info.reserved", 2, 8, start + 8);
  }

  *#p2mFrames(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 8 || length % 8 !== 0) {
      this.#wrongLength(
        "libxc.p2m_frames.length",
        types.p2mFrames,
        length,
        start,
        "at least 8 and a multiple of 8",
      );
      return;
    }
    yield* input.take(8);
    const first = input.u32(0);
    const last = input.u32(4);
    if (first > last) {
      trace.report(
        "libxc.p2m_frames.range",
        start + 8,
        `the first frame number is ${hex(first)}, above the last, ${hex(last)}`,
      );
      return;
    }
    this.#pfnMax = Math.max(this.#pfnMax, last);
    if (this.#width === 0) return;
    const perFrame = 4096 / this.#width;
    const frames = Math.floor(last / perFrame) - Math.floor(first / perFrame) + 1;
    const has = (length - 8) / 8;
    if (has !== frames) {
      trace.report(
        "libxc.p2m_frames.count",
        start + 4,
        `there are ${has} frames and the range ${hex(first)} to ${hex(last)} needs ${frames}`,
      );
    }
  }

  *#vcpu(type: number, length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 8) {
      this.#wrongLength("libxc.vcpu.length", type, length, start, "at least 8");
      return;
    }
    yield* input.take(8);
    this.#reserved("libxc.vcpu.reserved", 4, 8, start + 8);
    const size = length - 8;
    if (size === 0) {
      trace.report("libxc.vcpu.empty", start + 4, `${nameOf(type)} has no context: it should not be there`);
      return;
    }
    if (type === types.vcpuBasic) {
      const right = this.#width === 8
        ? size === basicSize64
        : this.#width === 4
        ? size === basicSize32
        : size === basicSize64 || size === basicSize32;
      if (!right) {
        const wanted = this.#width === 8
          ? `${basicSize64}`
          : this.#width === 4
          ? `${basicSize32}`
          : `${basicSize64} or ${basicSize32}`;
        trace.report(
          "libxc.vcpu.basic_size",
          start + 4,
          `the basic context is ${size} octets and should be ${wanted}`,
        );
      }
    } else if (type === types.vcpuExtended && size > 128) {
      trace.report(
        "libxc.vcpu.extended_size",
        start + 4,
        `the extended context is ${size} octets and may be 128`,
      );
    } else if (type === types.vcpuXsave && size < 16) {
      trace.report(
        "libxc.vcpu.xsave_size",
        start + 4,
        `the xsave context is ${size} octets and should be at least 16`,
      );
    } else if (type === types.vcpuMsrs && size % 16 !== 0) {
      trace.report(
        "libxc.vcpu.msrs_size",
        start + 4,
        `the registers are ${size} octets and should be a multiple of 16`,
      );
    } else if (type === types.vcpuMsrs) {
      yield* this.#msrs(size / 16);
    }
  }

  /** Registers of a virtual processor: index, reserved, value. */
  *#msrs(count: number): Step {
    const { input } = this.#trace;
    let wrong = false;
    for (let index = 0; index < count; index++) {
      const at = input.offset;
      if (!input.takes(16)) yield* input.take(16);
      if (input.u32(4) !== 0 && !wrong) {
        wrong = true;
        this.#reserved("libxc.vcpu.reserved", 4, 8, at);
      }
    }
  }

  *#hvmParams(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 8) {
      this.#wrongLength("libxc.hvm_params.length", types.hvmParams, length, start, "at least 8");
      return;
    }
    yield* input.take(8);
    this.#reserved("libxc.hvm_params.reserved", 4, 8, start + 8);
    const count = input.u32(0);
    if (count === 0) {
      trace.report("libxc.hvm_params.empty", start + 8, "HVM_PARAMS has no entries: it should not be there");
    }
    if (length !== 8 + 16 * count) {
      trace.report(
        "libxc.hvm_params.count",
        start + 8,
        `the count is ${count}, which makes a length of ${8 + 16 * count}, and the length is ${length}`,
      );
    }
  }

  *#dirtyPfnList(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    trace.report(
      "libxc.dirty_pfn_list.forward",
      start,
      "CHECKPOINT_DIRTY_PFN_LIST stands here, and belongs on the way back, from secondary to primary",
    );
    if (length % 8 !== 0) {
      this.#wrongLength(
        "libxc.dirty_pfn_list.length",
        types.dirtyPfnList,
        length,
        start,
        "a multiple of 8",
      );
      return;
    }
    const last = this.#pv && this.#pfnMax >= 0 ? this.#pfnMax : 2 ** 52 - 1;
    const count = length / 8;
    let wrong = -1;
    for (let index = 0; index < count;) {
      const words = yield* input.words(count - index);
      for (let word = 0; word < words && wrong < 0; word++) {
        if (input.high(8 * word) * 2 ** 32 + input.low(8 * word) > last) wrong = index + word;
      }
      index += words;
    }
    if (wrong >= 0) {
      trace.report(
        "libxc.dirty_pfn_list.pfn",
        start + 8 + 8 * wrong,
        `entry ${wrong} is beyond the last frame, ${hex(last)}`,
      );
    }
  }

  #empty(rule: VerifyRule, type: number, length: number, start: number): void {
    if (length !== 0) this.#wrongLength(rule, type, length, start, "0");
  }

  #wrongLength(rule: VerifyRule, type: number, length: number, start: number, wanted: string): void {
    this.#trace.report(rule, start + 4, `the length of ${nameOf(type)} is ${length} and should be ${wanted}`);
  }

  #reserved(rule: VerifyRule, from: number, to: number, body: number): void {
    const wrong = this.#trace.input.nonZero(from, to);
    if (wrong >= 0) this.#trace.report(rule, body + wrong, "a reserved octet is not 0");
  }
}

function nameOf(type: number): string {
  return names[type] ?? hex(type);
}
