/**
 * The memory that a stream describes: items go in, pages by frame number come out, at the epoch that was asked for.
 *
 * Invariants:
 * - The last writer wins, in the order of the stream. An entry without contents (XTAB, BROKEN, allocate only) leaves
 *   the page as it is and changes only its type.
 * - A page that nothing wrote is zero. An image does not tell it from one that was written as zero.
 * - Pages behind VERIFY are compared with the image and change nothing, until their section ends.
 * - What belongs to an epoch that is not committed lies beside the image, in scratch; deltas are decoded there.
 * - What an image may hold is bounded; where pages are stored is up to a {@link ImageStore}.
 *
 * Legacy items have to be converted first.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import type { CheckpointTarget, ReceivedItem } from "./checkpoint.ts";
import { checkDeltas, decodePage } from "./delta.ts";
import { carriesPage, type PageBatch, type PageDeltas, type PageRange, pageSize } from "./item.ts";
import { PageSet } from "./page_set.ts";

/** Where pages are written, and read back as the base of deltas. */
export interface ImageSink {
  /** Takes the contents of consecutive pages from `pfn` on; the view is valid during the call only. */
  write(pfn: number, pages: Uint8Array): void;
  /** Makes pages zero. The ranges are ascending and do not overlap. */
  zero(ranges: readonly PageRange[]): void;
  /** Fills `into` with consecutive pages from `pfn` on. */
  read(pfn: number, into: Uint8Array): void;
  /** Takes the types of the entries of a batch, before its contents. */
  types?(pfns: Float64Array, types: Uint8Array): void;
  /** Takes the number of pages that the memory has, where the stream says it. */
  resize?(pages: number): void;
}

/** A sink that knows what was written to it. */
export interface ImageStore extends ImageSink {
  /** The pages that may differ from zero, ascending. */
  runs(): Iterable<PageRange>;
  /** Forgets everything. */
  clear(): void;
}

const chunkPages = 16;
const chunkSize = chunkPages * pageSize;
const typeSize = 64;

/** A sparse image in this process's memory. */
export class MemoryImage implements ImageStore {
  readonly #sizeMax: number;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #written = new PageSet();
  readonly #types = new Map<number, number>();
  #size = 0;
  #pages = 0;

  /** An empty image. @param options `sizeMax`: octets that it may take, about. */
  constructor(options: { sizeMax: number }) {
    this.#sizeMax = options.sizeMax;
  }

  /** The pages that the memory has: what the stream says, or one more than the highest that it wrote. */
  get pages(): number {
    return this.#pages;
  }

  /** See {@link ImageSink}. @throws {FormatError} rule `image.size`. */
  write(pfn: number, pages: Uint8Array): void {
    for (let at = 0; at < pages.length; at += pageSize, pfn++) {
      this.#chunk(pfn).set(pages.subarray(at, at + pageSize), pfn % chunkPages * pageSize);
      this.#written.add(pfn);
    }
    this.resize(Math.max(this.#pages, pfn));
  }

  /** See {@link ImageSink}. */
  zero(ranges: readonly PageRange[]): void {
    for (const pfn of this.#written.within(ranges)) {
      const at = pfn % chunkPages * pageSize;
      this.#chunks.get(Math.floor(pfn / chunkPages))?.fill(0, at, at + pageSize);
      this.#written.delete(pfn);
    }
  }

  /** See {@link ImageSink}. */
  read(pfn: number, into: Uint8Array): void {
    for (let at = 0; at < into.length; at += pageSize, pfn++) {
      const chunk = this.#chunks.get(Math.floor(pfn / chunkPages));
      if (chunk === undefined) into.fill(0, at, at + pageSize);
      else into.set(chunk.subarray(pfn % chunkPages * pageSize, (pfn % chunkPages + 1) * pageSize), at);
    }
  }

  /** A copy of one page. */
  page(pfn: number): Uint8Array<ArrayBuffer> {
    const page = new Uint8Array(pageSize);
    this.read(pfn, page);
    return page;
  }

  /** See {@link ImageSink}. @throws {FormatError} rule `image.size`. */
  types(pfns: Float64Array, types: Uint8Array): void {
    for (let index = 0; index < pfns.length; index++) {
      const pfn = pfns[index] ?? 0;
      const type = types[index] ?? 0;
      if (type === 0) {
        if (this.#types.size > 0 && this.#types.delete(pfn)) this.#size -= typeSize;
      } else {
        if (!this.#types.has(pfn)) this.#grow(typeSize);
        this.#types.set(pfn, type);
      }
    }
  }

  /** The last type that a page was sent with; 0, an ordinary page, where it was not sent at all. */
  type(pfn: number): number {
    return this.#types.get(pfn) ?? 0;
  }

  /** See {@link ImageSink}. */
  resize(pages: number): void {
    this.#pages = pages;
  }

  /** See {@link ImageStore}. */
  runs(): Iterable<PageRange> {
    return this.#written.runs();
  }

  /** See {@link ImageStore}. */
  clear(): void {
    this.#chunks.clear();
    this.#written.clear();
    this.#types.clear();
    this.#size = 0;
    this.#pages = 0;
  }

  #chunk(pfn: number): Uint8Array {
    const key = Math.floor(pfn / chunkPages);
    let chunk = this.#chunks.get(key);
    if (chunk === undefined) {
      this.#grow(chunkSize);
      this.#chunks.set(key, chunk = new Uint8Array(chunkSize));
    }
    return chunk;
  }

  #grow(size: number): void {
    if (this.#size + size > this.#sizeMax) {
      throw new FormatError(
        "image.size",
        -1,
        `Cannot hold the memory image: it is over ${this.#sizeMax} octets`,
      );
    }
    this.#size += size;
  }
}

const runPagesMax = 64;

/** Separate runs of zero pages that an epoch may have before it is committed. */
const zeroRangesMax = 262_144;

/** Writes the pages of items into a sink, in stream order. */
export class ImageWriter {
  readonly #sink: ImageSink;
  /** For what is compared and for deltas; most streams have neither. */
  #buffer: Uint8Array<ArrayBuffer> | null = null;
  #comparing = false;
  #pagesMax: number;
  #compared = 0;
  #mismatches = 0;

  /**
   * A writer at the start of a section.
   *
   * @param options `pagesMax`: frame numbers must be below it; 2^52 without it.
   */
  constructor(sink: ImageSink, options: { pagesMax?: number } = {}) {
    this.#sink = sink;
    this.#pagesMax = options.pagesMax ?? 2 ** 52;
  }

  /** Pages behind VERIFY that were compared. */
  get compared(): number {
    return this.#compared;
  }

  /** Those of them that differ from the image. */
  get mismatches(): number {
    return this.#mismatches;
  }

  /** Number of pages of the memory, as a region or a PV guest says it; 2^52 while nobody did. */
  get pagesMax(): number {
    return this.#pagesMax;
  }

  /** Whether pages are being compared and not written. */
  get comparing(): boolean {
    return this.#comparing;
  }

  /** Goes on where the writer of another sink stopped: same bound. */
  continueFrom(other: ImageWriter): void {
    this.#pagesMax = other.#pagesMax;
  }

  /**
   * Takes one item; one that says nothing about memory changes nothing.
   *
   * @throws {FormatError} rules `image.pfn`, `image.delta.size`, those of `delta.ts`, and what the sink throws.
   */
  take(item: ReceivedItem): void {
    if ("header" in item || (item.layer !== "libxc" && item.layer !== "region")) return;
    const { record } = item;
    switch (record.name) {
      case "PAGE_DATA":
        this.#pageData(record.batch, item.place.offset);
        return;
      case "VERIFY":
        this.#comparing = true;
        return;
      case "CHECKPOINT":
      case "END":
        this.endSection();
        return;
      case "X86_PV_P2M_FRAMES":
        this.#pagesMax = record.endPfn + 1;
        this.#sink.resize?.(this.#pagesMax);
        return;
      case "REGION_INFO":
        this.#pagesMax = record.pages;
        this.#sink.resize?.(record.pages);
        return;
      case "ZERO_RANGES":
        for (const { pfn, count } of record.ranges) this.#check(pfn, count, item.place.offset);
        this.#sink.zero(record.ranges);
        return;
      case "PAGE_DELTAS":
        this.#deltas(record.deltas, item.place.offset);
        return;
      default:
        return;
    }
  }

  /** Says that a commit point was passed: pages are written again. */
  endSection(): void {
    this.#comparing = false;
  }

  #pageData(batch: PageBatch, offset: number): void {
    const { pfns, types, pages } = batch;
    for (let index = 0; index < pfns.length; index++) {
      const pfn = pfns[index] ?? 0;
      if (pfn >= this.#pagesMax) this.#check(pfn, 1, offset);
    }
    if (!this.#comparing) this.#sink.types?.(pfns, types);
    let first = 0;
    let at = 0;
    let count = 0;
    for (let index = 0; index < pfns.length; index++) {
      if (!carriesPage(types[index] ?? 0xf)) continue;
      const pfn = pfns[index] ?? 0;
      if (count > 0 && pfn !== first + count) {
        this.#put(first, pages.subarray(at, at + count * pageSize));
        at += count * pageSize;
        count = 0;
      }
      if (count === 0) first = pfn;
      count++;
    }
    if (count > 0) this.#put(first, pages.subarray(at, at + count * pageSize));
  }

  #put(pfn: number, pages: Uint8Array): void {
    if (!this.#comparing) return this.#sink.write(pfn, pages);
    const buffer = this.#buffer ??= new Uint8Array(runPagesMax * pageSize);
    for (let at = 0; at < pages.length; at += buffer.length) {
      const part = pages.subarray(at, at + buffer.length);
      const old = buffer.subarray(0, part.length);
      this.#sink.read(pfn + at / pageSize, old);
      for (let page = 0; page < part.length; page += pageSize) {
        this.#compared++;
        if (!equalPages(old, part, page)) this.#mismatches++;
      }
    }
  }

  #deltas(deltas: PageDeltas, offset: number): void {
    const { pfns, data } = deltas;
    // Type, length, count and size stand before the frame numbers, and those before the encodings.
    const dataOffset = offset + 16 + 8 * pfns.length;
    checkDeltas(data, pfns.length, dataOffset);
    const buffer = this.#buffer ??= new Uint8Array(runPagesMax * pageSize);
    let at = 0;
    for (let index = 0; index < pfns.length;) {
      const first = pfns[index] ?? 0;
      let count = 1;
      while (count < runPagesMax && pfns[index + count] === first + count) count++;
      this.#check(first, count, offset);
      const pages = buffer.subarray(0, count * pageSize);
      this.#sink.read(first, pages);
      for (let page = 0; page < pages.length; page += pageSize) {
        at = decodePage(data, at, pages.subarray(page, page + pageSize), dataOffset);
      }
      this.#sink.write(first, pages);
      index += count;
    }
  }

  #check(pfn: number, count: number, offset: number): void {
    if (pfn + count <= this.#pagesMax) return;
    throw new FormatError(
      "image.pfn",
      offset,
      `Cannot take page ${pfn + count - 1}: the memory has ${this.#pagesMax} pages`,
    );
  }
}

/**
 * An epoch that is not committed, as a sink over its base: reads go through to the base, writes stay in scratch.
 */
export class EpochImage implements ImageSink {
  readonly #base: ImageSink;
  readonly #scratch: ImageStore;
  readonly #pages = new PageSet();
  #zeros: PageRange[] = [];
  #types: { pfns: Float64Array; types: Uint8Array }[] = [];
  #buffer: Uint8Array<ArrayBuffer> | null = null;

  /**
   * An epoch that has changed nothing.
   *
   * @param options `base`: the committed image; `scratch`: an empty store for what the epoch writes.
   */
  constructor(options: { base: ImageSink; scratch: ImageStore }) {
    this.#base = options.base;
    this.#scratch = options.scratch;
  }

  /** See {@link ImageSink}. */
  write(pfn: number, pages: Uint8Array): void {
    this.#scratch.write(pfn, pages);
    for (let at = 0; at < pages.length; at += pageSize) this.#pages.add(pfn++);
  }

  /** See {@link ImageSink}. */
  zero(ranges: readonly PageRange[]): void {
    for (const pfn of this.#pages.within(ranges)) this.#pages.delete(pfn);
    for (const range of ranges) addRange(this.#zeros, range);
    if (this.#zeros.length > zeroRangesMax) {
      throw new FormatError(
        "image.ranges",
        -1,
        `Cannot hold the epoch: it has more than ${zeroRangesMax} separate runs of zero pages`,
      );
    }
  }

  /** See {@link ImageSink}. */
  read(pfn: number, into: Uint8Array): void {
    for (let at = 0; at < into.length;) {
      // The longest run of pages that come from the same place.
      const source = this.#sourceOf(pfn);
      let end = at + pageSize;
      let next = pfn + 1;
      while (end < into.length && this.#sourceOf(next) === source) {
        end += pageSize;
        next++;
      }
      const part = into.subarray(at, end);
      if (source === "zero") part.fill(0);
      else (source === "scratch" ? this.#scratch : this.#base).read(pfn, part);
      at = end;
      pfn = next;
    }
  }

  /** See {@link ImageSink}. */
  types(pfns: Float64Array, types: Uint8Array): void {
    if (this.#base.types !== undefined && types.some((type) => type !== 0)) this.#types.push({ pfns, types });
  }

  /** Brings the base to this epoch and forgets it. */
  commit(): void {
    if (this.#zeros.length > 0) this.#base.zero(this.#zeros);
    const buffer = this.#buffer ??= new Uint8Array(runPagesMax * pageSize);
    for (const { pfn, count } of this.#pages.runs()) {
      for (let at = 0; at < count; at += runPagesMax) {
        const pages = buffer.subarray(0, Math.min(runPagesMax, count - at) * pageSize);
        this.#scratch.read(pfn + at, pages);
        this.#base.write(pfn + at, pages);
      }
    }
    for (const { pfns, types } of this.#types) this.#base.types?.(pfns, types);
    this.clear();
  }

  /** Forgets the epoch. */
  clear(): void {
    this.#scratch.clear();
    this.#pages.clear();
    this.#zeros = [];
    this.#types = [];
  }

  #sourceOf(pfn: number): "scratch" | "zero" | "base" {
    return this.#pages.has(pfn) ? "scratch" : contains(this.#zeros, pfn) ? "zero" : "base";
  }
}

/**
 * A receiver's target that keeps memory only.
 *
 * ```ts
 * import { CheckpointReceiver } from "./checkpoint.ts";
 * import { ImageTarget, MemoryImage } from "./memory_image.ts";
 * const image = new MemoryImage({ sizeMax: 1 << 30 });
 * const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax: 1 << 28 }) });
 * const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 28 });
 * console.log(receiver.state, image.pages); // "first" 0
 * ```
 */
export class ImageTarget implements CheckpointTarget {
  readonly #direct: ImageWriter;
  readonly #epoch: EpochImage;
  readonly #held: ImageWriter;
  #committed = false;

  /**
   * A target before the first item.
   *
   * @param options `image`: what epochs are committed to; `scratch`: an empty store for the epoch that is not.
   */
  constructor(options: { image: ImageStore; scratch: ImageStore; pagesMax?: number }) {
    const bound = options.pagesMax === undefined ? {} : { pagesMax: options.pagesMax };
    this.#direct = new ImageWriter(options.image, bound);
    this.#epoch = new EpochImage({ base: options.image, scratch: options.scratch });
    this.#held = new ImageWriter(this.#epoch, bound);
  }

  /** Pages that a sender wanted compared, and how many of them differ. */
  get verified(): { compared: number; mismatches: number } {
    return {
      compared: this.#direct.compared + this.#held.compared,
      mismatches: this.#direct.mismatches + this.#held.mismatches,
    };
  }

  /** See {@link CheckpointTarget}. @throws {FormatError} rule `image.delta.first` for deltas without a base. */
  apply(item: ReceivedItem): void {
    if (item.layer === "region" && "record" in item && item.record.name === "PAGE_DELTAS") {
      throw new FormatError(
        "image.delta.first",
        item.place.offset,
        "Cannot take PAGE_DELTAS: they stand in the first section, where no page has a base",
      );
    }
    this.#direct.take(item);
  }

  /** See {@link CheckpointTarget}. */
  hold(item: ReceivedItem): void {
    this.#held.take(item);
  }

  /** See {@link CheckpointTarget}. */
  commit(_epoch: number): void {
    if (this.#committed) this.#epoch.commit();
    else this.#held.continueFrom(this.#direct);
    this.#committed = true;
    this.#held.endSection();
  }

  /** See {@link CheckpointTarget}. */
  drop(): void {
    this.#epoch.clear();
    this.#held.endSection();
  }
}

/** How two images differ in a run of pages; a page that nothing wrote counts as zero. */
export interface ImageDifference extends PageRange {
  /** `left`: zero on the right; `right`: zero on the left; `changed`: on both sides other than zero. */
  kind: "left" | "right" | "changed";
}

/** What can be compared. */
export type ImageSource = Pick<ImageStore, "read" | "runs">;

/** The pages in which two images differ, as the longest runs of one kind, ascending. */
export function* diffImages(
  left: ImageSource,
  right: ImageSource,
): Generator<ImageDifference, void, undefined> {
  const lefts = new Uint8Array(runPagesMax * pageSize);
  const rights = new Uint8Array(runPagesMax * pageSize);
  let open: ImageDifference | null = null;
  for (const { pfn, count } of union([...left.runs()], [...right.runs()])) {
    for (let done = 0; done < count; done += runPagesMax) {
      const size = Math.min(runPagesMax, count - done) * pageSize;
      left.read(pfn + done, lefts.subarray(0, size));
      right.read(pfn + done, rights.subarray(0, size));
      for (let at = 0; at < size; at += pageSize) {
        if (equalPages(lefts, rights, at)) continue;
        const kind = isZeroPage(rights, at) ? "left" : isZeroPage(lefts, at) ? "right" : "changed";
        const page = pfn + done + at / pageSize;
        if (open !== null && open.kind === kind && open.pfn + open.count === page) open.count++;
        else {
          if (open !== null) yield open;
          open = { pfn: page, count: 1, kind };
        }
      }
    }
  }
  if (open !== null) yield open;
}

/** Whether the page at octet `at` is all zero. */
export function isZeroPage(pages: Uint8Array, at: number): boolean {
  if ((pages.byteOffset + at) % 4 !== 0) {
    for (let index = at; index < at + pageSize; index++) if (pages[index] !== 0) return false;
    return true;
  }
  const words = new Int32Array(pages.buffer, pages.byteOffset + at, pageSize / 4);
  for (let index = 0; index < words.length; index += 4) {
    if (
      ((words[index] ?? 0) | (words[index + 1] ?? 0) | (words[index + 2] ?? 0) | (words[index + 3] ?? 0)) !==
        0
    ) {
      return false;
    }
  }
  return true;
}

/** Whether the pages at octet `at` of both arrays are the same. */
function equalPages(left: Uint8Array, right: Uint8Array, at: number): boolean {
  if ((left.byteOffset + at) % 4 !== 0 || (right.byteOffset + at) % 4 !== 0) {
    for (let index = at; index < at + pageSize; index++) if (left[index] !== right[index]) return false;
    return true;
  }
  const lefts = new Int32Array(left.buffer, left.byteOffset + at, pageSize / 4);
  const rights = new Int32Array(right.buffer, right.byteOffset + at, pageSize / 4);
  for (let index = 0; index < lefts.length; index++) if (lefts[index] !== rights[index]) return false;
  return true;
}

/** Puts a range into an ascending list without overlaps, joining its neighbours. */
function addRange(list: PageRange[], range: PageRange): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const other = list[middle];
    if (other !== undefined && other.pfn + other.count < range.pfn) low = middle + 1;
    else high = middle;
  }
  let pfn = range.pfn;
  let end = range.pfn + range.count;
  let next = low;
  for (let other = list[next]; other !== undefined && other.pfn <= end; other = list[++next]) {
    pfn = Math.min(pfn, other.pfn);
    end = Math.max(end, other.pfn + other.count);
  }
  list.splice(low, next - low, { pfn, count: end - pfn });
}

/** Two ascending lists of ranges as one, without overlaps and with neighbours joined. */
function union(left: readonly PageRange[], right: readonly PageRange[]): PageRange[] {
  const joined: PageRange[] = [];
  let leftAt = 0;
  let rightAt = 0;
  for (;;) {
    const one = left[leftAt];
    const two = right[rightAt];
    const next = one === undefined || (two !== undefined && two.pfn < one.pfn) ? two : one;
    if (next === undefined) return joined;
    if (next === one) leftAt++;
    else rightAt++;
    const last = joined.at(-1);
    if (last !== undefined && next.pfn <= last.pfn + last.count) {
      last.count = Math.max(last.count, next.pfn + next.count - last.pfn);
    } else {
      joined.push({ pfn: next.pfn, count: next.count });
    }
  }
}

/** Whether one of the ascending ranges has the page. */
function contains(ranges: readonly PageRange[], pfn: number): boolean {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const range = ranges[middle];
    if (range === undefined || range.pfn > pfn) high = middle;
    else if (pfn < range.pfn + range.count) return true;
    else low = middle + 1;
  }
  return false;
}
