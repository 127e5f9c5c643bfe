/**
 * Which pages to read before they are touched, found in the history of faults.
 *
 * Three ideas, in order of how much they need to know:
 *
 * - **Read-around**: pages are read in aligned blocks of 1, 4 or 16, because four cost the device about as much as
 *   one. `ReadAroundTuner` measures whether neighbours of faulting pages fault too, and picks the size that pays.
 * - **Stride by majority** (as Leap does): in a window over the differences of consecutive faults, a Boyer-Moore
 *   vote finds the one that is more than half of them; the window starts small and doubles until there is one.
 *   Noise of almost half of the faults does no harm, and a change of direction is seen within a small window.
 * - **Streams**: several sequential readers at once have no majority together. A fault near the last one of a
 *   stream belongs to that stream; only what is near none takes part in the vote over the whole region, where large
 *   strides show.
 *
 * Depth: a stream that came to the end of what was prefetched for it has used it, and gets twice as much next time;
 * a stream that left its trend gets half. Pages between its last fault and the end count as used or wasted
 * accordingly; the counters `issued` and `used` tell accuracy. The first depth is small and follows four confirmed
 * differences at least, so random access stays quiet.
 *
 * Invariants: only pages inside the region are suggested, each stream suggests a page once as long as it follows
 * its trend, at most `into.length` pages per call; same trace, same suggestions. Memory is fixed at construction.
 *
 * @module
 */
import { checkPages } from "./pages.ts";

/** How a prefetcher looks at faults. */
export interface PrefetchOptions {
  /** Pages of the region. */
  pages: number;
  /** Differences that take part in a vote at most. */
  window: number;
  /** The most pages ahead of a fault. */
  depthMax: number;
  /** Streams that can be told apart. */
  streams: number;
  /** A fault at most so many pages from the end of a stream belongs to it. */
  nearPages: number;
}

/** Sizes that fit a region of this many pages. */
export function prefetchDefaults(pages: number): PrefetchOptions {
  return { pages, window: 32, depthMax: 256, streams: 8, nearPages: 64 };
}

/** The smallest window in which there is a vote. */
const windowMin = 4;
const depthFirst = 4;

/**
 * The value that is more than half of the newest `count` values of a ring, or 0 when there is none.
 *
 * @param ring values, the newest at `head - 1`
 */
export function majority(ring: Int32Array, head: number, count: number): number {
  const at = (back: number) => ring[(head - 1 - back + 2 * ring.length) % ring.length] ?? 0;
  let candidate = 0;
  let votes = 0;
  for (let back = 0; back < count; back++) {
    if (votes === 0) candidate = at(back);
    votes += at(back) === candidate ? 1 : -1;
  }
  let seen = 0;
  for (let back = 0; back < count; back++) if (at(back) === candidate) seen++;
  return 2 * seen > count ? candidate : 0;
}

/** One reader of memory, as far as its faults tell. */
class Stream {
  readonly #options: PrefetchOptions;
  readonly #deltas: Int32Array;
  #head = 0;
  #count = 0;
  #trend = 0;
  #depth = depthFirst;
  #due = false;
  /** The last page that was suggested along the trend, or the last fault. */
  frontier = -1;
  /** The last page that faulted. */
  last = -1;
  /** Place in the trace of the last fault, to find the stream that has been still for longest. */
  seen = 0;
  issued = 0;
  used = 0;

  constructor(options: PrefetchOptions) {
    this.#options = options;
    this.#deltas = new Int32Array(options.window);
  }

  get trend(): number {
    return this.#trend;
  }

  reset(page: number): void {
    this.#head = this.#count = this.#trend = 0;
    this.#depth = depthFirst;
    this.#due = false;
    this.frontier = this.last = page;
  }

  /** Whether the page lies where this stream is expected next. */
  isNear(page: number): boolean {
    if (this.last < 0) return false;
    const reach = this.#options.nearPages + Math.abs(this.#trend);
    const low = Math.min(this.last, this.frontier) - reach;
    const high = Math.max(this.last, this.frontier) + reach;
    return page >= low && page <= high;
  }

  fault(page: number): void {
    if (this.last < 0) return this.reset(page);
    if (page === this.last) return;
    const ahead = this.#stepsAhead(page);
    const suggested = this.#trend === 0 ? 0 : (this.frontier - this.last) / this.#trend;
    if (ahead > 0 && ahead <= suggested + 2) {
      // What lies between was prefetched in time and used without a fault.
      this.used += Math.min(ahead, suggested);
      this.#push(this.#trend);
      if (ahead > suggested) {
        if (suggested > 0) this.#depth = Math.min(this.#options.depthMax, this.#depth * 2);
        this.frontier = page;
      }
    } else {
      this.#push(page - this.last);
      const trend = this.#vote();
      if (suggested > 0 || trend !== this.#trend) this.#depth = Math.max(1, this.#depth >> 1);
      if (trend !== this.#trend) this.#depth = Math.max(this.#depth, depthFirst);
      this.#trend = trend;
      this.frontier = page;
    }
    if (this.#trend === 0) this.#trend = this.#vote();
    this.last = page;
    this.#due = this.#trend !== 0;
  }

  suggest(into: Uint32Array, filled: number): number {
    if (!this.#due) return filled;
    this.#due = false;
    const end = this.last + this.#trend * this.#depth;
    for (let page = this.frontier + this.#trend; filled < into.length; page += this.#trend) {
      if (this.#trend > 0 ? page > end : page < end) break;
      if (page < 0 || page >= this.#options.pages) break;
      into[filled++] = page;
      this.frontier = page;
      this.issued++;
    }
    return filled;
  }

  /** How many steps of the trend lead from the last fault to this page; 0 when none do. */
  #stepsAhead(page: number): number {
    if (this.#trend === 0) return 0;
    const steps = (page - this.last) / this.#trend;
    return Number.isInteger(steps) && steps > 0 ? steps : 0;
  }

  #push(delta: number): void {
    this.#deltas[this.#head] = delta;
    this.#head = (this.#head + 1) % this.#deltas.length;
    this.#count = Math.min(this.#deltas.length, this.#count + 1);
  }

  #vote(): number {
    for (let size = windowMin; size <= this.#count; size *= 2) {
      const winner = majority(this.#deltas, this.#head, size);
      if (winner !== 0) return winner;
    }
    return 0;
  }
}

/** Suggests pages from faults. */
export class Prefetcher {
  readonly #options: PrefetchOptions;
  readonly #streams: readonly Stream[];
  readonly #region: Stream;
  #time = 0;

  /** A prefetcher that has seen nothing. @param options how it looks at faults. */
  constructor(options: PrefetchOptions) {
    checkPages(options.pages);
    if (
      !(options.window >= windowMin && options.streams >= 1 && options.depthMax >= 1 &&
        options.nearPages >= 1)
    ) {
      throw new RangeError(
        `Cannot prefetch with a window of ${options.window}, ${options.streams} streams, depth ` +
          `${options.depthMax}, near ${options.nearPages}: expected a window of at least ${windowMin} and at least one of the others`,
      );
    }
    this.#options = options;
    this.#streams = Array.from({ length: options.streams }, () => new Stream(options));
    this.#region = new Stream(options);
  }

  /** Pages suggested so far. */
  get issued(): number {
    return this.#all().reduce((sum, stream) => sum + stream.issued, 0);
  }

  /** Pages among them that are known to have been used. */
  get used(): number {
    return this.#all().reduce((sum, stream) => sum + stream.used, 0);
  }

  /** Streams that have a trend now, and their strides in pages. */
  get strides(): number[] {
    return this.#all().map((stream) => stream.trend).filter((trend) => trend !== 0);
  }

  /** Takes faults in their order; pages that the region has not are skipped. */
  observe(trace: Uint32Array): void {
    for (let at = 0; at < trace.length; at++) {
      const page = trace[at] ?? this.#options.pages;
      if (page < this.#options.pages) this.#fault(page);
    }
  }

  /**
   * The pages to read now.
   *
   * @param into filled from the front
   * @returns how many
   */
  suggest(into: Uint32Array): number {
    let filled = 0;
    for (const stream of this.#all()) filled = stream.suggest(into, filled);
    return filled;
  }

  #fault(page: number): void {
    this.#time++;
    let stream = this.#streams.find((stream) => stream.isNear(page));
    if (stream === undefined) {
      this.#region.fault(page);
      stream = this.#streams.reduce((old, stream) => stream.seen < old.seen ? stream : old);
      stream.reset(page);
    } else stream.fault(page);
    stream.seen = this.#time;
  }

  #all(): readonly Stream[] {
    return [...this.#streams, this.#region];
  }
}

/** Pages that are read together. */
export type ReadAround = 1 | 4 | 16;

/** What reading a block costs, in reads of one page. Measured: 46, 54 and 89 µs. */
const readCosts: Readonly<Record<ReadAround, number>> = { 1: 1, 4: 1.15, 16: 1.9 };
/** A block must be used to this share, or it only pushes other pages out. */
const usedShareMin = 0.5;

/** The aligned block around a page, cut at the end of the region. */
export function readAroundRange(
  options: { page: number; readAround: ReadAround; pages: number },
): { firstPage: number; endPage: number } {
  const { page, readAround, pages } = options;
  const firstPage = page - page % readAround;
  return { firstPage, endPage: Math.min(pages, firstPage + readAround) };
}

/** How often read-around is looked at. */
export interface ReadAroundOptions {
  /** Faults in one measurement. */
  probeFaults: number;
  /**
   * Faults for which a result of more than one page is kept. With read-around neighbours do not fault, so only 1
   * measures.
   */
  holdFaults: number;
}

/** Picks how many pages to read together. */
export class ReadAroundTuner {
  readonly #options: ReadAroundOptions;
  readonly #seen: Uint32Array;
  #filled = 0;
  #held = 0;
  #chosen: ReadAround = 1;

  /** Begins with a measurement. @param options how often. */
  constructor(options: ReadAroundOptions) {
    this.#options = options;
    this.#seen = new Uint32Array(options.probeFaults);
  }

  /** What to use now: 1 while measuring. */
  get readAround(): ReadAround {
    return this.#held > 0 ? this.#chosen : 1;
  }

  /** Takes faults in their order. @returns what to use from now on. */
  observe(trace: Uint32Array): ReadAround {
    for (let at = 0; at < trace.length; at++) {
      if (this.#held > 0) {
        this.#held--;
        continue;
      }
      this.#seen[this.#filled++] = trace[at] ?? 0;
      if (this.#filled < this.#seen.length) continue;
      this.#filled = 0;
      this.#chosen = chooseReadAround(this.#seen);
      this.#held = this.#options.holdFaults;
    }
    return this.readAround;
  }
}

/**
 * The block size that would have read these faults at the lowest cost, among those of which at least half would
 * have been used.
 *
 * @param trace faults while single pages were read
 */
export function chooseReadAround(trace: Uint32Array): ReadAround {
  const pages = new Set(trace);
  let best: ReadAround = 1;
  let bestCost = pages.size;
  for (const size of [4, 16] as const) {
    const blocks = new Set<number>();
    for (const page of pages) blocks.add(Math.floor(page / size));
    const cost = blocks.size * readCosts[size];
    if (pages.size >= blocks.size * size * usedShareMin && cost < bestCost) {
      best = size;
      bestCost = cost;
    }
  }
  return best;
}
