/**
 * What a verification has come to so far: findings, and counts.
 *
 * Invariants:
 * - At most {@link findingsMax} findings are kept, whatever the stream; the counts go on.
 * - A finding's record counts all headers and records of the stream from 0, as a reader's items are counted: a
 *   libxc image and domain header are one, a legacy chunk is one, and so is a legacy tail.
 *
 * @module
 */
import type { Input, Step } from "./input.ts";
import { type VerifyRule, verifyRules } from "./rules.ts";

/** A grammar that a finding belongs to; `stream` before any is known. */
export type VerifyLayer = "stream" | "xl" | "libxl" | "libxc" | "legacy" | "region";

/** One broken rule. */
export interface Finding {
  /** A stable id, of `verifyRules`. */
  rule: string;
  /** An error makes the stream invalid. */
  severity: "error" | "warning";
  /** Stream offset of what is wrong. */
  offset: number;
  /** Index of the header or record that it is in. */
  record: number;
  /** Whose grammar it is. */
  layer: VerifyLayer;
  /** What is, and what should be. */
  message: string;
}

/** The most findings that are kept. */
export const findingsMax = 100;

/** Verification cannot go on: what follows has no meaning any more. */
export class Stop extends Error {
  /** The name that stands in front of the message in a stack trace. */
  override name = "Stop";
}

/** Collects findings and counts; the state that all layers share. */
export class Trace {
  readonly input: Input;
  readonly lenient: boolean;
  /** Whether CHECKPOINT may, must or must not appear. */
  readonly checkpointed: boolean | "auto";
  readonly findings: Finding[] = [];
  errors = 0;
  warnings = 0;
  /** Items that were read whole. */
  items = 0;
  /** Pages whose contents were there, whole or as a change. */
  pages = 0;
  /** Sections that were begun. */
  epochs = 0;
  /** Sections that were committed. */
  committedEpochs = 0;
  /** The layer of the item that is being read. */
  layer: VerifyLayer = "stream";
  /** Stream offset of that item. */
  itemOffset = 0;
  /** Whether that item is a header. */
  inHeader = false;
  /** Digests that were compared, and that were not because there was no hash to compare them with. */
  digestsChecked = 0;
  digestsUnchecked = 0;

  /** An empty trace. */
  constructor(input: Input, options: { lenient: boolean; checkpointed: boolean | "auto" }) {
    this.input = input;
    this.lenient = options.lenient;
    this.checkpointed = options.checkpointed;
  }

  /** An item of `layer` begins here. */
  begin(layer: VerifyLayer, inHeader = false): void {
    this.layer = layer;
    this.itemOffset = this.input.offset;
    this.inHeader = inHeader;
  }

  /** The item that began was read to its end. */
  done(): void {
    this.items++;
  }

  /**
   * A rule is broken.
   *
   * @param place of the finding, where it is not in the item that is being read.
   */
  report(
    rule: VerifyRule,
    offset: number,
    message: string,
    place: { record?: number; layer?: VerifyLayer } = {},
  ): void {
    const { weight } = verifyRules[rule];
    const severity = weight === "error" || (weight === "ignored" && !this.lenient) ? "error" : "warning";
    if (severity === "error") this.errors++;
    else this.warnings++;
    if (this.findings.length >= findingsMax) return;
    this.findings.push({
      rule,
      severity,
      offset,
      record: place.record ?? this.items,
      layer: place.layer ?? this.layer,
      message,
    });
  }

  /** Passes over what is left of the body of the record at `start`, and over its padding; then the record is done. */
  *finishRecord(
    layer: "libxl" | "libxc" | "region",
    record: { start: number; length: number; name: string },
  ): Step {
    const { input } = this;
    const { start, length, name } = record;
    const end = start + 8 + length;
    yield* input.skip(end - input.offset);
    const padding = -length & 7;
    if (padding > 0) {
      yield* input.take(padding);
      const wrong = input.nonZero(0, padding);
      if (wrong >= 0) this.report(`${layer}.record.padding`, end + wrong, `padding of ${name} is not 0`);
    }
    this.done();
  }

  /** A rule is broken, and nothing behind it can be read. */
  stop(rule: VerifyRule, offset: number, message: string): never {
    this.report(rule, offset, message);
    throw new Stop(message);
  }
}

/** A number as the messages show it. */
export function hex(value: number): string {
  return "0x" + value.toString(16);
}
