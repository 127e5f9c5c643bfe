/**
 * The legacy stream of Xen 4.5 and older, which frames nothing: chunks of known sizes, then a tail, once or, with
 * Remus, once per epoch.
 *
 *     p2m_size, [PV: extended info, frames], { chunk*, 0, tail }, { chunk*, 0, tail }, ...
 *
 * With compression, from the second epoch on, batches are frame numbers only and their contents come encoded in
 * chunks -12: see compressed.ts.
 *
 * Invariants:
 * - What breaks the grammar stops the verification: without framing nothing behind it can be read.
 * - Nothing is kept but counts.
 *
 * @module
 */
import { Compressed, type Place } from "./compressed.ts";
import { hex, type Trace } from "./findings.ts";
import { Cut, type Step } from "./input.ts";
import { PfnSet } from "./pages.ts";
import type { VerifyRule } from "./rules.ts";

const pageSize = 4096;
const p2mSizeMax = 2 ** 28;
const batchMax = 1024;
const vcpuIdMax = 4095;
const hole = 0xf000_0000;
const basicSizes = { 4: 0xaf0, 8: 0x1430 } as const;
const extendedSize = 128;
const xsaveMax = 2 ** 20;
const compressedMax = 64 * 1024 * 1024;
const toolstackMax = 1024 * 1024;
const recordMax = 128 * 1024 * 1024;

const chunks = {
  verifyMode: -1,
  vcpuInfo: -2,
  tmem: -5,
  tmemExtra: -6,
  tscInfo: -7,
  lastCheckpoint: -9,
  compressedData: -12,
  enableCompression: -13,
  toolstack: -18,
  ioreqServerPfn: -19,
  ioreqServerPages: -20,
} as const;

const params: ReadonlySet<number> = new Set([-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20, -21]);

/** Identifiers of extended-info blocks, as little-endian integers. */
const blocks = { vcpu: 0x7570_6376, extv: 0x7674_7865, xcnt: 0x746e_6378 } as const;

const signatures = ["DeviceModelRecord0002", "RemusDeviceModelState", "QemuDeviceModelRecord"] as const;
const signatureSize = 21;

/** What may be told about a legacy stream. */
export interface LegacyVerifyOptions {
  /** Octets of the sender's words; by default the first eight octets tell. */
  width: 4 | 8 | "auto";
  /** Kind of the guest; by default PV where the mark of extended info stands. */
  guest: "pv" | "hvm" | "auto";
}

/** Reads a whole legacy stream. */
export class LegacyVerifier {
  readonly #trace: Trace;
  readonly #options: LegacyVerifyOptions;
  readonly #pfns = new PfnSet();
  readonly #compressed: Compressed;
  #width: 4 | 8 = 8;
  #pv = false;
  #p2mSize = 0;
  #basicSize = 0;
  #extended = false;
  /** Octets of an xsave record with its 16 octets of head; 0 for none. */
  #xsaveSize = 0;
  /** Virtual processors of the tail. */
  #online = 1;
  #vcpuInfoSeen = false;
  #tscSeen = false;
  /** Whether batches have no pages. */
  #compressing = false;

  /** A verifier that has read nothing. */
  constructor(trace: Trace, options: LegacyVerifyOptions) {
    this.#trace = trace;
    this.#options = options;
    this.#compressed = new Compressed(trace);
  }

  /** Reads the stream to the end of its last tail. */
  *stream(): Step {
    const trace = this.#trace;
    const { input } = trace;
    yield* this.#header();
    while (true) {
      trace.epochs++;
      const { last, compression } = yield* this.#body();
      const untilEnd = yield* this.#tail();
      trace.committedEpochs++;
      if (compression) this.#compressing = true;
      if (last || untilEnd) return;
      trace.begin("legacy");
      if (!(yield* input.any())) {
        if (trace.epochs > 1 || trace.checkpointed === true) throw new Cut();
        trace.report("legacy.end.no_last_checkpoint", input.offset, "the stream ends without chunk -9");
        return;
      }
      if (trace.checkpointed === false) return;
    }
  }

  *#header(): Step {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("legacy", true);
    const start = input.offset;
    input.littleEndian = true;
    const { width, guest } = this.#options;
    if (width === "auto") {
      const wide = (yield* input.peek(8)) === 8 && input.u32(4) === 0;
      this.#width = wide ? 8 : 4;
    } else {
      this.#width = width;
    }
    yield* input.take(this.#width);
    this.#p2mSize = this.#word(0);
    if (this.#p2mSize === 0 || this.#p2mSize > p2mSizeMax) {
      trace.stop(
        "legacy.header.p2m_size",
        start,
        `the memory is ${this.#p2mSize} pages and should be 1 to ${p2mSizeMax}, if this is a stream at all`,
      );
    }
    const marked = (yield* input.peek(this.#width)) === this.#width && input.u32(0) === 0xffff_ffff &&
      input.u32(this.#width - 4) === 0xffff_ffff;
    this.#pv = guest === "auto" ? marked : guest === "pv";
    if (this.#pv) {
      let guestWidth = this.#width;
      this.#basicSize = basicSizes[guestWidth];
      if (marked) guestWidth = yield* this.#extendedInfo();
      const frames = Math.floor((this.#p2mSize - 1) / (pageSize / guestWidth)) + 1;
      yield* input.skip(frames * this.#width);
    }
    trace.done();
  }

  /** Reads the extended info. @returns octets of the guest's words. */
  *#extendedInfo(): Step<4 | 8> {
    const trace = this.#trace;
    const { input } = trace;
    let guestWidth = this.#width;
    yield* input.take(this.#width);
    const sizeAt = input.offset;
    yield* input.take(4);
    let left = input.u32(0);
    const seen = new Set<number>();
    while (left > 0) {
      const start = input.offset;
      if (left < 8) {
        trace.stop("legacy.extended_info.size", sizeAt, `${left} octets are left over behind the last block`);
      }
      yield* input.take(8);
      const id = input.u32(0);
      const size = input.u32(4);
      left -= 8;
      if (size > left) {
        trace.stop(
          "legacy.extended_info.size",
          start + 4,
          `a block is ${size} octets and ${left} are left of the announced size`,
        );
      }
      const end = input.offset + size;
      left -= size;
      if (seen.has(id)) {
        trace.report("legacy.extended_info.repeated", start, "a block stands here a second time");
      }
      switch (id) {
        case blocks.vcpu:
          if (size !== basicSizes[4] && size !== basicSizes[8]) {
            trace.stop(
              "legacy.extended_info.vcpu",
              start + 4,
              `the vcpu block is ${size} octets and should be ${basicSizes[8]} or ${basicSizes[4]}`,
            );
          }
          guestWidth = size === basicSizes[4] ? 4 : 8;
          this.#basicSize = size;
          break;
        case blocks.extv:
          this.#extended = true;
          if (size !== 0) {
            trace.report(
              "legacy.extended_info.extv",
              start + 4,
              `the extv block is ${size} octets and should be 0`,
            );
          }
          break;
        case blocks.xcnt:
          if (size !== 4) {
            trace.stop(
              "legacy.extended_info.xcnt",
              start + 4,
              `the xcnt block is ${size} octets and should be 4`,
            );
          }
          yield* input.take(4);
          this.#xsaveSize = input.u32(0);
          if (this.#xsaveSize < 16 || this.#xsaveSize > xsaveMax) {
            trace.stop(
              "legacy.extended_info.xcnt",
              start + 8,
              `the xsave size is ${this.#xsaveSize} and should be 16 to ${xsaveMax}`,
            );
          }
          break;
        default:
          if (!seen.has(id)) {
            trace.report("legacy.extended_info.block", start, `the block ${hex(id)} is unknown`);
          }
      }
      if (seen.size < 16) seen.add(id);
      yield* input.skip(end - input.offset);
    }
    if (!seen.has(blocks.vcpu)) {
      trace.report("legacy.extended_info.no_vcpu", sizeAt, "the extended info has no vcpu block");
    }
    return guestWidth;
  }

  /** Reads chunks up to 0. */
  *#body(): Step<{ last: boolean; compression: boolean }> {
    const trace = this.#trace;
    const { input } = trace;
    let last = false;
    let compression = false;
    let vcpuInfo = false;
    const ioreq = new Map<number, Place>();
    while (true) {
      trace.begin("legacy");
      const start = input.offset;
      if (!input.takes(4)) yield* input.take(4);
      const id = input.i32(0);
      if (id > 0) {
        yield* this.#batch(id, start);
      } else if (params.has(id)) {
        if (this.#pv) {
          trace.report("legacy.chunk.guest", start, `chunk ${id} stands in the stream of a PV guest`);
        }
        yield* input.take(12);
        if (input.u32(0) !== 0) {
          trace.report("legacy.param.reserved", start + 4, `the pad is ${hex(input.u32(0))} and should be 0`);
        }
        const value = input.u32(4) !== 0 || input.u32(8) !== 0;
        if (value && (id === chunks.ioreqServerPfn || id === chunks.ioreqServerPages)) {
          ioreq.set(id, { offset: start, record: trace.items });
        }
      } else {
        switch (id) {
          case 0: {
            const [lone] = ioreq;
            if (lone !== undefined && ioreq.size === 1) {
              trace.report(
                "legacy.ioreq.pair",
                lone[1].offset,
                `chunk ${lone[0]} stands without ${lone[0] === -19 ? -20 : -19}`,
                { record: lone[1].record },
              );
            }
            if (!this.#tscSeen && trace.epochs === 1) {
              trace.report("legacy.end.no_tsc_info", start, "no chunk -7 stands before this");
            }
            this.#compressed.end();
            trace.done();
            return { last, compression };
          }
          case chunks.verifyMode:
            break;
          case chunks.vcpuInfo:
            if (vcpuInfo) {
              trace.report("legacy.vcpu_info.repeated", start, "chunk -2 stands here a second time");
            }
            vcpuInfo = true;
            yield* this.#vcpuInfo(start);
            break;
          case chunks.tscInfo:
            this.#tscSeen = true;
            yield* input.skip(20);
            break;
          case chunks.lastCheckpoint:
            last = true;
            break;
          case chunks.enableCompression:
            if (trace.epochs > 1) {
              trace.report("legacy.compression.late", start, "chunk -13 stands behind the first epoch");
            } else {
              compression = true;
            }
            break;
          case chunks.compressedData:
            yield* this.#compressedData(start);
            break;
          case chunks.toolstack:
            yield* this.#toolstack(start);
            break;
          case chunks.tmem:
          case chunks.tmemExtra:
            trace.stop("legacy.chunk.tmem", start, `chunk ${id} holds transcendent memory, of unknown size`);
            break;
          default:
            trace.stop("legacy.chunk.unknown", start, `chunk ${id} is unknown`);
        }
      }
      trace.done();
    }
  }

  *#batch(count: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (count > batchMax) {
      trace.stop("legacy.batch.count", start, `the batch has ${count} entries and may have ${batchMax}`);
    }
    this.#pfns.clear();
    const faults = new Set<VerifyRule>();
    const report = (rule: VerifyRule, index: number, message: string): void => {
      if (faults.has(rule)) return;
      faults.add(rule);
      trace.report(rule, start + 4 + this.#width * index, `entry ${index}: ${message}`);
    };
    let pages = 0;
    for (let index = 0; index < count; index++) {
      if (!input.takes(this.#width)) yield* input.take(this.#width);
      const entry = input.u32(0);
      if (this.#width === 8 && input.u32(4) !== 0) {
        report("legacy.batch.reserved", index, `its upper half is ${hex(input.u32(4))} and should be 0`);
      }
      if (entry === hole) continue;
      const type = entry >>> 28;
      const pfn = entry & 0x0fff_ffff;
      if (type < 0xd) pages++;
      if (type >= 5 && type <= 8) {
        report("legacy.batch.type", index, `its type is ${type} and should be 0 to 4 or 9 to 15`);
      }
      if (pfn >= this.#p2mSize) {
        report("legacy.batch.pfn", index, `its frame is ${hex(pfn)}, of ${hex(this.#p2mSize)}`);
      }
      if (!this.#pfns.add(pfn)) {
        report(
          "legacy.batch.duplicate",
          index,
          `its frame is ${hex(pfn)}, which stands in the batch already`,
        );
      }
    }
    trace.pages += pages;
    if (this.#compressing) this.#compressed.announce(pages);
    else yield* input.skip(pages * pageSize);
  }

  *#vcpuInfo(start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    yield* input.take(4);
    const max = input.i32(0);
    if (max < 0 || max > vcpuIdMax) {
      trace.stop(
        "legacy.vcpu_info.max",
        start + 4,
        `the highest vcpu is ${max} and should be 0 to ${vcpuIdMax}`,
      );
    }
    this.#vcpuInfoSeen = true;
    this.#online = 0;
    let wrong = -1;
    for (let base = 0; base <= max; base += 64) {
      yield* input.take(8);
      for (let bit = 0; bit < 64; bit++) {
        if ((input.u32(bit < 32 ? 0 : 4) >>> (bit & 31) & 1) === 0) continue;
        if (base + bit <= max) this.#online++;
        else if (wrong < 0) wrong = base + bit;
      }
    }
    if (wrong >= 0) {
      trace.report(
        "legacy.vcpu_info.bits",
        start + 8 + Math.floor(wrong / 8),
        `vcpu ${wrong} is online and the highest is ${max}`,
      );
    }
  }

  *#compressedData(start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    yield* input.take(this.#width);
    const size = this.#word(0);
    if (size > compressedMax) {
      trace.stop(
        "legacy.compressed.length",
        start + 4,
        `the compressed data are ${size} octets and may be ${compressedMax}`,
      );
    }
    if (!this.#compressing) {
      trace.report(
        "legacy.compressed.early",
        start,
        "compressed pages stand here, and compression is not on",
      );
      yield* input.skip(size);
      return;
    }
    yield* this.#compressed.chunk(size);
  }

  *#toolstack(start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    yield* input.take(4);
    const size = input.u32(0);
    const end = input.offset + size;
    if (size > toolstackMax) {
      trace.stop(
        "legacy.toolstack.length",
        start + 4,
        `the toolstack record is ${size} octets and may be ${toolstackMax}`,
      );
    }
    if (size === 0) return;
    if (size < 8) {
      trace.report(
        "legacy.toolstack.length",
        start + 4,
        `the toolstack record is ${size} octets and should be 0 or 8`,
      );
    } else {
      yield* this.#physmaps(end);
    }
    yield* input.skip(end - input.offset);
  }

  /** The entries of a toolstack record, as libxl wrote them. */
  *#physmaps(end: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    const versionAt = input.offset;
    yield* input.take(8);
    const version = input.u32(0);
    const count = input.u32(4);
    if (version !== 1) {
      trace.report("legacy.toolstack.version", versionAt, `the version is ${version} and should be 1`);
      return;
    }
    const padding = this.#width === 8 ? 4 : 0;
    for (let index = 0; index < count; index++) {
      const start = input.offset;
      if (end - start < 28) {
        trace.report("legacy.toolstack.entries", start, `entry ${index} of ${count} has no room`);
        return;
      }
      yield* input.take(28);
      const nameSize = input.u32(24);
      if (end - input.offset < nameSize + padding) {
        trace.report("legacy.toolstack.entries", start + 24, `the name of entry ${index} has no room`);
        return;
      }
      yield* this.#name(nameSize, index);
      yield* input.skip(padding);
    }
    if (input.offset < end) {
      trace.report(
        "legacy.toolstack.trailing",
        input.offset,
        `octets stand behind the last of ${count} entries`,
      );
    }
  }

  /** Text with one NUL, at its end. */
  *#name(size: number, index: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    const end = input.offset + size;
    let nul = -1;
    while (input.offset < end) {
      const from = input.offset;
      const piece = yield* input.some(end - from);
      const at = nul < 0 ? piece.indexOf(0) : -1;
      if (at >= 0) nul = from + at;
    }
    if (size === 0) {
      trace.report("legacy.toolstack.name", end - 4, `the name of entry ${index} is empty`);
    } else if (nul !== end - 1) {
      trace.report(
        "legacy.toolstack.name",
        nul < 0 ? end - 1 : nul,
        `the name of entry ${index} should have one NUL, at its end`,
      );
    }
  }

  /** Reads the tail of an epoch. @returns whether it goes on to the end of the stream. */
  *#tail(): Step<boolean> {
    if (!this.#pv) {
      yield* this.#hvmTail();
      return yield* this.#deviceModel();
    }
    yield* this.#pvTail();
    return false;
  }

  *#pvTail(): Step {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("legacy");
    const start = input.offset;
    yield* input.take(4);
    const unmapped = input.u32(0);
    if (unmapped > this.#p2mSize) {
      trace.stop(
        "legacy.tail.unmapped",
        start,
        `there are ${unmapped} unmapped frames and may be ${this.#p2mSize}`,
      );
    }
    if (!this.#vcpuInfoSeen && trace.epochs === 1) {
      trace.report("legacy.vcpu_info.missing", start, "no chunk -2 stands before this");
    }
    yield* input.skip(unmapped * this.#width);
    let wrongSize = false;
    for (let vcpu = 0; vcpu < this.#online; vcpu++) {
      yield* input.skip(this.#basicSize + (this.#extended ? extendedSize : 0));
      if (this.#xsaveSize > 0) {
        const at = input.offset;
        yield* input.take(16);
        const size = input.u32(12) * 2 ** 32 + input.u32(8);
        if (size !== this.#xsaveSize - 16 && !wrongSize) {
          wrongSize = true;
          trace.report(
            "legacy.tail.xsave_size",
            at + 8,
            `the xsave size is ${size} and should be ${this.#xsaveSize - 16}`,
          );
        }
        yield* input.skip(this.#xsaveSize - 16);
      }
    }
    yield* input.skip(pageSize);
    trace.done();
  }

  *#hvmTail(): Step {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("legacy");
    const start = input.offset;
    yield* input.take(28);
    const size = input.u32(24);
    if (size > recordMax) {
      trace.stop("legacy.tail.context", start + 24, `the context is ${size} octets and may be ${recordMax}`);
    }
    if (size === 0) trace.report("legacy.tail.context", start + 24, "the context is empty");
    yield* input.skip(size);
    trace.done();
  }

  /** Reads the device model's part. @returns whether it goes on to the end of the stream. */
  *#deviceModel(): Step<boolean> {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("legacy");
    const start = input.offset;
    yield* input.take(signatureSize);
    const signature = signatures.find((known) => {
      for (let at = 0; at < signatureSize; at++) if (input.u8(at) !== known.charCodeAt(at)) return false;
      return true;
    });
    if (signature === undefined) {
      trace.stop("legacy.device_model.signature", start, "the signature of the device model is unknown");
    }
    const untilEnd = signature === "QemuDeviceModelRecord";
    yield* input.take(4);
    if (untilEnd) {
      if (input.u32(0) !== 0x4d56_4551) {
        trace.report(
          "legacy.device_model.magic",
          start + signatureSize,
          'the device model has no magic "QEVM"',
        );
      }
      while (yield* input.any()) yield* input.some(Infinity);
    } else {
      const size = input.u32(0);
      if (size > recordMax - 8) {
        trace.stop(
          "legacy.device_model.length",
          start + signatureSize,
          `the device model is ${size} octets and may be ${recordMax - 8}`,
        );
      }
      yield* input.skip(size);
    }
    trace.done();
    return untilEnd;
  }

  /** One of the sender's words, in the window. */
  #word(at: number): number {
    return this.#width === 4
      ? this.#trace.input.u32(at)
      : this.#trace.input.high(at) * 2 ** 32 + this.#trace.input.low(at);
  }
}
