/**
 * One region's policy, tick by tick: reads the control block and a window of the region, asks `lib/tier`, and carries its wishes out.
 *
 * Each tick looks at one window of the region, so that a large one costs no more than a small one. While nothing faults it looks
 * only now and then. Pages are put in standby, to see whether they are touched, only where RAM is to be given back: C
 * chooses by a clock of its own, and asking costs the program faults.
 *
 * Of a region with several stores it also makes copies that are missing, and moves pages on to the next store: there `lib/tier`'s
 * "ssd" is the store that is filled first and its "remote" the other one, whichever is which. These two wait for the stores, a few
 * hundred pages at a time.
 *
 * What it does not do: keep the cap, which C does alone; anything else that waits for the device.
 *
 * @module
 */
import type { NativeRegion } from "../../ffi/mod.ts";
import {
  type Advice,
  limitDefaults,
  type Move,
  pageBusy,
  pageDirty,
  pagePoisoned,
  placeNone,
  placeRam,
  placeRemote,
  placeSsd,
  placeStandby,
  policyDefaults,
  type PolicySample,
  policyStart,
  type PolicyState,
  step,
} from "../tier/mod.ts";
import { pageSize, type PolicyPlan } from "./options.ts";

/** Pages in a window: a few milliseconds of work. */
const windowPages = 32_768;

/** Ticks between two looks while nothing faults. */
const quietTicks = 10;

/** Residency of `lib/tier` for each page state of drover.h. */
const residencyOf = Uint8Array.of(
  placeNone,
  placeSsd,
  placeRam | pageBusy,
  placeRam,
  placeRam | pageDirty,
  placeStandby,
  placeStandby | pageDirty,
  placeStandby | pageBusy,
  placeNone | pagePoisoned,
);
const stateMask = 0x0f;

/** Kinds of the trace that count here: DROVER_TRACE_… of drover.h. */
const traceRead = 1;
const traceWrite = 2;
const traceFill = 3;
const tracePromote = 4;

/** After so long without a touch that was seen, a page is asked. */
const probeMs = 30_000;

/** Never, in milliseconds: more than any clock here says, and still a number of ticks. */
const neverMs = 4e10;

/** Pages that sink to the next store in one tick. */
const sinkPagesMax = 256;

/** What is behind the first store of a region. */
interface Ladder {
  /** The file's number; -1 for none. */
  file: number;
  /** Donors are filled first. */
  isRemoteFirst: boolean;
}

/** The order of the stores of a region; null for one store. */
function ladderOf(region: NativeRegion): Ladder | null {
  const stores = region.stores();
  const file = stores.findIndex(({ kind }) => kind === "file");
  return stores.length < 2 ? null : { file, isRemoteFirst: file !== 0 };
}

/** Drives one region. */
export class PolicyDriver {
  readonly #region: NativeRegion;
  readonly #plan: PolicyPlan;
  readonly #pages: number;
  readonly #states: Uint8Array<ArrayBuffer>;
  readonly #residency: Uint8Array<ArrayBuffer>;
  readonly #touched: Uint8Array<ArrayBuffer>;
  #state: PolicyState;
  readonly #givesBack: boolean;
  readonly #ladder: Ladder | null;
  readonly #places: Uint8Array<ArrayBuffer>;
  #sunk = 0;
  #firstPage = 0;
  #traceNext: number;
  #faults = -1;
  #quiet = 0;

  /** @param region whose control block is read and written; @param plan what is allowed; @param nowMs now */
  constructor(region: NativeRegion, plan: PolicyPlan, nowMs: number) {
    this.#region = region;
    this.#plan = plan;
    this.#pages = region.size / pageSize;
    const size = Math.min(windowPages, this.#pages);
    this.#states = new Uint8Array(size);
    this.#residency = new Uint8Array(size);
    this.#touched = new Uint8Array(size);
    this.#ladder = ladderOf(region);
    this.#places = new Uint8Array(this.#ladder === null ? 0 : size);
    const limitPages = region.control.knobs().limitPages;
    const limitMax = Math.min(limitPages, this.#pages);
    const limitMin = Math.min(plan.limitMinPages, limitMax);
    this.#givesBack = limitMin < limitMax || Number.isFinite(plan.idleMs);
    this.#state = policyStart({
      ...policyDefaults({ pages: this.#pages, limitPages: limitMax, nowMs }),
      t1Ms: Number.isFinite(plan.idleMs) ? plan.idleMs : neverMs,
      t2Ms: neverMs,
      sinkMs: (this.#ladder?.file ?? -1) >= 0 ? Math.min(plan.nextMs ?? neverMs, neverMs) : neverMs,
      probeMs: this.#givesBack ? Math.min(probeMs, plan.idleMs / 2) : Infinity,
      // C evicts while a fault waits for its read, which is cheaper than before it.
      headroomShareMax: 0,
      limit: limitDefaults({ limitMin, limitMax }),
    }, this.#counters());
    this.#traceNext = region.control.trace(Number.MAX_SAFE_INTEGER).next;
  }

  /** Takes over what the program said about a range. */
  advise(range: { firstPage: number; endPage: number }, advice: Advice): void {
    this.#state.advice.set(range, advice);
  }

  /** One tick. @returns whether it looked. */
  tick(nowMs: number): boolean {
    const { faults } = this.#region.stats();
    if (faults === this.#faults && ++this.#quiet % quietTicks !== 0) return false;
    this.#faults = faults;
    const span = {
      first: this.#firstPage,
      count: Math.min(this.#states.length, this.#pages - this.#firstPage),
    };
    this.#firstPage = span.first + span.count === this.#pages ? 0 : span.first + span.count;
    this.#region.sample(span, this.#states);
    const { moves, prefetch, knobs, state } = step(this.#state, this.#sampleOf(span, nowMs));
    this.#state = state;
    this.#sunk = 0;
    for (const move of moves) this.#carryOut(move);
    if (this.#ladder !== null) this.#region.mendNow(span);
    if (prefetch.length > 0) this.#region.prefetch(BigUint64Array.from(prefetch, BigInt));
    const { limitPages, readAround, evictBatch, spinUs } = knobs;
    const fixed = this.#plan.limitMinPages >= this.#state.options.limit.limitMax;
    this.#region.control.setKnobs({ readAround, evictBatch, spinUs, ...(fixed ? {} : { limitPages }) });
    return true;
  }

  #sampleOf(span: { first: number; count: number }, nowMs: number): PolicySample {
    for (let at = 0; at < span.count; at++) {
      this.#residency[at] = residencyOf[(this.#states[at] ?? 0) & stateMask] ?? pagePoisoned;
    }
    if (this.#ladder !== null) this.#markSunk(span, this.#ladder);
    return {
      nowMs,
      firstPage: span.first,
      residency: this.#residency.subarray(0, span.count),
      touched: this.#touched.subarray(0, span.count),
      trace: this.#trace(nowMs),
      counters: this.#counters(),
    };
  }

  /** Tells pages that have gone on to the next store from those that are at the first. */
  #markSunk(span: { first: number; count: number }, { file, isRemoteFirst }: Ladder): void {
    this.#region.places(span, this.#places);
    const donors = file < 0 ? 0xff : 0xff & ~(1 << file);
    for (let at = 0; at < span.count; at++) {
      if (this.#residency[at] !== placeSsd) continue;
      const isAtDonor = ((this.#places[at] ?? 0) & donors) !== 0;
      if (isAtDonor !== isRemoteFirst) this.#residency[at] = placeRemote;
    }
  }

  /** The store that pages sink to: the file, or the donor with most room; -1 for none. */
  #below({ file, isRemoteFirst }: Ladder): number {
    if (isRemoteFirst) return file;
    const stores = this.#region.stores();
    const room = stores.map(({ state, slots, used }, store) =>
      state === "up" && store !== file ? slots - used : 0
    );
    const most = Math.max(...room);
    return most > 0 ? room.indexOf(most) : -1;
  }

  /** Free slots at the store that pages sink to. */
  #roomBelow(): number {
    if (this.#ladder === null) return 0;
    const below = this.#below(this.#ladder);
    // In the file every page has its place.
    if (below === this.#ladder.file) return this.#pages;
    const store = this.#region.stores()[below];
    return store === undefined ? 0 : store.slots - store.used;
  }

  /** Pages that faults have read since the last look; touches that read nothing go straight into heat. */
  #trace(nowMs: number): Uint32Array {
    const { next, pages, kinds } = this.#region.control.trace(this.#traceNext);
    this.#traceNext = next;
    const isRead = (kind: number | undefined): boolean => kind === traceRead || kind === traceWrite;
    this.#state.heat.touchPages(
      pages.filter((_, at) => kinds[at] === tracePromote || kinds[at] === traceFill),
      nowMs,
    );
    return pages.filter((_, at) => isRead(kinds[at]));
  }

  #counters(): PolicySample["counters"] {
    const stats = this.#region.stats();
    return {
      ramUsed: stats.residentPages,
      // Every page has its own place in the file.
      ssdFree: this.#pages,
      remoteFree: this.#roomBelow(),
      faults: stats.fetches,
      refaults: stats.refaults,
      stallUs: stats.stallNanos / 1000,
      readP50Us: this.#readP50Us(),
    };
  }

  #readP50Us(): number {
    const { counts, nanosOf } = this.#region.control.histogram("device");
    const total = counts.reduce((sum, count) => sum + count, 0);
    let seen = 0;
    for (let bucket = 0; bucket < counts.length; bucket++) {
      seen += counts[bucket] ?? 0;
      if (total > 0 && seen * 2 >= total) return nanosOf(bucket) / 1000;
    }
    return 0;
  }

  #sink(move: Move, ladder: Ladder): void {
    const pages = BigUint64Array.from(move.pages.subarray(0, sinkPagesMax - this.#sunk), BigInt);
    const below = this.#below(ladder);
    this.#sunk += pages.length;
    if (below >= 0 && pages.length > 0) this.#region.moveNow(pages, below);
  }

  #carryOut(move: Move): void {
    if (move.to === "remote" && move.from === "ssd") {
      if (this.#ladder !== null) this.#sink(move, this.#ladder);
      return;
    }
    const pages = BigUint64Array.from(move.pages, BigInt);
    if (move.to === "ram") this.#region.prefetch(pages);
    else this.#region.evict(pages, { standby: move.to === "standby" });
  }
}
