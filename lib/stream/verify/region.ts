/**
 * The region profile: drover's own memory stream.
 *
 *     header, REGION_INFO, [pages, zero ranges]*, DIGEST, CHECKPOINT,
 *                          [pages, zero ranges, deltas]*, DIGEST, CHECKPOINT, ... DIGEST, END
 *
 * Invariants: those of `libxc.ts`. A digest is that of all octets of the stream before its record, from the
 * image header on; without a hash to compute it with it is counted, and not compared.
 *
 * @module
 */
import { DeltaWalk } from "./delta.ts";
import { hex, type Trace } from "./findings.ts";
import { verifyImageHeader } from "./image_header.ts";
import type { Step } from "./input.ts";
import { PfnSet, verifyPageData } from "./pages.ts";
import type { VerifyRule } from "./rules.ts";

const bodyMax = 128 * 1024 * 1024;
const pagesMax = 2 ** 40;
const labelMax = 255;
const rangesMax = 65_536;
const deltasMax = 8192;
const digestSize = 32;

const types = {
  end: 0x00,
  pageData: 0x01,
  verify: 0x0d,
  checkpoint: 0x0e,
  info: 0x0100,
  zeroRanges: 0x0101,
  pageDeltas: 0x0102,
  digest: 0x0103,
} as const;

const names: ReadonlyMap<number, string> = new Map([
  [types.end, "END"],
  [types.pageData, "PAGE_DATA"],
  [types.verify, "VERIFY"],
  [types.checkpoint, "CHECKPOINT"],
  [types.info, "REGION_INFO"],
  [types.zeroRanges, "ZERO_RANGES"],
  [types.pageDeltas, "PAGE_DELTAS"],
  [types.digest, "DIGEST"],
]);

/** Reads a whole region stream. */
export class RegionVerifier {
  readonly #trace: Trace;
  readonly #pfns = new PfnSet();
  /** Pages of the region; 0 before REGION_INFO. */
  #pages = 0;
  #infoSeen = false;
  #infoMissed = false;
  #checkpoints = 0;
  #sectionBegan = false;
  /** Whether the record before was a digest. */
  #digested = false;

  /** A verifier that has read nothing. */
  constructor(trace: Trace) {
    this.#trace = trace;
  }

  /** Reads the stream to its END. */
  *stream(): Step {
    yield* this.#header();
    while ((yield* this.#record()) !== types.end);
    if (this.#checkpoints === 0) this.#trace.committedEpochs++;
  }

  *#header(): Step {
    const trace = this.#trace;
    trace.begin("region", true);
    yield* verifyImageHeader(trace, "region", {
      id: 0x4452_5652,
      versionMin: 1,
      versionMax: 1,
      markerHint: "",
    });
    trace.done();
  }

  /** Reads one record. @returns its type. */
  *#record(): Step<number> {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("region");
    const start = input.offset;
    if (!input.takes(8)) yield* input.take(8);
    const type = input.u32(0);
    const length = input.u32(4);
    if (length > bodyMax) {
      trace.stop(
        "region.record.length",
        start + 4,
        `the body of ${nameOf(type)} is ${length} octets and may be ${bodyMax}`,
      );
    }
    this.#order(type, start);
    yield* this.#body(type, length, start);
    yield* trace.finishRecord("region", { start, length, name: nameOf(type) });
    if (type === types.checkpoint) {
      this.#checkpoints++;
      trace.committedEpochs++;
      this.#sectionBegan = false;
    }
    return type;
  }

  /** Whether a record of this type may stand here. */
  #order(type: number, start: number): void {
    const trace = this.#trace;
    const commits = type === types.end || type === types.checkpoint;
    if (!this.#sectionBegan && (trace.epochs === 0 || type !== types.end && type !== types.digest)) {
      this.#sectionBegan = true;
      trace.epochs++;
    }
    if (!names.has(type)) {
      if (type >= 0x8000_0000) {
        trace.report(
          "region.record.optional",
          start,
          `the optional type ${hex(type)} is unknown and passed over`,
        );
      } else {
        trace.report("region.record.type", start, `the type is ${hex(type)}, which is mandatory and unknown`);
      }
    }
    if (type === types.info) {
      if (this.#infoSeen) {
        trace.report("region.info.repeated", start, "REGION_INFO stands here a second time");
      }
      this.#infoSeen = true;
    } else if (!this.#infoSeen && !this.#infoMissed) {
      this.#infoMissed = true;
      trace.report("region.info.missing", start, `${nameOf(type)} stands where REGION_INFO should`);
    }
    if (type === types.pageDeltas && this.#checkpoints === 0) {
      trace.report("region.page_deltas.first", start, "PAGE_DELTAS stands in the first section");
    }
    if (commits && !this.#digested) {
      trace.report("region.digest.missing", start, `${nameOf(type)} has no DIGEST right before it`);
    }
    if (!commits && this.#digested) {
      trace.report("region.digest.order", start, `${nameOf(type)} stands behind a DIGEST`);
    }
    this.#digested = type === types.digest;
    if (type === types.checkpoint && trace.checkpointed === false) {
      trace.report("region.checkpoint.plain", start, "CHECKPOINT stands in a stream that should have none");
    }
    if (type === types.end) {
      if (this.#checkpoints === 0 && trace.checkpointed === true) {
        trace.report("region.checkpoint.none", start, "the stream ends without any CHECKPOINT");
      }
      if (this.#checkpoints > 0 && this.#sectionBegan) {
        trace.report(
          "region.end.uncommitted",
          start,
          "END follows records that no CHECKPOINT committed: nobody applies them",
        );
      }
    }
  }

  *#body(type: number, length: number, start: number): Step {
    const trace = this.#trace;
    switch (type) {
      case types.end:
        this.#empty("region.end.length", type, length, start);
        break;
      case types.verify:
        this.#empty("region.verify.length", type, length, start);
        break;
      case types.checkpoint:
        this.#empty("region.checkpoint.length", type, length, start);
        break;
      case types.pageData:
        trace.pages += yield* verifyPageData(trace, this.#pfns, {
          prefix: "region.page_data",
          length,
          pfnMax: this.#pfnMax,
          normalOnly: true,
        });
        break;
      case types.info:
        yield* this.#info(length, start);
        break;
      case types.zeroRanges:
        yield* this.#zeroRanges(length, start);
        break;
      case types.pageDeltas:
        yield* this.#pageDeltas(length, start);
        break;
      case types.digest:
        yield* this.#digest(length, start);
        break;
    }
  }

  get #pfnMax(): number {
    return this.#pages > 0 ? this.#pages - 1 : Infinity;
  }

  *#info(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 40) {
      trace.report("region.info.length", start + 4, `the length is ${length} and should be at least 40`);
      return;
    }
    yield* input.take(40);
    const pages = input.high(16) * 2 ** 32 + input.low(16);
    const labelSize = input.u32(32);
    if (pages === 0 || pages > pagesMax) {
      trace.report(
        "region.info.pages",
        start + 8 + 16,
        `the region has ${pages} pages and should have 1 to ${pagesMax}`,
      );
    } else if (this.#pages === 0) {
      this.#pages = pages;
    }
    if (input.u32(36) !== 0) {
      trace.report(
        "region.info.reserved",
        start + 8 + 36,
        `the reserved field is ${hex(input.u32(36))} and should be 0`,
      );
    }
    if (labelSize > labelMax) {
      trace.report(
        "region.info.label",
        start + 8 + 32,
        `the label is ${labelSize} octets and may be ${labelMax}`,
      );
      return;
    }
    if (length !== 40 + labelSize) {
      trace.report(
        "region.info.length",
        start + 4,
        `the length is ${length} and should be ${40 + labelSize}: 40 and a label of ${labelSize}`,
      );
      return;
    }
    yield* input.take(labelSize);
    const label = new Uint8Array(labelSize);
    for (let at = 0; at < labelSize; at++) label[at] = input.u8(at);
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(label);
    } catch {
      trace.report("region.info.label", start + 48, "the label is not UTF-8");
    }
  }

  *#zeroRanges(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 8) {
      trace.report(
        "region.zero_ranges.length",
        start + 4,
        `the length is ${length} and should be at least 24`,
      );
      return;
    }
    yield* input.take(8);
    const count = input.u32(0);
    const reserved = input.u32(4);
    if (reserved !== 0) {
      trace.report(
        "region.zero_ranges.reserved",
        start + 12,
        `the reserved field is ${hex(reserved)} and should be 0`,
      );
    }
    if (count === 0 || count > rangesMax) {
      trace.report(
        "region.zero_ranges.count",
        start + 8,
        `the count is ${count} and should be 1 to ${rangesMax}`,
      );
      return;
    }
    if (length !== 8 + 16 * count) {
      trace.report(
        "region.zero_ranges.length",
        start + 4,
        `the length is ${length} and should be ${8 + 16 * count}, for ${count} ranges`,
      );
      return;
    }
    let end = 0;
    const faults = { empty: false, order: false, pfn: false };
    for (let index = 0; index < count; index++) {
      const at = input.offset;
      if (!input.takes(16)) yield* input.take(16);
      const first = input.high(0) * 2 ** 32 + input.low(0);
      const size = input.high(8) * 2 ** 32 + input.low(8);
      if (size === 0 && !faults.empty) {
        faults.empty = true;
        trace.report("region.zero_ranges.empty", at + 8, `range ${index} has no pages`);
      }
      if (first < end && !faults.order) {
        faults.order = true;
        trace.report(
          "region.zero_ranges.order",
          at,
          `range ${index} begins at ${hex(first)}, before ${hex(end)}, where the one before ends`,
        );
      }
      if (size > 0 && first + size - 1 > this.#pfnMax && !faults.pfn) {
        faults.pfn = true;
        trace.report(
          "region.zero_ranges.pfn",
          first > this.#pfnMax ? at : at + 8,
          `range ${index} ends at ${hex(first + size)} and the region at ${hex(this.#pages)}`,
        );
      }
      end = first + size;
    }
  }

  *#pageDeltas(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length < 8) {
      trace.report(
        "region.page_deltas.length",
        start + 4,
        `the length is ${length} and should be at least 17`,
      );
      return;
    }
    yield* input.take(8);
    const count = input.u32(0);
    const size = input.u32(4);
    if (count === 0 || count > deltasMax) {
      trace.report(
        "region.page_deltas.count",
        start + 8,
        `the count is ${count} and should be 1 to ${deltasMax}`,
      );
      return;
    }
    if (length !== 8 + 8 * count + size) {
      trace.report(
        "region.page_deltas.length",
        start + 4,
        `the length is ${length} and should be ${8 + 8 * count + size}: 8, ${count} entries, ${size} octets`,
      );
      return;
    }
    this.#pfns.clear();
    const faults = { pfn: false, duplicate: false };
    for (let index = 0; index < count; index++) {
      const at = input.offset;
      if (!input.takes(8)) yield* input.take(8);
      const pfn = input.high(0) * 2 ** 32 + input.low(0);
      if ((pfn > this.#pfnMax || pfn >= 2 ** 52) && !faults.pfn) {
        faults.pfn = true;
        trace.report("region.page_deltas.pfn", at, `entry ${index} is frame ${hex(pfn)}, beyond the region`);
      }
      if (!this.#pfns.add(pfn) && !faults.duplicate) {
        faults.duplicate = true;
        trace.report(
          "region.page_deltas.duplicate",
          at,
          `entry ${index} is frame ${hex(pfn)}, which stands in the record already`,
        );
      }
    }
    trace.pages += count;
    yield* this.#encodings(count, size);
  }

  *#encodings(count: number, size: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    const end = input.offset + size;
    const walk = new DeltaWalk("region");
    let pages = 0;
    while (input.offset < end) {
      const from = input.offset;
      const piece = yield* input.some(end - from);
      let at = 0;
      while (at < piece.length) {
        if (pages === count) {
          trace.report(
            "region.page_deltas.leftover",
            from + at,
            `${end - from - at} octets stand behind the last of ${count} encodings`,
          );
          return;
        }
        const event = walk.walk(piece, at);
        at = walk.at;
        if (event === "page") {
          pages++;
        } else if (event !== "more") {
          trace.report(`region.delta.${event}`, from + at - 1, `encoding ${pages}: ${offence(event)}`);
          return;
        }
      }
    }
    if (walk.place !== "edge") {
      trace.report("region.delta.truncated", end, `the data end in encoding ${pages} of ${count}`);
    } else if (pages < count) {
      trace.report("region.page_deltas.missing", end, `there are ${pages} encodings and should be ${count}`);
    }
  }

  *#digest(length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (length !== digestSize) {
      trace.report("region.digest.length", start + 4, `the length is ${length} and should be ${digestSize}`);
      return;
    }
    const digest = input.digestBefore();
    yield* input.take(digestSize);
    if (digest === null) {
      trace.digestsUnchecked++;
      return;
    }
    trace.digestsChecked++;
    for (let at = 0; at < digestSize; at++) {
      if (input.u8(at) !== digest[at]) {
        trace.report(
          "region.digest.mismatch",
          start + 8 + at,
          "the digest is not that of what stands before it",
        );
        return;
      }
    }
  }

  #empty(rule: VerifyRule, type: number, length: number, start: number): void {
    if (length !== 0) {
      this.#trace.report(rule, start + 4, `the length of ${nameOf(type)} is ${length} and should be 0`);
    }
  }
}

function offence(event: "codec" | "marker" | "run_beyond" | "skip_beyond"): string {
  switch (event) {
    case "codec":
      return "the codec octet is above 3";
    case "marker":
      return "a marker has length 0";
    case "run_beyond":
      return "a run goes beyond the page";
    case "skip_beyond":
      return "a skip goes beyond the page";
  }
}

function nameOf(type: number): string {
  return names.get(type) ?? hex(type);
}
