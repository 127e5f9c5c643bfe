/**
 * Where a page is, as the policy sees it: one byte per page, and the batch that says where pages should go.
 *
 * ```text
 *  bit  7      6     5      4       3 2 1 0
 *    poisoned busy  dirty  pinned   place
 * ```
 *
 * The place is 0 for a page that was never written (it costs nothing anywhere), then `ram`, `ssd`, `remote`, and
 * `standby` for a page that still holds RAM but has already been chosen to leave. `dirty` says that the copy
 * in RAM has no equal copy further down, so that giving it up costs a write. A byte with a place that is not
 * listed here is a page to keep away from.
 *
 * Invariant of everyone who reads these bytes: they are a copy of the truth, which lives in C and moves on. A move
 * for a page that has changed meanwhile is skipped there, never an error.
 *
 * @module
 */

/** A kind of place with a cost and a size. */
export type TierName = "ram" | "ssd" | "remote";

/** Where a move can lead: to a tier, or to standby, which is RAM still, to learn from the next touch. */
export type MoveTarget = TierName | "standby";

/** The low four bits of a residency byte. */
export const placeMask = 0x0f;
/** Never written: reads as zeros and holds nothing. */
export const placeNone = 0;
/** In RAM. */
export const placeRam = 1;
/** In a slot of the local file or device. */
export const placeSsd = 2;
/** In a slot of another host. */
export const placeRemote = 3;
/** In RAM and unmapped, next to leave; a touch brings it back without reading. */
export const placeStandby = 4;

/** Held by `pin`: may not move. */
export const pagePinned = 0x10;
/** Giving it up costs a write. */
export const pageDirty = 0x20;
/** On its way: in a fault or in write-back. */
export const pageBusy = 0x40;
/** Its content was lost; a touch raises SIGBUS. */
export const pagePoisoned = 0x80;
/** A page with one of these is no candidate for any move. */
export const pageHeld: number = pagePinned | pageBusy | pagePoisoned;

/** The most pages of one region: 2^31, 8 TiB of 4 KiB pages. */
export const pagesMax: number = 2 ** 31;

/** One batch of pages that should go from one tier to another. Page indexes are ascending. */
export interface Move {
  /** Where they were when the sample was taken; pages in standby are in RAM. */
  from: TierName;
  /** Where they should be. */
  to: MoveTarget;
  /** Page indexes in the region, ascending, each at most once in a plan. */
  pages: Uint32Array;
}

/** Refuses a number of pages that no region can have. */
export function checkPages(pages: number): void {
  if (!Number.isInteger(pages) || pages < 1 || pages > pagesMax) {
    throw new RangeError(`Cannot plan for "${pages}" pages: expected an integer between 1 and ${pagesMax}`);
  }
}
