/**
 * Lists of ranges of pages: ascending, without overlaps.
 *
 * @module
 */
import type { PageRange } from "./item.ts";

/** Puts a range into an ascending list without overlaps, joining its neighbours. */
export function addRange(list: PageRange[], range: PageRange): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const other = list[middle];
    if (other !== undefined && other.pfn + other.count < range.pfn) low = middle + 1;
    else high = middle;
  }
  let pfn = range.pfn;
  let end = range.pfn + range.count;
  let next = low;
  for (let other = list[next]; other !== undefined && other.pfn <= end; other = list[++next]) {
    pfn = Math.min(pfn, other.pfn);
    end = Math.max(end, other.pfn + other.count);
  }
  list.splice(low, next - low, { pfn, count: end - pfn });
}

/** Two ascending lists of ranges as one, without overlaps and with neighbours joined. */
export function joinRanges(left: readonly PageRange[], right: readonly PageRange[]): PageRange[] {
  const joined: PageRange[] = [];
  let leftAt = 0;
  let rightAt = 0;
  for (;;) {
    const one = left[leftAt];
    const two = right[rightAt];
    const next = one === undefined || (two !== undefined && two.pfn < one.pfn) ? two : one;
    if (next === undefined) return joined;
    if (next === one) leftAt++;
    else rightAt++;
    const last = joined.at(-1);
    if (last !== undefined && next.pfn <= last.pfn + last.count) {
      const end = Math.max(last.pfn + last.count, next.pfn + next.count);
      joined[joined.length - 1] = { pfn: last.pfn, count: end - last.pfn };
    } else {
      joined.push(next);
    }
  }
}

/** Whether one of the ascending ranges has the page. */
export function inRanges(ranges: readonly PageRange[], pfn: number): boolean {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const range = ranges[middle];
    if (range === undefined || range.pfn > pfn) high = middle;
    else if (pfn < range.pfn + range.count) return true;
    else low = middle + 1;
  }
  return false;
}
