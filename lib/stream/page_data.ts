/**
 * PAGE_DATA, the record that carries nearly all octets of a stream: its entry words, and its layout.
 *
 * ```text
 * u32 count | u32 reserved | u64 word[count] | page[0] | page[1] | …      one page of 4096 octets for each entry
 * word: 63..60 type | 59..52 reserved | 51..0 page frame number           whose type carries one
 * ```
 *
 * Invariants:
 * - A count is held against the octets that are there before anything of its size is allocated.
 * - Page contents are never copied here, neither when reading nor when writing, and no object is made per page.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { lengthError, type RecordContext } from "./fields.ts";
import { carriesPage, type PageBatch, pageSize } from "./item.ts";
import { bodySizeMax, recordHeadSize } from "./record.ts";

/** The type of the record, in libxc's streams and in regions. */
export const pageDataType = 1;

/** Octets before the first entry word: count and reserved. */
export const pageDataHeadSize = 8;

/** The most entries that a record can have: the body holds nothing but their words. */
export const pageCountMax: number = (bodySizeMax - pageDataHeadSize) / 8;

/** One more than the largest page frame number: they have 52 bits. */
export const pfnLimit: number = 2 ** 52;

/** What reading a PAGE_DATA body needs to know. */
export interface PageDataContext extends RecordContext {
  /** Beginning of the rule ids: `libxc.page_data`, which is the default, or `region.page_data`. */
  rule?: string;
}

/** The entries of a record, without the contents. */
export interface PageEntries {
  /** Page frame numbers. */
  pfns: Float64Array<ArrayBuffer>;
  /** Their types. */
  types: Uint8Array<ArrayBuffer>;
  /** How many of them carry a page. */
  pagesCount: number;
}

/**
 * Reads the first eight octets of a body, and holds the count against the body's length.
 *
 * @param head at least 8 octets.
 * @param length of the whole body.
 * @returns the number of entries, at least 1, whose words fit the body.
 * @throws {FormatError} rules `.length`, `.count`, `.reserved`, `.entries`.
 */
export function decodePageCount(head: Uint8Array, length: number, context: PageDataContext): number {
  const rule = context.rule ?? "libxc.page_data";
  const body = context.offset + recordHeadSize;
  if (length < pageDataHeadSize || head.length < pageDataHeadSize) {
    throw lengthError(`${rule}.length`, length, "at least 16", context);
  }
  const view = new DataView(head.buffer, head.byteOffset, pageDataHeadSize);
  const count = view.getUint32(0, !context.bigEndian);
  if (count === 0) {
    throw new FormatError(
      `${rule}.count`,
      body,
      "Cannot read PAGE_DATA: it has no entries, and should have one",
    );
  }
  const reserved = view.getUint32(4, !context.bigEndian);
  if (reserved !== 0 && context.lenient !== true) {
    throw new FormatError(
      `${rule}.reserved`,
      body + 4,
      `Cannot read PAGE_DATA: the reserved field is ${reserved} and should be 0`,
    );
  }
  if (8 * count > length - pageDataHeadSize) {
    throw new FormatError(
      `${rule}.entries`,
      body,
      `Cannot read PAGE_DATA: ${count} entries do not fit its body of ${length} octets`,
    );
  }
  return count;
}

/**
 * Reads the entry words, and holds the pages that they announce against the body's length.
 *
 * @param words 8 octets per entry.
 * @param length of the whole body.
 * @throws {FormatError} rules `.pfn_reserved`, `.type`, `.size`.
 */
export function decodePageEntries(words: Uint8Array, length: number, context: PageDataContext): PageEntries {
  const rule = context.rule ?? "libxc.page_data";
  const count = words.length / 8;
  const view = new DataView(words.buffer, words.byteOffset, words.length);
  const littleEndian = !context.bigEndian;
  const highAt = littleEndian ? 4 : 0;
  const strict = context.lenient !== true;
  const pfns = new Float64Array(count);
  const types = new Uint8Array(count);
  let pagesCount = 0;
  for (let index = 0; index < count; index++) {
    const high = view.getUint32(8 * index + highAt, littleEndian);
    const type = high >>> 28;
    if (type <= 0x4) {
      pagesCount++;
    } else if (type <= 0xc) {
      if (type <= 0x8) {
        throw new FormatError(
          `${rule}.type`,
          context.offset + recordHeadSize + pageDataHeadSize + 8 * index,
          `Cannot read PAGE_DATA: entry ${index} has the type ${type}, which is reserved`,
        );
      }
      pagesCount++;
    }
    if (strict && (high & 0x0ff0_0000) !== 0) {
      throw new FormatError(
        `${rule}.pfn_reserved`,
        context.offset + recordHeadSize + pageDataHeadSize + 8 * index,
        `Cannot read PAGE_DATA: bits 52 to 59 of entry ${index} should be zero`,
      );
    }
    types[index] = type;
    pfns[index] = (high & 0xf_ffff) * 2 ** 32 + view.getUint32(8 * index + 4 - highAt, littleEndian);
  }
  const expected = pageDataHeadSize + 8 * count + pageSize * pagesCount;
  if (length !== expected) {
    throw new FormatError(
      `${rule}.size`,
      context.offset + 4,
      `Cannot read PAGE_DATA: its body is ${length} octets, and should be ${expected} ` +
        `for ${count} entries with ${pagesCount} pages`,
    );
  }
  return { pfns, types, pagesCount };
}

/**
 * Reads a whole body. The pages of the batch are a view of it.
 *
 * @throws {FormatError} the rules of the two functions above, behind `context.rule`.
 */
export function decodePageData(body: Uint8Array<ArrayBuffer>, context: PageDataContext): PageBatch {
  const count = decodePageCount(body, body.length, context);
  const pagesAt = pageDataHeadSize + 8 * count;
  const { pfns, types } = decodePageEntries(body.subarray(pageDataHeadSize, pagesAt), body.length, context);
  return { pfns, types, pages: body.subarray(pagesAt) };
}

/**
 * Makes a whole record: one array with head, count and entry words, and the pages as they are, to be written in
 * one gathered write. There is no padding, since the length is always a multiple of eight.
 *
 * @throws {TypeError} for a batch that no valid record can hold.
 */
export function encodePageData(batch: PageBatch, bigEndian = false): Uint8Array<ArrayBuffer>[] {
  const { pfns, types, pages } = batch;
  const count = pfns.length;
  if (count === 0 || count > pageCountMax || types.length !== count) {
    throw new TypeError(
      `Cannot encode PAGE_DATA: there are ${count} frame numbers and ${types.length} types, ` +
        "and should be as many of each, at least one",
    );
  }
  const start = new Uint8Array(recordHeadSize + pageDataHeadSize + 8 * count);
  const view = new DataView(start.buffer);
  const littleEndian = !bigEndian;
  const highAt = littleEndian ? 4 : 0;
  let pagesCount = 0;
  for (let index = 0; index < count; index++) {
    const pfn = pfns[index] ?? -1;
    const type = types[index] ?? 0xff;
    if (!Number.isInteger(pfn) || pfn < 0 || pfn >= pfnLimit) {
      throw new TypeError(`Cannot encode PAGE_DATA: the frame number ${pfn} is not one of 52 bits`);
    }
    if (type > 0xf || type >= 0x5 && type <= 0x8) {
      throw new TypeError(`Cannot encode PAGE_DATA: the page type ${type} is reserved`);
    }
    if (carriesPage(type)) pagesCount++;
    const at = recordHeadSize + pageDataHeadSize + 8 * index;
    const high = Math.floor(pfn / 2 ** 32);
    view.setUint32(at + highAt, (type << 28 | high) >>> 0, littleEndian);
    view.setUint32(at + 4 - highAt, pfn - high * 2 ** 32, littleEndian);
  }
  if (pages.length !== pageSize * pagesCount) {
    throw new TypeError(
      `Cannot encode PAGE_DATA: there are ${pages.length} octets of contents for ${pagesCount} pages`,
    );
  }
  const length = start.length - recordHeadSize + pages.length;
  if (length > bodySizeMax) {
    throw new TypeError(
      `Cannot encode PAGE_DATA: its body would be ${length} octets and may be ${bodySizeMax}`,
    );
  }
  view.setUint32(0, pageDataType, littleEndian);
  view.setUint32(4, length, littleEndian);
  view.setUint32(8, count, littleEndian);
  return pages.length === 0 ? [start] : [start, pages];
}
