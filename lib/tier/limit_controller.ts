/**
 * How much RAM a region really needs: takes a little away while nobody waits for it, gives back when somebody does.
 *
 * Pressure is the time that threads stood still on cold pages, divided by the time that passed (two threads can
 * make 2). The controller holds it near a set point, inside a band in which it does nothing:
 *
 * ```text
 *   pressure   0 ────────── setPoint/2 ────────── setPoint·2 ──────────────── setPoint·stormFactor
 *   limit      shrink ≤ 1 %/s,   │      hold      │  grow ≤ 5 %/s, more the     │  storm: all back at once
 *              slower near the band               │  further above the band     │
 * ```
 *
 * A storm (pressure over `stormFactor` times the set point in one interval, or refaults of more than
 * `stormRefaults` of the limit in one second) sets the limit to its maximum in that same step, remembers the limit
 * at which it happened, and waits. Until the wait is over nothing is taken; after it, nothing below the remembered
 * limit plus a margin, for ten times as long. Each storm doubles the wait, up to a bound; four times as long as the
 * edge is remembered without a storm halves it. So a working set with a sharp edge is probed ever more rarely, and
 * a smooth one settles in the band.
 *
 * Invariants: `limitMin` ≤ limit ≤ `limitMax`; within one second the limit falls by no more than `shrinkPerSecond`,
 * except that a limit nobody fills falls to what is used first; it never falls while pressure is at or above the
 * band.
 *
 * A pure function of state, sample and options. Counters that step back (a reset) count as no change.
 *
 * @module
 */

/** The rules of one controller. Sizes in pages, times in milliseconds. */
export interface LimitOptions {
  /** Never below. */
  limitMin: number;
  /** Never above: the hard cap. */
  limitMax: number;
  /** Stall time divided by time that is accepted in exchange for RAM. 0.001 is one millisecond in a second. */
  setPoint: number;
  /** The most that is taken in one second, as a share of the limit. */
  shrinkPerSecond: number;
  /** The most that is given in one second without a storm, as a share of the limit. */
  growPerSecond: number;
  /** Pressure of a storm, in set points. */
  stormFactor: number;
  /** Refaults in one second that make a storm, as a share of the limit. */
  stormRefaults: number;
  /** Samples that come sooner are only collected. */
  intervalMs: number;
  /** How long old pressure counts: after this time half. */
  halfLifeMs: number;
  /** The wait after a first storm. */
  waitMs: number;
  /** The wait after many storms. */
  waitMsMax: number;
}

/** What the controller remembers. */
export interface LimitState {
  /** Pages that the region may hold now. */
  limit: number;
  /** Smoothed pressure. */
  pressure: number;
  /** Storms so far. */
  storms: number;
  /** When the last interval ended, in milliseconds. */
  atMs: number;
  /** Counter at that time. */
  stallUs: number;
  /** Counter at that time. */
  refaults: number;
  /** Nothing is taken before this time. */
  waitUntilMs: number;
  /** How long the next storm makes it wait. */
  waitMs: number;
  /** Limit of the last storm with a margin; nothing is taken below it. 0 for none. */
  edge: number;
  /** When the edge is forgotten. */
  edgeUntilMs: number;
  /** When it has been calm for so long that the next wait is halved. */
  calmAtMs: number;
}

/** Counters as they stand, all since the region was opened. */
export interface LimitSample {
  /** Now. */
  nowMs: number;
  /** Time that threads stood still, the sum over all, in microseconds. */
  stallUs: number;
  /** Faults on pages that had been evicted. */
  refaults: number;
  /** Pages that hold RAM. */
  ramUsed: number;
}

/** How far above the limit of a storm the edge is set. */
const edgeMargin = 1.05;
/** For how many waits an edge is remembered. */
const edgeWaits = 10;
/** After how many times that, without a storm, it has been calm. */
const calmEdges = 4;

/** Rules that fit a region with this cap. */
export function limitDefaults(limits: { limitMin: number; limitMax: number }): LimitOptions {
  return {
    ...limits,
    setPoint: 0.001,
    shrinkPerSecond: 0.01,
    growPerSecond: 0.05,
    stormFactor: 20,
    stormRefaults: 0.05,
    intervalMs: 200,
    halfLifeMs: 1000,
    waitMs: 5000,
    waitMsMax: 300_000,
  };
}

/** The state at the beginning: everything is allowed. */
export function limitStart(options: LimitOptions, sample: LimitSample): LimitState {
  if (!(options.limitMin >= 0 && options.limitMin <= options.limitMax)) {
    throw new RangeError(
      `Cannot keep a limit between ${options.limitMin} and ${options.limitMax}: expected a minimum at most the maximum`,
    );
  }
  for (
    const name of ["setPoint", "stormFactor", "intervalMs", "halfLifeMs", "waitMs", "waitMsMax"] as const
  ) {
    if (!(options[name] > 0)) {
      throw new RangeError(
        `Cannot keep a limit with ${name} "${options[name]}": expected more than 0`,
      );
    }
  }
  return {
    limit: options.limitMax,
    pressure: 0,
    storms: 0,
    atMs: sample.nowMs,
    stallUs: sample.stallUs,
    refaults: sample.refaults,
    waitUntilMs: sample.nowMs,
    waitMs: options.waitMs,
    edge: 0,
    edgeUntilMs: sample.nowMs,
    calmAtMs: Infinity,
  };
}

/**
 * One step.
 *
 * @param state from `limitStart` or the step before; is not changed
 * @param sample counters as they stand
 * @param options the rules
 * @returns the next state; `limit` is what the region may hold
 */
export function limitStep(state: LimitState, sample: LimitSample, options: LimitOptions): LimitState {
  const passedMs = sample.nowMs - state.atMs;
  if (passedMs < options.intervalMs) return state;
  const seconds = passedMs / 1000;
  const stalled = Math.max(0, sample.stallUs - state.stallUs) / 1000 / passedMs;
  const refaulted = Math.max(0, sample.refaults - state.refaults) / seconds;
  const keep = 2 ** (-passedMs / options.halfLifeMs);
  const next: LimitState = {
    ...state,
    pressure: state.pressure * keep + stalled * (1 - keep),
    atMs: sample.nowMs,
    stallUs: sample.stallUs,
    refaults: sample.refaults,
  };
  if (sample.nowMs >= state.edgeUntilMs) next.edge = 0;
  if (sample.nowMs >= state.calmAtMs) {
    next.waitMs = Math.max(options.waitMs, state.waitMs / 2);
    next.calmAtMs = sample.nowMs + next.waitMs * edgeWaits * calmEdges;
  }

  const isStorm = stalled > options.setPoint * options.stormFactor ||
    refaulted > options.stormRefaults * state.limit;
  if (isStorm) return afterStorm(next, options);

  const low = options.setPoint / 2;
  const high = options.setPoint * 2;
  if (next.pressure > high) {
    const above = Math.min(1, next.pressure / high - 1);
    next.limit = within(options, state.limit * (1 + options.growPerSecond * seconds * above) + 1);
  } else if (next.pressure < low && stalled < low && sample.nowMs >= state.waitUntilMs) {
    const share = Math.min(1, options.shrinkPerSecond * seconds * (1 - next.pressure / low));
    const filled = Math.min(state.limit, Math.max(sample.ramUsed, options.limitMin));
    const shrunk = Math.floor(filled * (1 - share));
    next.limit = Math.min(state.limit, within(options, Math.max(shrunk, next.edge)));
  }
  return next;
}

/** All back at once. A storm at the maximum teaches nothing about where the edge is. */
function afterStorm(next: LimitState, options: LimitOptions): LimitState {
  const taken = next.limit < options.limitMax;
  next.storms++;
  next.waitUntilMs = next.atMs + next.waitMs;
  if (taken) {
    next.edge = Math.min(options.limitMax, Math.ceil(next.limit * edgeMargin));
    next.edgeUntilMs = next.atMs + next.waitMs * edgeWaits;
    next.waitMs = Math.min(options.waitMsMax, next.waitMs * 2);
    next.calmAtMs = next.atMs + next.waitMs * edgeWaits * calmEdges;
  }
  next.limit = options.limitMax;
  return next;
}

function within(options: LimitOptions, limit: number): number {
  return Math.min(options.limitMax, Math.max(options.limitMin, Math.floor(limit)));
}
