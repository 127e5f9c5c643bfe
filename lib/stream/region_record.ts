/**
 * Drover's own profile, a region: its header and its records, octets to values and back.
 *
 * Invariants: those of `libxc_record.ts`. Ranges ascend and do not overlap; frame numbers lie inside the region
 * when its size is known; every reserved field is zero, for there is nothing old to be lenient with.
 *
 * @module
 */
import type { FormatError } from "../base/errors.ts";
import { regionDeltaSizeMax } from "./delta.ts";
import { BodyReader, BodyWriter, lengthError, type RecordContext } from "./fields.ts";
import { type PageBatch, type PageRange, pageTypes, type RegionRecord } from "./item.ts";
import { encodeUnknown, typeError } from "./libxc_record.ts";
import { decodePageData, encodePageData, pageDataHeadSize, pageDataType, pfnLimit } from "./page_data.ts";
import { bodySizeMax, decodeHeader, encodeHeader, optionalBit } from "./record.ts";

/** The id of the image header: "DRVR". */
export const regionStreamId = 0x4452_5652;

/** The version that is read and written. */
export const regionVersion = 1;

/** Numbers of the record types. Those below 0x100 are libxc's. */
export const regionTypes = {
  END: 0x00,
  PAGE_DATA: pageDataType,
  VERIFY: 0x0d,
  CHECKPOINT: 0x0e,
  REGION_INFO: 0x0100,
  ZERO_RANGES: 0x0101,
  PAGE_DELTAS: 0x0102,
  DIGEST: 0x0103,
} as const;

/** The most octets of a region's label, as UTF-8. */
export const labelSizeMax = 255;

/** The most pages of a region: 4 PiB. */
export const regionPagesMax: number = 2 ** 40;

/** The most ranges of one ZERO_RANGES. */
export const rangesMax = 65_536;

/** The most pages of one PAGE_DELTAS. */
export const deltasMax = 8_192;

/** Octets of a DIGEST: SHA-256. */
export const digestSize = 32;

const regionIdSize = 16;
const infoSize = regionIdSize + 8 + 8 + 8;

/** What reading a region's record needs to know. */
export interface RegionContext extends RecordContext {
  /** Pages of the region, from REGION_INFO; without it frame numbers are only held to 52 bits. */
  pages?: number;
}

/**
 * Reads the image header of a region, 24 octets.
 *
 * @throws {FormatError} rules `region.header.truncated`, `.marker`, `.id`, `.version`, `.options`, `.reserved`.
 */
export function decodeRegionHeader(bytes: Uint8Array): { bigEndian: boolean } {
  const rule = { id: regionStreamId, versionMin: regionVersion, versionMax: regionVersion };
  return { bigEndian: decodeHeader(bytes, rule, { rule: "region.header" }).bigEndian };
}

/** Makes the image header of a region. */
export function encodeRegionHeader(header: { bigEndian: boolean }): Uint8Array<ArrayBuffer> {
  return encodeHeader({ id: regionStreamId, version: regionVersion, bigEndian: header.bigEndian });
}

/**
 * Holds a record's type and length against what is known of them, on the record's head alone.
 *
 * @throws {FormatError} rules `region.record.type`, `.length`, and those of the types about their length.
 */
export function checkRegionHead(type: number, length: number, context: RegionContext): void {
  const demand = (met: boolean, rule: string, expected: string): void => {
    if (!met) throw lengthError(`region.${rule}`, length, expected, context);
  };
  demand(length <= bodySizeMax, "record.length", `at most ${bodySizeMax}`);
  switch (type) {
    case regionTypes.END:
      return demand(length === 0, "end.length", "0");
    case regionTypes.VERIFY:
      return demand(length === 0, "verify.length", "0");
    case regionTypes.CHECKPOINT:
      return demand(length === 0, "checkpoint.length", "0");
    case regionTypes.PAGE_DATA:
      return demand(length >= pageDataHeadSize, "page_data.length", "at least 16");
    case regionTypes.REGION_INFO:
      return demand(
        length >= infoSize && length <= infoSize + labelSizeMax,
        "info.length",
        `${infoSize} to ${infoSize + labelSizeMax}`,
      );
    case regionTypes.ZERO_RANGES:
      return demand(
        length >= 8 && (length - 8) % 16 === 0 && length <= 8 + 16 * rangesMax,
        "zero_ranges.length",
        `8 and 16 for each of at most ${rangesMax} ranges`,
      );
    case regionTypes.PAGE_DELTAS:
      return demand(
        length >= 8 && length <= 8 + (8 + regionDeltaSizeMax) * deltasMax,
        "page_deltas.length",
        `8 to ${8 + (8 + regionDeltaSizeMax) * deltasMax}`,
      );
    case regionTypes.DIGEST:
      return demand(length === digestSize, "digest.length", `${digestSize}`);
    default:
      if (type < optionalBit) throw typeError("region", type, context);
  }
}

/**
 * Reads the body of a record. Pages, encodings and digests of the record are views of `body`.
 *
 * @throws {FormatError} rules of {@link checkRegionHead}, and those of the types about their fields.
 */
export function decodeRegionRecord(
  type: number,
  body: Uint8Array<ArrayBuffer>,
  context: RegionContext,
): RegionRecord {
  checkRegionHead(type, body.length, context);
  const { bigEndian, offset } = context; // nothing is lenient here
  const reader = (name: string, rule: string): BodyReader =>
    new BodyReader(name, `region.${rule}`, body, { bigEndian, offset });
  switch (type) {
    case regionTypes.END:
      return { name: "END" };
    case regionTypes.VERIFY:
      return { name: "VERIFY" };
    case regionTypes.CHECKPOINT:
      return { name: "CHECKPOINT" };
    case regionTypes.PAGE_DATA: {
      const batch = decodePageData(body, { bigEndian, offset, rule: "region.page_data" });
      checkRegionBatch(batch, context);
      return { name: "PAGE_DATA", batch };
    }
    case regionTypes.REGION_INFO:
      return decodeInfo(reader("REGION_INFO", "info"), body, context);
    case regionTypes.ZERO_RANGES:
      return decodeZeroRanges(reader("ZERO_RANGES", "zero_ranges"), body, context);
    case regionTypes.PAGE_DELTAS:
      return decodePageDeltas(reader("PAGE_DELTAS", "page_deltas"), body, context);
    case regionTypes.DIGEST:
      return { name: "DIGEST", digest: body };
    default:
      return { name: "UNKNOWN", type, body };
  }
}

/**
 * Holds a PAGE_DATA batch against the region: plain pages only, inside it.
 *
 * @throws {FormatError} rules `region.page_data.type`, `.pfn`.
 */
export function checkRegionBatch(batch: PageBatch, context: RegionContext): void {
  const limit = context.pages ?? pfnLimit;
  const { pfns, types } = batch;
  for (let index = 0; index < pfns.length; index++) {
    const pfn = pfns[index] ?? 0;
    const type = types[index] ?? 0;
    if (type === pageTypes.normal && pfn < limit) continue;
    const fields = new BodyReader("PAGE_DATA", "region.page_data", empty, context);
    const at = pageDataHeadSize + 8 * index;
    throw type !== pageTypes.normal
      ? fields.error("type", at, `entry ${index} has the type ${type}, and a region has only plain pages`)
      : outside(fields, at, pfn, limit);
  }
}

/**
 * Makes a whole record, head and padding included, as arrays to be written one after the other. Pages and
 * encodings are not copied. Drover writes little-endian regions; `bigEndian` is for tests of readers.
 *
 * @throws {TypeError} for a value that no valid record can hold.
 */
export function encodeRegionRecord(record: RegionRecord, bigEndian = false): Uint8Array<ArrayBuffer>[] {
  switch (record.name) {
    case "END":
    case "VERIFY":
    case "CHECKPOINT":
      return new BodyWriter(regionTypes[record.name], 0, bigEndian).pieces();
    case "PAGE_DATA":
      if (record.batch.types.some((type) => type !== pageTypes.normal)) {
        throw new TypeError("Cannot encode PAGE_DATA: a region has only plain pages");
      }
      return encodePageData(record.batch, bigEndian);
    case "REGION_INFO": {
      const label = new Uint8Array(new TextEncoder().encode(record.label));
      if (label.length > labelSizeMax || !record.label.isWellFormed()) {
        throw new TypeError(
          `Cannot encode REGION_INFO: the label is no text of at most ${labelSizeMax} octets`,
        );
      }
      if (record.regionId.length !== regionIdSize) {
        throw new TypeError(`Cannot encode REGION_INFO: the region's id should have ${regionIdSize} octets`);
      }
      if (record.pages === 0) throw new TypeError("Cannot encode REGION_INFO: the region has no pages");
      const writer = new BodyWriter(regionTypes.REGION_INFO, infoSize, bigEndian, label);
      writer.bytes(0, record.regionId);
      writer.number64(16, record.pages, regionPagesMax);
      writer.u64(24, record.term);
      writer.u32(32, label.length);
      return writer.pieces();
    }
    case "ZERO_RANGES": {
      const { ranges } = record;
      if (ranges.length === 0 || ranges.length > rangesMax) {
        throw new TypeError(
          `Cannot encode ZERO_RANGES: ${ranges.length} ranges, and 1 to ${rangesMax} may be`,
        );
      }
      const writer = new BodyWriter(regionTypes.ZERO_RANGES, 8 + 16 * ranges.length, bigEndian);
      writer.u32(0, ranges.length);
      let end = 0;
      ranges.forEach(({ pfn, count }, index) => {
        if (pfn < end || count < 1) {
          throw new TypeError(
            `Cannot encode ZERO_RANGES: range ${index} is empty or begins before the last ends`,
          );
        }
        end = pfn + count;
        writer.number64(8 + 16 * index, pfn, pfnLimit - 1);
        writer.number64(16 + 16 * index, count, pfnLimit - pfn);
      });
      return writer.pieces();
    }
    case "PAGE_DELTAS": {
      const { pfns, data } = record.deltas;
      if (pfns.length === 0 || pfns.length > deltasMax || data.length > regionDeltaSizeMax * pfns.length) {
        throw new TypeError(
          `Cannot encode PAGE_DELTAS: ${data.length} octets for ${pfns.length} pages, and 1 to ${deltasMax} may be`,
        );
      }
      const writer = new BodyWriter(regionTypes.PAGE_DELTAS, 8 + 8 * pfns.length, bigEndian, data);
      writer.u32(0, pfns.length);
      writer.u32(4, data.length);
      pfns.forEach((pfn, index) => writer.number64(8 + 8 * index, pfn, pfnLimit - 1));
      return writer.pieces();
    }
    case "DIGEST":
      if (record.digest.length !== digestSize) {
        throw new TypeError(`Cannot encode DIGEST: it has ${record.digest.length} octets and should have 32`);
      }
      return new BodyWriter(regionTypes.DIGEST, 0, bigEndian, record.digest).pieces();
    case "UNKNOWN":
      return encodeUnknown(record.type, record.body, bigEndian);
  }
}

const empty: Uint8Array<ArrayBuffer> = new Uint8Array(0);

function decodeInfo(
  fields: BodyReader,
  body: Uint8Array<ArrayBuffer>,
  context: RegionContext,
): RegionRecord {
  const labelSize = fields.u32(32);
  if (labelSize > labelSizeMax) {
    throw fields.error("label", 32, `the label has ${labelSize} octets and may have ${labelSizeMax}`);
  }
  if (body.length !== infoSize + labelSize) {
    throw lengthError("region.info.length", body.length, `${infoSize + labelSize}`, context);
  }
  fields.zero32(36);
  const pages = fields.number64(16, regionPagesMax, "pages", "the number of pages");
  if (pages === 0) throw fields.error("pages", 16, "the region has no pages");
  let label: string;
  try {
    label = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(fields.bytes(infoSize));
  } catch {
    throw fields.error("label", infoSize, "the label is not UTF-8");
  }
  return { name: "REGION_INFO", regionId: fields.bytes(0, regionIdSize), pages, term: fields.u64(24), label };
}

function decodeZeroRanges(
  fields: BodyReader,
  body: Uint8Array<ArrayBuffer>,
  context: RegionContext,
): RegionRecord {
  const count = fields.u32(0);
  if (count === 0 || count > rangesMax) {
    throw fields.error("count", 0, `there are ${count} ranges and should be 1 to ${rangesMax}`);
  }
  if (body.length !== 8 + 16 * count) {
    throw lengthError("region.zero_ranges.length", body.length, `${8 + 16 * count}`, context);
  }
  fields.zero32(4);
  const limit = context.pages ?? pfnLimit;
  const ranges: PageRange[] = [];
  let end = 0;
  for (let index = 0; index < count; index++) {
    const at = 8 + 16 * index;
    const pfn = fields.number64(at, pfnLimit - 1, "pfn", "a frame number");
    const pages = fields.number64(at + 8, pfnLimit, "pfn", "the length of a range");
    if (pfn < end) throw fields.error("order", at, `range ${index} begins at ${pfn}, before ${end}`);
    if (pages === 0) throw fields.error("empty", at + 8, `range ${index} is empty`);
    end = pfn + pages;
    if (end > limit) throw outside(fields, pfn >= limit ? at : at + 8, end - 1, limit);
    ranges.push({ pfn, count: pages });
  }
  return { name: "ZERO_RANGES", ranges };
}

function decodePageDeltas(
  fields: BodyReader,
  body: Uint8Array<ArrayBuffer>,
  context: RegionContext,
): RegionRecord {
  const count = fields.u32(0);
  if (count === 0 || count > deltasMax) {
    throw fields.error("count", 0, `there are ${count} pages and should be 1 to ${deltasMax}`);
  }
  const size = fields.u32(4);
  if (body.length !== 8 + 8 * count + size) {
    throw lengthError("region.page_deltas.length", body.length, `${8 + 8 * count + size}`, context);
  }
  const limit = context.pages ?? pfnLimit;
  const pfns = new Float64Array(count);
  const seen = new Set<number>();
  for (let index = 0; index < count; index++) {
    const at = 8 + 8 * index;
    const pfn = fields.number64(at, pfnLimit - 1, "pfn", "a frame number");
    if (pfn >= limit) throw outside(fields, at, pfn, limit);
    if (seen.has(pfn)) throw fields.error("duplicate", at, `page ${pfn} is there twice`);
    seen.add(pfn);
    pfns[index] = pfn;
  }
  return { name: "PAGE_DELTAS", deltas: { pfns, data: fields.bytes(8 + 8 * count) } };
}

function outside(fields: BodyReader, at: number, pfn: number, limit: number): FormatError {
  return fields.error("pfn", at, `page ${pfn} is outside the region, which has ${limit} pages`);
}
