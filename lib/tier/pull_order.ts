/**
 * In which order the parts of something far away are pulled while nobody waits for them.
 *
 * 1. What was asked for (`promote`), the newest first.
 * 2. What an earlier use touched first, in that order (`learned`): neighbours that were touched one after the other
 *    are pulled together.
 * 3. By a priority function, the greatest first, equals in their order; or without one from the place on where
 *    somebody last had to wait (`follow`), to the end and then from the beginning.
 *
 * Parts are *units*; a request is a run of them and never crosses the border of a chunk. What is wanted is the caller's
 * knowledge: the order asks before it says anything. The first unit of a run is wanted; those behind it need not be.
 *
 * @module
 */

/** A run of units, the second number excluded. */
export interface UnitRun {
  /** The first. */
  from: number;
  /** Behind the last. */
  to: number;
}

/** What an order is made of. */
export interface PullOrderOptions {
  /** How many units there are. */
  units: number;
  /** How many of them are a chunk; a power of two. */
  unitsPerChunk: number;
  /** The first wanted unit from `from` on, below `to`; `to` when there is none. */
  nextWanted: (from: number, to: number) => number;
  /** Whether a chunk should come early; the greatest first. */
  priority?: ((chunk: number) => number) | undefined;
  /** Units in the order in which they were touched. */
  learned?: Uint32Array | undefined;
}

/** Promotions that are kept; older ones are forgotten, and come in their turn. */
const promotedMax = 4096;
/** The most chunks that a priority function is asked about. */
export const prioritizedMax: number = 2 ** 24;

/** One order. */
export class PullOrder {
  readonly #options: PullOrderOptions;
  readonly #promoted: UnitRun[] = [];
  readonly #learned: Uint32Array;
  #learnedAt = 0;
  readonly #sorted: Uint32Array | null;
  #sortedAt = 0;
  /** Where the search goes on. */
  #cursor = 0;

  /** Asks the priority function about every chunk, once. @param options what it is made of */
  constructor(options: PullOrderOptions) {
    this.#options = options;
    this.#learned = options.learned ?? new Uint32Array(0);
    this.#sorted = options.priority === undefined ? null : sortedBy(options.priority, this.#chunks);
  }

  /** The units will be wanted soon. */
  promote(run: UnitRun): void {
    this.#promoted.push({ from: run.from, to: Math.min(run.to, this.#options.units) });
    if (this.#promoted.length > promotedMax) this.#promoted.shift();
  }

  /** Somebody had to wait for this unit: its neighbours come next, where nothing better is known. */
  follow(unit: number): void {
    this.#cursor = unit;
  }

  /** Begins again: something that was given out is wanted again. */
  again(): void {
    this.#sortedAt = 0;
    this.#learnedAt = 0;
  }

  /** The next run to pull, of at most `most` units; null when nothing is wanted. */
  next(most: number): UnitRun | null {
    return this.#nextPromoted(most) ?? this.#nextLearned(most) ?? this.#nextSorted(most) ??
      this.#nextInOrder(most);
  }

  get #chunks(): number {
    return Math.ceil(this.#options.units / this.#options.unitsPerChunk);
  }

  #nextPromoted(most: number): UnitRun | null {
    for (let run = this.#promoted.at(-1); run !== undefined; run = this.#promoted.at(-1)) {
      const from = this.#options.nextWanted(run.from, run.to);
      const found = this.#cut(from, run.to, most);
      if (found === null || found.to >= run.to) this.#promoted.pop();
      else run.from = found.to;
      if (found !== null) return found;
    }
    return null;
  }

  #nextLearned(most: number): UnitRun | null {
    while (this.#learnedAt < this.#learned.length) {
      const first = this.#learned[this.#learnedAt++] ?? 0;
      if (first >= this.#options.units || this.#options.nextWanted(first, first + 1) !== first) continue;
      let to = first + 1;
      const end = this.#chunkEnd(first);
      while (to < end && to - first < most && this.#learned[this.#learnedAt] === to) {
        to++;
        this.#learnedAt++;
      }
      return { from: first, to };
    }
    return null;
  }

  #nextSorted(most: number): UnitRun | null {
    const sorted = this.#sorted;
    if (sorted === null) return null;
    for (; this.#sortedAt < sorted.length; this.#sortedAt++) {
      const start = (sorted[this.#sortedAt] ?? 0) * this.#options.unitsPerChunk;
      const end = this.#chunkEnd(start);
      const found = this.#cut(this.#options.nextWanted(start, end), end, most);
      if (found !== null) return found;
    }
    return null;
  }

  #nextInOrder(most: number): UnitRun | null {
    const { units, nextWanted } = this.#options;
    let end = units;
    let from = nextWanted(this.#cursor, end);
    if (from >= end) {
      end = Math.min(this.#cursor, units);
      from = nextWanted(0, end);
    }
    if (from >= end) return null;
    const found = this.#cut(from, end, most);
    if (found !== null) this.#cursor = found.to;
    return found;
  }

  /** A run from `from` on, not beyond `to`, its chunk or `most`; null when there is nothing. */
  #cut(from: number, to: number, most: number): UnitRun | null {
    const end = Math.min(to, this.#chunkEnd(from), from + most);
    return from < end ? { from, to: end } : null;
  }

  #chunkEnd(unit: number): number {
    const { units, unitsPerChunk } = this.#options;
    return Math.min(units, (Math.floor(unit / unitsPerChunk) + 1) * unitsPerChunk);
  }
}

function sortedBy(priority: (chunk: number) => number, chunks: number): Uint32Array {
  if (chunks > prioritizedMax) {
    throw new RangeError(`Cannot ask for the priority of ${chunks} chunks: at most ${prioritizedMax}`);
  }
  const values = Float64Array.from({ length: chunks }, (_, chunk) => priority(chunk));
  return Uint32Array.from({ length: chunks }, (_, chunk) => chunk)
    .sort((left, right) => (values[right] ?? 0) - (values[left] ?? 0) || left - right);
}
