/**
 * The sender's side of Remus's compressed epochs: pages in, pfn batches and chunks of compressed pages out.
 *
 * ```text
 * add(entries, pages) -> BATCH                   the entries, at once
 *                        COMPRESSED_DATA …       all staged pages, whenever 8192 of them are staged
 * finish()            -> COMPRESSED_DATA …       those that are left
 * ```
 *
 * Invariants:
 * - At every instant no more pages have been encoded than entries that carry a page have been handed out, and after
 *   `finish()` as many. An entry's page is encoded in the order of the entries.
 * - The cache holds, for each pfn in it, what the receiver has once it has decoded everything handed out so far. So a
 *   page that is not in it goes out whole, and room for the longest encoding is set aside before the cache is touched:
 *   a page that does not fit has left no trace there.
 * - Page tables go out whole and are in the cache never.
 * - A chunk ends where a page's encoding ends, and none is empty.
 *
 * It holds the cache, the staged pages and one chunk: 80 MiB at most with the default bounds. When handed-out records are
 * lost, so is the connection: a new one begins with an epoch of whole pages and a new sender.
 *
 * @module
 */
import { remusPageSizeMax, slotMiss, slotNone } from "./delta.ts";
import { carriesPage, type LegacyRecord, pageSize, pageTypes } from "./item.ts";
import { type PageCodec, pageCodec } from "./page_codec.ts";

/** Entries of a legacy batch at most. */
export const legacyBatchMax = 1024;

/** Pages that {@link RemusSender} keeps and stages, and the most octets of one chunk: Remus's own numbers. */
export const remusBounds = {
  cachePages: 8192,
  stagingPages: 8192,
  chunkSize: 16 * 1024 * 1024,
} as const;

/** What a {@link RemusSender} may be told. */
export interface RemusSenderOptions {
  /** What encodes; the reference by default. */
  codec?: PageCodec;
  /** Pages in the cache at most. */
  cachePages?: number;
  /** Pages staged at most: the number at which they are encoded without waiting for the end of the epoch. */
  stagingPages?: number;
  /** Octets of a chunk at most, at least 4105. */
  chunkSize?: number;
}

/** Encodes the epochs behind the first, which is sent as it is. */
export class RemusSender {
  readonly #codec: PageCodec;
  readonly #cache: PageCache;
  readonly #staging: Uint8Array<ArrayBuffer>;
  readonly #pfns: Uint32Array<ArrayBuffer>;
  readonly #whole: Uint8Array<ArrayBuffer>;
  readonly #slots: Uint32Array<ArrayBuffer>;
  readonly #chunk: Uint8Array<ArrayBuffer>;
  #staged = 0;

  /** A sender with an empty cache. */
  constructor(options: RemusSenderOptions = {}) {
    const { cachePages, stagingPages, chunkSize } = { ...remusBounds, ...options };
    checkBound(cachePages, 1, 2 ** 20, "pages in the cache");
    checkBound(stagingPages, 1, 2 ** 20, "staged pages");
    checkBound(chunkSize, remusPageSizeMax, 2 ** 30, "octets of a chunk");
    this.#codec = options.codec ?? pageCodec;
    this.#cache = new PageCache(cachePages);
    this.#staging = new Uint8Array(stagingPages * pageSize);
    this.#pfns = new Uint32Array(stagingPages);
    this.#whole = new Uint8Array(stagingPages);
    this.#slots = new Uint32Array(stagingPages);
    this.#chunk = new Uint8Array(chunkSize);
  }

  /** Pages that wait to be encoded. */
  get staged(): number {
    return this.#staged;
  }

  /** Pages in the cache. */
  get cached(): number {
    return this.#cache.size;
  }

  /**
   * Takes a batch of the epoch.
   *
   * @param entries 1 to 1024 words: 28 bits of frame number, 4 of type. Handed on, not copied.
   * @param pages the contents of those that carry a page, in order; copied.
   * @returns what to write now, in order.
   */
  add(entries: Uint32Array<ArrayBuffer>, pages: Uint8Array): LegacyRecord[] {
    let count = 0;
    for (const entry of entries) if (carriesPage(entry >>> 28)) count++;
    if (entries.length === 0 || entries.length > legacyBatchMax || pages.length !== count * pageSize) {
      throw new RangeError(
        `Cannot send a batch of ${entries.length} entries and ${pages.length} octets of pages: ` +
          `it should be 1 to ${legacyBatchMax} entries and ${count} pages`,
      );
    }
    const records: LegacyRecord[] = [{ name: "BATCH", entries, pages: new Uint8Array(0) }];
    let from = 0;
    for (const entry of entries) {
      const type = entry >>> 28;
      if (!carriesPage(type)) continue;
      this.#stage(entry & 0x0fff_ffff, type !== pageTypes.normal, pages.subarray(from, from + pageSize));
      from += pageSize;
      if (this.#staged === this.#pfns.length) this.#encode(records);
    }
    return records;
  }

  /** Ends the epoch's pages. @returns what to write before the end of the body. */
  finish(): LegacyRecord[] {
    const records: LegacyRecord[] = [];
    this.#encode(records);
    return records;
  }

  #stage(pfn: number, whole: boolean, page: Uint8Array): void {
    // As Remus does it, at once. A page of the same number that is staged already may bring it back: see #slotOf.
    if (whole) this.#cache.remove(pfn);
    this.#pfns[this.#staged] = pfn;
    this.#whole[this.#staged] = whole ? 1 : 0;
    this.#staging.set(page, this.#staged * pageSize);
    this.#staged++;
  }

  /** Encodes all staged pages. */
  #encode(records: LegacyRecord[]): void {
    let used = 0;
    for (let index = 0; index < this.#staged;) {
      const count = Math.min(
        Math.floor((this.#chunk.length - used) / remusPageSizeMax),
        this.#staged - index,
      );
      if (count === 0) {
        records.push({ name: "COMPRESSED_DATA", data: this.#chunk.slice(0, used) });
        used = 0;
        continue;
      }
      for (let at = 0; at < count; at++) this.#slots[at] = this.#slotOf(index + at);
      used += this.#codec.encodeCached(
        "remus",
        this.#cache.pages,
        this.#slots.subarray(0, count),
        this.#staging.subarray(index * pageSize, (index + count) * pageSize),
        this.#chunk.subarray(used),
      );
      index += count;
    }
    this.#staged = 0;
    if (used > 0) records.push({ name: "COMPRESSED_DATA", data: this.#chunk.slice(0, used) });
  }

  /** Where a staged page is encoded against and stored, in a cache that has seen all before it. */
  #slotOf(index: number): number {
    const pfn = this.#pfns[index] ?? 0;
    if (this.#whole[index] === 0) return this.#cache.use(pfn);
    this.#cache.remove(pfn);
    return slotNone;
  }
}

function checkBound(value: number, min: number, max: number, what: string): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(`Cannot use ${value} ${what}: it should be an integer from ${min} to ${max}`);
  }
}

/** Which page is where, the least recently used first. A `Map` keeps the order in which keys were set. */
class PageCache {
  readonly pages: Uint8Array<ArrayBuffer>;
  readonly #slots = new Map<number, number>();
  readonly #free: number[] = [];
  readonly #capacity: number;
  #taken = 0;

  constructor(capacity: number) {
    this.pages = new Uint8Array(capacity * pageSize);
    this.#capacity = capacity;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** The slot of a page, which is now the most recently used one; with `slotMiss` where it was not there. */
  use(pfn: number): number {
    const known = this.#slots.get(pfn);
    if (known !== undefined) {
      this.#slots.delete(pfn);
      this.#slots.set(pfn, known);
      return known;
    }
    const slot = this.#free.pop() ?? (this.#taken < this.#capacity ? this.#taken++ : this.#evict());
    this.#slots.set(pfn, slot);
    return slotMiss + slot;
  }

  remove(pfn: number): void {
    const slot = this.#slots.get(pfn);
    if (slot === undefined) return;
    this.#slots.delete(pfn);
    this.#free.push(slot);
  }

  #evict(): number {
    for (const [pfn, slot] of this.#slots) {
      this.#slots.delete(pfn);
      return slot;
    }
    throw new Error("a full cache holds nothing");
  }
}
