/**
 * A recorded working set: the pages a program touched, in the order of their first touches, so that they can be
 * read back in a few large batches the next time, instead of one fault after the other.
 *
 * The encoding, little-endian, with varints and svarints as in `lib/base/bytes.ts`:
 *
 * ```text
 *  0        4        8              16             20             24
 *  ┌────────┬────────┬──────────────┬──────────────┬──────────────┬──────────┬──────────────────┐
 *  │ "DWSr" │ 1 u32  │ region pages │ pages listed │ runs u32     │ runs …   │ sha256 of all    │
 *  │        │ version│ u64          │ u32          │              │          │ before, 32 bytes │
 *  └────────┴────────┴──────────────┴──────────────┴──────────────┴──────────┴──────────────────┘
 *
 *  run:  svarint  first page minus the page after the run before (after page -1 at the beginning: the first page)
 *        varint   length minus 1
 * ```
 *
 * A run is a stretch of pages touched one after the other in rising order. Rules for a reader: runs are as long as
 * they can be (the svarint of any run but the first is not 0), lengths add up to the pages listed, every page is
 * inside the region and occurs once, nothing follows the digest. One working set has one encoding.
 *
 * Invariants: a list has no page twice and at most as many as its bound; memory for decoding is bounded by the
 * caller's `pagesMax` before anything is allocated. A working set that no longer fits costs reads, never
 * correctness.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { checkPages, pagesMax } from "./pages.ts";

/** Pages in the order of their first touches. */
export interface WorkingSet {
  /** Pages of the region it was recorded in. */
  regionPages: number;
  /** Page indexes, each once. */
  order: Uint32Array;
}

const magic = 0x72_53_57_44; // "DWSr"
const version = 1;
const headSize = 24;
const digestSize = 32;
/** A run is two numbers of one to five bytes each: both are below 2^33, sign included. */
const runSizeMin = 2;
const runSizeMax = 10;

/**
 * Listens to touches, for instance to the fault trace from the moment a region is restored, and keeps each page's
 * first.
 */
export class WorkingSetRecorder {
  readonly #regionPages: number;
  readonly #seen: Uint8Array;
  readonly #orderMax: number;
  #order: Uint32Array;
  #count = 0;

  /**
   * An empty recording.
   *
   * @param options pages of the region, and the most that are recorded; later first touches are not
   */
  constructor(options: { regionPages: number; pagesMax: number }) {
    checkPages(options.regionPages);
    this.#regionPages = options.regionPages;
    this.#orderMax = Math.min(options.regionPages, options.pagesMax);
    this.#seen = new Uint8Array(Math.ceil(options.regionPages / 8));
    this.#order = new Uint32Array(Math.min(this.#orderMax, 1024));
  }

  /** Pages recorded so far. */
  get count(): number {
    return this.#count;
  }

  /** Whether there is no room for more. */
  get isFull(): boolean {
    return this.#count === this.#orderMax;
  }

  /** Takes touches in their order; pages that the region has not are skipped. */
  record(pages: Uint32Array): void {
    for (let at = 0; at < pages.length && !this.isFull; at++) {
      const page = pages[at] ?? this.#regionPages;
      if (page >= this.#regionPages || !mark(this.#seen, page)) continue;
      if (this.#count === this.#order.length) this.#grow();
      this.#order[this.#count++] = page;
    }
  }

  /** What was recorded so far, as a copy. */
  finish(): WorkingSet {
    return { regionPages: this.#regionPages, order: this.#order.slice(0, this.#count) };
  }

  #grow(): void {
    const grown = new Uint32Array(Math.min(this.#orderMax, this.#order.length * 2));
    grown.set(this.#order);
    this.#order = grown;
  }
}

/** Writes a working set in the form above. @throws {RangeError} when it is not one. */
export function encodeWorkingSet(set: WorkingSet): Uint8Array<ArrayBuffer> {
  const { regionPages, order } = set;
  checkPages(regionPages);
  const seen = new Uint8Array(Math.ceil(regionPages / 8));
  const body = new ByteWriter();
  let runs = 0;
  let afterRun = 0;
  for (let at = 0; at < order.length;) {
    const first = order[at] ?? 0;
    let end = at;
    while (end < order.length && order[end] === first + (end - at)) {
      const page = first + (end - at);
      if (page >= regionPages || !mark(seen, page)) {
        throw new RangeError(
          `Cannot record page ${page}: it is there twice, or the region of ${regionPages} pages has it not`,
        );
      }
      end++;
    }
    body.svarint(first - afterRun);
    body.varint(end - at - 1);
    afterRun = first + (end - at);
    at = end;
    runs++;
  }
  const writer = new ByteWriter(headSize + body.size + digestSize);
  writer.u32le(magic);
  writer.u32le(version);
  writer.u64le(regionPages);
  writer.u32le(order.length);
  writer.u32le(runs);
  writer.bytes(body.view());
  writer.bytes(createHash("sha256").update(writer.view()).digest());
  return writer.finish();
}

/**
 * Reads a working set.
 *
 * @param bytes all of it
 * @param options the region it is for, and the most pages that are taken
 * @throws {FormatError} when a rule of the form above is broken, or it is for another region or too large
 */
export function decodeWorkingSet(
  bytes: Uint8Array<ArrayBuffer>,
  options: { regionPages: number; pagesMax: number },
): WorkingSet {
  checkPages(options.regionPages);
  const bodyEnd = Math.max(0, bytes.length - digestSize);
  const reader = new ByteReader(bytes, "working-set", { end: bodyEnd });
  if (reader.u32le() !== magic) throw reader.fail("magic", 0, "it does not begin with DWSr");
  const foundVersion = reader.u32le();
  if (foundVersion !== version) {
    throw reader.fail("version", 4, `its version is ${foundVersion}, expected ${version}`);
  }
  const regionPages = reader.u64le();
  if (regionPages !== options.regionPages) {
    throw reader.fail(
      "region",
      8,
      `it is of a region of ${regionPages} pages, expected ${options.regionPages}`,
    );
  }
  const count = reader.u32le();
  const countMax = Math.min(regionPages, options.pagesMax);
  if (count > countMax) {
    throw reader.fail("count", 16, `it lists ${count} pages, expected at most ${countMax}`);
  }
  const runs = reader.u32le();
  const bodySize = reader.remaining;
  if (runs > count || bodySize > runs * runSizeMax || bodySize < runs * runSizeMin) {
    throw reader.fail("runs", 20, `it has ${runs} runs for ${count} pages in ${bodySize} bytes`);
  }
  const digest = createHash("sha256").update(bytes.subarray(0, bodyEnd)).digest();
  if (!digest.every((byte, at) => byte === bytes[bodyEnd + at])) {
    throw reader.fail("digest", bodyEnd, "its content does not match its digest");
  }

  const order = new Uint32Array(count);
  const seen = new Uint8Array(Math.ceil(regionPages / 8));
  let filled = 0;
  let afterRun = 0;
  for (let run = 0; run < runs; run++) {
    const offset = reader.offset;
    const step = reader.svarint();
    const length = reader.varint() + 1;
    if (run > 0 && step === 0) throw reader.fail("run", offset, "a run continues the one before");
    const first = afterRun + step;
    if (first < 0 || first + length > regionPages || filled + length > count) {
      throw reader.fail(
        "run",
        offset,
        `${length} pages at page ${first} are not inside the region or the list`,
      );
    }
    for (let page = first; page < first + length; page++) {
      if (!mark(seen, page)) throw reader.fail("twice", offset, `page ${page} is there twice`);
      order[filled++] = page;
    }
    afterRun = first + length;
  }
  if (filled !== count) throw reader.fail("count", 16, `its runs have ${filled} pages, expected ${count}`);
  reader.end();
  return { regionPages, order };
}

/**
 * The batches in which to read a working set: first touched first, and ascending inside each batch so that
 * neighbours are read together. Pages that `skip` names are left out.
 *
 * @param batchPages pages in one batch at most
 */
export function* replayBatches(
  set: WorkingSet,
  options: { batchPages: number; skip?: (page: number) => boolean },
): Generator<Uint32Array, void, void> {
  const { batchPages, skip } = options;
  if (!Number.isInteger(batchPages) || batchPages < 1 || batchPages > pagesMax) {
    throw new RangeError(`Cannot replay in batches of "${batchPages}" pages: expected at least 1`);
  }
  let batch: number[] = [];
  for (const page of set.order) {
    if (skip?.(page) === true) continue;
    batch.push(page);
    if (batch.length < batchPages) continue;
    yield Uint32Array.from(batch).sort();
    batch = [];
  }
  if (batch.length > 0) yield Uint32Array.from(batch).sort();
}

/** Sets a page's bit; whether it was clear. */
function mark(seen: Uint8Array, page: number): boolean {
  const bit = 1 << (page & 7);
  const byte = seen[page >>> 3] ?? 0;
  seen[page >>> 3] = byte | bit;
  return (byte & bit) === 0;
}
