/**
 * What encodes and decodes batches of pages: the interface that the native library fulfils too, and the reference.
 *
 * Whoever moves many pages takes a `PageCodec` as an argument; without one it gets {@link pageCodec}, which needs
 * nothing but JavaScript. All give the same octets.
 *
 * @module
 */
import {
  decodePages,
  decodeRemusPages,
  encodeCached,
  encodePages,
  encodeRemusPages,
  regionPageSizeMax,
  remusPageSizeMax,
} from "./delta.ts";
import { pageSize } from "./item.ts";

/** How pages are encoded: in Remus's markers, or as page deltas of a region. */
export type DeltaFormat = "remus" | "region";

/** Works on batches of pages of 4096 octets. */
export interface PageCodec {
  /**
   * Encodes `count` pages, each against its old contents; `into` has room for {@link encodedSizeMax} octets a page.
   *
   * @returns octets written; what is behind them is undefined.
   */
  encode(format: DeltaFormat, olds: Uint8Array, news: Uint8Array, count: number, into: Uint8Array): number;
  /**
   * Encodes a page for each slot against what the slot of the cache `bases` holds, and stores it there. A slot is its
   * number, with `slotMiss` where it holds something else, or `slotNone`: then the page is written whole.
   *
   * @returns octets written; what is behind them is undefined.
   */
  encodeCached(
    format: DeltaFormat,
    bases: Uint8Array,
    slots: Uint32Array,
    pages: Uint8Array,
    into: Uint8Array,
  ): number;
  /**
   * Decodes `count` encodings and nothing else onto the old contents: all, or, with a `FormatError`, none.
   *
   * @param offset what to add to positions in errors: the stream offset of `bytes`.
   */
  decode(format: DeltaFormat, bytes: Uint8Array, count: number, pages: Uint8Array, offset?: number): void;
  /** Writes for each of `count` pages 1 where it is all zeros and 0 where not, and returns how many are. */
  zeroPages(pages: Uint8Array, count: number, zero: Uint8Array): number;
}

/** The most octets that a page may take when it is encoded. */
export function encodedSizeMax(format: DeltaFormat): number {
  return format === "remus" ? remusPageSizeMax : regionPageSizeMax;
}

/** The reference. */
export const pageCodec: PageCodec = {
  encode: (format, olds, news, count, into) =>
    format === "remus" ? encodeRemusPages(olds, news, count, into) : encodePages(olds, news, count, into),
  encodeCached,
  decode: (format, bytes, count, pages, offset = 0) =>
    format === "remus"
      ? decodeRemusPages(bytes, count, pages, offset)
      : decodePages(bytes, count, pages, offset),
  zeroPages(pages, count, zero) {
    if (pages.length !== count * pageSize || zero.length < count) {
      throw new RangeError(`Cannot look at ${count} pages in ${pages.length} octets`);
    }
    let sum = 0;
    for (let index = 0; index < count; index++) {
      const isZero = isZeroPage(pages, index * pageSize);
      zero[index] = isZero ? 1 : 0;
      if (isZero) sum++;
    }
    return sum;
  },
};

/** Whether the page at `pages[from]` is all zeros. */
function isZeroPage(pages: Uint8Array, from: number): boolean {
  for (let at = from; at < from + pageSize; at++) {
    if (pages[at] !== 0) return false;
  }
  return true;
}
