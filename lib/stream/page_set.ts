/**
 * A set of page frame numbers: one bit each, in blocks that exist only where a number was added.
 *
 * Invariants: a block covers 4096 numbers in 512 octets, so a set never needs more than an eighth of the pages that put
 * numbers into it; numbers have 52 bits.
 *
 * @module
 */
import type { PageRange } from "./item.ts";

const blockPages = 4096;
const blockWords = blockPages / 32;

/** A growing and shrinking set of page frame numbers. */
export class PageSet {
  readonly #blocks = new Map<number, Uint32Array>();
  /** The keys of the blocks, ascending; null when that has to be found out. */
  #keys: number[] | null = null;
  #size = 0;

  /** How many numbers are in it. */
  get size(): number {
    return this.#size;
  }

  /** Whether a number is in it. */
  has(pfn: number): boolean {
    const block = this.#blocks.get(Math.floor(pfn / blockPages));
    if (block === undefined) return false;
    const bit = pfn % blockPages;
    return ((block[bit >>> 5] ?? 0) >>> (bit & 31) & 1) === 1;
  }

  /** Puts a number in. @returns whether it is new. */
  add(pfn: number): boolean {
    const key = Math.floor(pfn / blockPages);
    let block = this.#blocks.get(key);
    if (block === undefined) {
      this.#blocks.set(key, block = new Uint32Array(blockWords));
      this.#keys = null;
    }
    const bit = pfn % blockPages;
    const word = block[bit >>> 5] ?? 0;
    const changed = word | 1 << (bit & 31);
    if (changed === (word | 0)) return false;
    block[bit >>> 5] = changed;
    this.#size++;
    return true;
  }

  /** Takes a number out. @returns whether it was in. */
  delete(pfn: number): boolean {
    const block = this.#blocks.get(Math.floor(pfn / blockPages));
    if (block === undefined) return false;
    const bit = pfn % blockPages;
    const word = block[bit >>> 5] ?? 0;
    const mask = 1 << (bit & 31);
    if ((word & mask) === 0) return false;
    block[bit >>> 5] = word & ~mask;
    this.#size--;
    return true;
  }

  /** Empties it. */
  clear(): void {
    this.#blocks.clear();
    this.#keys = null;
    this.#size = 0;
  }

  /** The numbers as the longest runs, ascending. The set may not change meanwhile. */
  *runs(): Generator<PageRange, void, undefined> {
    let open: PageRange | null = null;
    for (const key of this.#sortedKeys()) {
      for (const run of this.#runsOf(key)) {
        if (open !== null && open.pfn + open.count === run.pfn) open.count += run.count;
        else {
          if (open !== null) yield open;
          open = run;
        }
      }
    }
    if (open !== null) yield open;
  }

  /**
   * The numbers that lie in ranges, ascending. Blocks outside of them cost one step each.
   *
   * @param ranges ascending, without overlaps.
   */
  within(ranges: readonly PageRange[]): number[] {
    const found: number[] = [];
    let index = 0;
    for (const key of this.#sortedKeys()) {
      const start = key * blockPages;
      const end = start + blockPages;
      for (; index < ranges.length; index++) {
        const range = ranges[index];
        if (range === undefined || range.pfn >= end) break;
        const last = Math.min(end, range.pfn + range.count);
        for (let pfn = Math.max(start, range.pfn); pfn < last; pfn++) if (this.has(pfn)) found.push(pfn);
        if (range.pfn + range.count > end) break;
      }
    }
    return found;
  }

  #sortedKeys(): readonly number[] {
    return this.#keys ??= [...this.#blocks.keys()].sort((left, right) => left - right);
  }

  *#runsOf(key: number): Generator<PageRange, void, undefined> {
    const block = this.#blocks.get(key);
    if (block === undefined) return;
    let open: PageRange | null = null;
    for (let index = 0; index < blockWords; index++) {
      const word = block[index] ?? 0;
      if (word === 0) continue;
      for (let bit = 0; bit < 32; bit++) {
        if ((word >>> bit & 1) === 0) continue;
        const pfn = key * blockPages + 32 * index + bit;
        if (open !== null && open.pfn + open.count === pfn) open.count++;
        else {
          if (open !== null) yield open;
          open = { pfn, count: 1 };
        }
      }
    }
    if (open !== null) yield open;
  }
}
