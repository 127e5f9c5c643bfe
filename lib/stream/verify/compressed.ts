/**
 * The compressed pages of a legacy epoch: walked through, and held against what the batches announced. At no time may
 * more pages have come than were announced, and at the end of the body just as many.
 *
 * Invariants:
 * - Nothing is kept but counts, and the place of the first offence.
 *
 * @module
 */
import { DeltaWalk } from "./delta.ts";
import type { Trace } from "./findings.ts";
import type { Step } from "./input.ts";
import type { VerifyRule } from "./rules.ts";

/** Where something stood. */
export interface Place {
  offset: number;
  record: number;
}

/** The compressed pages of one epoch, against what the batches announced. */
export class Compressed {
  readonly #trace: Trace;
  readonly #walk = new DeltaWalk("remus");
  /** Pages that were announced and did not come yet; below zero: that came and were not announced. */
  #pending = 0;
  /** The first octet that belongs to no announced page. */
  #excess: Place | null = null;
  #interleaved = false;
  /** The end of the last chunk. */
  #last: Place | null = null;
  /** An offence, after which no more is walked through. */
  #fault: { rule: VerifyRule; place: Place; reported: boolean } | null = null;

  constructor(trace: Trace) {
    this.#trace = trace;
  }

  /** A batch announced pages. */
  announce(pages: number): void {
    if (pages === 0) return;
    if (this.#excess !== null && !this.#interleaved) {
      this.#interleaved = true;
      this.#report(
        "legacy.compressed.interleave",
        this.#excess,
        "compressed pages stand here before their batch",
      );
    }
    this.#pending += pages;
    if (this.#pending > 0) {
      this.#reportFault();
      this.#excess = null;
    } else if (this.#pending === 0 && this.#fault === null && this.#walk.place === "edge") {
      this.#excess = null;
    }
  }

  /** Walks through the payload of a chunk. */
  *chunk(size: number): Step {
    const { input, items } = this.#trace;
    const end = input.offset + size;
    while (input.offset < end) {
      const from = input.offset;
      const piece = yield* input.some(end - from);
      let at = 0;
      while (at < piece.length && this.#fault === null) {
        if (this.#pending <= 0 && this.#excess === null && this.#walk.place === "edge") {
          this.#excess = { offset: from + at, record: items };
        }
        const event = this.#walk.walk(piece, at);
        at = this.#walk.at;
        if (event === "page") {
          this.#pending--;
        } else if (event !== "more") {
          this.#fault = {
            rule: event === "codec" ? "legacy.delta.marker" : `legacy.delta.${event}`,
            place: { offset: from + at - 1, record: items },
            reported: false,
          };
          if (this.#pending > 0) this.#reportFault();
        }
      }
    }
    this.#last = { offset: end, record: items };
  }

  /** The body of the epoch ends. */
  end(): void {
    if (this.#pending > 0 && this.#fault === null) {
      const place = this.#last ?? { offset: this.#trace.itemOffset, record: this.#trace.items };
      switch (this.#walk.place) {
        case "markers":
          this.#report("legacy.delta.short", place, "the compressed data end before a page is covered");
          break;
        case "run":
          this.#report("legacy.delta.run_truncated", place, "the compressed data end in a run");
          break;
        case "full":
          this.#report("legacy.delta.full_truncated", place, "the compressed data end in a whole page");
          break;
        default:
          this.#report("legacy.compressed.missing", place, `${this.#pending} announced pages did not come`);
      }
    } else if (this.#excess !== null) {
      this.#report("legacy.compressed.leftover", this.#excess, "octets stand behind the last announced page");
    }
    this.#pending = 0;
    this.#excess = null;
    this.#interleaved = false;
    this.#last = null;
    this.#fault = null;
    this.#walk.reset();
  }

  #reportFault(): void {
    if (this.#fault === null || this.#fault.reported) return;
    this.#fault.reported = true;
    this.#report(this.#fault.rule, this.#fault.place, "the encoding of a page is broken");
  }

  #report(rule: VerifyRule, place: Place, message: string): void {
    this.#trace.report(rule, place.offset, message, { record: place.record });
  }
}
