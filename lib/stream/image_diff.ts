/**
 * The pages in which two memory images differ.
 *
 * @module
 */
import { type PageRange, pageSize } from "./item.ts";
import type { ImageStore } from "./memory_image.ts";
import { equalPages, isZeroPage } from "./page_compare.ts";
import { joinRanges } from "./page_ranges.ts";

const runPagesMax = 64;

/** How two images differ in a run of pages; a page that nothing wrote counts as zero. */
export interface ImageDifference extends PageRange {
  /** `left`: zero on the right; `right`: zero on the left; `changed`: on both sides other than zero. */
  kind: "left" | "right" | "changed";
}

/** What can be compared. */
export type ImageSource = Pick<ImageStore, "read" | "runs">;

/** The pages in which two images differ, as the longest runs of one kind, ascending. */
export function* diffImages(
  left: ImageSource,
  right: ImageSource,
): Generator<ImageDifference, void, undefined> {
  const lefts = new Uint8Array(runPagesMax * pageSize);
  const rights = new Uint8Array(runPagesMax * pageSize);
  let open: ImageDifference | null = null;
  for (const { pfn, count } of joinRanges([...left.runs()], [...right.runs()])) {
    for (let done = 0; done < count; done += runPagesMax) {
      const size = Math.min(runPagesMax, count - done) * pageSize;
      left.read(pfn + done, lefts.subarray(0, size));
      right.read(pfn + done, rights.subarray(0, size));
      for (let at = 0; at < size; at += pageSize) {
        if (equalPages(lefts, rights, at)) continue;
        const kind = isZeroPage(rights, at) ? "left" : isZeroPage(lefts, at) ? "right" : "changed";
        const page = pfn + done + at / pageSize;
        if (open !== null && open.kind === kind && open.pfn + open.count === page) open.count++;
        else {
          if (open !== null) yield open;
          open = { pfn: page, count: 1, kind };
        }
      }
    }
  }
  if (open !== null) yield open;
}
