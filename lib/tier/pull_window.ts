/**
 * How much should be on its way from a far place: bandwidth × delay, found out while pulling.
 *
 * Each answer gives a sample of the rate (what was delivered since it was asked for, by the time that took) and of
 * the round trip. The window is the greatest rate × the least round trip of the last seconds × a gain: 4 while the
 * rate still grows, so that the window grows as much with each round trip; 1.25 when it does not, so that little
 * queues up before a read that somebody waits for. Now and then the gain is 4 for a while, to see a link that has
 * become faster. To a round trip a few milliseconds are added: both ends are programs that do other things, too.
 *
 * Invariant: `floor` ≤ `bytes` ≤ `ceiling`.
 *
 * @module
 */

/** Bounds of a window, in bytes. */
export interface PullWindowOptions {
  /** The least. */
  floor: number;
  /** What it begins with. */
  first: number;
  /** The most. */
  ceiling: number;
}

/** When something was asked for. */
export interface PullMark {
  /** Milliseconds. */
  readonly atMs: number;
  /** Bytes that had been delivered by then. */
  readonly delivered: number;
}

/** What the gain is while the rate grows, and afterwards. */
const gains = { growing: 4, full: 1.25 } as const;
/** Added to a round trip. */
const spareMs = 4;
const rateKeptMs = 2000;
const roundTripKeptMs = 10_000;
/** A rate that grew by less than this in a round trip has not grown. */
const growth = 1.25;
/** Round trips without growth after which the link counts as full. */
const fullAfter = 3;
/** Full links are tried again so often. */
const probeMs = 10_000;

/** The window of one link. */
export class PullWindow {
  readonly #options: PullWindowOptions;
  #delivered = 0;
  #bytes: number;
  readonly #rate = new Extreme(rateKeptMs, Math.max, 0);
  readonly #roundTrip = new Extreme(roundTripKeptMs, Math.min, Infinity);
  #roundEndMs = -Infinity;
  #rateOfRound = 0;
  #fullRounds = 0;
  #fullSinceMs = 0;

  /** Begins with `first`. @param options bounds */
  constructor(options: PullWindowOptions) {
    const { floor, first, ceiling } = options;
    if (!(floor > 0 && floor <= first && first <= ceiling)) {
      throw new RangeError(`Cannot make a window from ${floor} over ${first} to ${ceiling} bytes`);
    }
    this.#options = options;
    this.#bytes = first;
  }

  /** How many bytes should be on their way. */
  get bytes(): number {
    return this.#bytes;
  }

  /** How many bytes one request should have: a quarter of the window, a power of two. */
  get requestBytes(): number {
    return 2 ** Math.floor(Math.log2(this.#bytes / 4));
  }

  /** Bytes per second, as far as is known. */
  get bytesPerSecond(): number {
    return this.#rate.value * 1000;
  }

  /** Milliseconds, as far as is known; Infinity before the first answer. */
  get roundTripMs(): number {
    return this.#roundTrip.value;
  }

  /** To be called when something is asked for. */
  begin(nowMs: number): PullMark {
    return { atMs: nowMs, delivered: this.#delivered };
  }

  /** To be called when its answer is there. */
  end(mark: PullMark, bytes: number, nowMs: number): void {
    this.#delivered += bytes;
    const tookMs = Math.max(nowMs - mark.atMs, 0.001);
    this.#roundTrip.add(tookMs, nowMs);
    this.#rate.add((this.#delivered - mark.delivered) / tookMs, nowMs);
    if (nowMs >= this.#roundEndMs) this.#round(nowMs);
    const gain = this.#fullRounds < fullAfter ? gains.growing : gains.full;
    const { floor, ceiling } = this.#options;
    const wanted = gain * this.#rate.value * (this.#roundTrip.value + spareMs);
    // What was found at the beginning is no reason to shrink before the first round is over.
    this.#bytes = Math.min(ceiling, Math.max(floor, this.#rateOfRound === 0 ? this.#bytes : wanted));
  }

  /** To be called when nothing came for too long: begins anew, with little. */
  lost(): void {
    this.#bytes = this.#options.floor;
    this.#rate.forget();
    this.#fullRounds = 0;
    this.#rateOfRound = 0;
  }

  #round(nowMs: number): void {
    if (this.#rate.value >= this.#rateOfRound * growth) {
      this.#rateOfRound = this.#rate.value;
      this.#fullRounds = 0;
    } else if (++this.#fullRounds === fullAfter) this.#fullSinceMs = nowMs;
    if (this.#fullRounds > fullAfter && nowMs - this.#fullSinceMs >= probeMs) {
      this.#fullRounds = fullAfter - 1;
      this.#rateOfRound = this.#rate.value;
    }
    this.#roundEndMs = nowMs + this.#roundTrip.value;
  }
}

/** The greatest, or least, of the values of at least the last `keptMs` and at most twice that. */
class Extreme {
  readonly #keptMs: number;
  readonly #pick: (left: number, right: number) => number;
  readonly #none: number;
  #older: number;
  #newer: number;
  #since = -Infinity;

  constructor(keptMs: number, pick: (left: number, right: number) => number, none: number) {
    this.#keptMs = keptMs;
    this.#pick = pick;
    this.#none = this.#older = this.#newer = none;
  }

  get value(): number {
    return this.#pick(this.#older, this.#newer);
  }

  add(value: number, nowMs: number): void {
    if (nowMs - this.#since >= this.#keptMs) {
      this.#older = this.#newer;
      this.#newer = this.#none;
      this.#since = nowMs;
    }
    this.#newer = this.#pick(this.#newer, value);
  }

  forget(): void {
    this.#older = this.#newer = this.#none;
  }
}
