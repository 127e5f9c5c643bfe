/**
 * How hot each page is, from sampled touches: a sum of touches in which each counts half as much after every
 * half-life.
 *
 * Decay is lazy. Of a page we keep when it was last touched and the logarithm of its sum at that moment; since
 * an exponential decay is a straight line in the logarithm, reading heat needs one multiplication and no sweep over
 * pages that nobody touched. A touch costs one power and one logarithm.
 *
 * ```text
 * weight(now) = Σ 2^-(age of touch i / half-life)        level = log2(weight)
 * heat        = 16 · (level + 4), kept within 0…255      so 64 is one touch right now,
 *                                                        0 a single touch four half-lives ago
 * ```
 *
 * Invariants: heat never rises without a touch; of two pages the one that is hotter now stays so until one of them is
 * touched, whatever the time (up to rounding); idle time is exact to one tick.
 *
 * Eight bytes per page. Time is an argument, in milliseconds on any clock that does not run backwards; a step back
 * counts as no time at all.
 *
 * @module
 */
import { checkPages } from "./pages.ts";

/** Idle times are counted in ticks of this many milliseconds: 32 bits of them are 497 days. */
export const tickMs = 10;

/** The largest idle time that can be told, in ticks. */
export const idleTicksMax = 0xffff_ffff;

const levelsPerDoubling = 16;
const levelOffset = 4;

/** How a heat map counts. */
export interface HeatOptions {
  /** Pages of the region. */
  pages: number;
  /** After this time a touch counts half, in milliseconds. */
  halfLifeMs: number;
  /** Now, in milliseconds; nothing is older than this. */
  nowMs: number;
}

/** Where to put what is known about a range; both arrays have one element per page. */
export interface HeatReading {
  /** First page of the range. */
  firstPage: number;
  /** Now, in milliseconds. */
  nowMs: number;
  /** Receives heat, 0 to 255. */
  heat: Uint8Array;
  /** Receives the time since the last touch, in ticks. */
  idle: Uint32Array;
}

/** Milliseconds as ticks, rounded down, at most what fits. */
export function ticksFromMs(ms: number): number {
  return Math.min(idleTicksMax, Math.max(0, Math.floor(ms / tickMs)));
}

/** Heat and idle time of every page of one region. */
export class HeatMap {
  /** Pages of the region. */
  readonly pages: number;
  readonly #level: Float32Array;
  readonly #touched: Uint32Array;
  readonly #doublingsPerTick: number;
  readonly #originMs: number;
  #nowTick = 0;

  /** A map of cold pages, idle since now. @param options how it counts. */
  constructor(options: HeatOptions) {
    checkPages(options.pages);
    if (!(options.halfLifeMs >= tickMs)) {
      throw new RangeError(
        `Cannot decay heat with a half-life of "${options.halfLifeMs}" ms: expected at least ${tickMs}`,
      );
    }
    this.pages = options.pages;
    this.#level = new Float32Array(options.pages).fill(-Infinity);
    this.#touched = new Uint32Array(options.pages);
    this.#doublingsPerTick = tickMs / options.halfLifeMs;
    this.#originMs = options.nowMs;
  }

  /**
   * Takes one sample of a range: element i says how often page `firstPage + i` was seen touched since the last
   * sample. Where only one bit is known, 1 is the count. Elements beyond the region are not looked at.
   *
   * @param touched one byte per page
   */
  touchSampled(touched: Uint8Array, options: { firstPage: number; nowMs: number }): void {
    const tick = this.#advance(options.nowMs);
    const count = Math.min(touched.length, this.pages - options.firstPage);
    for (let at = 0; at < count; at++) {
      const times = touched[at] ?? 0;
      if (times > 0) this.#touch(options.firstPage + at, times, tick);
    }
  }

  /**
   * Counts one touch for each page that is listed, for instance by the fault trace; others than the region's are
   * skipped.
   */
  touchPages(pages: Uint32Array, nowMs: number): void {
    const tick = this.#advance(nowMs);
    for (let at = 0; at < pages.length; at++) {
      const page = pages[at] ?? this.pages;
      if (page < this.pages) this.#touch(page, 1, tick);
    }
  }

  /** Heat and idle time of a range, as they are now. Changes nothing but the arrays given. */
  read(reading: HeatReading): void {
    const { firstPage, heat, idle } = reading;
    const tick = Math.max(this.#nowTick, this.#tickOf(reading.nowMs));
    const count = Math.min(heat.length, idle.length, this.pages - firstPage);
    for (let at = 0; at < count; at++) {
      const page = firstPage + at;
      const age = tick - (this.#touched[page] ?? 0);
      idle[at] = age;
      const level = (this.#level[page] ?? -Infinity) - age * this.#doublingsPerTick;
      const scaled = (level + levelOffset) * levelsPerDoubling;
      heat[at] = Math.max(0, Math.min(255, scaled));
    }
  }

  /** Forgets how often a range was touched, not when: for pages whose content was thrown away. */
  cool(options: { firstPage: number; count: number }): void {
    this.#level.fill(-Infinity, options.firstPage, options.firstPage + options.count);
  }

  #touch(page: number, times: number, tick: number): void {
    const age = tick - (this.#touched[page] ?? 0);
    const decayed = (this.#level[page] ?? -Infinity) - age * this.#doublingsPerTick;
    this.#level[page] = Math.log2(2 ** decayed + times);
    this.#touched[page] = tick;
  }

  #advance(nowMs: number): number {
    this.#nowTick = Math.max(this.#nowTick, this.#tickOf(nowMs));
    return this.#nowTick;
  }

  #tickOf(nowMs: number): number {
    return ticksFromMs(nowMs - this.#originMs);
  }
}
