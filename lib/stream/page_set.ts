/**
 * A set of page frame numbers: one bit each, in blocks that exist only where a number is in them.
 *
 * Invariants:
 * - A block covers 4096 numbers in some 512 octets. Which blocks there are is itself such a set, of smaller numbers,
 *   so runs and ranges are found in order without looking at what lies outside of them.
 * - However far apart they are, numbers take less than half of the room that their pages do.
 *
 * @module
 */
import type { PageRange } from "./item.ts";

const blockBits = 12;
const blockPages = 2 ** blockBits;
const blockWords = blockPages / 32;
/** Sets of numbers up to this size find their few blocks without a set of them. */
const topBits = 16;

/** A growing and shrinking set of page frame numbers. */
export class PageSet {
  /** Each has one word more than bits need, for how many are set. */
  readonly #blocks = new Map<number, Uint32Array>();
  /** The keys of the blocks; null where there can only be a few. */
  readonly #keys: PageSet | null;
  #size = 0;

  /** An empty set. @param bits numbers are below 2^bits, 52 by default. */
  constructor(bits = 52) {
    this.#keys = bits > topBits ? new PageSet(bits - blockBits) : null;
  }

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
      this.#blocks.set(key, block = new Uint32Array(blockWords + 1));
      this.#keys?.add(key);
    }
    const bit = pfn % blockPages;
    const word = block[bit >>> 5] ?? 0;
    const changed = word | 1 << (bit & 31);
    if (changed === (word | 0)) return false;
    block[bit >>> 5] = changed;
    block[blockWords] = (block[blockWords] ?? 0) + 1;
    this.#size++;
    return true;
  }

  /** Takes a number out. @returns whether it was in. */
  delete(pfn: number): boolean {
    const key = Math.floor(pfn / blockPages);
    const block = this.#blocks.get(key);
    if (block === undefined) return false;
    const bit = pfn % blockPages;
    const word = block[bit >>> 5] ?? 0;
    const mask = 1 << (bit & 31);
    if ((word & mask) === 0) return false;
    block[bit >>> 5] = word & ~mask;
    block[blockWords] = (block[blockWords] ?? 0) - 1;
    this.#size--;
    if (block[blockWords] === 0) {
      this.#blocks.delete(key);
      this.#keys?.delete(key);
    }
    return true;
  }

  /** Empties it. */
  clear(): void {
    this.#blocks.clear();
    this.#keys?.clear();
    this.#size = 0;
  }

  /** The numbers as the longest runs, ascending. The set may not change meanwhile. */
  *runs(): Generator<PageRange, void, undefined> {
    let open: PageRange | null = null;
    for (const key of this.#allKeys()) {
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
   * The numbers that lie in ranges, ascending. What lies outside of them costs nothing.
   *
   * @param ranges ascending, without overlaps.
   */
  within(ranges: readonly PageRange[]): number[] {
    const found: number[] = [];
    if (this.#size === 0) return found;
    let index = 0;
    for (const key of this.#keys?.within(blocksOf(ranges)) ?? this.#allKeys()) {
      const block = this.#blocks.get(key);
      const start = key * blockPages;
      const end = start + blockPages;
      for (; index < ranges.length; index++) {
        const range = ranges[index];
        if (range === undefined || range.pfn >= end) break;
        const rangeEnd = range.pfn + range.count;
        if (block !== undefined && rangeEnd > start) {
          const first = Math.max(start, range.pfn) - start;
          collect(found, block, { start, first, last: Math.min(end, rangeEnd) - start - 1 });
        }
        if (rangeEnd > end) break;
      }
    }
    return found;
  }

  /** The keys of all blocks, ascending. */
  *#allKeys(): Generator<number, void, undefined> {
    if (this.#keys === null) {
      yield* [...this.#blocks.keys()].sort((left, right) => left - right);
      return;
    }
    for (const { pfn, count } of this.#keys.runs()) {
      for (let key = pfn; key < pfn + count; key++) yield key;
    }
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

/** The keys of the blocks that ranges touch, as ranges of their own. */
function blocksOf(ranges: readonly PageRange[]): PageRange[] {
  const blocks: PageRange[] = [];
  let next = 0;
  for (const { pfn, count } of ranges) {
    const first = Math.max(next, Math.floor(pfn / blockPages));
    const end = Math.floor((pfn + count - 1) / blockPages) + 1;
    if (end <= first) continue;
    const last = blocks.at(-1);
    if (last !== undefined && first === next) last.count = end - last.pfn;
    else blocks.push({ pfn: first, count: end - first });
    next = end;
  }
  return blocks;
}

/** Adds the numbers of a block that begins at `start`, from its bit `first` to its bit `last`. */
function collect(
  found: number[],
  block: Uint32Array,
  options: { start: number; first: number; last: number },
): void {
  const { start, first, last } = options;
  for (let index = first >>> 5; index <= last >>> 5; index++) {
    let word = block[index] ?? 0;
    if (index === first >>> 5) word &= -1 << (first & 31);
    if (index === last >>> 5) word &= -1 >>> (31 - (last & 31));
    for (; word !== 0; word &= word - 1) found.push(start + 32 * index + 31 - Math.clz32(word & -word));
  }
}
