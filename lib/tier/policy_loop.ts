/**
 * One turn of the policy: a sample goes in; moves, pages to prefetch and settings for the C library come out.
 *
 * ```text
 *             touched, fault trace                    residency          counters
 *                     │                                   │                 │
 *   advice ──> heat ──┴──> heat, idle ──┐                 │        limit controller
 *                                       ├──> plan ──> moves      <── RAM target, budget
 *   fault trace ──> prefetcher, read-around tuner ──> prefetch, knobs
 * ```
 *
 * It is called 10 to 100 times a second by a Worker that knows a clock, a control block and nothing else; it does
 * not mind being called late, at uneven times, or with a window of the region instead of all of it. Between two
 * calls C goes on by its own simple rules, so a step that never comes costs quality and nothing else.
 *
 * Invariants: same samples, same answers; no more moves, writes and probes than the options allow in the time and
 * faults that passed (at most one second is made up for); `limitPages` stays within the given bounds; what is
 * returned is valid until the next call, since arrays are used again.
 *
 * @module
 */
import { AdviceMap } from "./advice.ts";
import { HeatMap, ticksFromMs } from "./heat.ts";
import {
  limitDefaults,
  type LimitOptions,
  limitStart,
  type LimitState,
  limitStep,
} from "./limit_controller.ts";
import { type Move, pageDirty, placeMask, placeRemote, placeSsd } from "./pages.ts";
import { plan, PlanScratch } from "./policy.ts";
import {
  prefetchDefaults,
  Prefetcher,
  type ReadAround,
  readAroundRange,
  ReadAroundTuner,
} from "./prefetch.ts";

/** The rules of one region's policy. */
export interface PolicyOptions {
  /** Pages of the region. */
  pages: number;
  /** Now, in milliseconds. */
  nowMs: number;
  /** Idle time after which a page may go to SSD. */
  t1Ms: number;
  /** Idle time after which a page may go to a remote host. */
  t2Ms: number;
  /** The same for pages that have left RAM already; `t2Ms` unless given, and it may be below `t1Ms`. */
  sinkMs?: number;
  /** After this time a touch counts half. */
  heatHalfLifeMs: number;
  /** Heat from which a page on a lower tier is read before it is asked for; 256 for never. */
  promoteHeat: number;
  /** Pages that may move in one second. */
  movesPerSecond: number;
  /** Pages among them whose move costs a write. */
  writesPerSecond: number;
  /** Pages in one `Move` at most. */
  batchPages: number;
  /** Pages to prefetch in one step at most. */
  prefetchPages: number;
  /** The share of the limit that is kept free for faults at most. */
  headroomShareMax: number;
  /**
   * Idle time after which a page is put in standby to see whether it is touched; Infinity where `touched` shows every
   * touch. While pages are read so fast that RAM turns over sooner, half the time of a turn-over counts instead.
   */
  probeMs: number;
  /**
   * Pages that are put there in one second, or for each fault with a read, whichever is more. Each may cost the
   * program a fault without a read, and costs an unmapping. In the simulator 3 for each fault finds victims as good
   * as an LRU's, and costs uniform access 3 %.
   */
  probesPerSecond: number;
  /** See `probesPerSecond`. */
  probesPerFault: number;
  /** The rules of the limit; with `limitMin` equal to `limitMax` it stays where it is. */
  limit: LimitOptions;
}

/** Counters as they stand, all since the region was opened; sizes in pages. */
export interface PolicyCounters {
  /** Pages that hold RAM, standby and write-back included. */
  ramUsed: number;
  /** Free slots on SSD. */
  ssdFree: number;
  /** Free slots on remote hosts. */
  remoteFree: number;
  /** Faults that read a page. */
  faults: number;
  /** Faults among them on pages that had been evicted. */
  refaults: number;
  /** Time that threads stood still, summed over all, in microseconds. */
  stallUs: number;
  /** Median time of a read, in microseconds; 0 when it is not known. */
  readP50Us: number;
}

/**
 * What a step looks at. Of the three arrays the first two are of the same range; the third is in the order of
 * faults.
 */
export interface PolicySample {
  /** Now, in milliseconds. */
  nowMs: number;
  /** Page that element 0 of the next two stands for. */
  firstPage: number;
  /** Where each page is, as in `pages.ts`. */
  residency: Uint8Array;
  /**
   * How often each page was seen touched since the last sample: rescues from standby, first writes; not the faults
   * of the trace.
   */
  touched: Uint8Array;
  /** Pages whose fault read them since the last step; those that were lost by the ring are left out. */
  trace: Uint32Array;
  /** Counters as they stand. */
  counters: PolicyCounters;
}

/** Settings for the C library. */
export interface Knobs {
  /** Pages that may hold RAM. */
  limitPages: number;
  /** Pages that a fault evicts at once. */
  evictBatch: number;
  /** Pages that a fault reads. */
  readAround: ReadAround;
  /** How long a fault spins for its read before it blocks, in microseconds; 0 to block at once. */
  spinUs: number;
}

/** What a policy remembers between two steps. Made by `policyStart`; a step uses it up and returns the next. */
export interface PolicyState {
  /** The rules. */
  readonly options: PolicyOptions;
  /** Heat and idle times. */
  readonly heat: HeatMap;
  /** What the program said; may be changed between two steps. */
  readonly advice: AdviceMap;
  /** Streams of faults. */
  readonly prefetcher: Prefetcher;
  /** Locality of faults. */
  readonly readAround: ReadAroundTuner;
  /** The limit. */
  readonly limit: LimitState;
  /** When the last step was. */
  readonly nowMs: number;
  /** Faults at the last step. */
  readonly faults: number;
  /** Faults in one millisecond, smoothed. */
  readonly faultsPerMs: number;
  /** Moves not yet used. */
  readonly moves: number;
  /** Writes not yet used. */
  readonly writes: number;
  /** Probes not yet used. */
  readonly probes: number;
  /** Memory to use again. */
  readonly buffers: PolicyBuffers;
}

/** Memory that steps use again. */
export interface PolicyBuffers {
  /** Of the sample's range. */
  heat: Uint8Array;
  /** Of the sample's range. */
  idle: Uint32Array;
  /** Pages that the prefetcher names. */
  suggestions: Uint32Array;
  /** Pages to prefetch. */
  prefetch: Uint32Array;
  /** Of the plan. */
  scratch: PlanScratch;
}

/** What a step decided. */
export interface PolicyStep {
  /** For the next step. */
  state: PolicyState;
  /** Batches to move, in this order. */
  moves: Move[];
  /** Pages to read now, likeliest first; pages known to be in RAM are left out. */
  prefetch: Uint32Array;
  /** Settings to write down. */
  knobs: Knobs;
}

const evictBatchMin = 16;
const evictBatchMax = 64;
const spinUsMax = 100;
/** Longer reads than this are better slept through. */
const spinnableUsMax = 150;
const fetchUsAssumed = 40;
/** Of the faults in one step, how many the headroom of the next should hold. */
const headroomSteps = 1.25;
/** The share of the limit that one step may prefetch: what it pushes out must not be what it brings in. */
const prefetchShareMax = 0.125;

/** Rules that fit a region of this size and cap, with a limit that stays at the cap. */
export function policyDefaults(
  region: { pages: number; limitPages: number; nowMs: number },
): PolicyOptions {
  const { pages, limitPages, nowMs } = region;
  return {
    pages,
    nowMs,
    t1Ms: 60_000,
    t2Ms: 600_000,
    heatHalfLifeMs: 2000,
    promoteHeat: 128,
    movesPerSecond: 50_000,
    writesPerSecond: 20_000,
    batchPages: 256,
    prefetchPages: 1024,
    headroomShareMax: 0.02,
    probeMs: 30_000,
    probesPerSecond: 2000,
    probesPerFault: 0.5,
    limit: limitDefaults({ limitMin: limitPages, limitMax: limitPages }),
  };
}

/** The state before the first step. @param counters as they stand now */
export function policyStart(options: PolicyOptions, counters: PolicyCounters): PolicyState {
  const { pages, nowMs } = options;
  return {
    options,
    heat: new HeatMap({ pages, halfLifeMs: options.heatHalfLifeMs, nowMs }),
    advice: new AdviceMap(pages),
    prefetcher: new Prefetcher(prefetchDefaults(pages)),
    readAround: new ReadAroundTuner({ probeFaults: 256, holdFaults: 1024 }),
    limit: limitStart(options.limit, { nowMs, ...counters }),
    nowMs,
    faults: counters.faults,
    faultsPerMs: 0,
    moves: 0,
    writes: 0,
    probes: 0,
    buffers: {
      heat: new Uint8Array(0),
      idle: new Uint32Array(0),
      suggestions: new Uint32Array(options.prefetchPages),
      prefetch: new Uint32Array(options.prefetchPages),
      scratch: new PlanScratch(),
    },
  };
}

/**
 * One turn.
 *
 * @param state from `policyStart` or the step before
 * @param sample what is known now
 */
export function step(state: PolicyState, sample: PolicySample): PolicyStep {
  const { options, buffers } = state;
  const { counters, firstPage, residency, trace } = sample;
  const nowMs = Math.max(state.nowMs, sample.nowMs);
  const seconds = Math.min(1, (nowMs - state.nowMs) / 1000);

  state.heat.touchSampled(sample.touched, { firstPage, nowMs });
  state.heat.touchPages(trace, nowMs);
  const { heat, idle } = windowOf(buffers, residency.length);
  state.heat.read({ firstPage, nowMs, heat, idle });
  const t1 = ticksFromMs(options.t1Ms);
  state.advice.apply({ firstPage, heat, idle, t1 });

  const limit = limitStep(state.limit, { nowMs, ...counters }, options.limit);
  const faults = Math.max(0, counters.faults - state.faults);
  const headroom = Math.min(
    Math.ceil(faults * headroomSteps),
    Math.floor(limit.limit * options.headroomShareMax),
  );
  const allowed = {
    moves: Math.min(options.movesPerSecond, state.moves + options.movesPerSecond * seconds),
    writes: Math.min(options.writesPerSecond, state.writes + options.writesPerSecond * seconds),
    probes: Math.max(
      Math.min(options.probesPerSecond, state.probes + options.probesPerSecond * seconds),
      faults * options.probesPerFault,
    ),
  };
  const keep = 2 ** (-(nowMs - state.nowMs) / options.heatHalfLifeMs);
  const faultsPerMs = nowMs === state.nowMs
    ? state.faultsPerMs
    : state.faultsPerMs * keep + faults / (nowMs - state.nowMs) * (1 - keep);
  const probeMs = Math.min(options.probeMs, limit.limit / faultsPerMs / 2);
  const moves = plan({
    firstPage,
    residency,
    heat,
    idle,
    probe: options.probeMs === Infinity ? Infinity : ticksFromMs(probeMs),
    t1,
    t2: ticksFromMs(options.t2Ms),
    ...(options.sinkMs === undefined ? {} : { sink: ticksFromMs(options.sinkMs) }),
    budget: allowed,
    tiers: {
      ramUsed: counters.ramUsed,
      ramTarget: limit.limit - headroom,
      ssdFree: counters.ssdFree,
      remoteFree: counters.remoteFree,
    },
    promoteHeat: options.promoteHeat,
    batchPages: options.batchPages,
  }, buffers.scratch);
  const spent = spentOn(moves, sample);

  state.prefetcher.observe(trace);
  const around = state.readAround.readAround;
  const prefetch = prefetchOf(state, sample, around, Math.ceil(limit.limit * prefetchShareMax));
  // What is prefetched would have faulted: without it a reader that is followed would look like one that is not
  // there.
  state.readAround.observe(trace);
  const readAround = state.readAround.observe(prefetch);
  return {
    state: {
      ...state,
      limit,
      nowMs,
      faults: counters.faults,
      faultsPerMs,
      moves: allowed.moves - spent.moves,
      writes: allowed.writes - spent.writes,
      probes: allowed.probes - spent.probes,
    },
    moves,
    prefetch,
    knobs: {
      limitPages: limit.limit,
      evictBatch: faults * headroomSteps > headroom ? evictBatchMax : evictBatchMin,
      readAround,
      spinUs: spinFor(counters.readP50Us),
    },
  };
}

/** What a plan costs, counted as `plan` does. */
function spentOn(
  moves: readonly Move[],
  sample: PolicySample,
): { moves: number; writes: number; probes: number } {
  const spent = { moves: 0, writes: 0, probes: 0 };
  for (const { to, pages } of moves) {
    if (to === "standby") spent.probes += pages.length;
    else spent.moves += pages.length;
    if (to === "remote") spent.writes += pages.length;
    if (to !== "ssd") continue;
    for (const page of pages) {
      if (((sample.residency[page - sample.firstPage] ?? 0) & pageDirty) !== 0) spent.writes++;
    }
  }
  return spent;
}

/**
 * Suggestions, without pages that are in RAM or that the program called random or cold. A reader whose faults read
 * a whole block shows a stride of blocks; so every suggestion stands for its block.
 */
function prefetchOf(
  state: PolicyState,
  sample: PolicySample,
  readAround: ReadAround,
  most: number,
): Uint32Array {
  const { pages } = state.options;
  const { suggestions, prefetch } = state.buffers;
  const room = Math.min(most, prefetch.length);
  const suggested = state.prefetcher.suggest(suggestions.subarray(0, Math.floor(room / readAround)));
  let kept = 0;
  let blockBefore = -1;
  for (let at = 0; at < suggested; at++) {
    const block = readAroundRange({ page: suggestions[at] ?? 0, readAround, pages });
    if (block.firstPage === blockBefore) continue;
    blockBefore = block.firstPage;
    for (let page = block.firstPage; page < block.endPage; page++) {
      const place = (sample.residency[page - sample.firstPage] ?? placeSsd) & placeMask;
      if (place !== placeSsd && place !== placeRemote) continue;
      const advice = state.advice.at(page);
      if (advice === "random" || advice === "cold") continue;
      prefetch[kept++] = page;
    }
  }
  return prefetch.subarray(0, kept);
}

/** A little over the median, so that most reads end while spinning; none when they take long anyway. */
function spinFor(readP50Us: number): number {
  const expected = readP50Us > 0 ? readP50Us : fetchUsAssumed;
  return expected > spinnableUsMax ? 0 : Math.min(spinUsMax, Math.ceil(expected * 1.5));
}

function windowOf(buffers: PolicyBuffers, count: number): { heat: Uint8Array; idle: Uint32Array } {
  if (buffers.heat.length < count) {
    buffers.heat = new Uint8Array(count);
    buffers.idle = new Uint32Array(count);
  }
  return { heat: buffers.heat.subarray(0, count), idle: buffers.idle.subarray(0, count) };
}
