/**
 * Pages held against each other, and against zero: word by word where they lie on a word's edge.
 *
 * @module
 */
import { pageSize } from "./item.ts";

/** Whether the page at octet `at` is all zero. */
export function isZeroPage(pages: Uint8Array, at: number): boolean {
  if ((pages.byteOffset + at) % 4 !== 0) {
    for (let index = at; index < at + pageSize; index++) if (pages[index] !== 0) return false;
    return true;
  }
  const words = new Int32Array(pages.buffer, pages.byteOffset + at, pageSize / 4);
  for (let index = 0; index < words.length; index += 4) {
    if (
      ((words[index] ?? 0) | (words[index + 1] ?? 0) | (words[index + 2] ?? 0) | (words[index + 3] ?? 0)) !==
        0
    ) {
      return false;
    }
  }
  return true;
}

/** Whether the pages at octet `at` of both arrays are the same. */
export function equalPages(left: Uint8Array, right: Uint8Array, at: number): boolean {
  if ((left.byteOffset + at) % 4 !== 0 || (right.byteOffset + at) % 4 !== 0) {
    for (let index = at; index < at + pageSize; index++) if (left[index] !== right[index]) return false;
    return true;
  }
  const lefts = new Int32Array(left.buffer, left.byteOffset + at, pageSize / 4);
  const rights = new Int32Array(right.buffer, right.byteOffset + at, pageSize / 4);
  for (let index = 0; index < lefts.length; index++) if (lefts[index] !== rights[index]) return false;
  return true;
}
