/**
 * `PageDelta` on libdrover.so.
 *
 * Every length is checked here, before memory crosses: the library sees only buffers that hold what the call says.
 *
 * @module
 */
import { FormatError } from "../lib/base/errors.ts";
import { check } from "./errno.ts";
import type { DeltaFormat, DeltaLevel, PageDelta } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

/** Octets of a page. */
const pageSize = 4096;

/** DROVER_DELTA_SCALAR, DROVER_DELTA_AVX2, DROVER_DELTA_AVX512. */
const levelNames: readonly DeltaLevel[] = ["scalar", "avx2", "avx512"];

/** DROVER_DELTA_REMUS, DROVER_DELTA_REGION, and what a page may take at most. */
const formats = {
  remus: { number: 0, family: "delta.remus", runsFamily: "delta.remus", pageSizeMax: 4105 },
  region: { number: 1, family: "delta", runsFamily: "delta.runs", pageSizeMax: 4097 },
} as const;

/** What drover_delta_check() finds, from 1 on: rule, whether it is one of a run of markers, and what is wrong. */
const findings: readonly (readonly [rule: string, ofMarkers: boolean, text: string])[] = [
  ["missing", false, "there are fewer encodings than pages"],
  ["truncated", true, "the octets end before the page is covered"],
  ["run_past_buffer", true, "the octets end within the words of a run"],
  ["full_short", false, "the octets end within a whole page"],
  ["zero_marker", true, "a marker counts no words"],
  ["run_past_page", true, "a run goes over the page's end"],
  ["skip_past_page", true, "a skip goes over the page's end"],
  ["trailing", false, "there are octets behind the last encoding"],
  ["codec", false, "the codec is none of 0 to 3"],
  ["bitmap.truncated", false, "the octets end within a bitmap or its words"],
];

const EBADMSG = 74;

/** A view on any memory as the FFI's types want it; the FFI itself also takes shared memory. */
function view<T extends Uint8Array | Uint32Array>(bytes: T): T & { buffer: ArrayBuffer } {
  return bytes as T & { buffer: ArrayBuffer };
}

/** Page deltas through libdrover.so; see `PageDelta` for what each does. */
export class NativeDelta implements PageDelta {
  /** See {@link PageDelta.level}. */
  readonly level: DeltaLevel;
  /** See {@link PageDelta.levels}. */
  readonly levels: readonly DeltaLevel[];
  readonly #lib: Symbols;
  readonly #number: number;
  readonly #at = new BigUint64Array(1);

  /**
   * Works on the loaded library.
   *
   * @param lib its functions.
   * @param level one that the machine has; the best by default.
   */
  constructor(lib: Symbols, level?: DeltaLevel) {
    const best = check(lib.drover_delta_level(), "ask for the level of page deltas");
    this.#lib = lib;
    this.levels = levelNames.slice(0, best + 1);
    this.#number = level === undefined ? best : this.levels.indexOf(level);
    const name = this.levels[this.#number];
    if (name === undefined) {
      throw new RangeError(`Cannot use ${level}: this machine has ${this.levels.join(", ")}`);
    }
    this.level = name;
  }

  /** See {@link PageDelta.at}. */
  at(level: DeltaLevel): PageDelta {
    return new NativeDelta(this.#lib, level);
  }

  /** See {@link PageDelta.encode}. */
  encode(format: DeltaFormat, olds: Uint8Array, news: Uint8Array, count: number, into: Uint8Array): number {
    checkPages(olds, count);
    checkPages(news, count);
    return this.#encode(format, olds, null, news, count, into);
  }

  /** See {@link PageDelta.encodeCached}. */
  encodeCached(
    format: DeltaFormat,
    bases: Uint8Array,
    slots: Uint32Array,
    pages: Uint8Array,
    into: Uint8Array,
  ): number {
    checkPages(pages, slots.length);
    return this.#encode(format, bases, slots, pages, slots.length, into);
  }

  #encode(
    format: DeltaFormat,
    bases: Uint8Array,
    slots: Uint32Array | null,
    pages: Uint8Array,
    count: number,
    into: Uint8Array,
  ): number {
    const { number, pageSizeMax } = formats[format];
    if (into.length < count * pageSizeMax) {
      throw new RangeError(
        `Cannot encode ${count} pages: there are ${into.length} octets of room, ${
          count * pageSizeMax
        } may be needed`,
      );
    }
    const rc = this.#lib.drover_delta_encode(
      number,
      this.#number,
      view(bases),
      BigInt(Math.floor(bases.length / pageSize)),
      slots === null ? null : view(slots),
      view(pages),
      BigInt(count),
      view(into),
      BigInt(into.length),
    );
    return check(Number(rc), "encode pages");
  }

  /** See {@link PageDelta.decode}. */
  decode(format: DeltaFormat, bytes: Uint8Array, count: number, pages: Uint8Array, offset = 0): void {
    checkPages(pages, count);
    const { number, family, runsFamily } = formats[format];
    const size = BigInt(bytes.length);
    const rc = this.#lib.drover_delta_decode(
      number,
      this.#number,
      view(bytes),
      size,
      BigInt(count),
      view(pages),
    );
    if (rc !== -EBADMSG) {
      check(rc, "decode pages");
      return;
    }
    const found = check(
      this.#lib.drover_delta_check(number, view(bytes), size, BigInt(count), this.#at),
      "check pages",
    );
    const [rule, ofMarkers, text] = findings[found - 1] ?? ["unknown", false, "the library does not say why"];
    throw new FormatError(
      `${ofMarkers ? runsFamily : family}.${rule}`,
      offset + Number(this.#at[0] ?? 0n),
      `Cannot decode pages: ${text}`,
    );
  }

  /** See {@link PageDelta.zeroPages}. */
  zeroPages(pages: Uint8Array, count: number, zero: Uint8Array): number {
    checkPages(pages, count);
    if (zero.length < count) throw new RangeError(`Cannot tell of ${count} pages in ${zero.length} octets`);
    const rc = this.#lib.drover_pages_zero(this.#number, view(pages), BigInt(count), view(zero));
    return check(Number(rc), "look for zero pages");
  }
}

function checkPages(pages: Uint8Array, count: number): void {
  if (pages.length !== count * pageSize) {
    throw new RangeError(`Cannot use ${pages.length} octets as ${count} pages`);
  }
}
