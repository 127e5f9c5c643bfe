/**
 * A segmented FIFO: who leaves next when nobody looks at every access. The C library keeps a simple version of this
 * list in its fault path; this one plans, is measured against other policies, and says what the C one should do.
 *
 * ```text
 *             insert                      full, setAside                      take
 *   (absent) ────────> [tail  active  head] ──────────> [tail  standby  head] ────────> (absent)
 *                         ^                                  │
 *                         └──────────── touch ───────────────┘
 * ```
 *
 * A page enters at the tail of the active list. When the active list holds more than its share, its oldest pages go
 * to standby: still in RAM, but unmapped, so that one more touch is seen and costs a microsecond, not a read.
 * Touched there, a page is rescued to the tail of the active list; untouched, it is the next to leave.
 *
 * Invariants: a page is in one list or none; standby has at most `standbyTarget` pages that were not put there by
 * name; victims come out of standby oldest first, and out of the active list only when standby is empty.
 *
 * Every operation takes constant time; nine bytes a page.
 *
 * @module
 */
import { checkPages } from "./pages.ts";

/** The list that a page is in. */
export type Segment = "absent" | "active" | "standby";

const absent = 0;
const active = 1;
const standby = 2;
const segments: readonly Segment[] = ["absent", "active", "standby"];

/** Sizes of a segmented FIFO. */
export interface SegmentedFifoOptions {
  /** Pages of the region. */
  pages: number;
  /** Pages that standby should hold. */
  standbyTarget: number;
}

/** Pages that hold RAM, in the order in which they should give it up. */
export class SegmentedFifo {
  /** Pages of the region. */
  readonly pages: number;
  readonly #older: Uint32Array;
  readonly #newer: Uint32Array;
  readonly #segment: Uint8Array;
  readonly #ends: readonly { oldest: number; newest: number; count: number }[];
  readonly #none: number;
  #standbyTarget: number;

  /** Empty lists. @param options sizes. */
  constructor(options: SegmentedFifoOptions) {
    checkPages(options.pages);
    this.pages = options.pages;
    this.#none = options.pages;
    this.#older = new Uint32Array(options.pages).fill(this.#none);
    this.#newer = new Uint32Array(options.pages).fill(this.#none);
    this.#segment = new Uint8Array(options.pages);
    this.#ends = segments.map(() => ({ oldest: this.#none, newest: this.#none, count: 0 }));
    this.#standbyTarget = options.standbyTarget;
  }

  /** Pages in the active list. */
  get activeCount(): number {
    return this.#list(active).count;
  }

  /** Pages in standby. */
  get standbyCount(): number {
    return this.#list(standby).count;
  }

  /** Pages that standby should hold; changing it takes effect at the next insert. */
  get standbyTarget(): number {
    return this.#standbyTarget;
  }

  set standbyTarget(count: number) {
    this.#standbyTarget = Math.max(0, Math.floor(count));
  }

  /** Which list a page is in. */
  segmentOf(page: number): Segment {
    return segments[this.#segment[page] ?? absent] ?? "absent";
  }

  /**
   * A page that came into RAM: newest of the active list, wherever it was. Oldest active pages make standby full.
   */
  insert(page: number): void {
    if (!(page >= 0 && page < this.pages)) {
      throw new RangeError(`Cannot insert page ${page}: the region has ${this.pages} pages`);
    }
    this.remove(page);
    this.#append(page, active);
    this.#fillStandby();
  }

  /**
   * A touch that was seen. In the active list nothing happens, as in C, where nobody sees it.
   *
   * @returns the list in which it was found
   */
  touch(page: number): Segment {
    const segment = this.segmentOf(page);
    if (segment === "standby") {
      this.remove(page);
      this.#append(page, active);
      this.#fillStandby();
    }
    return segment;
  }

  /** Puts a page of the active list in standby, to see whether it is touched. @returns whether it was there */
  setAside(page: number): boolean {
    if (this.#segment[page] !== active) return false;
    this.remove(page);
    this.#append(page, standby);
    return true;
  }

  /** Takes a page out of its list; one that is in none stays so. */
  remove(page: number): void {
    const segment = this.#segment[page] ?? absent;
    if (segment === absent) return;
    const list = this.#list(segment);
    const older = this.#older[page] ?? this.#none;
    const newer = this.#newer[page] ?? this.#none;
    if (older === this.#none) list.oldest = newer;
    else this.#newer[older] = newer;
    if (newer === this.#none) list.newest = older;
    else this.#older[newer] = older;
    list.count--;
    this.#segment[page] = absent;
  }

  /**
   * Takes out the next pages to leave.
   *
   * @param into filled from the front
   * @returns how many there were, less than `into.length` only when no page is left
   */
  take(into: Uint32Array): number {
    for (let count = 0; count < into.length; count++) {
      const list = this.#list(this.standbyCount > 0 ? standby : active);
      if (list.count === 0) return count;
      into[count] = list.oldest;
      this.remove(list.oldest);
    }
    return into.length;
  }

  /** All pages of a list, oldest first. */
  *order(segment: "active" | "standby"): Generator<number, void, void> {
    let page = this.#list(segment === "active" ? active : standby).oldest;
    while (page !== this.#none) {
      yield page;
      page = this.#newer[page] ?? this.#none;
    }
  }

  #fillStandby(): void {
    while (this.standbyCount < this.#standbyTarget && this.activeCount > this.#standbyTarget) {
      const page = this.#list(active).oldest;
      this.remove(page);
      this.#append(page, standby);
    }
  }

  #append(page: number, segment: number): void {
    const list = this.#list(segment);
    this.#older[page] = list.newest;
    this.#newer[page] = this.#none;
    if (list.newest === this.#none) list.oldest = page;
    else this.#newer[list.newest] = page;
    list.newest = page;
    list.count++;
    this.#segment[page] = segment;
  }

  #list(segment: number): { oldest: number; newest: number; count: number } {
    const list = this.#ends[segment];
    if (list === undefined) throw new RangeError(`Cannot find list ${segment}: there are ${segments.length}`);
    return list;
  }
}
