/**
 * A simulator of a tiered region: made-up time, a made-up native library with latencies, programs of known habits,
 * and beside the real policy the textbook ones, so that a number of misses can be judged.
 *
 * Two levels:
 *
 * - `missesOf(replacement, trace, capacity)`: a cache of pages and a trace, nothing else. `opt` is Belady's: it
 *   throws away the page that is needed last, and nobody can do better.
 * - `simulate(…)`: a program touches pages on a fake clock; touches in RAM are free, others fault. `NativeModel`
 *   does what the C library does: states, a hard cap, a clock with standby, one read at a time with read-around,
 *   prefetches that arrive later, probes. The policy of `lib/tier` sees samples, trace and counters of this model
 *   and nothing else, 50 times a second of made-up time.
 *
 * Limits: one thread; writes are only counted; the device serves one request after the other. Same seed, same result.
 *
 * @module
 */
import {
  type Advice,
  type Knobs,
  type Move,
  placeRam,
  placeSsd,
  placeStandby,
  type PolicyCounters,
  policyDefaults,
  type PolicyOptions,
  type PolicySample,
  policyStart,
  readAroundRange,
  SegmentedFifo,
  step,
} from "../../lib/tier/mod.ts";

/** Whole numbers from 0 to below the bound. */
export type Random = (bound: number) => number;

/** Who leaves when a page must. */
export type Replacement = "opt" | "lru" | "clock" | "fifo" | "segmented";

/** Faults of a cache of `capacity` pages that starts empty. */
export function missesOf(replacement: Replacement, trace: Uint32Array, capacity: number): number {
  if (replacement === "opt") return optMisses(trace, capacity);
  if (replacement === "segmented") return segmentedMisses(trace, capacity);
  const resident = new Map<number, boolean>();
  let misses = 0;
  for (const page of trace) {
    if (resident.has(page)) {
      if (replacement === "lru") resident.delete(page);
      if (replacement !== "fifo") resident.set(page, true);
      continue;
    }
    misses++;
    while (resident.size >= capacity) {
      const [oldest, touched] = resident.entries().next().value ?? [0, false];
      resident.delete(oldest);
      if (replacement === "clock" && touched) resident.set(oldest, false);
    }
    resident.set(page, false);
  }
  return misses;
}

/**
 * Belady: a heap of resident pages by next use, furthest first; entries whose page was used since are stale and
 * skipped.
 */
function optMisses(trace: Uint32Array, capacity: number): number {
  const never = trace.length;
  const next = new Uint32Array(trace.length);
  const upcoming = new Map<number, number>();
  for (let at = trace.length - 1; at >= 0; at--) {
    const page = trace[at] ?? 0;
    next[at] = upcoming.get(page) ?? never + page;
    upcoming.set(page, at);
  }
  const nextUse = new Map<number, number>();
  const heap: { page: number; use: number }[] = [];
  const push = (entry: { page: number; use: number }) => {
    let at = heap.push(entry) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((heap[parent]?.use ?? 0) >= entry.use) break;
      heap[at] = heap[parent] ?? entry;
      at = parent;
    }
    heap[at] = entry;
  };
  const pop = (): { page: number; use: number } | undefined => {
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if ((heap[child + 1]?.use ?? -1) > (heap[child]?.use ?? 0)) child++;
      if ((heap[child]?.use ?? 0) <= last.use) break;
      heap[at] = heap[child] ?? last;
      at = child;
    }
    heap[at] = last;
    return top;
  };
  let misses = 0;
  for (let at = 0; at < trace.length; at++) {
    const page = trace[at] ?? 0;
    const use = next[at] ?? never;
    if (!nextUse.has(page)) {
      misses++;
      while (nextUse.size >= capacity) {
        const top = pop();
        if (top === undefined) break;
        if (nextUse.get(top.page) === top.use) nextUse.delete(top.page);
      }
    }
    nextUse.set(page, use);
    push({ page, use });
  }
  return misses;
}

function segmentedMisses(trace: Uint32Array, capacity: number): number {
  const pages = trace.reduce((most, page) => Math.max(most, page + 1), 1);
  const fifo = new SegmentedFifo({ pages, standbyTarget: Math.floor(capacity / 4) });
  const victim = new Uint32Array(1);
  let misses = 0;
  for (const page of trace) {
    if (fifo.touch(page) !== "absent") continue;
    misses++;
    if (fifo.activeCount + fifo.standbyCount >= capacity) fifo.take(victim);
    fifo.insert(page);
  }
  return misses;
}

/** What a program touches. */
export type Workload = "uniform" | "zipf" | "scan" | "shifting" | "zipf-and-scan";

/** The pages that a program touches, one after the other. */
export function traceOf(
  workload: Workload,
  options: { pages: number; touches: number; random: Random },
): Uint32Array {
  const { pages, touches, random } = options;
  const zipf = zipfOf(pages, random);
  const fill = (next: (at: number) => number) => Uint32Array.from({ length: touches }, (_, at) => next(at));
  if (workload === "uniform") return fill(() => random(pages));
  if (workload === "zipf") return fill(zipf);
  if (workload === "scan") return fill((at) => at % pages);
  if (workload === "shifting") {
    // Nine of ten touches go to a fifth of the pages; five times that fifth moves on.
    const window = Math.floor(pages / 5);
    const stay = Math.ceil(touches / 5);
    return fill((at) =>
      random(10) === 0 ? random(pages) : (Math.floor(at / stay) * window + random(window)) % pages
    );
  }
  // Zipf over the lower half, while every fourth touch is the next one of a scan through the upper half.
  const half = pages >> 1;
  const hot = zipfOf(half, random);
  return fill((at) => at % 4 === 3 ? half + (at >> 2) % half : hot());
}

/** Zipf 0.99 over a shuffle of the pages. */
function zipfOf(pages: number, random: Random): () => number {
  const cumulative = new Float64Array(pages);
  let sum = 0;
  for (let rank = 0; rank < pages; rank++) cumulative[rank] = sum += (rank + 1) ** -0.99;
  const shuffled = Uint32Array.from({ length: pages }, (_, page) => page);
  for (let at = pages - 1; at > 0; at--) {
    const other = random(at + 1);
    const page = shuffled[at] ?? 0;
    shuffled[at] = shuffled[other] ?? 0;
    shuffled[other] = page;
  }
  return () => {
    const point = random(2 ** 30) / 2 ** 30 * sum;
    let low = 0;
    let high = pages - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((cumulative[middle] ?? 0) > point) high = middle;
      else low = middle + 1;
    }
    return shuffled[low] ?? 0;
  };
}

/** Times of the model, in microseconds: as measured on a virtual machine with a virtio disk. */
export interface NativeTimes {
  /** A touch that finds its page, with what the program does in between. */
  touchUs: number;
  /** A fault that finds its page in standby. */
  rescueUs: number;
  /** What a fault costs beside the device. */
  faultUs: number;
  /** A read of one page. */
  readUs: number;
  /** Each further page of the same read. */
  furtherUs: number;
  /** A prefetch, where many reads are in flight; of neighbours the first. */
  prefetchUs: number;
}

/**
 * How much slower the model's world is than the measured one. A GiB has 64 times the pages of a simulated region,
 * and so a step of the policy sees a smaller share of it change; stretched time gives the simulated policy about
 * the same share.
 */
export const stretch = 32;

/** Times as measured, stretched. */
export const stretchedTimes: NativeTimes = {
  touchUs: 1 * stretch,
  rescueUs: 3 * stretch,
  faultUs: 5 * stretch,
  readUs: 33 * stretch,
  furtherUs: 2.5 * stretch,
  prefetchUs: 14 * stretch,
};

const traceMax = 8192;

/** What the model counts beside what a policy sees. */
export interface ModelCounters extends PolicyCounters {
  /** Pages read without a touch. */
  prefetched: number;
  /** Pages among them that were touched before they left. */
  prefetchUsed: number;
  /** Touches of pages in standby. */
  rescues: number;
}

/** The share of the limit that is in standby. */
const standbyShare = 0.05;

/** What the C library does, as far as a policy can see. */
export class NativeModel {
  /** As they stand. */
  readonly counters: ModelCounters;
  readonly #pages: number;
  readonly #times: NativeTimes;
  readonly #fifo: SegmentedFifo;
  readonly #seesTouches: boolean;
  readonly #touched: Uint8Array;
  readonly #residency: Uint8Array;
  /** When the read of a prefetched page that was not touched yet is over. */
  readonly #arrivals = new Map<number, number>();
  #trace: number[] = [];
  #limitPages: number;
  #readAround: Knobs["readAround"] = 1;
  #deviceFreeUs = 0;
  #nowUs = 0;

  /**
   * A region whose pages are all on SSD.
   *
   * @param options `seesTouches`: touches of mapped pages are sampled too, as with accessed bits, which C has not
   */
  constructor(options: { pages: number; limitPages: number; times: NativeTimes; seesTouches: boolean }) {
    const { pages, limitPages } = options;
    this.#pages = pages;
    this.#times = options.times;
    this.#seesTouches = options.seesTouches;
    this.#touched = new Uint8Array(pages);
    this.#residency = new Uint8Array(pages);
    this.#limitPages = limitPages;
    this.#fifo = new SegmentedFifo({ pages, standbyTarget: Math.floor(limitPages * standbyShare) });
    this.counters = {
      ramUsed: 0,
      ssdFree: pages,
      remoteFree: 0,
      faults: 0,
      refaults: 0,
      stallUs: 0,
      readP50Us: options.times.readUs / stretch,
      prefetched: 0,
      prefetchUsed: 0,
      rescues: 0,
    };
  }

  /** Made-up time since the region was opened, in microseconds. */
  get nowUs(): number {
    return this.#nowUs;
  }

  /** Pages that may be in RAM. */
  get limitPages(): number {
    return this.#limitPages;
  }

  /** The program touches a page: time passes. */
  touch(page: number): void {
    this.#nowUs += this.#times.touchUs;
    const arrivalUs = this.#arrivals.get(page);
    if (arrivalUs !== undefined) {
      this.#arrivals.delete(page);
      this.counters.prefetchUsed++;
      if (arrivalUs > this.#nowUs) this.#stall(arrivalUs - this.#nowUs);
    }
    const segment = this.#fifo.touch(page);
    if (segment === "standby") {
      this.#stall(this.#times.rescueUs);
      this.counters.rescues++;
    }
    if (segment === "absent") this.#fault(page);
    else if (segment === "standby" || this.#seesTouches) {
      this.#touched[page] = Math.min(255, (this.#touched[page] ?? 0) + 1);
    }
  }

  /** What a policy would see now; what was touched is forgotten. Valid until the next call. */
  sample(): PolicySample {
    for (let page = 0; page < this.#pages; page++) {
      const segment = this.#fifo.segmentOf(page);
      this.#residency[page] = segment === "absent"
        ? placeSsd
        : segment === "active"
        ? placeRam
        : placeStandby;
    }
    const touched = this.#touched.slice();
    this.#touched.fill(0);
    const trace = Uint32Array.from(this.#trace);
    this.#trace = [];
    return {
      nowMs: this.#nowUs / 1000,
      firstPage: 0,
      residency: this.#residency,
      touched,
      trace,
      counters: this.counters,
    };
  }

  /** Does what a policy asked for. */
  apply(wish: { moves: readonly Move[]; prefetch: Uint32Array; knobs: Knobs }): void {
    this.#limitPages = wish.knobs.limitPages;
    this.#readAround = wish.knobs.readAround;
    this.#fifo.standbyTarget = Math.floor(this.#limitPages * standbyShare);
    for (const { to, pages } of wish.moves) {
      for (const page of pages) {
        if (to === "ram") this.#prefetch(page);
        else if (to === "standby") this.#fifo.setAside(page);
        else this.#leave(page);
      }
    }
    for (const page of wish.prefetch) this.#prefetch(page);
    this.#keepCap();
  }

  #fault(page: number): void {
    this.counters.faults++;
    this.counters.refaults++;
    if (this.#trace.length < traceMax) this.#trace.push(page);
    const { firstPage, endPage } = readAroundRange({
      page,
      readAround: this.#readAround,
      pages: this.#pages,
    });
    let count = 0;
    for (let other = firstPage; other < endPage; other++) {
      if (this.#fifo.segmentOf(other) !== "absent") continue;
      this.#fifo.insert(other);
      this.counters.ramUsed++;
      count++;
    }
    // A fault waits for one prefetched read at most that is in the device's way.
    const beginUs = Math.max(this.#nowUs, Math.min(this.#deviceFreeUs, this.#nowUs + this.#times.prefetchUs));
    const endUs = beginUs + this.#times.readUs + (count - 1) * this.#times.furtherUs;
    this.#stall(endUs - this.#nowUs + this.#times.faultUs);
    this.#keepCap();
  }

  #prefetch(page: number): void {
    if (this.#fifo.segmentOf(page) !== "absent") return;
    this.#fifo.insert(page);
    this.counters.ramUsed++;
    this.counters.prefetched++;
    const isNext = this.#arrivals.has(page - 1) && this.#deviceFreeUs > this.#nowUs;
    this.#deviceFreeUs = Math.max(this.#deviceFreeUs, this.#nowUs) +
      (isNext ? this.#times.furtherUs : this.#times.prefetchUs);
    this.#arrivals.set(page, this.#deviceFreeUs);
  }

  #keepCap(): void {
    const victims = new Uint32Array(Math.max(0, this.counters.ramUsed - this.#limitPages));
    const count = this.#fifo.take(victims);
    for (const page of victims.subarray(0, count)) this.#arrivals.delete(page);
    this.counters.ramUsed -= count;
  }

  #leave(page: number): void {
    if (this.#fifo.segmentOf(page) === "absent") return;
    this.#fifo.remove(page);
    this.#arrivals.delete(page);
    this.counters.ramUsed--;
  }

  #stall(us: number): void {
    this.#nowUs += us;
    this.counters.stallUs += us;
  }
}

/** A run of a program over the model. */
export interface Simulation {
  /** What it touches. */
  trace: Uint32Array;
  /** Pages of the region. */
  pages: number;
  /** The hard cap. */
  limitPages: number;
  /** The policy's rules, or null for the model alone. */
  policy: PolicyOptions | null;
  /** Whether touches of mapped pages are sampled. */
  seesTouches: boolean;
  /** What the program says beforehand. */
  advice?: readonly { firstPage: number; endPage: number; advice: Advice }[];
  /** Made-up time between two steps of the policy, in milliseconds. */
  stepMs?: number;
}

/** What came of it. */
export interface SimulationResult extends ModelCounters {
  /** Made-up time. */
  seconds: number;
  /** Steps of the policy. */
  steps: number;
  /** The limit after each step. */
  limits: number[];
}

/** The policy's rules for a region of the model. */
export function simulatedPolicy(
  region: { pages: number; limitPages: number },
  changes: Partial<PolicyOptions> = {},
): PolicyOptions {
  const defaults = policyDefaults({ ...region, nowMs: 0 });
  return {
    ...defaults,
    movesPerSecond: defaults.movesPerSecond / stretch,
    writesPerSecond: defaults.writesPerSecond / stretch,
    probesPerSecond: defaults.probesPerSecond / stretch,
    ...changes,
  };
}

/** Lets a program run to its end. */
export function simulate(simulation: Simulation): SimulationResult {
  const { trace, pages, limitPages, policy, seesTouches, stepMs = 20 } = simulation;
  const native = new NativeModel({ pages, limitPages, times: stretchedTimes, seesTouches });
  let state = policy === null ? null : policyStart(policy, native.counters);
  for (const { firstPage, endPage, advice } of simulation.advice ?? []) {
    state?.advice.set({ firstPage, endPage }, advice);
  }
  const limits: number[] = [];
  let stepAtUs = stepMs * 1000;
  for (const page of trace) {
    native.touch(page);
    if (native.nowUs < stepAtUs) continue;
    stepAtUs = native.nowUs + stepMs * 1000;
    if (state === null) continue;
    const wish = step(state, native.sample());
    state = wish.state;
    native.apply(wish);
    limits.push(native.limitPages);
  }
  return { ...native.counters, seconds: native.nowUs / 1e6, steps: limits.length, limits };
}
