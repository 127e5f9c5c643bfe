/**
 * `PageDelta` of the simulated machine: the plainest code that keeps the same promises, a word and an octet at a time.
 *
 * @module
 */
import { FormatError } from "../lib/base/errors.ts";
import type { DeltaFormat, DeltaLevel, PageDelta } from "./mod.ts";

const pageSize = 4096;
const pageWords = 1024;

/** Page deltas without a library. */
export class FakeDelta implements PageDelta {
  /** There is one. */
  readonly level: DeltaLevel = "scalar";
  /** Only this. */
  readonly levels: readonly DeltaLevel[] = ["scalar"];

  /** See {@link PageDelta.at}. */
  at(level: DeltaLevel): PageDelta {
    if (level !== "scalar") throw new RangeError(`Cannot use ${level}: this machine has scalar`);
    return this;
  }

  /** See {@link PageDelta.encode}. */
  encode(format: DeltaFormat, olds: Uint8Array, news: Uint8Array, count: number, into: Uint8Array): number {
    checkPages(olds, count);
    const slots = Uint32Array.from({ length: count }, (_, index) => index);
    return this.encodeCached(format, olds.slice(), slots, news, into);
  }

  /** See {@link PageDelta.encodeCached}. */
  encodeCached(
    format: DeltaFormat,
    bases: Uint8Array,
    slots: Uint32Array,
    pages: Uint8Array,
    into: Uint8Array,
  ): number {
    checkPages(pages, slots.length);
    if (into.length < slots.length * (format === "remus" ? 4105 : 4097)) {
      throw new RangeError("Cannot encode pages: there is too little room");
    }
    const slotOf = (slot: number) => slot === 0xffffffff ? null : slot % 2 ** 31;
    if (slots.some((slot) => ((slotOf(slot) ?? -1) + 1) * pageSize > bases.length)) {
      throw new RangeError("Cannot encode pages: there is no such slot");
    }
    let at = 0;
    slots.forEach((slot, index) => {
      const page = pages.subarray(index * pageSize, (index + 1) * pageSize);
      const number = slotOf(slot);
      const base = number === null ? null : bases.subarray(number * pageSize, (number + 1) * pageSize);
      const encoding = encodePage(format, slot >= 2 ** 31 ? null : base, page);
      into.set(encoding, at);
      at += encoding.length;
      base?.set(page);
    });
    return at;
  }

  /** See {@link PageDelta.decode}. */
  decode(format: DeltaFormat, bytes: Uint8Array, count: number, pages: Uint8Array, offset = 0): void {
    checkPages(pages, count);
    const scratch = pages.slice();
    const family = format === "remus" ? "delta.remus" : "delta";
    let at = 0;
    for (let index = 0; index < count; index++) {
      if (at === bytes.length) refuse(`${family}.missing`, offset + at);
      at = decodePage(format, bytes, at, scratch.subarray(index * pageSize, (index + 1) * pageSize), offset);
    }
    if (at !== bytes.length) refuse(`${family}.trailing`, offset + at);
    pages.set(scratch);
  }

  /** See {@link PageDelta.zeroPages}. */
  zeroPages(pages: Uint8Array, count: number, zero: Uint8Array): number {
    checkPages(pages, count);
    if (zero.length < count) throw new RangeError("Cannot tell of the pages: there is too little room");
    let sum = 0;
    for (let index = 0; index < count; index++) {
      const page = pages.subarray(index * pageSize, (index + 1) * pageSize);
      zero[index] = page.every((octet) => octet === 0) ? 1 : 0;
      sum += zero[index] ?? 0;
    }
    return sum;
  }
}

function checkPages(pages: Uint8Array, count: number): void {
  if (pages.length !== count * pageSize) throw new RangeError(`Cannot use the octets as ${count} pages`);
}

function refuse(rule: string, offset: number): never {
  throw new FormatError(rule, offset, "Cannot decode pages");
}

/** The encoding of a page; without a base, of all of it. */
function encodePage(format: DeltaFormat, base: Uint8Array | null, page: Uint8Array): number[] {
  const full = [format === "remus" ? 0x80 : 1, ...page];
  if (base === null) return full;
  const changed = Array.from({ length: pageWords }, (_, word) => {
    for (let at = 4 * word; at < 4 * word + 4; at++) if (base[at] !== page[at]) return true;
    return false;
  });
  if (!changed.includes(true)) return [0];
  const markers: number[] = [];
  for (let word = 0, end; word < pageWords; word = end) {
    for (end = word; end < pageWords && end - word < 127 && changed[end] === changed[word]; end++);
    if (changed[word]) markers.push(end - word, ...page.subarray(4 * word, 4 * end));
    else markers.push(128 + end - word);
  }
  if (format === "remus") return markers;
  const bitmap: number[] = new Array(128).fill(0);
  const words: number[] = [];
  changed.forEach((isChanged, word) => {
    if (!isChanged) return;
    bitmap[word >> 3] = (bitmap[word >> 3] ?? 0) + 2 ** (word % 8);
    words.push(...page.subarray(4 * word, 4 * word + 4));
  });
  const all = [full, [2, ...markers], [3, ...bitmap, ...words]];
  return all.reduce((shortest, next) => next.length < shortest.length ? next : shortest);
}

/** Decodes onto a page that may be left half done; returns the position behind. */
function decodePage(
  format: DeltaFormat,
  bytes: Uint8Array,
  start: number,
  page: Uint8Array,
  offset: number,
): number {
  let codec = bytes[start] ?? 0;
  let at = start + 1;
  if (format === "remus") {
    if (codec === 0x80) codec = 1;
    else if (codec !== 0) {
      codec = 2;
      at = start;
    }
  }
  const family = format === "remus" ? "delta.remus" : "delta";
  if (codec === 0) return at;
  if (codec === 1) {
    if (at + pageSize > bytes.length) refuse(`${family}.full_short`, offset + start);
    page.set(bytes.subarray(at, at + pageSize));
    return at + pageSize;
  }
  if (codec === 3) {
    const map = bytes.subarray(at, at + 128);
    at += 128;
    if (at > bytes.length) refuse("delta.bitmap.truncated", offset + start);
    for (let word = 0; word < pageWords; word++) {
      if (Math.floor((map[word >> 3] ?? 0) / 2 ** (word % 8)) % 2 === 0) continue;
      if (at + 4 > bytes.length) refuse("delta.bitmap.truncated", offset + start);
      page.set(bytes.subarray(at, at + 4), 4 * word);
      at += 4;
    }
    return at;
  }
  if (codec !== 2) refuse("delta.codec", offset + start);
  const runs = format === "remus" ? "delta.remus" : "delta.runs";
  let word = 0;
  while (word < pageWords) {
    const marker = bytes[at];
    if (marker === undefined) refuse(`${runs}.truncated`, offset + start);
    const count = marker % 128;
    if (count === 0) refuse(`${runs}.zero_marker`, offset + at);
    if (word + count > pageWords) {
      refuse(`${runs}.${marker < 128 ? "run" : "skip"}_past_page`, offset + at);
    }
    at++;
    if (marker < 128) {
      if (at + 4 * count > bytes.length) refuse(`${runs}.run_past_buffer`, offset + start);
      page.set(bytes.subarray(at, at + 4 * count), 4 * word);
      at += 4 * count;
    }
    word += count;
  }
  return at;
}
