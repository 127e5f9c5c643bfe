/**
 * What a program said about ranges of its memory, and what that does to a sample before a plan is made from it.
 *
 * | advice | heat and idle time | prefetch |
 * | --- | --- | --- |
 * | `normal` | as measured | as found by the prefetcher |
 * | `hot` | 255, just touched: leaves last, and never for being idle | as found |
 * | `cold` | 0, idle for T1 at least: leaves at the next plan | none |
 * | `sequential` | heat 0, idle as measured: first to leave when room is needed, since it was read once | as found |
 * | `random` | as measured | none, and no read-around |
 *
 * Invariants: ranges never overlap, are in rising order, and neighbours with the same advice are one; later advice
 * replaces earlier advice where they overlap; at most `adviceRangesMax` ranges, so that a program that advises page
 * by page is refused and not made slow. Advice is quality, never safety: a hot page that must leave, leaves.
 *
 * @module
 */
import { checkPages } from "./pages.ts";

/** What a program expects to do with a range. */
export type Advice = "normal" | "hot" | "cold" | "sequential" | "random";

/** The most ranges that one region remembers. */
export const adviceRangesMax = 4096;

/** One range with its advice. */
export interface AdviceRange {
  /** First page. */
  firstPage: number;
  /** Page after the last. */
  endPage: number;
  /** What was said. */
  advice: Exclude<Advice, "normal">;
}

/** A sample that advice can change. */
export interface AdvisedSample {
  /** Page that element 0 stands for. */
  firstPage: number;
  /** 0 to 255, one per page. */
  heat: Uint8Array;
  /** Ticks, one per page. */
  idle: Uint32Array;
  /** Idle ticks after which a page may go to SSD. */
  t1: number;
}

/** The advice for every page of one region. */
export class AdviceMap {
  readonly #pages: number;
  #ranges: AdviceRange[] = [];

  /** Everything is normal. @param pages pages of the region. */
  constructor(pages: number) {
    checkPages(pages);
    this.#pages = pages;
  }

  /** The ranges that are not normal, in rising order. */
  get ranges(): readonly Readonly<AdviceRange>[] {
    return this.#ranges;
  }

  /**
   * Replaces the advice for a range.
   *
   * @throws {RangeError} when the range is not inside the region, or there would be too many ranges; nothing is changed
   */
  set(range: { firstPage: number; endPage: number }, advice: Advice): void {
    const { firstPage, endPage } = range;
    if (
      !Number.isInteger(firstPage) || !Number.isInteger(endPage) || firstPage < 0 || endPage > this.#pages
    ) {
      throw new RangeError(
        `Cannot advise pages ${firstPage} to ${endPage}: expected whole pages within 0 to ${this.#pages}`,
      );
    }
    if (firstPage >= endPage) return;
    const next: AdviceRange[] = [];
    const add = (piece: AdviceRange) => {
      if (piece.firstPage >= piece.endPage) return;
      const last = next.at(-1);
      if (last !== undefined && last.endPage === piece.firstPage && last.advice === piece.advice) {
        last.endPage = piece.endPage;
      } else next.push({ ...piece });
    };
    const before = this.#ranges.slice(0, this.#firstAfter(firstPage));
    const after = this.#ranges.slice(before.length);
    for (const old of before) add(old);
    for (const old of after) add({ ...old, endPage: Math.min(old.endPage, firstPage) });
    if (advice !== "normal") add({ firstPage, endPage, advice });
    for (const old of after) add({ ...old, firstPage: Math.max(old.firstPage, endPage) });
    if (next.length > adviceRangesMax) {
      throw new RangeError(
        `Cannot keep ${next.length} ranges of advice: expected at most ${adviceRangesMax}`,
      );
    }
    this.#ranges = next;
  }

  /** The advice for one page. */
  at(page: number): Advice {
    const range = this.#ranges[this.#firstAfter(page)];
    return range !== undefined && range.firstPage <= page ? range.advice : "normal";
  }

  /** Changes a sample as the table above says. */
  apply(sample: AdvisedSample): void {
    const endPage = sample.firstPage + sample.heat.length;
    for (let at = this.#firstAfter(sample.firstPage); at < this.#ranges.length; at++) {
      const range = this.#ranges[at];
      if (range === undefined || range.firstPage >= endPage) return;
      const from = Math.max(0, range.firstPage - sample.firstPage);
      const to = Math.min(endPage, range.endPage) - sample.firstPage;
      applyTo(range.advice, sample, from, to);
    }
  }

  /** Place of the first range that ends after a page. */
  #firstAfter(page: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle]?.endPage ?? Infinity) > page) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

function applyTo(advice: Advice, sample: AdvisedSample, from: number, to: number): void {
  const { heat, idle, t1 } = sample;
  if (advice === "hot") {
    heat.fill(255, from, to);
    idle.fill(0, from, to);
  } else if (advice === "cold") {
    heat.fill(0, from, to);
    for (let at = from; at < to; at++) idle[at] = Math.max(t1, idle[at] ?? 0);
  } else if (advice === "sequential") {
    heat.fill(0, from, to);
  }
}
