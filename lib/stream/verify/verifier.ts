/**
 * The verifier: holds a stream against everything that is known of its format, without making anything of it.
 *
 * It shares no code with the readers, so that the two can be held against each other: of this repository it
 * imports only its own files. `VERIFY.md` lists the rules.
 *
 * Invariants:
 * - Contents of pages are passed over, never copied; whatever the stream says, the state stays below 1 MiB.
 * - The same octets give the same report, however they are cut into chunks.
 * - No input makes it throw.
 *
 * @module
 */
import { type Finding, Stop, Trace } from "./findings.ts";
import { Cut, Input, type RunningDigest, type Step } from "./input.ts";
import { LegacyVerifier } from "./legacy.ts";
import { LibxcVerifier } from "./libxc.ts";
import { LibxlVerifier, verifyXlHeader } from "./libxl.ts";
import { RegionVerifier } from "./region.ts";
import type { VerifyRule } from "./rules.ts";

export { type Finding, findingsMax, type VerifyLayer } from "./findings.ts";
export type { RunningDigest } from "./input.ts";
export { type RuleEntry, type RuleWeight, type VerifyRule, verifyRules } from "./rules.ts";

/** A kind of stream. */
export type VerifyProfile = "libxc" | "libxl" | "xl" | "legacy" | "region";

/** How a verification is to go. */
export interface VerifyOptions {
  /** The kind of stream; by default its first octets tell, and a legacy one is what is nothing else. */
  profile?: VerifyProfile | "auto";
  /** Makes a warning of what Xen's own receiver ignores. */
  lenient?: boolean;
  /** Whether there must (true) or must not (false) be checkpoints. */
  checkpointed?: boolean | "auto";
  /** Legacy: octets of the sender's words. */
  width?: 4 | 8 | "auto";
  /** Legacy: kind of the guest. */
  guest?: "pv" | "hvm" | "auto";
  /** Makes a running SHA-256 for the digests of a region; without it they are counted and not compared. */
  digest?: () => RunningDigest;
}

/** How a stream ends. */
export type VerifyStatus =
  | "complete" // with its END
  | "failover" // without, and at least one epoch was committed: the last of those counts
  | "truncated" // without, and nothing was committed
  | "stopped"; // an error, behind which nothing could be read

/** What a verification has come to. */
export interface VerifyReport {
  /** Whether there was no error. Warnings do not count. */
  valid: boolean;
  /** The kind of stream; null when it was not recognized. */
  profile: VerifyProfile | null;
  /** How the stream ends. */
  status: VerifyStatus;
  /** In the order in which they were found; at most `findingsMax`. */
  findings: Finding[];
  /** All errors, also those beyond `findings`. */
  errors: number;
  /** All warnings, also those beyond `findings`. */
  warnings: number;
  /** Headers and records that were read whole. */
  records: number;
  /** Pages whose contents were there, whole or as a change. */
  pages: number;
  /** Sections that were begun: one, and one per checkpoint with something behind it. */
  epochs: number;
  /** Sections that were committed. */
  committedEpochs: number;
  /** Octets that were pushed. */
  bytes: number;
  /** Digests of a region: compared, and only counted. */
  digests: { checked: number; unchecked: number };
}

/**
 * Verifies a stream that is pushed in pieces.
 *
 * ```ts
 * import { Verifier } from "./verifier.ts";
 * const verifier = new Verifier({ profile: "libxc" });
 * verifier.push(new Uint8Array(12));
 * console.log(verifier.finish().findings[0]?.rule); // libxc.header.truncated
 * ```
 */
export class Verifier {
  readonly #options: VerifyOptions;
  readonly #trace: Trace;
  readonly #input: Input;
  readonly #steps: Step;
  #profile: VerifyProfile | null = null;
  #status: VerifyStatus = "truncated";
  #bytes = 0;
  #running = true;
  #finished = false;

  /** A verifier at the first octet. */
  constructor(options: VerifyOptions = {}) {
    this.#options = options;
    this.#input = new Input(options.digest?.() ?? null);
    this.#trace = new Trace(this.#input, {
      lenient: options.lenient ?? false,
      checkpointed: options.checkpointed ?? "auto",
    });
    this.#steps = this.#run();
  }

  /**
   * Looks at the next octets. Nothing of `chunk` is kept.
   *
   * @throws {TypeError} after `finish()`.
   */
  push(chunk: Uint8Array): void {
    if (this.#finished) throw new TypeError("Cannot push a chunk: the verification is finished");
    this.#bytes += chunk.length;
    if (!this.#running || chunk.length === 0) return;
    this.#input.push(chunk);
    this.#step();
  }

  /** Whether what follows is only counted: it has no meaning any more, or stands behind the end. */
  get settled(): boolean {
    return !this.#running;
  }

  /** Says that the stream has ended, and gives the report. */
  finish(): VerifyReport {
    if (!this.#finished) {
      this.#finished = true;
      this.#input.end();
      if (this.#running) this.#step();
    }
    const trace = this.#trace;
    return {
      valid: trace.errors === 0,
      profile: this.#profile,
      status: this.#status,
      findings: [...trace.findings],
      errors: trace.errors,
      warnings: trace.warnings,
      records: trace.items,
      pages: trace.pages,
      epochs: trace.epochs,
      committedEpochs: trace.committedEpochs,
      bytes: this.#bytes,
      digests: { checked: trace.digestsChecked, unchecked: trace.digestsUnchecked },
    };
  }

  #step(): void {
    try {
      if (this.#steps.next().done === true) this.#rest();
    } catch (error) {
      if (error instanceof Cut) this.#cut();
      else if (error instanceof Stop) this.#status = "stopped";
      else throw error;
      this.#rest();
    }
  }

  /** From here on octets are only counted. */
  #rest(): void {
    this.#running = false;
    this.#input.drop();
  }

  /** The stream ended where something was still to come. */
  #cut(): void {
    const trace = this.#trace;
    const { layer, inHeader } = trace;
    const offset = this.#bytes;
    if (layer === "stream") {
      trace.report("stream.profile.unknown", offset, `the stream has ${offset} octets`);
    } else if (trace.committedEpochs > 0 && layer !== "xl") {
      this.#status = "failover";
      trace.report(
        `${layer}.stream.cut`,
        offset,
        `the stream ends in epoch ${trace.committedEpochs + 1}: epoch ${trace.committedEpochs} counts`,
      );
    } else {
      let rule: VerifyRule;
      if (inHeader || layer === "xl") rule = `${layer}.header.truncated`;
      else rule = offset === trace.itemOffset ? `${layer}.end.missing` : `${layer}.record.truncated`;
      trace.report(
        rule,
        offset,
        offset === trace.itemOffset
          ? "the stream ends where more should follow"
          : `the stream ends ${offset - trace.itemOffset} octets into what begins at ${trace.itemOffset}`,
      );
    }
  }

  *#run(): Step {
    const trace = this.#trace;
    const input = this.#input;
    const { profile } = this.#options;
    this.#profile = profile === undefined || profile === "auto" ? yield* this.#sniff() : profile;
    if (this.#profile !== "region") input.dropDigest();
    let outer: "libxc" | "libxl" | "legacy" | "region";
    switch (this.#profile) {
      case "xl":
        if (yield* verifyXlHeader(trace)) outer = yield* this.#libxl();
        else if (isLibxc(input, yield* input.peek(12))) outer = yield* this.#libxc();
        else outer = yield* this.#legacy();
        break;
      case "libxl":
        outer = yield* this.#libxl();
        break;
      case "libxc":
        outer = yield* this.#libxc();
        break;
      case "legacy":
        outer = yield* this.#legacy();
        break;
      case "region":
        yield* new RegionVerifier(trace).stream();
        outer = "region";
        break;
    }
    this.#status = "complete";
    trace.begin(outer);
    if (yield* input.any()) {
      trace.report(`${outer}.end.trailing`, input.offset, "octets stand behind the end of the stream");
    }
  }

  /** Tells the profile by the first octets. */
  *#sniff(): Step<VerifyProfile> {
    const input = this.#input;
    const count = yield* input.peek(12);
    input.littleEndian = false;
    if (count < 12) throw new Cut();
    if (input.u32(0) === 0x5865_6e20 && input.u32(4) === 0x7361_7665) return "xl";
    if (input.u32(0) === 0x4c69_6278 && input.u32(4) === 0x6c46_6d74) return "libxl";
    if (input.u32(8) === 0x4452_5652) return "region";
    return isLibxc(input, count) ? "libxc" : "legacy";
  }

  *#libxl(): Step<"libxl"> {
    yield* new LibxlVerifier(this.#trace).stream();
    return "libxl";
  }

  *#libxc(): Step<"libxc"> {
    const trace = this.#trace;
    const libxc = new LibxcVerifier(trace);
    yield* libxc.headers();
    while ((yield* libxc.section()) === "checkpoint") trace.committedEpochs++;
    if (!libxc.checkpointed) trace.committedEpochs++;
    return "libxc";
  }

  *#legacy(): Step<"legacy"> {
    const { width, guest } = this.#options;
    yield* new LegacyVerifier(this.#trace, { width: width ?? "auto", guest: guest ?? "auto" }).stream();
    return "legacy";
  }
}

/** Whether the window, of `count` octets, begins with the marker of an image header or has libxc's id. */
function isLibxc(input: Input, count: number): boolean {
  input.littleEndian = false;
  return count >= 8 && input.u32(0) === 0xffff_ffff && input.u32(4) === 0xffff_ffff ||
    count >= 12 && input.u32(8) === 0x5845_4e46;
}
