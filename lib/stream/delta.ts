/**
 * How a page changed: Remus's markers, and the page deltas of a region. The reference; native-src/delta.c does the same faster.
 *
 * A page has 1024 words of four octets. A delta never holds differences: it holds the new words, and where they go.
 *
 * ```text
 * Remus     00                      the page is as it was (EMPTY)
 *           80 page[4096]           the whole page (FULL)
 *           marker …                until 1024 words are covered:
 *             0nnnnnnn word[n]        n new words (RUN), n from 1
 *             1nnnnnnn                n words stay (SKIP), n from 1
 * Region    00                      EMPTY
 *           01 page[4096]           FULL
 *           02 marker …             RUNS: as above, without the two special first octets
 *           03 bit[1024] word …     BITMAP: bit i (octet i/8, low bits first) says that word i is new; then the new words
 * ```
 *
 * Invariants:
 * - Encoders are canonical: a marker is as long as it can be (127 words at most), RUN and SKIP alternate but where one was
 *   full, SKIPs at the end are written. A region's page takes the shortest of its encodings, and of equals the first above.
 * - Decoders take every encoding that covers the page exactly, canonical or not, and look at all of it before they
 *   change the page: a refused delta leaves it as it was. {@link decodePages} looks at all pages of the batch first.
 * - Nothing is allocated for what the octets say.
 * - Memory is little-endian, as on every machine that drover is built for.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { pageSize } from "./item.ts";

/** Words of a page: what a marker counts. */
export const pageWords = 1024;

/** The most octets that {@link encodeRemusPage} writes for a page: eight markers of 127 words and one of 8. */
export const remusPageSizeMax = 4105;

/** The most octets that a delta may have which a decoder takes: a marker for each word. */
export const remusDeltaSizeMax = 5120;

/** The most octets that {@link encodePages} writes for one page: FULL. */
export const regionPageSizeMax = 4097;

/** The most octets that one encoded page of a region may have: RUNS with a marker for each word. */
export const regionDeltaSizeMax = 5121;

const bitmapSize = pageWords / 8;
const remusEmpty = 0x00;
const remusFull = 0x80;
const skipFlag = 0x80;
const runWordsMax = 127;

/** First octets of a region's encodings. */
export const deltaCodecs = { empty: 0, full: 1, runs: 2, bitmap: 3 } as const;

/** The words of pages; a copy where they are not aligned. */
function wordsOf(pages: Uint8Array): Int32Array {
  if (pages.byteOffset % 4 === 0) return new Int32Array(pages.buffer, pages.byteOffset, pages.length / 4);
  return new Int32Array(pages.slice().buffer);
}

/** A page as it was and as it is: two arrays and the page's first word in each. One serves a whole batch. */
interface Pair {
  readonly olds: Int32Array;
  oldFirst: number;
  readonly news: Int32Array;
  newFirst: number;
}

/** Where the run that begins at `word` ends: 127 words on at most, and not past the page's end. */
function runEnd(pair: Pair, word: number, changed: boolean): number {
  const { olds, oldFirst, news, newFirst } = pair;
  const limit = Math.min(word + runWordsMax, pageWords);
  let end = word + 1;
  while (end < limit && (olds[oldFirst + end] !== news[newFirst + end]) === changed) end++;
  return end;
}

function differs(pair: Pair, word: number): boolean {
  return pair.olds[pair.oldFirst + word] !== pair.news[pair.newFirst + word];
}

/** Writes the markers of a page. */
function putMarkers(pair: Pair, into: Uint8Array, at: number): number {
  const { news, newFirst } = pair;
  for (let word = 0; word < pageWords;) {
    const changed = differs(pair, word);
    const end = runEnd(pair, word, changed);
    into[at++] = changed ? end - word : skipFlag | end - word;
    if (changed) {
      for (let index = newFirst + word; index < newFirst + end; index++) {
        at = putWord(news[index] ?? 0, into, at);
      }
    }
    word = end;
  }
  return at;
}

/** Writes a word as it stands in the page. */
function putWord(value: number, into: Uint8Array, at: number): number {
  into[at] = value & 0xff;
  into[at + 1] = value >>> 8 & 0xff;
  into[at + 2] = value >>> 16 & 0xff;
  into[at + 3] = value >>> 24;
  return at + 4;
}

function checkRoom(into: Uint8Array, at: number, size: number): void {
  if (into.length - at < size) {
    throw new RangeError(
      `Cannot encode a page: there are ${into.length - at} octets of room, ${size} may be needed`,
    );
  }
}

function checkPages(bytes: Uint8Array, count: number, what: string): void {
  if (bytes.length !== count * pageSize) {
    throw new RangeError(`Cannot use ${bytes.length} octets as ${count} ${what}`);
  }
}

/**
 * Encodes what makes `newPage` from `oldPage` in Remus's markers, canonically.
 *
 * @param into where to; it must have room for {@link remusPageSizeMax} octets from `at` on.
 * @returns the position behind the encoding.
 *
 * @example
 * ```ts
 * import { encodeRemusPage } from "@drover/drover";
 *
 * const old = new Uint8Array(4096);
 * const now = old.slice();
 * now[4095] = 1;
 * const room = new Uint8Array(4105);
 * room.subarray(0, encodeRemusPage(old, now, room, 0)); // ff*8 87 01 00000001
 * ```
 */
export function encodeRemusPage(
  oldPage: Uint8Array,
  newPage: Uint8Array,
  into: Uint8Array,
  at: number,
): number {
  checkPages(oldPage, 1, "page");
  checkPages(newPage, 1, "page");
  checkRoom(into, at, remusPageSizeMax);
  return putRemus(pairOf(oldPage, newPage), into, at);
}

function pairOf(olds: Uint8Array, news: Uint8Array): Pair {
  return { olds: wordsOf(olds), oldFirst: 0, news: wordsOf(news), newFirst: 0 };
}

function putRemus(pair: Pair, into: Uint8Array, at: number): number {
  const end = putMarkers(pair, into, at);
  // Nothing but SKIPs: with a RUN of one word, nine octets cover 509 words.
  if (end - at !== 9) return end;
  into[at] = remusEmpty;
  return at + 1;
}

/**
 * Writes a whole page as Remus does: 0x80 and the page.
 *
 * @returns the position behind the encoding.
 */
export function encodeRemusFull(page: Uint8Array, into: Uint8Array, at: number): number {
  checkPages(page, 1, "page");
  checkRoom(into, at, pageSize + 1);
  return putFull(remusFull, page, 0, into, at);
}

function putFull(first: number, pages: Uint8Array, from: number, into: Uint8Array, at: number): number {
  into[at] = first;
  into.set(pages.subarray(from, from + pageSize), at + 1);
  return at + 1 + pageSize;
}

/**
 * Encodes a batch of pages in Remus's encoding, each against its old contents.
 *
 * @param into where to; it must have room for `count` times {@link remusPageSizeMax} octets.
 * @returns octets written.
 */
export function encodeRemusPages(
  olds: Uint8Array,
  news: Uint8Array,
  count: number,
  into: Uint8Array,
): number {
  checkPages(olds, count, "pages");
  checkPages(news, count, "pages");
  checkRoom(into, 0, count * remusPageSizeMax);
  const pair = pairOf(olds, news);
  let at = 0;
  for (let first = 0; first < count * pageWords; first += pageWords) {
    pair.oldFirst = pair.newFirst = first;
    at = putRemus(pair, into, at);
  }
  return at;
}

/** What is wrong with an encoding that does not go on: too little input is a fault only for who has all of it. */
const incomplete = {
  truncated: "the octets end before the page is covered",
  run_past_buffer: "the octets end within the words of a run",
  full_short: "the octets end within a whole page",
} as const;

/** The rule that an encoding breaks which is cut short. */
type Incomplete = keyof typeof incomplete;

function incompleteError(family: string, rule: Incomplete, offset: number): FormatError {
  return new FormatError(`${family}.${rule}`, offset, `Cannot decode a page: ${incomplete[rule]}`);
}

/** Walks the markers from `at`: the position behind them, or in what way they are cut short. */
function walkMarkers(
  bytes: Uint8Array,
  at: number,
  family: string,
  offset: number,
): number | Incomplete {
  let word = 0;
  while (word < pageWords) {
    const marker = bytes[at];
    if (marker === undefined) return "truncated";
    const count = marker & runWordsMax;
    const isRun = marker < skipFlag;
    if (count === 0) {
      throw new FormatError(
        `${family}.zero_marker`,
        offset + at,
        "Cannot decode a page: a marker counts no words",
      );
    }
    if (word + count > pageWords) {
      throw new FormatError(
        `${family}.${isRun ? "run_past_page" : "skip_past_page"}`,
        offset + at,
        `Cannot decode a page: a marker counts ${count} words, and ${pageWords - word} are left`,
      );
    }
    at += isRun ? 1 + 4 * count : 1;
    if (at > bytes.length) return "run_past_buffer";
    word += count;
  }
  return at;
}

/** Does what checked markers say to the page at `page[to]`. */
function applyMarkers(bytes: Uint8Array, at: number, page: Uint8Array, to: number): void {
  const end = to + pageSize;
  while (to < end) {
    const marker = bytes[at++] ?? 0;
    const size = 4 * (marker & runWordsMax);
    if (marker < skipFlag) {
      copyShort(bytes, at, page, to, size);
      at += size;
    }
    to += size;
  }
}

/** A view costs more than a few dozen octets. */
function copyShort(source: Uint8Array, at: number, target: Uint8Array, to: number, size: number): void {
  if (size > 64) {
    target.set(source.subarray(at, at + size), to);
    return;
  }
  for (let index = 0; index < size; index++) target[to + index] = source[at + index] ?? 0;
}

function walkRemus(bytes: Uint8Array, at: number, offset: number): number | Incomplete {
  const first = bytes[at];
  if (first === undefined) return "truncated";
  if (first === remusEmpty) return at + 1;
  if (first === remusFull) return at + 1 + pageSize > bytes.length ? "full_short" : at + 1 + pageSize;
  return walkMarkers(bytes, at, "delta.remus", offset);
}

function applyRemus(bytes: Uint8Array, at: number, page: Uint8Array, to: number): void {
  const first = bytes[at];
  if (first === remusFull) page.set(bytes.subarray(at + 1, at + 1 + pageSize), to);
  else if (first !== remusEmpty) applyMarkers(bytes, at, page, to);
}

/**
 * Looks at one page in Remus's encoding without decoding it.
 *
 * @param offset what to add to positions in errors: the stream offset of `bytes`.
 * @returns the position behind it, or null where `bytes` ends before it does.
 * @throws {FormatError} rules `delta.remus.zero_marker`, `.run_past_page`, `.skip_past_page`.
 */
export function measureRemusPage(bytes: Uint8Array, at: number, offset = 0): number | null {
  const end = walkRemus(bytes, at, offset);
  return typeof end === "number" ? end : null;
}

/**
 * Decodes one page in Remus's encoding onto its old contents.
 *
 * @param at where the encoding begins.
 * @param page the page as it was, 4096 octets; the page as it is, afterwards. Unchanged when refused.
 * @param offset what to add to positions in errors: the stream offset of `bytes`.
 * @returns the position behind the encoding.
 * @throws {FormatError} rules `delta.remus.zero_marker`, `.run_past_page`, `.skip_past_page`, `.run_past_buffer`,
 *   `.truncated`, `.full_short`; the first three at their marker, the others at the first octet of the encoding.
 */
export function decodeRemusPage(bytes: Uint8Array, at: number, page: Uint8Array, offset = 0): number {
  checkPages(page, 1, "page");
  const end = strictRemus(bytes, at, offset);
  applyRemus(bytes, at, page, 0);
  return end;
}

/**
 * Looks at a batch of pages in Remus's encoding without decoding it: whether they are `count` and fill `bytes` exactly.
 *
 * @throws {FormatError} as {@link decodeRemusPage}, `delta.remus.missing` where they are fewer,
 *   `delta.remus.trailing` for what is behind.
 */
export function checkRemusPages(bytes: Uint8Array, count: number, offset = 0): void {
  checkBatch(bytes, count, "delta.remus", offset, strictRemus);
}

function strictRemus(bytes: Uint8Array, at: number, offset: number): number {
  const end = walkRemus(bytes, at, offset);
  if (typeof end !== "number") throw incompleteError("delta.remus", end, offset + at);
  return end;
}

/** Walks `count` encodings, which must fill `bytes`. */
function checkBatch(
  bytes: Uint8Array,
  count: number,
  family: string,
  offset: number,
  walk: (bytes: Uint8Array, at: number, offset: number) => number,
): void {
  let at = 0;
  for (let index = 0; index < count; index++) {
    if (at === bytes.length) {
      throw new FormatError(
        `${family}.missing`,
        offset + at,
        `Cannot decode pages: there are ${index} encodings, and should be ${count}`,
      );
    }
    at = walk(bytes, at, offset);
  }
  if (at !== bytes.length) {
    throw new FormatError(
      `${family}.trailing`,
      offset + at,
      `Cannot decode pages: ${bytes.length - at} octets are behind the last of ${count} encodings`,
    );
  }
}

/**
 * Decodes a batch of pages in Remus's encoding onto their old contents: all of them, or none.
 *
 * @param bytes `count` encodings and nothing else.
 * @param pages the pages as they were, `count` times 4096 octets; unchanged when refused.
 * @param offset what to add to positions in errors: the stream offset of `bytes`.
 * @throws {FormatError} as {@link checkRemusPages}.
 */
export function decodeRemusPages(bytes: Uint8Array, count: number, pages: Uint8Array, offset = 0): void {
  checkPages(pages, count, "pages");
  checkRemusPages(bytes, count, offset);
  let at = 0;
  for (let index = 0; index < count; index++) {
    applyRemus(bytes, at, pages, index * pageSize);
    at = strictRemus(bytes, at, offset);
  }
}

/**
 * Encodes a batch of a region's pages, each in its shortest encoding.
 *
 * @param olds the pages as they were, `count` times 4096 octets.
 * @param news the pages as they are, in the same order.
 * @param into where to; it must have room for `count` times {@link regionPageSizeMax} octets.
 * @returns octets written.
 */
export function encodePages(olds: Uint8Array, news: Uint8Array, count: number, into: Uint8Array): number {
  checkPages(olds, count, "pages");
  checkPages(news, count, "pages");
  checkRoom(into, 0, count * regionPageSizeMax);
  const pair = pairOf(olds, news);
  let at = 0;
  for (let first = 0; first < count * pageWords; first += pageWords) {
    pair.oldFirst = pair.newFirst = first;
    at = putRegion(pair, news, into, at);
  }
  return at;
}

/** Writes a page of a region; `bytes` is the memory of `pair.news`. */
function putRegion(pair: Pair, bytes: Uint8Array, into: Uint8Array, at: number): number {
  let changedCount = 0;
  let runsSize = 1;
  for (let word = 0; word < pageWords;) {
    const changed = differs(pair, word);
    const end = runEnd(pair, word, changed);
    if (changed) changedCount += end - word;
    runsSize++;
    word = end;
  }
  if (changedCount === 0) {
    into[at] = deltaCodecs.empty;
    return at + 1;
  }
  runsSize += 4 * changedCount;
  const bitmapEncodedSize = 1 + bitmapSize + 4 * changedCount;
  const shortest = Math.min(regionPageSizeMax, runsSize, bitmapEncodedSize);
  if (shortest === regionPageSizeMax) {
    return putFull(deltaCodecs.full, bytes, 4 * pair.newFirst, into, at);
  }
  if (shortest === runsSize) {
    into[at] = deltaCodecs.runs;
    return putMarkers(pair, into, at + 1);
  }
  into[at] = deltaCodecs.bitmap;
  const map = at + 1;
  into.fill(0, map, map + bitmapSize);
  at = map + bitmapSize;
  for (let word = 0; word < pageWords; word++) {
    if (!differs(pair, word)) continue;
    into[map + (word >>> 3)] = (into[map + (word >>> 3)] ?? 0) | 1 << (word & 7);
    at = putWord(pair.news[pair.newFirst + word] ?? 0, into, at);
  }
  return at;
}

/** In a slot: write the whole page, and put it there. */
export const slotMiss = 0x8000_0000;

/** A slot that is none: write the whole page. */
export const slotNone = 0xffff_ffff;

/**
 * Encodes a batch of pages, each against what its slot of a cache holds, and stores it there; in order, so that a
 * slot may come again.
 *
 * @param bases the cache: its size is a multiple of 4096 octets.
 * @param slots one per page: its slot, with {@link slotMiss} where the slot holds something else; or {@link slotNone}.
 * @param into where to; it must have room for each page's most octets.
 * @returns octets written.
 */
export function encodeCached(
  codec: "remus" | "region",
  bases: Uint8Array,
  slots: Uint32Array,
  pages: Uint8Array,
  into: Uint8Array,
): number {
  const remus = codec === "remus";
  checkPages(pages, slots.length, "pages");
  checkRoom(into, 0, slots.length * (remus ? remusPageSizeMax : regionPageSizeMax));
  for (const slot of slots) {
    if (slot !== slotNone && ((slot & ~slotMiss) + 1) * pageSize > bases.length) {
      throw new RangeError(`Cannot encode a page: there is no slot ${slot & ~slotMiss}`);
    }
  }
  if (bases.byteOffset % 4 !== 0) throw new RangeError("Cannot use a cache that is not aligned");
  const pair = pairOf(bases, pages);
  const full = remus ? remusFull : deltaCodecs.full;
  let at = 0;
  for (let index = 0; index < slots.length; index++) {
    const slot = slots[index] ?? slotNone;
    const from = index * pageSize;
    if (slot === slotNone || slot >= slotMiss) at = putFull(full, pages, from, into, at);
    else {
      pair.oldFirst = slot * pageWords;
      pair.newFirst = index * pageWords;
      at = remus ? putRemus(pair, into, at) : putRegion(pair, pages, into, at);
    }
    if (slot !== slotNone) bases.set(pages.subarray(from, from + pageSize), (slot & ~slotMiss) * pageSize);
  }
  return at;
}

function popCount(octet: number): number {
  octet -= octet >>> 1 & 0x55;
  octet = (octet & 0x33) + (octet >>> 2 & 0x33);
  return octet + (octet >>> 4) & 0x0f;
}

function walkRegion(bytes: Uint8Array, at: number, offset: number): number {
  const codec = bytes[at];
  switch (codec) {
    case undefined:
      throw incompleteError("delta", "truncated", offset + at);
    case deltaCodecs.empty:
      return at + 1;
    case deltaCodecs.full:
      if (at + 1 + pageSize > bytes.length) throw incompleteError("delta", "full_short", offset + at);
      return at + 1 + pageSize;
    case deltaCodecs.runs: {
      const end = walkMarkers(bytes, at + 1, "delta.runs", offset);
      if (typeof end !== "number") throw incompleteError("delta.runs", end, offset + at);
      return end;
    }
    case deltaCodecs.bitmap: {
      let end = at + 1 + bitmapSize;
      if (end <= bytes.length) {
        for (let map = at + 1; map < at + 1 + bitmapSize; map++) end += 4 * popCount(bytes[map] ?? 0);
      }
      if (end > bytes.length) {
        throw new FormatError(
          "delta.bitmap.truncated",
          offset + at,
          `Cannot decode a page: a bitmap and its words take ${end - at} octets at least, ${
            bytes.length - at
          } are left`,
        );
      }
      return end;
    }
    default:
      throw new FormatError(
        "delta.codec",
        offset + at,
        `Cannot decode a page: codec is ${codec}, and should be 0 to 3`,
      );
  }
}

function applyRegion(bytes: Uint8Array, at: number, page: Uint8Array, to: number): void {
  const codec = bytes[at++];
  if (codec === deltaCodecs.full) page.set(bytes.subarray(at, at + pageSize), to);
  else if (codec === deltaCodecs.runs) applyMarkers(bytes, at, page, to);
  else if (codec === deltaCodecs.bitmap) {
    let from = at + bitmapSize;
    for (let map = 0; map < bitmapSize; map++, to += 32) {
      const octet = bytes[at + map] ?? 0;
      for (let bit = 0; octet >>> bit !== 0; bit++) {
        if ((octet >>> bit & 1) === 0) continue;
        for (let index = 0; index < 4; index++) page[to + 4 * bit + index] = bytes[from + index] ?? 0;
        from += 4;
      }
    }
  }
}

/**
 * Looks at one encoded page of a region without decoding it.
 *
 * @param offset what to add to positions in errors: the stream offset of `bytes`.
 * @returns the position behind it.
 * @throws {FormatError} rules `delta.truncated`, `delta.codec`, `delta.full_short`, `delta.bitmap.truncated`, and
 *   `delta.runs.` with `zero_marker`, `run_past_page`, `skip_past_page`, `run_past_buffer`, `truncated`.
 */
export function measurePage(bytes: Uint8Array, at: number, offset = 0): number {
  return walkRegion(bytes, at, offset);
}

/**
 * Looks at a batch of a region's encoded pages without decoding it: whether they are `count` and fill `bytes` exactly.
 *
 * @throws {FormatError} as {@link measurePage}, `delta.missing` where they are fewer, `delta.trailing` for what is behind.
 */
export function checkDeltas(bytes: Uint8Array, count: number, offset = 0): void {
  checkBatch(bytes, count, "delta", offset, walkRegion);
}

/**
 * Decodes one page of a region onto its old contents.
 *
 * @param page the page as it was, 4096 octets; unchanged when refused.
 * @returns the position behind the encoding.
 * @throws {FormatError} as {@link measurePage}.
 */
export function decodePage(bytes: Uint8Array, at: number, page: Uint8Array, offset = 0): number {
  checkPages(page, 1, "page");
  const end = walkRegion(bytes, at, offset);
  applyRegion(bytes, at, page, 0);
  return end;
}

/**
 * Decodes a batch of a region's pages onto their old contents: all of them, or none.
 *
 * @param bytes `count` encodings and nothing else.
 * @param pages the pages as they were, `count` times 4096 octets; unchanged when refused.
 * @param offset what to add to positions in errors: the stream offset of `bytes`.
 * @throws {FormatError} as {@link checkDeltas}.
 */
export function decodePages(bytes: Uint8Array, count: number, pages: Uint8Array, offset = 0): void {
  checkPages(pages, count, "pages");
  checkDeltas(bytes, count, offset);
  let at = 0;
  for (let index = 0; index < count; index++) {
    applyRegion(bytes, at, pages, index * pageSize);
    at = walkRegion(bytes, at, offset);
  }
}
