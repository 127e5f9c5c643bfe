/**
 * Which pages should move: a pure function of a sample.
 *
 * Two times rule, as the words T1 and T2 say: after T1 without a touch a page *may* go to SSD, after T2 to a remote
 * host. Touches of a page that is mapped may go unseen; therefore a third time, `probe`, comes before them: after
 * it a page is put in standby, where a touch is seen and costs no read, and only from there does it leave for being
 * idle.
 *
 * The plan is made in this order, each step with what the ones before left of the budget:
 *
 * 1. **Room.** While RAM is above its target, pages go to SSD whatever T1 says: someone has to, and C would otherwise
 *    choose in the middle of a fault. With a probe, pages in standby go before mapped ones, because it is known
 *    that nobody touched them. Nothing goes to a remote host before T2, not even then.
 * 2. **Promote.** While RAM is below its target, pages on lower tiers that are at least `promoteHeat` and have not
 *    been idle for T1 come up, hottest first.
 * 3. **Idle pages of RAM**: beyond T2 to remote while there is room, else beyond T1 to SSD. With a probe they leave
 *    from standby only; mapped pages that are idle beyond `probe` are put there.
 * 4. **Idle pages of SSD**, beyond T2, or beyond `sink` where that is given, to remote.
 *
 * Pages that go down or to standby are taken coldest first: least heat; then longest idle; then those that cost no
 * write; then lowest page, so that neighbours leave together and their writes coalesce. Idle times are compared in
 * classes an eighth of an octave wide.
 *
 * Invariants:
 * - at most `budget.moves` pages move between tiers, at most `budget.writes` of them at the cost of a write (a
 *   dirty page that leaves RAM, any page that goes to remote), at most `budget.probes` go to standby, and no tier
 *   gets more pages than it has room for;
 * - no page twice; none that is pinned, busy, poisoned or nowhere;
 * - within one step and one cost, a page that moves down is never hotter than one that could have and stays;
 * - the budget is used up when there are candidates enough;
 * - same input, same plan.
 *
 * Cost: one look at the sample and two for each step that may find something, no sorting, one scratch table of 512
 * KiB that is used again and cleared by its use.
 *
 * @module
 */
import {
  type Move,
  type MoveTarget,
  pageDirty,
  pageHeld,
  placeMask,
  placeRam,
  placeRemote,
  placeSsd,
  placeStandby,
  type TierName,
} from "./pages.ts";

/** How much may happen at once. */
export interface PlanBudget {
  /** Pages that may move from one tier to another. */
  moves: number;
  /** Pages among them whose move costs a write. */
  writes: number;
  /** Pages that may be put in standby; each may cost the program a fault without a read. */
  probes: number;
}

/** How full the tiers are, all of the region and not only the sample, in pages. */
export interface PlanTiers {
  /** Pages that hold RAM, standby and write-back included. */
  ramUsed: number;
  /** Pages that should hold RAM at most; the cap minus some headroom for the next faults. */
  ramTarget: number;
  /** Slots that are free on SSD; a page in RAM that is not dirty has its slot and needs none. */
  ssdFree: number;
  /** Slots that are free on remote hosts; 0 without any. */
  remoteFree: number;
}

/** One sample of a range of pages, and the rules. The three arrays have one element per page. */
export interface PlanInput {
  /** Page that element 0 stands for. */
  firstPage: number;
  /** Where each page is, as in `pages.ts`. */
  residency: Uint8Array;
  /** 0 (cold) to 255. */
  heat: Uint8Array;
  /** Ticks since the last touch. */
  idle: Uint32Array;
  /** Idle ticks after which a mapped page is put in standby; Infinity where every touch is seen anyway. */
  probe: number;
  /** Idle ticks after which a page may go to SSD. */
  t1: number;
  /** Idle ticks after which a page may go to a remote host; at least T1. */
  t2: number;
  /** The same for pages that have left RAM already; T2 unless given, and it may be below T1. */
  sink?: number;
  /** How much may happen at once. */
  budget: PlanBudget;
  /** How full the tiers are. */
  tiers: PlanTiers;
  /** Heat from which a page on a lower tier is worth reading before it is asked for; 256 for never. */
  promoteHeat: number;
  /** Pages in one `Move` at most. */
  batchPages: number;
}

const keyCount = 1 << 16;
const stayed = 0;

/** Memory that a plan needs and the next one can use again. Holds nothing between plans. */
export class PlanScratch {
  /** Candidates per key; those that cost no write first, then those that do. All zero between two steps. */
  readonly histogram: Uint32Array = new Uint32Array(2 * keyCount);
  /** For each page of the sample, the step in which it was taken; 0 for none. */
  #taken: Uint8Array = new Uint8Array(0);

  /** A cleared mark for each of `count` pages. */
  marks(count: number): Uint8Array {
    if (this.#taken.length < count) this.#taken = new Uint8Array(count);
    return this.#taken.subarray(0, count).fill(stayed);
  }
}

/**
 * Plans the next moves.
 *
 * @param input a sample and the rules
 * @param scratch memory of the plan before, so that none is allocated
 * @returns batches in the order in which they should be done
 */
export function plan(input: PlanInput, scratch: PlanScratch = new PlanScratch()): Move[] {
  checkInput(input);
  const { tiers, budget, probe, t1, t2, promoteHeat } = input;
  const context: Context = {
    marks: scratch.marks(input.residency.length),
    left: {
      moves: Math.floor(budget.moves),
      writes: Math.floor(budget.writes),
      probes: Math.floor(budget.probes),
    },
    slots: { ssd: wholePages(tiers.ssdFree), remote: wholePages(tiers.remoteFree) },
    scratch,
    most: mostOf(input),
    moves: [],
  };
  const move = (
    places: readonly number[],
    to: MoveTarget,
    most: number,
    wants: Partial<Wants> = {},
  ): number => {
    const set = places.reduce((set, place) => set | 1 << place, 0);
    return choose(
      input,
      { places: set, to, most, idleFrom: 0, idleBelow: Infinity, heatFrom: 0, ...wants },
      context,
    );
  };
  const isProbing = probe !== Infinity;
  const inRam = [placeStandby, placeRam];

  let surplus = wholePages(tiers.ramUsed - tiers.ramTarget);
  if (isProbing) surplus -= move([placeStandby], "ssd", surplus);
  move(inRam, "ssd", surplus);

  let room = wholePages(tiers.ramTarget - tiers.ramUsed);
  const isWorth = { heatFrom: promoteHeat, idleBelow: t1 };
  for (const place of [placeSsd, placeRemote]) room -= move([place], "ram", room, isWorth);

  const leaving = isProbing ? [placeStandby] : inRam;
  move(leaving, "remote", Infinity, { idleFrom: t2 });
  move(leaving, "ssd", Infinity, { idleFrom: t1 });
  if (isProbing) move([placeRam], "standby", Infinity, { idleFrom: probe });
  move([placeSsd], "remote", Infinity, { idleFrom: input.sink ?? t2 });
  return context.moves;
}

function wholePages(count: number): number {
  return Math.max(0, Math.floor(count));
}

/** Which pages of a place are meant. */
interface Wants {
  /** Idle ticks, at least. */
  idleFrom: number;
  /** Idle ticks, less than. */
  idleBelow: number;
  /** Heat, at least. */
  heatFrom: number;
}

interface Step extends Wants {
  /** Where candidates are: bit p for place p. All are of one tier. */
  places: number;
  to: MoveTarget;
  /** Pages at most, whatever the budget says. */
  most: number;
}

interface Context {
  marks: Uint8Array;
  /** What is left of the budget. */
  left: { moves: number; writes: number; probes: number };
  /** Free slots. */
  slots: { ssd: number; remote: number };
  scratch: PlanScratch;
  most: Most;
  moves: Move[];
}

/** The largest idle time and heat of pages that may move, by place; -1 where there are none. */
interface Most {
  idle: Float64Array;
  heat: Float64Array;
}

/** One look at the sample, so that a step which cannot find anything need not look. */
function mostOf(input: PlanInput): Most {
  const { residency } = input;
  const idle = new Float64Array(placeMask + 1).fill(-1);
  const heat = new Float64Array(placeMask + 1).fill(-1);
  for (let at = 0; at < residency.length; at++) {
    const byte = residency[at] ?? 0;
    if ((byte & pageHeld) !== 0) continue;
    const place = byte & placeMask;
    const pageIdle = input.idle[at] ?? 0;
    const pageHeat = input.heat[at] ?? 0;
    if (pageIdle > (idle[place] ?? 0)) idle[place] = pageIdle;
    if (pageHeat > (heat[place] ?? 0)) heat[place] = pageHeat;
  }
  return { idle, heat };
}

/** Whether there may be a candidate for a step. */
function isHopeful(most: Most, step: Step): boolean {
  for (let place = 0; place <= placeMask; place++) {
    if (((step.places >>> place) & 1) === 0) continue;
    if ((most.idle[place] ?? -1) >= step.idleFrom && (most.heat[place] ?? -1) >= step.heatFrom) return true;
  }
  return false;
}

/**
 * Takes the best candidates of one step: counts them by key, finds for either cost how many of each key are
 * taken, and collects them in page order.
 *
 * @returns how many were taken
 */
function choose(input: PlanInput, step: Step, context: Context): number {
  const { marks, left, slots, scratch, moves } = context;
  const { to } = step;
  const budget = to === "standby" ? "probes" : "moves";
  let pagesLeft = Math.min(step.most, left[budget]);
  let costlyLeft = to === "ssd" || to === "remote" ? Math.min(left.writes, slots[to]) : 0;
  if (pagesLeft <= 0 || (to === "remote" && costlyLeft <= 0) || !isHopeful(context.most, step)) return 0;

  const { histogram } = scratch;
  let lowest: number = keyCount;
  let highest = -1;
  for (let at = 0; at < marks.length; at++) {
    if (!isCandidate(input, step, marks, at)) continue;
    const index = indexOf(input, step, at);
    histogram[index] = (histogram[index] ?? 0) + 1;
    lowest = Math.min(lowest, index % keyCount);
    highest = Math.max(highest, index % keyCount);
  }

  // From here on the table holds how many of each key are still to be taken; at the end that is none, and it is
  // clear again.
  let total = 0;
  let costlyTotal = 0;
  for (let key = lowest; key <= highest; key++) {
    const free = Math.min(histogram[key] ?? 0, pagesLeft);
    pagesLeft -= free;
    const costly = Math.min(histogram[key + keyCount] ?? 0, pagesLeft, costlyLeft);
    pagesLeft -= costly;
    costlyLeft -= costly;
    histogram[key] = free;
    histogram[key + keyCount] = costly;
    total += free + costly;
    costlyTotal += costly;
  }
  if (total === 0) return 0;
  const taken = new Uint32Array(total);
  let filled = 0;
  for (let at = 0; at < marks.length && filled < total; at++) {
    if (!isCandidate(input, step, marks, at)) continue;
    const index = indexOf(input, step, at);
    const quota = histogram[index] ?? 0;
    if (quota === 0) continue;
    histogram[index] = quota - 1;
    marks[at] = 1;
    taken[filled++] = input.firstPage + at;
  }
  for (let from = 0; from < total; from += input.batchPages) {
    moves.push({ from: tierOf(step.places), to, pages: taken.subarray(from, from + input.batchPages) });
  }
  left[budget] -= total;
  left.writes -= costlyTotal;
  if (to === "ssd" || to === "remote") slots[to] -= costlyTotal;
  return total;
}

function isCandidate(input: PlanInput, step: Step, marks: Uint8Array, at: number): boolean {
  const byte = input.residency[at] ?? 0;
  if (((step.places >>> (byte & placeMask)) & 1) === 0 || (byte & pageHeld) !== 0) return false;
  const idle = input.idle[at] ?? 0;
  return idle >= step.idleFrom && idle < step.idleBelow && (input.heat[at] ?? 0) >= step.heatFrom &&
    marks[at] === stayed;
}

/**
 * Where a page is counted: by what is taken first in the low 16 bits, and above them whether its move needs a slot
 * and a write.
 */
function indexOf(input: PlanInput, step: Step, at: number): number {
  const key = ((input.heat[at] ?? 0) << 8) | (255 - idleClass(input.idle[at] ?? 0));
  if (step.to === "ram") return keyCount - 1 - key;
  const isCostly = step.to === "remote" ||
    (step.to === "ssd" && ((input.residency[at] ?? 0) & pageDirty) !== 0);
  return isCostly ? key + keyCount : key;
}

/** Idle ticks in 256 classes, eight to an octave, in rising order; exact below 8. */
export function idleClass(ticks: number): number {
  if (ticks < 8) return ticks;
  const octave = 31 - Math.clz32(ticks);
  return ((octave - 2) << 3) | ((ticks >>> (octave - 3)) & 7);
}

function tierOf(places: number): TierName {
  return places === 1 << placeSsd ? "ssd" : places === 1 << placeRemote ? "remote" : "ram";
}

function checkInput(input: PlanInput): void {
  const { residency, heat, idle, budget, batchPages } = input;
  if (heat.length !== residency.length || idle.length !== residency.length) {
    throw new RangeError(
      `Cannot plan moves: residency, heat and idle are of ${residency.length}, ${heat.length} and ${idle.length} ` +
        "pages, expected the same",
    );
  }
  if (!(input.t1 <= input.t2)) {
    throw new RangeError(`Cannot plan moves: T1 is ${input.t1}, expected at most T2, which is ${input.t2}`);
  }
  if (!Number.isInteger(batchPages) || batchPages < 1) {
    throw new RangeError(`Cannot plan moves in batches of "${batchPages}" pages: expected at least 1`);
  }
  if (input.sink !== undefined && !(input.sink >= 0)) {
    throw new RangeError(`Cannot plan moves: pages sink after "${input.sink}" ticks, expected 0 or more`);
  }
  for (const amount of [budget.moves, budget.writes, budget.probes]) {
    if (!(amount >= 0)) throw new RangeError(`Cannot plan "${amount}" moves: expected none or more`);
  }
}
